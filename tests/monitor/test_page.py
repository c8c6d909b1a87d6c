"""The page: one file that asks for nothing, says everything that was found, and lets no name smuggle in markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from modelkeep.data import labels, pulses
from modelkeep.data.dataset import Dataset
from modelkeep.monitor import plots
from modelkeep.monitor.burn import burn
from modelkeep.monitor.look import Checked, check
from modelkeep.monitor.page import page
from modelkeep.monitor.plots import CHARACTER
from modelkeep.types import Finding, Model, Version

EMPTY = ("meta", "link", "br", "rect", "circle", "line", "polyline", "polygon")


class Wellformed(HTMLParser):
    """Elements that are opened are closed, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def parsed(text: str) -> list[str]:
    parser = Wellformed()
    parser.feed(text)
    assert parser.open == []
    return parser.seen


@pytest.fixture
def checked(
    version: Version,
    model: Model,
    tmp_path: Path,
    send: Any,
    changed: Callable[..., Any],
    digits: tuple[Dataset, Dataset],
) -> Checked:
    """A look at a changed world with labels, counts, a service level and memory."""
    pixels, truth = digits[1].inputs["pixels"], digits[1].labels
    assert truth is not None
    ids = send(pixels[:200]) + send(changed(pixels[200:440]))
    told = dict(zip(ids, truth[:440].tolist(), strict=True))
    labels.record(tmp_path / "traffic.db", "digits", told)
    for at in range(30):
        counts = {("digits", 1): pulses.Counts(100, at // 3)}
        pulses.write(tmp_path / "pulses.db", 1e6 + 60 * at, counts, pulses.Sample(1e6 + 60 * at, 1, 3e8 + at))
    return check(version, model, tmp_path, plots=True, slo=0.99, p99=0.05)


def test_what_nobody_promised_is_not_called_a_promise(checked: Checked) -> None:
    """Accuracy is held to that of the reference rows here, and latency to what was promised."""
    text = page(checked)
    assert text.count(">held to<") == 1
    assert text.count(">promised<") == 1


def test_it_says_all_that_was_found(checked: Checked) -> None:
    text = page(checked)
    seen = parsed(text)
    assert checked.findings
    for finding in checked.findings:
        assert f"{finding.kind} of {finding.subject}" in text
    for heading in ("Findings", "Drift of inputs", "Drift of answers", "Quality", "Service"):
        assert f"<h2>{heading}</h2>" in text
    assert seen.count("svg") >= 12
    assert "estimated without" in text
    assert "Error budget" in text
    assert "digits@1" in text


def test_it_asks_for_nothing_from_outside(checked: Checked) -> None:
    text = page(checked)
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?://", text)
    assert "<script" not in text


def test_light_and_dark(checked: Checked) -> None:
    text = page(checked)
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_nothing_found_and_nothing_there() -> None:
    text = page(Checked("digits@1", 0, None, (), notes=("drift is not judged",)))
    parsed(text)
    assert "Nothing found." in text
    assert "drift is not judged" in text
    assert "<svg" not in text


def test_names_are_text(checked: Checked) -> None:
    bad = "<img src=x onerror=alert(1)>"
    features = {"inputs": [dict(checked.plots["features"]["inputs"][0], feature=bad, bins=[bad] * 30)]}
    features["inputs"][0] |= {"before": [0.1] * 30, "after": [0.2] * 30}
    worse = replace(
        checked,
        ref=f"{bad}@1",
        findings=(Finding("drift", bad, bad, {}, 1.0),),
        notes=(bad,),
        plots={"features": features},
        numbers={**checked.numbers, "slices": [{"slice": bad, "n": 3, "accuracy": {"value": 1, "low": 0, "high": 1}}]},
    )
    text = page(worse)
    assert "<img" not in text
    parsed(text)


@pytest.mark.parametrize(("most", "size", "says"), [(0.0041, 4e8, ("5 ms", "500 MB")), (1.7, 8e8, ("2 s", "1 GB"))])
def test_times_and_sizes_of_any_length_fit_beside_their_axis(most: float, size: float, says: tuple[str, ...]) -> None:
    seconds = [{"at": at, "p50": most / 2, "p99": most} for at in (1.0, 2.0)]
    memory = [{"at": at, "bytes": size} for at in (1.0, 2.0)]
    checked = Checked("digits@1", 2, 1.0, (), {}, plots={"seconds": seconds, "memory": memory})
    drawn = page(checked)
    ticks = re.findall(rf'<text x="{plots.LEFT - 6:.1f}"[^>]*>([^<]+)</text>', drawn)
    assert len(ticks) == 6
    assert all(CHARACTER * len(tick) <= plots.LEFT - 6 for tick in ticks), ticks
    assert set(says) <= set(ticks)


def test_a_window_without_a_request_has_no_burn_rate() -> None:
    slo = burn([(0.0, 10, 1), (86400.0, 0, 0)], 86400.0, 0.9).numbers()
    numbers = {"health": {"n": 10, "of": "served", "failed": 1, "slo": slo}}
    memory = [{"at": at, "bytes": 1e6} for at in (1.0, 2.0)]
    drawn = page(Checked("digits@1", 10, 0.0, (), numbers, plots={"memory": memory}))
    assert "<tr><td>5m</td><td>0</td><td>–</td>" in drawn
    assert '<tr><td>3d</td><td>10</td><td class="over">1</td>' in drawn
