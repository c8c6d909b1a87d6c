"""PyTorch weights: read without unpickling code, fitted to their module, kept as safetensors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel, Untrusted
from modelkeep.model import engines, folder, formats
from modelkeep.model.formats import torch as torch_format

CODE = '''
import torch
from torch import nn


class Two(nn.Module):
    """Two inputs, two named outputs."""
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(2, 3)
    def forward(self, left, right):
        return {"sum": self.a(left) + self.b(right), "first": left[:, 0], "nothing": None}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
    def forward(self, x):
        return self.b(self.a(x)), x.sum(1)


class Answers(nn.Linear):
    def __init__(self, how):
        super().__init__(4, 3)
        self.how = how
    def forward(self, x):
        if self.how == "mean":
            return super().forward(x).mean(0)
        if self.how == "two rows":
            return super().forward(x.reshape(2, -1, 4)[0])
        if self.how == "text":
            return "text"
        if self.how == "in place":
            x.mul_(0)
            return super().forward(x)
        return super().forward(x).bfloat16()
'''


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "made.py").write_text(CODE, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def made(home: Path) -> Any:
    namespace: dict[str, Any] = {}
    exec(compile(CODE, "made.py", "exec"), namespace)
    return namespace


def rows(**inputs: np.ndarray) -> Dataset:
    return Dataset(inputs or {"x": np.random.default_rng(0).standard_normal((6, 4))}, None, "made rows")


def adopt(home: Path, network: nn.Module, factory: str, data: Dataset | None = None, **options: Any) -> Any:
    torch.save(network.state_dict(), home / "w.pt")
    return formats.adopt(home / "w.pt", home.parent / "into", factory=factory, data=data or rows(), **options)


class TestAdopt:
    def test_the_folder_answers_as_the_network_did(self, home: Path, made: Any) -> None:
        network = made["Tied"]().eval()
        model = adopt(home, network, "made:Tied")
        x = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
        found = engines.load(folder.read(model.path)).run({"x": x})
        with torch.no_grad():
            first, second = network(torch.from_numpy(x))
        assert list(found) == ["output_0", "output_1"]
        assert np.allclose(found["output_0"], first, atol=1e-6)
        assert np.allclose(found["output_1"], second, atol=1e-6)
        assert model.files == ("weights.safetensors", "code/made.py")
        assert model.options == {"factory": "made:Tied", "factory_args": {}}

    def test_inputs_go_where_their_names_say_whatever_their_order(self, home: Path, made: Any) -> None:
        data = rows(right=np.ones((4, 2)), left=np.zeros((4, 4)))
        model = adopt(home, made["Two"](), "made:Two", data)
        assert [t.describe() for t in model.signature.inputs] == ["left float32 [batch, 4]", "right float32 [batch, 2]"]
        assert [t.describe() for t in model.signature.outputs] == ["sum float32 [batch, 3]", "first float32 [batch]"]

    def test_other_names_are_taken_in_their_order(self, home: Path, made: Any) -> None:
        model = adopt(home, made["Two"](), "made:Two", rows(b=np.zeros((4, 4)), a=np.ones((4, 2))))
        assert [t.name for t in model.signature.inputs] == ["b", "a"]

    def test_factory_arguments_and_labels_are_kept(self, home: Path, made: Any) -> None:
        args = {"how": "bfloat16"}
        model = adopt(home, made["Answers"]("bfloat16"), "made:Answers", factory_args=args, labels=["a", "b", "c"])
        assert folder.read(model.path).options["factory_args"] == args
        assert model.labels == ("a", "b", "c")
        assert model.signature.outputs[0].dtype == "float32"  # numpy has no bfloat16

    @pytest.mark.parametrize(
        "wrap", [lambda s: {"epoch": 3, "state_dict": s}, lambda s: {f"module.{k}": v for k, v in s.items()}]
    )
    def test_checkpoints_as_training_scripts_write_them(self, home: Path, made: Any, wrap: Any) -> None:
        torch.save(wrap(made["Tied"]().state_dict()), home / "w.pt")
        model = formats.adopt(home / "w.pt", home.parent / "into", factory="made:Tied", data=rows())
        assert model.format == "torch"

    def test_safetensors(self, home: Path, made: Any) -> None:
        from safetensors.torch import save_file

        save_file(nn.Linear(4, 3).state_dict(), home / "w.safetensors")
        args = {"in_features": 4, "out_features": 3}
        model = formats.adopt(
            home / "w.safetensors", home.parent / "into", factory="torch.nn:Linear", factory_args=args, data=rows()
        )
        assert model.files == ("weights.safetensors",)

    def test_a_module_that_writes_into_its_input_leaves_the_callers_alone(self, home: Path, made: Any) -> None:
        model = adopt(home, made["Answers"]("in place"), "made:Answers", factory_args={"how": "in place"})
        x = np.ones((2, 4), np.float32)
        x.flags.writeable = False
        engines.load(model).run({"x": x})
        assert (x == 1).all()


class TestRefused:
    def test_weights_without_a_factory(self, home: Path, made: Any) -> None:
        torch.save(made["Tied"]().state_dict(), home / "w.pt")
        with pytest.raises(BadModel, match=r"w\.pt holds weights but no code; pass --factory module:Name"):
            formats.adopt(home / "w.pt", home.parent / "into", data=rows())

    def test_weights_without_rows(self, home: Path, made: Any) -> None:
        torch.save(made["Tied"]().state_dict(), home / "w.pt")
        with pytest.raises(BadModel, match=r"w\.pt does not say what it takes; pass --data FILE"):
            formats.adopt(home / "w.pt", home.parent / "into", factory="made:Tied")

    def test_weights_of_another_network(self, home: Path, made: Any) -> None:
        with pytest.raises(BadModel) as error:
            adopt(home, nn.Linear(4, 3), "made:Tied")
        assert "do not fit made:Tied: it lacks a.weight; it lacks a.bias; it lacks b.weight (and 3 more)" in str(
            error.value
        )
        with pytest.raises(BadModel, match=r"weight is \[3, 5\] where the module has \[3, 4\]"):
            adopt(home, nn.Linear(5, 3), "made:Answers", factory_args={"how": ""})

    @pytest.mark.parametrize(
        ("how", "said"),
        [
            ("mean", "answers 1 rows with 'output' of shape [3]; the first dimension of an output must be the rows"),
            ("two rows", "cannot run 1 row of made rows"),
            ("text", "answers with a str that is no tensor"),
        ],
    )
    def test_a_network_that_does_not_answer_row_by_row(self, home: Path, made: Any, how: str, said: str) -> None:
        with pytest.raises(BadModel) as error:
            adopt(home, made["Answers"](how), "made:Answers", factory_args={"how": how})
        assert said in str(error.value)

    def test_rows_of_another_width_and_rows_of_text(self, home: Path, made: Any) -> None:
        with pytest.raises(BadModel, match="cannot run 1 row of made rows: mat1 and mat2 shapes cannot be multiplied"):
            adopt(home, made["Tied"](), "made:Tied", rows(x=np.zeros((4, 7))))
        with pytest.raises(BadModel, match="takes numbers, and the rows hold text"):
            adopt(home, made["Tied"](), "made:Tied", rows(x=np.array(["a", "b"])))

    def test_as_many_labels_as_classes(self, home: Path, made: Any) -> None:
        with pytest.raises(BadModel, match=r"there are 2 labels for the 4 classes of output output_0"):
            adopt(home, made["Tied"](), "made:Tied", labels=["a", "b"])

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ({"epoch": 3, "best": 0.5}, "holds the keys epoch, best and no state_dict"),
            ([1, 2], "holds list and no state_dict"),
        ],
    )
    def test_a_file_of_other_things(self, home: Path, content: Any, said: str) -> None:
        torch.save(content, home / "w.pt")
        with pytest.raises(BadModel) as error:
            formats.adopt(home / "w.pt", home.parent / "into", factory="made:Tied", data=rows())
        assert said in str(error.value)

    def test_a_damaged_file(self, home: Path, made: Any) -> None:
        from safetensors.torch import save_file

        save_file(nn.Linear(4, 3).state_dict(), home / "w.safetensors")
        whole = (home / "w.safetensors").read_bytes()
        (home / "w.safetensors").write_bytes(whole[:-5])
        with pytest.raises(BadModel, match="is damaged, or no PyTorch file"):
            formats.adopt(home / "w.safetensors", home.parent / "into", factory="made:Tied", data=rows())

    def test_stored_weights_that_no_longer_fit(self, home: Path, made: Any) -> None:
        model = adopt(home, made["Tied"](), "made:Tied")
        model.main.write_bytes(b"\x00" * 40)
        with pytest.raises(BadModel, match=r"weights\.safetensors does not fit made:Tied"):
            engines.load(model)


class TestPickledModules:
    def test_are_refused_unless_trusted(self, home: Path) -> None:
        torch.save(nn.Linear(4, 3), home / "w.pt", _use_new_zipfile_serialization=False)
        with pytest.raises(Untrusted, match=r"holds more than weights, and unpickling that can run any code.*--trust"):
            formats.adopt(home / "w.pt", home.parent / "into", data=rows())

    def test_are_kept_as_an_exported_program_when_trusted(self, home: Path) -> None:
        network = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
        torch.save(network, home / "w.pt")
        model = formats.adopt(home / "w.pt", home.parent / "into", data=rows(), trust=True)
        assert model.format == "torch-export"
        x = np.ones((5, 4), np.float32)
        with torch.no_grad():
            want = network.eval()(torch.from_numpy(x))
        assert np.allclose(engines.load(model).run({"x": x})["output"], want, atol=1e-6)

    def test_or_as_weights_where_there_is_a_factory(self, home: Path) -> None:
        torch.save(nn.Linear(4, 3), home / "w.pt")
        args = {"in_features": 4, "out_features": 3}
        into = home.parent / "into"
        model = formats.adopt(
            home / "w.pt", into, factory="torch.nn:Linear", factory_args=args, data=rows(), trust=True
        )
        assert model.format == "torch"

    def test_whose_class_is_nowhere_are_told_of_the_way_without(self, home: Path) -> None:
        class Gone(nn.Linear):
            """Pickled by a name that nothing has any more."""

        Gone.__qualname__, Gone.__module__ = "Gone", "modelkeep"
        sys.modules["modelkeep"].Gone = Gone  # type: ignore[attr-defined]
        torch.save(Gone(4, 3), home / "w.pt")
        del sys.modules["modelkeep"].Gone  # type: ignore[attr-defined]
        with pytest.raises(BadModel, match=r"cannot be unpickled here: .*save its state_dict\(\), and pass --factory"):
            formats.adopt(home / "w.pt", home.parent / "into", data=rows(), trust=True)


class TestSave:
    def test_a_changed_network_is_saved_like_the_one_it_came_from(self, home: Path, made: Any) -> None:
        model = adopt(home, made["Tied"](), "made:Tied")
        network = torch_format.module(model)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(2)
        (home / "made.py").unlink()  # what was kept is what counts
        new = folder.write(torch_format.save(network, model, home.parent / "new"))
        x = np.ones((3, 4), np.float32)
        with torch.no_grad():
            want = network(torch.from_numpy(x))[0]
        assert np.allclose(engines.load(folder.read(new.path)).run({"x": x})["output_0"], want, atol=1e-6)
        assert new.signature == model.signature

    def test_with_another_factory_labels_and_signature(self, home: Path, made: Any) -> None:
        model = adopt(home, made["Tied"](), "made:Tied")
        other = made["Answers"]("")
        signature = torch_format.observe(other, rows())
        new = torch_format.save(
            other,
            model,
            home.parent / "new",
            factory="made:Answers",
            factory_args={"how": ""},
            labels=("a", "b", "c"),
            signature=signature,
        )
        assert new.labels == ("a", "b", "c")
        assert new.options == {"factory": "made:Answers", "factory_args": {"how": ""}}
        assert new.signature.outputs[0].shape == (None, 3)
        assert torch_format.module(new).how == ""
