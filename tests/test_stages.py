"""Stages have names in a profile where one is taken, and cost nothing where none is."""

from __future__ import annotations

import sys
import timeit
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from modelkeep import stages


class Recorder:
    """Stands in for NVTX; keeps what is opened and closed, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def push(self, name: str) -> None:
        self.told.append(("push", name))

    def pop(self) -> None:
        self.told.append(("pop", None))

    def start(self, name: str) -> Any:
        self.told.append(("start", name))
        return name

    def end(self, handle: Any) -> None:
        self.told.append(("end", handle))


@pytest.fixture(autouse=True)
def off_again() -> Iterator[None]:
    yield
    stages.off()


def test_ranges_open_and_close_by_name() -> None:
    recorder = Recorder()
    stages.on(recorder)
    with stages.stage("join"):
        handle = stages.start("queue")
    with pytest.raises(ValueError, match="as it came"), stages.stage("compute"):
        raise ValueError("as it came")
    stages.end(handle)
    assert recorder.told == [
        ("push", "join"),
        ("start", "queue"),
        ("pop", None),
        ("push", "compute"),
        ("pop", None),
        ("end", "queue"),
    ]


def test_off_there_is_nothing() -> None:
    with stages.stage("join"):
        assert stages.start("queue") is None
    stages.end(None)
    recorder = Recorder()
    stages.on(recorder)
    handle = stages.start("queue")
    stages.off()
    stages.end(handle)  # began before they were switched off
    assert recorder.told == [("start", "queue")]


def test_off_they_cost_nothing() -> None:
    def one() -> None:
        with stages.stage("compute"):
            pass

    cost = min(timeit.repeat(one, number=1000, repeat=30)) / 1000
    assert cost < 2e-6  # a batch of the smallest model takes thirty times as long


class Domain:
    def __init__(self) -> None:
        self.recorder = Recorder()
        self.made: list[str] = []

    def get_event_attributes(self, message: str) -> str:
        self.made.append(message)
        return f"attributes of {message}"

    def push_range(self, attributes: str) -> None:
        self.recorder.push(attributes)

    def pop_range(self) -> None:
        self.recorder.pop()

    def start_range(self, attributes: str) -> int:
        self.recorder.start(attributes)
        return 7

    def end_range(self, handle: int) -> None:
        self.recorder.end(handle)


def test_under_nsys_they_are_nvtx_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    domain, module = Domain(), ModuleType("nvtx")
    domains: list[str] = []
    module.get_domain = lambda name: domains.append(name) or domain  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nvtx", module)
    assert stages.follow({"NSYS_PROFILING_SESSION_ID": "42"})
    for _ in range(2):
        with stages.stage("compute"):
            pass
    stages.end(stages.start("queue"))
    assert domains == ["modelkeep"]
    assert domain.made == ["compute", "queue"]  # each name is registered once
    assert domain.recorder.told[0] == ("push", "attributes of compute")
    assert domain.recorder.told[-1] == ("end", 7)


def test_without_a_profiler_they_stay_off() -> None:
    assert not stages.follow({})
    assert stages.start("queue") is None


def test_pytorchs_ranges_where_nvtx_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    module = ModuleType("torch.cuda.nvtx")
    for name in ("range_push", "range_pop", "range_start", "range_end"):
        setattr(module, name, lambda *a, name=name: told.append((name, *a)) or 3)
    monkeypatch.setitem(sys.modules, "nvtx", None)
    monkeypatch.setitem(sys.modules, "torch.cuda.nvtx", module)
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    monkeypatch.setitem(sys.modules, "torch.cuda", ModuleType("torch.cuda"))
    assert stages.follow({"NVTX_INJECTION64_PATH": "/lib.so"})
    told.clear()
    with stages.stage("split"):
        pass
    stages.end(stages.start("queue"))
    assert told == [("range_push", "split"), ("range_pop",), ("range_start", "queue"), ("range_end", 3)]


def test_with_neither_they_stay_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvtx", None)
    monkeypatch.setitem(sys.modules, "torch.cuda.nvtx", None)
    assert not stages.follow({"NSYS_PROFILING_SESSION_ID": "42"})


def test_the_real_package_takes_them() -> None:
    pytest.importorskip("nvtx")
    assert stages.follow({"NSYS_PROFILING_SESSION_ID": "42"})
    with stages.stage("compute"):
        stages.end(stages.start("queue"))
