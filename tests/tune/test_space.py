"""The settings that are tried."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelkeep import extras
from modelkeep.tune import space
from modelkeep.types import Model, ServeConfig, Signature, TensorSpec


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 96])
def test_threads_times_workers_fit_the_cores(monkeypatch: pytest.MonkeyPatch, tiny: Model, cores: int) -> None:
    monkeypatch.setattr(space, "cores", lambda: cores)
    found = space.candidates(tiny)
    assert all((c.threads or 1) * c.workers <= cores for c in found)
    assert any(c.threads == cores for c in found)
    assert any(c.workers == cores for c in found)
    assert len(found) == len(set(found))
    assert {c.max_batch for c in found} == set(space.BATCHES)


def test_the_naive_setting_is_the_first(tiny: Model) -> None:
    assert space.candidates(tiny)[0] == space.naive(tiny) == ServeConfig(engine="onnxruntime", max_batch=1)


def test_only_installed_engines_that_run_the_format(monkeypatch: pytest.MonkeyPatch, tiny: Model) -> None:
    monkeypatch.setattr(extras, "has", lambda library: True)
    assert {c.engine for c in space.candidates(tiny)} == {"onnxruntime", "openvino"}
    monkeypatch.setattr(extras, "has", lambda library: library != "openvino")
    assert {c.engine for c in space.candidates(tiny)} == {"onnxruntime"}
    assert {c.engine for c in space.candidates(replace(tiny, format="torch"))} == {"torch"}


def test_a_model_of_one_row_is_not_batched(tiny: Model) -> None:
    fixed = Signature((TensorSpec("x", "float32", (1, 4)),), (TensorSpec("y", "float32", (1, 3)),))
    assert {c.max_batch for c in space.candidates(replace(tiny, signature=fixed))} == {1}
