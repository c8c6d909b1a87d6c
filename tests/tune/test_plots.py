"""The picture and the page are drawn from the report alone, and need nothing else."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep import extras
from modelkeep.tune import claims, plots
from modelkeep.types import Report

pytest.importorskip("matplotlib")


def scenario(**more: Any) -> dict[str, Any]:
    latencies = np.linspace(0.001, 0.02, 800)
    return {
        "n": 800,
        "percentiles": claims.percentiles(latencies),
        "curve": [[s, float(np.quantile(latencies, s))] for s in (0.0, 0.5, 0.9, 0.99, 1.0)],
        "cpu_seconds": 1.25,
        "peak_memory": 12_000_000,
        **more,
    }


def trial(rate: float, verdict: str) -> dict[str, Any]:
    return {"rate": rate, "p50": 0.002, "p99": rate / 1e5, "verdict": verdict, "part": "search"}


def made(*, versus: bool = False, rate: float | None = 900.0) -> Report:
    server = scenario(
        promise=0.01, rate=rate, over=2, claim="not claimed: why", trials=[trial(900, "keeps"), trial(2000, "breaks")]
    )
    rows = {"median": 5000.0, "low": 4800.0, "high": 5100.0, "n": 6}
    numbers: dict[str, Any] = {
        "ref": "digits@2",
        "config": {"engine": "onnxruntime", "threads": None, "max_batch": 8},
        "sentences": ["single p99 <4 ms", "server keeps it (5; of 9)"],
        "machine": {"os": "Linux", "cores": 2},
        "scenarios": {"single": scenario(), "server": server, "offline": scenario(rows_per_second=rows)},
    }
    if versus:
        ratio = {"median": 2.0, "low": 1.8, "high": 2.2, "n": 9, "requests": 900, "needs": 1}
        unsure = {**ratio, "low": None, "high": None}
        missing = {**unsure, "median": None}
        ratios = {"single": {"throughput": ratio, "p50": unsure, "p99": missing}}
        numbers["versus"] = {**numbers, "ref": "digits@1", "rounds": 9, "ratios": ratios}
    return Report("bench", True, "single p99 <4 ms; server keeps it", numbers, "64 different requests")


def page(report: Report, folder: Path) -> str:
    files = plots.save(report, folder / "reports")
    assert [f.suffix for f in files] == [".json", ".png", ".html"]
    assert len({f.stem for f in files}) == 1
    assert files[1].read_bytes().startswith(b"\x89PNG")
    return files[2].read_text(encoding="utf-8")


@pytest.mark.parametrize(("versus", "panels"), [(False, 2), (True, 3)])
def test_there_is_a_panel_for_what_was_measured(versus: bool, panels: int) -> None:
    figure = plots.draw(made(versus=versus))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert len(titles) == panels
    assert titles[1] == "Latency against rate: 900 requests/s claimed"
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    refs = ["digits@2, ", "digits@1, "] if versus else [""]
    assert names == [f"{ref}{name} (n = 800)" for ref in refs for name in ("single", "server")]


def test_nothing_is_drawn_beyond_what_is_known() -> None:
    """Of 800 latencies, the 99.9th percentile is unknown."""
    line = plots.draw(made()).axes[0].lines[0]
    assert max(line.get_xdata()) <= 800
    assert line.get_ydata()[0] == pytest.approx(1.0)  # milliseconds


def test_offline_alone_is_drawn_too() -> None:
    report = made()
    numbers = {**report.numbers, "scenarios": {"offline": report.numbers["scenarios"]["offline"]}}
    (axes,) = plots.draw(Report("bench", True, "", numbers)).axes
    assert axes.get_title(loc="left") == "Offline"
    assert [list(line.get_xdata()) for line in axes.lines] == [[4800.0, 5100.0], [5000.0]]


@pytest.mark.parametrize(("ratio", "scale"), [(2.0, "linear"), (0.04, "log"), (150.0, "log")])
def test_ratios_far_apart_are_drawn_as_logarithms(ratio: float, scale: str) -> None:
    report = made(versus=True)
    report.numbers["versus"]["ratios"]["single"]["throughput"] |= {"median": ratio, "low": None, "high": None}
    assert plots.draw(report).axes[2].get_xscale() == scale


def test_no_rate_is_drawn_where_none_is_claimed() -> None:
    axes = plots.draw(made(rate=None)).axes[1]
    assert axes.get_title(loc="left") == "Latency against rate: no rate claimed"


def test_the_page_asks_for_nothing(tmp_path: Path) -> None:
    text = page(made(versus=True), tmp_path)
    assert not re.search(
        r"(src|href)=.?(https?:)?//|url\((?!#)|@import|<script|<link", text.replace("xlink:href", "xlink")
    )
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)
    assert "&lt;4 ms" in text
    assert "<4 ms" not in text
    assert "prefers-color-scheme: dark" in text


def test_the_pages_colours_follow_light_and_dark(tmp_path: Path) -> None:
    drawn = re.search(r"<svg.*</svg>", page(made(), tmp_path), re.DOTALL)
    assert drawn is not None
    ElementTree.fromstring(drawn[0])
    assert "var(--ink)" in drawn[0]
    assert "var(--series0)" in drawn[0]
    assert not re.findall(r"#[0-9a-f]{6}\b", drawn[0])
    texts = re.findall(r"<text [^>]*>", drawn[0])
    assert len(texts) > 20
    assert all("fill: var(--" in text for text in texts)  # or they are black on black


def test_a_no_is_marked(tmp_path: Path) -> None:
    report = made()
    assert '<p class="no">' not in page(report, tmp_path)
    no = Report("bench", False, report.why, report.numbers, report.data)
    assert '<p class="no">' in page(no, tmp_path)


def test_the_tables_say_what_is_not_claimed() -> None:
    report = made(versus=True)
    single, server, offline = plots.cells(report.numbers)
    assert len(single) == len(plots.COLUMNS)
    assert single[0] == "single"
    assert single[4].startswith("19.8 ms (")
    assert "900 requests/s keep p99 ≤ 10 ms (2 of 800 over)" in server[1]
    assert "5,000 rows/s (4,800 to 5,100)" in offline[1]
    nothing = {**report.numbers["scenarios"]["server"], "n": 0, "rate": None}
    assert plots.cells({"scenarios": {"server": nothing}})[0][-2:] == ("–", "–")
    few = {"percentiles": claims.percentiles([0.1] * 20), "n": 20, "cpu_seconds": 1.0, "peak_memory": 1e6}
    (line,) = plots.cells({"scenarios": {"single": few}})
    assert line[2:5] == ("100 ms", "not claimed", "not claimed")
    sure, unsure, missing = plots.ratio_cells(report.numbers["versus"])
    assert sure == ("single throughput", "2.00", "1.80 to 2.20", "9", "900")
    assert unsure[2] == "not claimed"
    assert missing[1] == "not claimed"


def test_a_gpu_is_told_in_one_line(tmp_path: Path) -> None:
    usage = {
        "name": "A GPU",
        "memory_total": 80_000_000_000,
        "peak_memory": 3_000_000_000,
        "shared": False,
        "utilisation": 0.4,
        "peak_utilisation": 0.6,
        "looks": 120,
    }
    said = "A GPU: 3,000 of 80,000 MB of its memory, busy 40% of the time (60% at most, 120 looks)"
    assert plots.gpu({"gpu": usage}) == said
    assert "on the whole device" in plots.gpu({"gpu": {**usage, "shared": True}})
    assert plots.gpu({"gpu": None, "gpu_problem": "no NVML"}) == "no NVML"
    assert plots.gpu({}) == ""
    report = made()
    report.numbers["scenarios"]["single"]["gpu"] = usage
    assert f"<p>single: {said}</p>" in page(report, tmp_path)


def test_an_older_peak_is_marked() -> None:
    report = made()
    report.numbers["scenarios"]["single"]["peak_memory_of_whole_life"] = True
    assert plots.cells(report.numbers)[0][-1] == "12 MB (of its whole life)"


def test_without_matplotlib_the_numbers_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "has", lambda module: False)
    (document,) = plots.save(made(), tmp_path)
    assert '"digits@2"' in document.read_text(encoding="utf-8")
