"""Warm-up: a version that fails on its own rows is never served."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel, ModelkeepError
from modelkeep.model import engines, folder, formats
from modelkeep.serve.plane import loaded
from modelkeep.serve.plane.loaded import bring
from modelkeep.serve.workers.warm import warm
from modelkeep.types import Model, ServeConfig, Signature, TensorSpec


@pytest.fixture
def model(fakes: SimpleNamespace, tmp_path: Path) -> Model:
    (tmp_path / "weights").write_bytes(b"1")
    return folder.write(Model(tmp_path, "onnx", fakes.signature(shape=(None, 3)), ("weights",)))


def keep(model: Model, value: float) -> None:
    folder.keep_reference(model.path, Dataset({"x": np.full((5, 3), value, np.float32)}, None, "made"))


def test_it_runs_at_one_row_and_at_max_batch_on_the_models_own_rows(fakes: SimpleNamespace, model: Model) -> None:
    keep(model, 4.0)
    runner = fakes.Fake(of=model.signature)
    paces, mixes = warm(model, runner, ServeConfig(max_batch=8))
    assert [len(x) for x in runner.runs] == [1, 1, 8, 8]
    assert all((x == 4.0).all() for x in runner.runs)
    assert [rows for rows, _ in paces] == [1, 8]
    assert mixes == ""
    assert all(seconds >= 0 for _, seconds in paces)


def test_without_reference_rows_it_runs_on_made_up_ones(fakes: SimpleNamespace, model: Model) -> None:
    runner = fakes.Fake(of=model.signature)
    warm(model, runner, ServeConfig(max_batch=2))
    assert [x.shape for x in runner.runs] == [(1, 3), (1, 3), (2, 3), (2, 3)]


def test_failing_on_its_own_rows_is_fatal_on_made_up_ones_not(fakes: SimpleNamespace, model: Model) -> None:
    def refuse(x: Any) -> dict[str, Any]:
        raise ValueError("index out of range")

    runner = fakes.Odd(refuse, of=model.signature)
    assert warm(model, runner, ServeConfig()) == ([], "")
    keep(model, 1.0)
    with pytest.raises(ModelkeepError, match="fails on its own reference rows: ValueError: index out of range"):
        warm(model, runner, ServeConfig())


def test_rows_that_change_each_others_answers_are_seen(fakes: SimpleNamespace, model: Model) -> None:
    def softmax_over_the_batch(x: Any) -> dict[str, Any]:
        return {"y": np.exp(x) / np.exp(x).sum(axis=0)}

    runner = fakes.Odd(softmax_over_the_batch, of=model.signature)
    _, mixes = warm(model, runner, ServeConfig(max_batch=4))
    assert mixes.startswith("output 'y' by ")
    assert warm(model, runner, ServeConfig(max_batch=1))[1] == "", "nothing to compare with"


def test_what_fails_the_warm_up_is_closed(
    fakes: SimpleNamespace, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(model, fakes.POISON)
    runner = fakes.Fake(of=model.signature)
    monkeypatch.setattr(engines, "load", lambda model, config: runner)
    with pytest.raises(ModelkeepError, match="poison"):
        bring(model, ServeConfig(in_process=True))
    assert runner.closed == 1


@pytest.mark.parametrize("in_process", [True, False])
def test_what_the_engine_refuses_is_passed_on(model: Model, in_process: bool) -> None:
    with pytest.raises(BadModel, match="weights is not an ONNX model that can be run"):
        bring(model, ServeConfig(in_process=in_process))


@pytest.mark.parametrize(
    ("shape", "bounds", "short"),
    [((None, 3), {}, True), ((None, None), {}, False), ((4, 3), {}, False), ((None, 3), {"batch": (1, 8, 1)}, False)],
)
def test_the_short_check_is_for_what_only_rows_are_free_of(shape: Any, bounds: Any, short: bool) -> None:
    signature = Signature((TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", shape),), bounds)
    assert (loaded._plain(signature) is not None) == short


@pytest.mark.parametrize("in_process", [True, False])
def test_a_model_that_normalises_over_its_batch_is_found_out_as_it_is_brought(tmp_path: Path, in_process: bool) -> None:
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=0)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    made = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(made, tmp_path / "model.onnx")
    room = tmp_path / "room"
    room.mkdir()
    crew, paces = bring(formats.adopt(tmp_path / "model.onnx", room), ServeConfig(max_batch=4, in_process=in_process))
    assert crew.mixes.startswith("output 'y' by ")
    assert [rows for rows, _ in paces] == [1, 4]
    crew.close()
