"""A server says that a version was not tuned for the machine it runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelkeep.errors import Busy
from modelkeep.registry import Registry
from modelkeep.settings import Settings
from modelkeep.tune.elsewhere import KIND, tuned, untuned
from modelkeep.types import Model, Report, ServeConfig

REPORT = Report("tune", True, "fast")


@pytest.fixture
def registry(tmp_path: Path, tiny: Model) -> Any:
    with Registry.open(Settings(home=tmp_path)) as opened:
        opened.add("m", tiny.path, made_by="add('m.onnx')")
        yield opened


def test_never_tuned(registry: Registry) -> None:
    said = untuned(registry, registry.get("m"), "here")
    assert said == "m@1 is untuned on this machine; tune it with: modelkeep tune m@1"


def test_tuned_elsewhere(registry: Registry) -> None:
    version = registry.get("m")
    registry.set_config(version, "there", ServeConfig(), REPORT)
    assert "(it was tuned on 1 other machine, or before an upgrade)" in untuned(registry, version, "here")
    assert registry.journal("m", kind=KIND)[-1].data["elsewhere"] == ["there"]


def test_tuned_here(registry: Registry) -> None:
    version = registry.get("m")
    registry.set_config(version, "here", ServeConfig("openvino", precision="bfloat16", threads=2), REPORT)
    assert tuned(registry, version, "here") == "m@1 runs as it was tuned here: openvino bf16, 2 threads, max batch 32"
    assert untuned(registry, version, "here") == ""
    assert tuned(registry, version, "there") == ""
    assert registry.journal("m", kind=KIND) == []


def test_what_a_person_set_otherwise_is_said(registry: Registry) -> None:
    version = registry.get("m")
    registry.set_config(version, "here", ServeConfig("openvino", threads=2, max_batch=8), REPORT)
    said = tuned(registry, version, "here", {"engine": "onnxruntime", "max_batch": 4, "threads": 2})
    assert said == "m@1 runs as it was tuned here, but for engine, max batch: onnxruntime, 2 threads, max batch 4"


def test_the_journal_is_told_once_for_each_machine(registry: Registry) -> None:
    version = registry.get("m")
    for machine in ("here", "here", "there", "here"):
        assert untuned(registry, version, machine)
    assert [e.data["machine"] for e in registry.journal("m", kind=KIND)] == ["here", "there"]


def test_a_journal_that_cannot_be_written_stops_nothing(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: Any, **__: Any) -> None:
        raise Busy("locked")

    monkeypatch.setattr(registry, "note", busy)
    assert untuned(registry, registry.get("m"), "here")
