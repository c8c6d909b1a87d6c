"""int8 of real networks: smaller, nearly the same answers; and what cannot be quantized."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch

from modelkeep.convert.torch_to_onnx import TorchToOnnx
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadModel, Unsupported
from modelkeep.model import engines, folder, formats, score
from modelkeep.optimize.quantize import Quantize
from modelkeep.types import Model


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["MLP", "Conv"])
def model(request: pytest.FixtureRequest, adopted: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return TorchToOnnx().run(adopted(request.param), tmp_path_factory.mktemp("onnx"))[0]


def initializers(path: Path) -> set[str]:
    import onnx

    return {onnx.TensorProto.DataType.Name(t.data_type) for t in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_answers_nearly_the_same_with_int8_weights(
    dynamic: bool, per_channel: bool, model: Model, digits: Any, tmp_path: Path
) -> None:
    made, _ = Quantize(dynamic=dynamic, per_channel=per_channel, rows=digits[0]).run(model, tmp_path)
    with contextlib.closing(engines.load(model)) as old, contextlib.closing(engines.load(made)) as new:
        before, after = old.run(digits[1].inputs), new.run(digits[1].inputs)
        right = [score.correct(runner, digits[1]).mean() for runner in (old, new)]
    assert list(before) == list(after)
    assert "INT8" in initializers(made.main) | {"INT8" if dynamic else ""}
    assert right[1] > right[0] - 0.02
    a, b = (next(iter(x.values())) for x in (before, after))
    assert 0 < np.abs(a - b).max() < 0.25 * np.abs(a).max()


@pytest.mark.parametrize("filler", [-3.4028235e38, -1e4])
def test_attention_that_masks_its_padding_survives(filler: float, tmp_path: Path) -> None:
    """A masked score is the least value of its range, and would leave one step for all the others."""
    source = tmp_path / "attention.onnx"
    onnx.save(attention(filler), source)
    model, rng = formats.adopt(source, tmp_path / "float"), np.random.default_rng(0)
    mask = (np.arange(12) < rng.integers(2, 12, (256, 1))).astype(np.int64)
    rows = Dataset({"ids": rng.integers(0, 50, (256, 12)), "mask": mask}, None, "made")
    made, (report,) = Quantize(rows=rows).run(model, tmp_path / "int8")
    assert report.numbers["agreement"] > 0.95
    assert "INT8" in initializers(made.main)
    assert made.size < 0.6 * model.size


@pytest.mark.parametrize("dynamic", [False, True])
def test_only_static_ranges_answer_a_row_alike_in_any_company(dynamic: bool, tmp_path: Path) -> None:
    """Why optimize does not try dynamic ones, although they are fast: requests that share a run must not be told."""
    source = tmp_path / "attention.onnx"
    onnx.save(attention(-1e4), source)
    model, rng = formats.adopt(source, tmp_path / "float"), np.random.default_rng(0)
    mask = (np.arange(12) < rng.integers(2, 12, (64, 1))).astype(np.int64)
    rows = Dataset({"ids": rng.integers(0, 50, (64, 12)), "mask": mask}, None, "made")
    made, _ = Quantize(dynamic=dynamic, rows=rows).run(model, tmp_path / "int8")
    with contextlib.closing(engines.load(made)) as runner:
        alone = np.concatenate([runner.run(rows.take([at]).inputs)["scores"] for at in range(64)])
        among = runner.run(rows.inputs)["scores"]
    if dynamic:
        assert np.abs(alone - among).max() > 1e-3 * np.abs(alone).max()
    else:
        np.testing.assert_allclose(alone, among, rtol=1e-5, atol=1e-5)


def attention(filler: float) -> onnx.ModelProto:
    """Embeddings of ids, pooled by a softmax over the positions that the mask leaves; four classes."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 18]>
        attention (int64[batch, sequence] ids, int64[batch, sequence] mask) => (float[batch, 4] scores)
        <float filler, float[50, 64] words, float[64, 1] query, float[64, 4] head, int64[1] one, int64[1] two> {
            embedded = Gather (words, ids)
            column = MatMul (embedded, query)
            raw = Squeeze (column, two)
            seen = Cast <to = 9> (mask)
            kept = Where (seen, raw, filler)
            share = Softmax <axis = 1> (kept)
            row = Unsqueeze (share, one)
            pooled = MatMul (row, embedded)
            flat = Squeeze (pooled, one)
            scores = MatMul (flat, head)
        }""")
    arrays = {
        "filler": np.float32(filler),
        "words": rng.normal(size=(50, 64)).astype(np.float32),
        "query": rng.normal(size=(64, 1)).astype(np.float32) / 4,
        "head": rng.normal(size=(64, 4)).astype(np.float32),
        "one": np.array([1]),
        "two": np.array([2]),
    }
    del model.graph.initializer[:]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items())
    return model


def test_is_a_whole_model_of_the_same_signature(model: Model, digits: Any, tmp_path: Path) -> None:
    made, (report,) = Quantize(samples=64, rows=digits[0]).run(model, tmp_path)
    read = folder.read(tmp_path)
    assert read == made
    assert (read.signature, read.format, read.labels) == (model.signature, "onnx", model.labels)
    assert folder.reference(tmp_path) is not None
    assert report.kind == "quantize"
    assert report.numbers["size_ratio"] == pytest.approx(made.size / model.size)
    assert "calibrated on 64 rows" in report.why
    assert f"{made.size:,} bytes instead of {model.size:,}" in report.why


def test_takes_the_reference_rows_where_none_are_given(model: Model, tmp_path: Path) -> None:
    _, (report,) = Quantize(samples=32).run(model, tmp_path)
    assert report.data == "reference rows"


def test_a_pytorch_model_is_refused_with_the_way_out(adopted: Any, digits: Any, tmp_path: Path) -> None:
    told = "quantize takes ONNX and this is 'torch'; convert it first: modelkeep convert"
    with pytest.raises(Unsupported, match=told):
        Quantize(rows=digits[0]).run(adopted("MLP"), tmp_path)


def test_without_rows_only_dynamic_is_possible(model: Model, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(model.path, tmp_path / "bare")
    (tmp_path / "bare" / folder.REFERENCE).unlink()
    bare = model.moved(tmp_path / "bare")
    with pytest.raises(BadData, match="there are no rows to calibrate on; pass some, or add the model with --data"):
        Quantize().run(bare, tmp_path / "static")
    made, _ = Quantize(dynamic=True).run(bare, tmp_path / "dynamic")
    assert folder.reference(made.path) is None


def test_a_file_that_is_no_onnx_is_refused(model: Model, digits: Any, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(model.path, tmp_path / "broken")
    broken = model.moved(tmp_path / "broken")
    broken.main.write_bytes(b"not onnx at all")
    with pytest.raises(BadModel, match="ONNX Runtime cannot quantize this model: ") as refused:
        Quantize(rows=digits[0].head(40)).run(broken, tmp_path / "into")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "into" / folder.MODEL_FILE).exists()


def test_reports_how_far_the_answers_agree(model: Model, digits: Any, tmp_path: Path) -> None:
    _, (report,) = Quantize(rows=digits[0]).run(model, tmp_path)
    assert 0.95 < report.numbers["agreement"] <= 1
    assert 0.99 < report.numbers["cosine"] < 1
    assert "the same class for" in report.why


def test_weights_of_a_large_model_go_beside_it(
    model: Model, digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelkeep.optimize import quantize

    small, _ = Quantize(rows=digits[0]).run(model, tmp_path / "small")
    monkeypatch.setattr(quantize, "ONE_FILE", 1000)
    made, _ = Quantize(rows=digits[0]).run(model, tmp_path / "large")
    assert made.files[0] == "model.onnx"
    assert len(made.files) > 1
    assert made.main.stat().st_size < small.main.stat().st_size
    with (
        contextlib.closing(engines.load(small)) as one,
        contextlib.closing(engines.load(folder.read(made.path))) as two,
    ):
        a, b = (next(iter(runner.run(digits[1].inputs).values())) for runner in (one, two))
    assert (a.argmax(1) == b.argmax(1)).mean() > 0.97


def test_a_model_baked_for_a_number_of_rows_is_calibrated_and_stays_so(
    trained: Any, digits: Any, tmp_path: Path
) -> None:
    from modelkeep.model import formats

    names = {"input_names": ["pixels"], "output_names": ["output"]}
    torch.onnx.export(trained("MLP"), (torch.zeros(4, 64),), dynamo=True, verbose=False, **names).save(  # type: ignore[union-attr]
        str(tmp_path / "four.onnx")
    )
    four = formats.adopt(tmp_path / "four.onnx", tmp_path / "four")
    assert four.signature.inputs[0].shape == (4, 64)
    made, (report,) = Quantize(samples=30, rows=digits[0]).run(four, tmp_path / "made")
    assert made.signature == four.signature
    assert report.numbers["agreement"] > 0.9
    with contextlib.closing(engines.load(made)) as runner:
        assert score.correct(runner, digits[1]).mean() > 0.9


def test_it_is_quiet_and_leaves_the_logs_as_they_were(
    model: Model, digits: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that cannot be prepared makes ONNX Runtime ask for it, through the root logger."""
    import logging

    from modelkeep.optimize import quantize

    def unprepared(model: Model, room: Path, *, big: bool) -> Path:
        logging.warning("what others say goes on")
        return model.main

    monkeypatch.setattr(quantize, "_prepared", unprepared)
    before = list(logging.getLogger().filters)
    with caplog.at_level(logging.INFO):
        Quantize(samples=32, rows=digits[0]).run(model, tmp_path)
    assert [r.getMessage() for r in caplog.records] == ["what others say goes on"]
    assert logging.getLogger().filters == before


def test_rows_that_do_not_fit_are_refused(model: Model, digits: Any, tmp_path: Path) -> None:
    from modelkeep.data.dataset import Dataset

    rows = Dataset({"pixels": np.zeros((9, 63), np.float32)}, None, "narrow.npz")
    with pytest.raises(BadData, match=r"of narrow\.npz has shape \[9, 63\]"):
        Quantize(rows=rows).run(model, tmp_path)


def test_without_the_extra_it_says_how_to_get_it(
    model: Model, digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from modelkeep.errors import MissingExtra

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"pip install 'modelkeep\[optimize\]'"):
        Quantize(rows=digits[0]).run(model, tmp_path)
