"""What a page draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelkeep.data import labels, pulses
from modelkeep.monitor.look import check
from modelkeep.monitor.series import FEATURES
from modelkeep.types import Model, Version
from tests.monitor.look.found import Send


def test_plots_are_drawn_from_what_there_is(
    version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Any, changed: Any
) -> None:
    assert check(version, model, home).plots == {}
    pixels, truth = held_out(300)
    ids = send(pixels)
    labels.record(path, "digits", dict(zip(ids, truth.tolist(), strict=True)))
    pulses.write(home / "pulses.db", 1e6, {("digits", 1): pulses.Counts(10, 1)}, pulses.Sample(1e6, 7, 3e8))
    plots = check(version, model, home, plots=True).plots
    assert set(plots) == {"features", "quality", "seconds"}, "one point is no line"
    later = 1e6 + 60
    pulses.write(home / "pulses.db", later, {("digits", 1): pulses.Counts(10, 1)}, pulses.Sample(later, 7, 3e8))
    plots = check(version, model, home, plots=True).plots
    assert set(plots) == {"features", "quality", "seconds", "minutes", "memory"}
    assert len(plots["features"]["inputs"]) == FEATURES
    assert plots["quality"][-1]["n"] == 300
    assert plots["quality"][-1]["low"] < plots["quality"][-1]["value"] < plots["quality"][-1]["high"]
    assert plots["minutes"][0] == {"at": 999960.0, "requests": 10.0, "failed": 1.0}
    assert plots["memory"][0] == {"at": 1e6, "bytes": 3e8}
