"""A search over a registry: who takes part, what is written, what is known the next time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelkeep.registry import Registry
from modelkeep.settings import Settings
from modelkeep.tune import machine, recorded
from modelkeep.tune.kept import KIND
from modelkeep.tune.recorded import cheaper
from modelkeep.tune.rounds import Entrant, Window
from modelkeep.tune.search import Found, Tune
from modelkeep.types import Model, Report, ServeConfig

GOOD, BAD = Report("optimize", True, "smaller"), Report("optimize", False, "worse")
BEST, ASIDE = ServeConfig(threads=1, max_batch=4), ServeConfig(threads=2)


class Searched(Tune):
    """A search that measures one window and finds what it was told to; ``seen`` is what it was given."""

    seen: dict[str, Any] = {}  # noqa: RUF012  (a frozen dataclass is its own only in the fields that it declares)

    def run(self, model: Model, **given: Any) -> Found:
        self.seen.clear()
        self.seen.update(given, model=model)
        given["remember"]([Window(Entrant(BEST), 10, 1.0, (0.1, 0.2))])
        others = {ref: (ASIDE, Report("tune", True, "aside")) for ref in given["others"]}
        return Found(BEST, Report("tune", self.p99 > 0, "found"), others)


@pytest.fixture
def registry(tmp_path: Path, tiny: Model) -> Any:
    with Registry.open(Settings(home=tmp_path)) as opened:
        opened.add("m", tiny.path, made_by="add('m.onnx')")
        yield opened


def test_a_setting_that_keeps_the_promise_is_stored_with_its_report(registry: Registry) -> None:
    version = registry.get("m")
    report = recorded.tune(registry, version, Searched(), who="tester")
    assert report.why == "found"
    assert registry.config(version, machine.fingerprint("onnx")) == BEST
    assert registry.reports(version)[-1] == report
    assert registry.journal("m", kind="config")[-1].who == "tester"


def test_one_that_does_not_is_reported_and_not_stored(registry: Registry) -> None:
    version = registry.get("m")
    assert recorded.tune(registry, version, Searched(p99=0.0)).ok is False
    assert registry.config(version, machine.fingerprint("onnx")) is None
    assert registry.reports(version)[-1].ok is False


def test_what_was_measured_is_known_the_next_time_unless_fresh(registry: Registry) -> None:
    search, version = Searched(), registry.get("m")
    recorded.tune(registry, version, search)
    assert search.seen["known"] == []
    recorded.tune(registry, version, search)
    assert [[w.entrant.config for w in windows] for windows in search.seen["known"]] == [[BEST]]
    recorded.tune(registry, version, search, fresh=True)
    assert search.seen["known"] == []


def test_what_was_measured_before_an_interruption_is_kept(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Any, model: Model, **given: Any) -> Found:
        given["remember"]([Window(Entrant(BEST), 10, 1.0, (0.1, 0.2))])
        raise KeyboardInterrupt

    monkeypatch.setattr(Tune, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recorded.tune(registry, registry.get("m"), Tune())
    assert len(registry.journal("m", kind=KIND)) == 1


def test_versions_that_optimize_made_and_accepted_take_part(registry: Registry, tiny: Model) -> None:
    child = registry.add("m", tiny.path, parent=1, made_by="Quantize()", reports=[GOOD])
    grandchild = registry.add("m", tiny.path, parent=child.number, made_by="Prune()", reports=[GOOD])
    registry.add("m", tiny.path, parent=1, made_by="Quantize()", reports=[BAD])
    registry.add("m", tiny.path, made_by="add('m.onnx')", reports=[GOOD])
    base = registry.get("m@1")
    assert [v.ref for v in cheaper(registry, base)] == [child.ref, grandchild.ref]
    assert [v.ref for v in cheaper(registry, child)] == [grandchild.ref]
    assert cheaper(registry, grandchild) == []
    search = Searched()
    recorded.tune(registry, base, search)
    assert list(search.seen["others"]) == [child.ref, grandchild.ref]
    assert registry.config(child, machine.fingerprint("onnx")) == ASIDE
    assert registry.reports(child)[-1].why == "aside"
    assert registry.config(base, machine.fingerprint("onnx")) == BEST
