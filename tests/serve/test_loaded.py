"""Warm-up: a version that fails on its own rows is never served."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel, ModelkeepError
from modelkeep.model import engines, folder
from modelkeep.serve import loaded
from modelkeep.serve.loaded import bring
from modelkeep.serve.warm import warm
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
    paces = warm(model, runner, ServeConfig(max_batch=8))
    assert [len(x) for x in runner.runs] == [1, 1, 8, 8]
    assert all((x == 4.0).all() for x in runner.runs)
    assert [rows for rows, _ in paces] == [1, 8]
    assert all(seconds >= 0 for _, seconds in paces)


def test_without_reference_rows_it_runs_on_made_up_ones(fakes: SimpleNamespace, model: Model) -> None:
    runner = fakes.Fake(of=model.signature)
    warm(model, runner, ServeConfig(max_batch=2))
    assert [x.shape for x in runner.runs] == [(1, 3), (1, 3), (2, 3), (2, 3)]


def test_failing_on_its_own_rows_is_fatal_on_made_up_ones_not(fakes: SimpleNamespace, model: Model) -> None:
    def refuse(x: Any) -> dict[str, Any]:
        raise ValueError("index out of range")

    runner = fakes.Odd(refuse, of=model.signature)
    assert warm(model, runner, ServeConfig()) == []
    keep(model, 1.0)
    with pytest.raises(ModelkeepError, match="fails on its own reference rows: ValueError: index out of range"):
        warm(model, runner, ServeConfig())


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
