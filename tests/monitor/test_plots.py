"""Plots as SVG: well-formed, to scale, with gaps where nothing is known, and nothing that a name could smuggle in."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from modelkeep.monitor.plots import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, Line, bars, lines, percent

SVG = "{http://www.w3.org/2000/svg}"


def parse(text: str) -> Any:
    """The SVG as a tree: an error where it is not well-formed."""
    return ElementTree.fromstring(text)


def numbers(element: Any, name: str) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in element.get(name).split()]  # type: ignore[misc]


class TestBars:
    def test_heights_are_shares_and_a_pointer_tells_them(self) -> None:
        tree = parse(bars("Pixels", ["a", "b"], [("before", "before", [0.25, 0.75]), ("after", "live", [1.0, 0.0])]))
        rects = [r for r in tree.iter() if r.tag.endswith("rect")]
        heights = [float(r.get("height")) for r in rects]
        full = HEIGHT - TOP - BOTTOM
        assert heights == pytest.approx([0.25 * full, full, 0.75 * full, 0.0], abs=0.1)
        assert [r.find("title").text for r in rects][:2] == ["a, before: 25%", "a, after: 100%"]
        assert all(LEFT <= float(r.get("x")) <= WIDTH for r in rects)

    def test_many_labels_are_thinned(self) -> None:
        tree = parse(bars("Many", [f"bin {at}" for at in range(20)], [("now", "live", [0.05] * 20)]))
        told = [t.text for t in tree.iter() if t.tag.endswith("text") and t.text.startswith("bin")]
        assert 0 < len(told) <= 5

    def test_long_labels_do_not_run_into_each_other(self) -> None:
        labels = [f"{-2.123 + at:.5g} to {-1.123 + at:.5g}" for at in range(8)]
        tree = parse(bars("Wide", labels, [("now", "live", [0.125] * 8)]))
        texts = [t for t in tree.iter() if t.tag.endswith("text") and " to " in t.text]
        at = [float(t.get("x")) for t in texts]
        assert len(texts) > 1
        assert all(right - left > 7 * len(labels[0]) for left, right in pairwise(at))

    def test_a_name_is_text_and_no_markup(self) -> None:
        drawn = bars('<b>"x"', ["<script>alert(1)</script>"], [("n", "live", [1.0])])
        assert "<script>" not in drawn
        parse(drawn)

    def test_no_bins(self) -> None:
        parse(bars("None", [], []))


class TestLines:
    def test_a_line_is_to_scale(self) -> None:
        tree = parse(lines("Rise", [0.0, 50.0, 100.0], [Line("share", [0.0, 0.5, 1.0])]))
        (line,) = [one for one in tree.iter() if one.tag.endswith("polyline")]
        points = numbers(line, "points")
        assert points[0] == pytest.approx((LEFT, HEIGHT - BOTTOM))
        assert points[2][1] == pytest.approx(TOP)
        assert points[1] == pytest.approx(
            ((points[0][0] + points[2][0]) / 2, (points[0][1] + points[2][1]) / 2), abs=0.1
        )

    def test_what_is_not_known_is_a_gap(self) -> None:
        tree = parse(lines("Gap", [0.0, 1.0, 2.0, 3.0, 4.0], [Line("x", [1.0, 2.0, None, 3.0, 4.0])]))
        assert len([one for one in tree.iter() if one.tag.endswith("polyline")]) == 2

    def test_a_long_silence_is_a_gap(self) -> None:
        at = [*map(float, range(10)), *map(float, range(500, 510))]
        tree = parse(lines("Night", at, [Line("x", [1.0] * 20)]))
        assert len([one for one in tree.iter() if one.tag.endswith("polyline")]) == 2

    def test_a_band_goes_there_and_back(self) -> None:
        line = Line("x", [0.5, 0.6], band=([0.4, 0.5], [0.6, 0.7]))
        tree = parse(lines("Band", [0.0, 1.0], [line], low=None, marks=[("promised", 0.65)]))
        (band,) = [one for one in tree.iter() if one.tag.endswith("polygon")]
        assert len(numbers(band, "points")) == 4
        assert [t.text for t in tree.iter() if t.text == "promised"] == ["promised"]

    def test_one_point_is_a_dot(self) -> None:
        assert "<circle" in lines("One", [5.0], [Line("x", [0.3])])

    def test_nothing_is_nothing(self) -> None:
        assert lines("None", [], []) == ""
        assert lines("None", [1.0], [Line("x", [None])]) == ""

    def test_of_several_days_the_day_is_told(self) -> None:
        one = [Line("x", [0.1, 0.2])]
        assert len(re.findall(r">\d\d:\d\d:\d\d<", lines("Hours", [1.0, 61.0], one))) == 2
        assert re.findall(r">(\S+) \d\d:\d\d<", lines("Days", [4e5, 6e5], one)) == ["1970-01-05", "1970-01-07"]

    def test_ticks_are_round(self) -> None:
        drawn = lines("Ticks", [0.0, 1.0], [Line("x", [0.0, 0.43])])
        assert re.findall(r">([\d.]+%)<", drawn)[:3] == ["0%", "25%", "50%"]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.92, 0.97], [0.9, 0.95, 1.0]),
        ([0.009, 1.0], [0.0, 0.5, 1.0]),
        ([300.0, 301.0], [300.0, 300.5, 301.0]),
        ([5.0, 5.0], [5.0, 7.5, 10.0]),
        ([-3.0, 2.0], [-5.0, 0.0, 5.0]),
    ],
)
def test_an_axis_that_need_not_begin_at_zero_is_round(values: list[float], ticks: list[float]) -> None:
    drawn = lines("Round", [0.0, 1.0], [Line("x", list(values))], form="{:.5g}".format, low=None)
    assert [float(t) for t in re.findall(r'text-anchor="end">(-?[\d.]+)<', drawn)][:3] == ticks


def test_percent() -> None:
    assert [percent(0.125), percent(1.0), percent(0.00042)] == ["12.5%", "100%", "0.042%"]
    assert [percent(3e-16), percent(-3e-16), percent(-123.4)] == ["0%", "0%", "-12,340%"]
