"""What was measured is found again: on the same machine, for the same bytes, under the same load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelkeep.errors import Damaged
from modelkeep.registry import Registry
from modelkeep.settings import Settings
from modelkeep.tune.kept import KIND, Kept
from modelkeep.tune.rounds import Entrant, Window
from modelkeep.types import Model, ServeConfig

ONE = Window(Entrant(ServeConfig(threads=1)), 100, 1.0, (0.001, 0.002))
TWO = Window(Entrant(ServeConfig(threads=2), "m@3"), 200, 1.0, (0.001, 0.003), memory=5)


@pytest.fixture
def registry(tmp_path: Path, tiny: Model) -> Any:
    with Registry.open(Settings(home=tmp_path)) as opened:
        opened.add("m", tiny.path, made_by="add('m.onnx')")
        yield opened


def kept(registry: Registry, **changed: Any) -> Kept:
    given = {"machine": "here", "concurrency": 16, "digests": {"": "d1", "m@3": "d3"}, "who": "tester", "every": 0.0}
    return Kept(registry, "m", **(given | changed))


def test_rounds_come_back_in_order(registry: Registry) -> None:
    one = kept(registry)
    one.remember([ONE, TWO])
    one.remember([TWO])
    assert kept(registry).rounds() == [[ONE, TWO], [TWO]]
    entry = registry.journal("m", kind=KIND)[0]
    assert (entry.who, entry.why) == ("tester", "2 measurements of settings, 16 requests in flight")


@pytest.mark.parametrize(
    "changed", [{"machine": "elsewhere"}, {"concurrency": 8}, {"digests": {"": "d9", "m@3": "d8"}}]
)
def test_another_machine_load_or_model_is_another_story(registry: Registry, changed: dict[str, Any]) -> None:
    kept(registry).remember([ONE, TWO])
    assert kept(registry, **changed).rounds() == []


def test_the_bytes_count_and_not_the_name(registry: Registry) -> None:
    kept(registry).remember([ONE, TWO])
    assert kept(registry, digests={"": "d3"}).rounds() == [
        [Window(Entrant(TWO.entrant.config), 200, 1.0, TWO.quantiles, memory=5)]
    ]


def test_fast_rounds_share_an_entry_and_none_is_lost(registry: Registry) -> None:
    one = kept(registry, every=1000.0)
    for _ in range(5):
        one.remember([ONE])
    assert kept(registry).rounds() == []
    one.write()
    one.write()
    assert kept(registry).rounds() == [[ONE]] * 5
    assert len(registry.journal("m", kind=KIND)) == 1


def test_a_registry_that_cannot_be_written_does_not_end_the_search(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise Damaged("the disk is full")

    monkeypatch.setattr(registry, "note", full)
    kept(registry).remember([ONE])
