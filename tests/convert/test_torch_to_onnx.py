"""PyTorch → ONNX keeps answers, names and a free batch; what differs is refused and leaves nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from modelkeep import convert
from modelkeep.convert import onnx_graph, torch_to_onnx
from modelkeep.convert.torch_to_onnx import TorchToOnnx
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadInput, BadModel, Differs, Undecided, Unsupported
from modelkeep.model import engines, folder, formats, score
from modelkeep.model.formats import onnx as onnx_format
from modelkeep.types import Bounds, Model


def adopt(network: nn.Module, code: str, tmp_path: Path, data: Dataset, **args: Any) -> Model:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "made_net.py").write_text(code, encoding="utf-8")
    torch.save(network.state_dict(), tmp_path / "source" / "w.pt")
    return formats.adopt(
        tmp_path / "source" / "w.pt", tmp_path / "model", factory="made_net:Net", factory_args=args, data=data
    )


def network(code: str, **args: Any) -> nn.Module:
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    made: nn.Module = namespace["Net"](**args)
    return made.eval()


def rows(**inputs: np.ndarray) -> Dataset:
    return Dataset(inputs, None, "made rows")


@pytest.fixture(params=["MLP", "Conv", "Encoder"])
def source(request: pytest.FixtureRequest, adopted: Any) -> Model:
    model: Model = adopted(request.param)
    return model


def spoil(monkeypatch: pytest.MonkeyPatch, change: Any, *, once: bool = False) -> None:
    """After each exporter, or only the first, has written its file, ``change`` edits it."""
    real = onnx_graph.write
    left = [1 if once else 1000]

    def write(graph: Any, file: Path) -> None:
        real(graph, file)
        if left[0]:
            left[0] -= 1
            model = onnx.load(file)
            change(model)
            onnx.save(model, file)

    monkeypatch.setattr(onnx_graph, "write", write)


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """No other exporters than these."""
    kept = {name: torch_to_onnx.EXPORTERS[name] for name in names}
    monkeypatch.setattr(torch_to_onnx, "EXPORTERS", kept)


def replace_exporters(monkeypatch: pytest.MonkeyPatch, function: Any, *names: str) -> None:
    for name in names or tuple(torch_to_onnx.EXPORTERS):
        monkeypatch.setitem(torch_to_onnx.EXPORTERS, name, function)


def runtime_up_to(monkeypatch: pytest.MonkeyPatch, newest: int) -> None:
    """A runtime that is older than the exporters."""
    real = onnx_format.read_signature

    def read(file: Path) -> Any:
        if (opset := onnx_format.opset(file)) > newest:
            raise BadModel(f"the runtime takes opset {newest}, and not {opset}")
        return real(file)

    monkeypatch.setattr(onnx_format, "read_signature", read)


def weight(model: onnx.ModelProto) -> Any:
    """The largest of its weights."""
    return max((t for t in model.graph.initializer if t.data_type == 1), key=lambda t: int(np.prod(t.dims)))


class TestFaithful:
    def test_the_answers_are_the_same_at_every_batch_size(self, source: Model, tmp_path: Path, digits: Any) -> None:
        made, (report,) = convert.step("torch", "onnx").run(source, tmp_path / "into")
        assert report.ok is True
        assert report.numbers["max_abs"] < 1e-4
        assert report.numbers["exporter"] == "dynamo"
        assert report.numbers["opset"] >= 18
        assert report.numbers["n"] == 1024
        assert report.numbers["top1_agreement"] == 1.0
        assert made.signature == source.signature
        assert made.files == ("model.onnx",)
        assert folder.read(tmp_path / "into") == made
        pixels = digits[1].inputs["pixels"]
        with contextlib.closing(engines.load(made)) as new, contextlib.closing(engines.load(source)) as old:
            for count in (1, 2, 7, 100, 597):
                want = old.run({"pixels": pixels[:count]})["output"]
                np.testing.assert_allclose(new.run({"pixels": pixels[:count]})["output"], want, atol=1e-4)
            assert score.regression(old, new, digits[1], 0.01).numbers["lost"] == 0

    def test_nothing_is_printed(self, adopted: Any, tmp_path: Path, capfd: pytest.CaptureFixture, recwarn: Any) -> None:
        TorchToOnnx().run(adopted("MLP"), tmp_path / "into")
        assert capfd.readouterr() == ("", "")
        assert [str(w.message) for w in recwarn if "torch" in str(w.filename)] == []

    def test_labels_and_reference_rows_come_along(self, adopted: Any, tmp_path: Path) -> None:
        made, _ = TorchToOnnx().run(adopted("MLP"), tmp_path / "into")
        kept = folder.reference(made.path)
        assert kept is not None
        assert len(kept) == 1024

    def test_an_exported_program_is_converted_too(self, trained: Any, digits: Any, tmp_path: Path) -> None:
        shapes = ({0: torch.export.Dim("batch", min=1)},)
        program = torch.export.export(trained("Conv"), (torch.zeros(2, 64),), dynamic_shapes=shapes)
        torch.export.save(program, tmp_path / "m.pt2")
        source = formats.adopt(tmp_path / "m.pt2", tmp_path / "model", data=digits[0])
        made, (report,) = convert.step("torch-export", "onnx", rows=digits[1]).run(source, tmp_path / "into")
        assert report.ok is True
        assert report.data == "597 rows of digits to test on"
        assert made.signature == source.signature

    def test_several_inputs_and_named_outputs_keep_their_names_and_order(self, tmp_path: Path) -> None:
        code = (
            "import torch\nfrom torch import nn\nclass Net(nn.Module):\n"
            "    def __init__(self):\n        super().__init__()\n        self.words = nn.Embedding(50, 4)\n"
            "    def forward(self, scale, tokens):\n"
            "        found = self.words(tokens).mean(1) * scale\n"
            "        return {'score': found, 'best': found.argmax(1)}\n"
        )
        rng = np.random.default_rng(0)
        data = rows(tokens=rng.integers(0, 50, (40, 6)), scale=rng.random((40, 1)).astype(np.float32))
        source = adopt(network(code), code, tmp_path, data)
        made, (report,) = TorchToOnnx().run(source, tmp_path / "into")
        assert [t.describe() for t in made.signature.inputs] == [
            "scale float32 [batch, 1]",
            "tokens int64 [batch, sequence]",
        ]
        assert [t.describe() for t in made.signature.outputs] == ["score float32 [batch, 4]", "best int64 [batch]"]
        assert set(report.numbers["outputs"]) == {"score", "best"}
        found = engines.load(made).run({name: array[:3] for name, array in data.inputs.items()})
        assert list(found) == ["score", "best"]

    def test_without_rows_seeded_ones_are_compared(self, trained: Any, digits: Any, tmp_path: Path) -> None:
        shapes = ({0: torch.export.Dim("batch", min=1)},)
        torch.export.save(
            torch.export.export(trained("MLP"), (torch.zeros(2, 64),), dynamic_shapes=shapes), tmp_path / "m.pt2"
        )
        source = formats.adopt(tmp_path / "m.pt2", tmp_path / "model")
        _, (report,) = TorchToOnnx().run(source, tmp_path / "into")
        assert report.data == "32 seeded random rows (seed 0)"

    def test_big_weights_go_into_a_file_beside(
        self, adopted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(onnx_graph, "ONE_FILE", 100)
        made, _ = TorchToOnnx().run(adopted("MLP"), tmp_path / "into")
        assert made.files == ("model.onnx", "model.onnx.data")
        assert made.main.stat().st_size < (made.path / "model.onnx.data").stat().st_size


class TestLadder:
    def test_the_second_exporter_takes_over_where_the_first_fails(
        self, adopted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: Any) -> None:
            raise RuntimeError("no such operator\nand much more")

        replace_exporters(monkeypatch, fails, "dynamo", "dynamo-any-batch", "dynamo-strict", "dynamo-unoptimised")
        made, (report,) = TorchToOnnx().run(adopted("MLP"), tmp_path / "into")
        assert report.ok is True
        assert report.numbers["exporter"] == "torchscript"
        assert report.numbers["failed"] == dict.fromkeys(
            ("dynamo", "dynamo-any-batch", "dynamo-strict", "dynamo-unoptimised"), "it fails: no such operator"
        )
        assert (
            "; tried before: exporters dynamo, dynamo-any-batch, dynamo-strict and dynamo-unoptimised: it fails"
            in report.why
        )
        assert made.signature.batched

    def test_it_also_takes_over_where_the_first_differs(
        self, adopted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def double(model: onnx.ModelProto) -> None:
            tensor = weight(model)
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))

        spoil(monkeypatch, double, once=True)
        _, (report,) = TorchToOnnx().run(adopted("MLP"), tmp_path / "into")
        assert report.numbers["exporter"] == "dynamo-any-batch"
        assert "output 'output' at 1 row differs" in report.numbers["failed"]["dynamo"]

    def test_an_opset_that_was_asked_for_is_the_one_written(self, adopted: Any, tmp_path: Path) -> None:
        _, (report,) = TorchToOnnx(opset=17).run(adopted("MLP"), tmp_path / "into")
        assert report.numbers["opset"] == 17

    @pytest.mark.parametrize("newest", [18, 17])
    def test_an_older_opset_where_the_runtime_does_not_take_the_exporters(
        self, newest: int, adopted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runtime_up_to(monkeypatch, newest)
        made, (report,) = TorchToOnnx().run(adopted("MLP"), tmp_path / "into")
        assert report.numbers["opset"] == onnx_format.opset(made.main) == newest
        assert (report.numbers["exporter"], report.numbers["failed"]) == ("dynamo", {})
        assert f"(exporter dynamo, opset {newest})" in report.why

    def test_an_opset_that_the_runtime_does_not_take_is_told(
        self, adopted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runtime_up_to(monkeypatch, 16)
        only(monkeypatch, "dynamo")
        for asked, last in ((None, 17), (18, 18)):
            with pytest.raises(Unsupported, match=f"exporter dynamo: the runtime takes opset 16, and not {last}"):
                TorchToOnnx(opset=asked).run(adopted("MLP"), tmp_path / "into")
            assert list((tmp_path / "into").iterdir()) == []

    def test_an_opset_that_does_not_exist(self, adopted: Any, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"there is no opset 99; the newest that is installed here is \d+"):
            TorchToOnnx(opset=99).run(adopted("MLP"), tmp_path / "into")

    def test_where_neither_can_both_reasons_are_told(
        self, adopted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: Any) -> None:
            raise ValueError("no such thing")

        replace_exporters(monkeypatch, fails)
        with pytest.raises(Unsupported) as error:
            TorchToOnnx().run(adopted("MLP"), tmp_path / "into")
        assert "cannot write this model as ONNX; exporters dynamo, " in str(error.value)
        assert list((tmp_path / "into").iterdir()) == []


class TestRefused:
    """Faults planted in the exported file: each must be caught, and leave nothing."""

    def refuse(self, source: Model, tmp_path: Path, **options: Any) -> str:
        before = sorted((p.name, p.read_bytes()) for p in source.path.rglob("*") if p.is_file())
        with pytest.raises(Differs, match="the ONNX model does not answer as the PyTorch one does") as error:
            TorchToOnnx(**options).run(source, tmp_path / "into")
        assert list((tmp_path / "into").iterdir()) == []
        assert sorted((p.name, p.read_bytes()) for p in source.path.rglob("*") if p.is_file()) == before
        return str(error.value)

    @pytest.fixture(autouse=True)
    def _one_exporter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        only(monkeypatch, "dynamo")

    def test_a_weight_changed_by_one_percent(
        self, source: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def change(model: onnx.ModelProto) -> None:
            tensor = weight(model)
            values = numpy_helper.to_array(tensor).copy()
            tensor.CopyFrom(numpy_helper.from_array(values * np.float32(1.01), tensor.name))

        spoil(monkeypatch, change)
        assert "output 'output'" in self.refuse(source, tmp_path)

    def test_answers_that_never_change(self, tmp_path: Path) -> None:
        code = (
            "import torch\nfrom torch import nn\nclass Net(nn.Linear):\n"
            "    def __init__(self):\n        super().__init__(4, 3)\n"
            "    def forward(self, x):\n        return super().forward(x) * 0 + torch.arange(3.0)\n"
        )
        data = rows(x=np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32))
        source = adopt(network(code), code, tmp_path, data)
        with pytest.raises(Undecided, match=r"nothing can be told of the onnx model: .*the same answer to all"):
            TorchToOnnx().run(source, tmp_path / "into")
        assert list((tmp_path / "into").iterdir()) == []

    def test_a_tolerance_that_nothing_can_meet(self, adopted: Any, tmp_path: Path) -> None:
        assert "differs in" in self.refuse(adopted("Conv"), tmp_path, atol=0.0, rtol=0.0)

    def test_several_exporters_that_differ_are_told_of_once(
        self, adopted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Their differences are not the same number, which is no reason to say it twice."""
        monkeypatch.undo()
        only(monkeypatch, "dynamo", "dynamo-unoptimised")
        factors = iter((1.01, 1.02))

        def change(model: onnx.ModelProto) -> None:
            tensor = weight(model)
            values = numpy_helper.to_array(tensor) * np.float32(next(factors))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

        spoil(monkeypatch, change)
        told = self.refuse(adopted("MLP"), tmp_path)
        assert told.count("output 'output' at 1 row differs in") == 1
        assert "; exporters dynamo and dynamo-unoptimised: output 'output' at 1 row differs in" in told


def test_a_batch_that_is_baked_in_is_not_kept(tmp_path: Path) -> None:
    """A constant of the batch's size, made while the module is followed, is what exporters bake in."""
    code = (
        "import torch\nfrom torch import nn\nclass Net(nn.Linear):\n"
        "    def __init__(self):\n        super().__init__(4, 3)\n"
        "    def forward(self, x):\n"
        "        rows = torch.tensor([int(n) for n in range(int(x.shape[0]))])\n"
        "        return super().forward(x)[rows]\n"
    )
    data = rows(x=np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32))
    source = adopt(network(code), code, tmp_path, data)
    with pytest.raises((Differs, Unsupported)) as error:
        TorchToOnnx().run(source, tmp_path / "into")
    assert "exporters dynamo and dynamo-unoptimised: " in str(error.value)
    assert "it baked in batch: dimension 0 of" in str(error.value)
    assert list((tmp_path / "into").iterdir()) == []


def test_an_interrupt_leaves_nothing(adopted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(graph: Any, file: Path) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx_graph, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        TorchToOnnx().run(adopted("MLP"), tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


class TestFree:
    """What is free is what the model lets be free, or what was asked for, and every free dimension is tried."""

    CODE = (
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.words, self.places, self.head = nn.Embedding(50, 8), nn.Embedding(12, 8), nn.Linear(8, 3)\n"
        "    def forward(self, ids, mask):\n"
        "        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))\n"
        "        x = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)\n"
        "        return {'logits': self.head(x)}\n"
    )

    @pytest.fixture
    def text(self, tmp_path: Path) -> Model:
        torch.manual_seed(0)
        ids = np.random.default_rng(0).integers(0, 50, (40, 6))
        return adopt(network(self.CODE), self.CODE, tmp_path, rows(ids=ids, mask=np.ones_like(ids)))

    def test_a_sequence_within_the_positions_that_there_are(self, text: Model, tmp_path: Path) -> None:
        notes: list[str] = []
        made, (report,) = TorchToOnnx(progress=lambda done, total, note: notes.append(note)).run(text, tmp_path / "o")
        assert [t.axes for t in made.signature.inputs] == [("batch", "sequence")] * 2
        assert made.signature.bounds == {"sequence": Bounds(1, 12)}
        assert report.numbers["free"] == {"batch": None, "sequence": [1, 12, 1]}
        assert report.numbers["sizes"] == {"sequence": [1, 3, 7, 12]}
        assert report.numbers["batches"] == [1, 2, 3, 7]
        assert "free: batch, sequence (1 to 12)" in report.why
        assert notes[:2] == ["looking for free dimensions", "exporting with dynamo"]
        assert notes[-1].startswith("comparing")
        with pytest.raises(BadInput, match="'sequence' is 13; the model takes 1 to 12"):
            made.signature.check({"ids": np.zeros((1, 13), np.int64), "mask": np.ones((1, 13), np.int64)})

    def test_what_was_asked_for(self, text: Model, tmp_path: Path) -> None:
        example = rows(ids=np.ones((1, 5), np.int64), mask=np.ones((1, 5), np.int64))
        step = TorchToOnnx(dynamic=("ids:1=words", "mask:1"), example=example)
        made, (report,) = step.run(text, tmp_path / "o")
        assert [t.describe() for t in made.signature.inputs] == ["ids int64 [1, words]", "mask int64 [1, words]"]
        assert report.numbers["sizes"]["words"] != []

    def test_an_example_that_the_model_cannot_run_is_told(self, text: Model, tmp_path: Path) -> None:
        example = rows(ids=np.ones((2, 5), np.int64), mask=np.ones((2, 4), np.int64))
        with pytest.raises(BadData, match="the model cannot run the example, made rows: The size of tensor a"):
            TorchToOnnx(example=example).run(text, tmp_path / "o")

    def test_one_more_row_than_the_example_has_is_tried(self, text: Model, tmp_path: Path) -> None:
        example = rows(ids=np.ones((4, 5), np.int64), mask=np.ones((4, 5), np.int64))
        step = TorchToOnnx(dynamic=("ids:0,1", "mask:0,1"), example=example)
        _, (report,) = step.run(text, tmp_path / "o")
        assert report.numbers["batches"] == [1, 2, 5, 7]

    @pytest.mark.parametrize(
        ("dynamic", "said"),
        [
            ("ids", "'ids' does not say which dimensions are free; write INPUT:0,1"),
            ("ids:a", "'ids:a' does not say which dimensions are free"),
            ("words:0", "no input is called 'words'; the model takes ids, mask"),
            ("ids:2", "input 'ids' has 2 dimensions, so there is no dimension 2"),
        ],
    )
    def test_what_cannot_be_meant(self, text: Model, tmp_path: Path, dynamic: str, said: str) -> None:
        with pytest.raises(BadInput, match=said):
            TorchToOnnx(dynamic=(dynamic,)).run(text, tmp_path / "o")
        assert list((tmp_path / "o").iterdir()) == []

    def test_one_that_the_model_does_not_let_be_free(self, adopted: Any, tmp_path: Path) -> None:
        with pytest.raises(Unsupported, match="dimension 1 of input 'pixels' cannot be free"):
            TorchToOnnx(dynamic=("pixels:0,1",)).run(adopted("MLP"), tmp_path / "o")

    def test_names_that_were_given(self, text: Model, tmp_path: Path) -> None:
        made, (report,) = TorchToOnnx(rename={"ids": "input_ids", "logits": "scores"}).run(text, tmp_path / "o")
        assert [t.name for t in (*made.signature.inputs, *made.signature.outputs)] == ["input_ids", "mask", "scores"]
        assert set(report.numbers["outputs"]) == {"scores"}
        kept = folder.reference(made.path)
        assert kept is not None
        made.signature.check(kept.inputs)

    @pytest.mark.parametrize(
        ("rename", "said"),
        [({"words": "x"}, "no input or output is called 'words'"), ({"ids": "mask"}, "would be called 'mask'")],
    )
    def test_names_that_cannot_be(self, text: Model, tmp_path: Path, rename: dict[str, str], said: str) -> None:
        with pytest.raises(BadInput, match=said):
            TorchToOnnx(rename=rename).run(text, tmp_path / "o")

    def test_a_size_that_no_exporter_keeps_free_is_told(
        self, text: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        only(monkeypatch, "dynamo")
        real = torch_to_onnx.EXPORTERS["dynamo"]

        def bakes(module: Any, example: Any, signature: Any, opset: Any) -> Any:
            if "sequence" in signature.free:
                raise RuntimeError("the length is baked in")
            return real(module, example, signature, opset)

        monkeypatch.setitem(torch_to_onnx.EXPORTERS, "dynamo", bakes)
        made, (report,) = TorchToOnnx().run(text, tmp_path / "o")
        assert made.signature.inputs[0].shape == (None, 6)
        assert list(report.numbers["fixed"]) == ["sequence"]
        assert "sequence could be free, but no exporter keeps that: " in report.why
        with pytest.raises(Unsupported, match="the length is baked in"):
            TorchToOnnx(dynamic=("ids:0,1", "mask:0,1")).run(text, tmp_path / "o2")
