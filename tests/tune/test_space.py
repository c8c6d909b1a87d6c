"""The settings that are tried."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelkeep import extras
from modelkeep.tune import machine, space
from modelkeep.types import Model, ServeConfig, Signature, TensorSpec


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores without instructions for lower precisions."""
    monkeypatch.setattr(space, "cores", lambda: 2)
    monkeypatch.setattr(machine, "precisions", list)


def made(model: Model, *, p99: float = 0.05, concurrency: int = 16) -> space.Space:
    return space.space(model, p99=p99, concurrency=concurrency)


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 96])
def test_threads_times_workers_fit_the_cores(monkeypatch: pytest.MonkeyPatch, tiny: Model, cores: int) -> None:
    monkeypatch.setattr(space, "cores", lambda: cores)
    arms = made(tiny).arms
    assert all((c.threads or 1) * c.workers <= cores for c in arms)
    assert any(c.threads == cores for c in arms)
    assert any(c.workers == cores for c in arms)
    assert len(arms) == len(set(arms))


def test_the_naive_setting_is_what_one_gets_without_thinking(tiny: Model) -> None:
    assert space.naive(tiny) == ServeConfig(engine="onnxruntime", max_batch=1)


def test_only_installed_engines_that_run_the_format(monkeypatch: pytest.MonkeyPatch, tiny: Model) -> None:
    monkeypatch.setattr(extras, "has", lambda library: True)
    assert {c.engine for c in made(tiny).arms} == {"onnxruntime", "openvino"}
    assert {c.engine for c in made(replace(tiny, format="torch")).arms} == {"torch", "torch-compile"}
    monkeypatch.setattr(extras, "has", lambda library: library != "openvino")
    assert {c.engine for c in made(tiny).arms} == {"onnxruntime"}


def test_lower_precisions_where_engine_and_processor_have_them(monkeypatch: pytest.MonkeyPatch, tiny: Model) -> None:
    assert {c.precision for c in made(tiny).arms} == {None}
    monkeypatch.setattr(machine, "precisions", lambda: ["bfloat16", "float16"])
    found = {(c.engine, c.precision) for c in made(tiny).arms}
    assert ("onnxruntime", "bfloat16") not in found
    assert {("openvino", "bfloat16"), ("openvino", "float16"), ("openvino", None)} <= found
    torch = {(c.engine, c.precision) for c in made(replace(tiny, format="torch")).arms}
    assert ("torch", "float16") not in torch
    assert {("torch", "bfloat16"), ("torch-compile", "bfloat16")} <= torch


def test_a_model_of_one_row_is_not_batched(tiny: Model) -> None:
    fixed = Signature((TensorSpec("x", "float32", (1, 4)),), (TensorSpec("y", "float32", (1, 3)),))
    found = made(replace(tiny, signature=fixed))
    assert (found.batches, found.waits) == ((1,), (0.0,))
    assert {c.max_batch for c in found.arms} == {1}


def test_batches_end_where_all_requests_fit_and_waits_within_the_promise(tiny: Model) -> None:
    assert made(tiny, concurrency=16).batches == (1, 2, 4, 8, 16)
    assert made(tiny, concurrency=5).batches == (1, 2, 4, 8)
    assert made(tiny, concurrency=1).batches == (1,)
    assert made(tiny, p99=0.004).waits == (0.0, 0.0005, 0.001)
    assert made(tiny, p99=10.0).waits == space.WAITS


def test_every_setting_is_there_once(tiny: Model) -> None:
    found = made(tiny)
    every = found.settings()
    assert len(every) == len(set(every)) == len(found.arms) * (1 + 4 * len(found.waits))
    assert not [c for c in every if c.max_batch == 1 and c.max_wait]


def test_the_neighbours_of_a_setting(tiny: Model) -> None:
    found = made(tiny)
    start = replace(found.arms[0], max_batch=8)
    up, down = (found.beside(start, "max_batch", step) for step in (1, -1))
    assert up == replace(start, max_batch=16)
    assert down == replace(start, max_batch=4)
    assert found.beside(replace(start, max_batch=16), "max_batch", 1) is None
    assert found.beside(start, "max_wait", -1) is None
    assert found.beside(start, "max_wait", 1) == replace(start, max_wait=0.0005)
    assert found.beside(replace(start, max_wait=0.0005), "max_wait", -1) == start


@pytest.mark.parametrize(
    ("cores", "threads", "workers"), [(1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 2, 2), (16, 4, 4), (96, 8, 12)]
)
def test_who_speaks_for_an_engine_fills_the_cores(cores: int, threads: int, workers: int) -> None:
    arms = [ServeConfig(threads=t, workers=w) for t, w in space.layouts(cores)]
    found = space.central(arms)
    assert (found.threads, found.workers) == (threads, workers)
