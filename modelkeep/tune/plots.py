"""A benchmark as a picture (PNG) and as a page that needs nothing else (HTML), drawn from its Report alone."""

from __future__ import annotations

import html
import io
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep import extras
from modelkeep.errors import Wrong
from modelkeep.tune import claims, figures, results, scenarios
from modelkeep.types import ServeConfig

if TYPE_CHECKING:
    from modelkeep.types import Report

INK, MUTED, GRID, PAPER = "#1f2328", "#59636e", "#d8dee4", "#fefefe"
SERIES = ("#0860ca", "#bc4c01", "#1a7f36", "#8250de")
"""Each is found again in the SVG and becomes a variable of the page's style: light and dark are then one picture."""
NAMES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", **{c: f"series{n}" for n, c in enumerate(SERIES)}}
COLUMNS = ("scenario", "claim", "p50", "p90", "p99 (at most)", "n", "CPU s", "peak memory")
MILLI = 1e3
WIDE = 4.0
"""Ratios that differ by more are drawn on an axis of logarithms."""
TICKS = ((0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"))


def room(folder: Path) -> Path:
    """That folder, made. Raises Wrong where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Wrong(f"reports cannot go into {folder} ({error.strerror}); give another folder") from error
    return folder


def save(report: Report, folder: Path) -> list[Path]:
    """Write bench-TIME.json there and, where matplotlib is installed, .png and .html of the same name."""
    stem = time.strftime("bench-%Y%m%d-%H%M%S")
    document = room(folder) / f"{stem}.json"
    document.write_text(json.dumps(report.to_json(), indent=2), encoding="utf-8")
    if not extras.has("matplotlib"):
        return [document]
    figure = draw(report)
    picture, page = folder / f"{stem}.png", folder / f"{stem}.html"
    figure.savefig(picture, dpi=144, facecolor=PAPER)
    page.write_text(_page(report, f"modelkeep bench {report.numbers['ref']}", _svg(figure)), encoding="utf-8")
    return [document, picture, page]


def draw(report: Report) -> Any:
    """A matplotlib Figure: latencies, latency against rate, and the ratios, each where it was measured."""
    figures = extras.need("matplotlib.figure", extra="plots")
    numbers = report.numbers
    measured = numbers["scenarios"]
    panels = [
        *([_latencies] if any(_curves(numbers)) else [_throughput] if "offline" in measured else []),
        *([_rates] if "server" in measured else []),
        *([_ratios] if "versus" in numbers else []),
    ]
    style = {"font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "modelkeep", "font.family": "sans-serif"}
    with extras.need("matplotlib", extra="plots").rc_context(style):
        columns, rows = min(2, len(panels)), (len(panels) + 1) // 2
        figure = figures.Figure(figsize=(6.4 * columns, 4.6 * rows), layout="constrained")
        for place, panel in enumerate(panels, 1):
            axes = figure.add_subplot(rows, columns, place)
            _dress(axes)
            panel(axes, numbers)
    return figure


# ── the panels ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _dress(axes: Any) -> None:
    axes.set_facecolor("none")
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, which="both", length=3)
    for side, spine in axes.spines.items():
        spine.set_color(GRID)
        spine.set_visible(side in ("left", "bottom"))
    axes.xaxis.label.set_color(INK)


def _latencies(axes: Any, numbers: Mapping[str, Any]) -> None:
    """Latency by the share of requests that it covers; the axis stretches towards 100 %, where the promise is made."""
    for colour, (name, found) in zip(SERIES, _curves(numbers), strict=False):
        # the k-th largest of n is all that is known of shares beyond (n - k) / n
        known = [(1 / (1 - share), value * MILLI) for share, value in found["curve"] if share <= 1 - 1 / found["n"]]
        axes.plot(*zip(*known, strict=True), color=colour, linewidth=1.8, label=f"{name} (n = {found['n']:,})")
        for percentile, share in claims.SHARES.items():
            value = found["percentiles"][percentile]["value"]
            if value is not None:
                axes.plot([1 / (1 - share)], [value * MILLI], "o", color=colour, markersize=5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1 / (1 - share) for share, _ in TICKS], [name for _, name in TICKS])
    axes.minorticks_off()
    _plain(axes.yaxis, " ms")
    axes.set_xlabel("share of requests answered within")
    axes.set_title("Latency (● claimed)", loc="left", fontweight="bold", color=INK)
    _legend(axes)


def _curves(numbers: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Offline has none to show: its requests wait on purpose."""
    of = [numbers, *([numbers["versus"]] if "versus" in numbers else [])]
    for one in of:
        for name, found in one["scenarios"].items():
            if name != "offline" and found["n"] > 1:
                yield (f"{one['ref']}, {name}" if len(of) > 1 else name), found


def _rates(axes: Any, numbers: Mapping[str, Any]) -> None:
    """What was tried: each rate's p50 and p99, and whether it kept the promise."""
    server = numbers["scenarios"]["server"]
    trials = sorted(server["trials"], key=lambda t: t["rate"])
    for percentile, colour in (("p50", SERIES[2]), ("p99", SERIES[0])):
        known = [t for t in trials if t[percentile] is not None]
        for kept, face in ((True, colour), (False, "none")):
            some = [t for t in known if (t["verdict"] == "keeps") is kept]
            axes.plot(
                [t["rate"] for t in some],
                [t[percentile] * MILLI for t in some],
                "o",
                markerfacecolor=face,
                markeredgecolor=colour,
                label=f"{percentile}, {'keeps the promise' if kept else 'does not'}" if some else None,
            )
    axes.axhline(server["promise"] * MILLI, color=SERIES[1], linewidth=1.5, linestyle="--")
    axes.annotate(
        f"promise {server['promise'] * MILLI:g} ms",
        (0.01, server["promise"] * MILLI),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        xytext=(0, 4),
        color=SERIES[1],
    )
    if server["rate"] is not None:
        axes.axvline(server["rate"], color=MUTED, linewidth=1, linestyle=":")
    axes.set_yscale("log")
    axes.minorticks_off()
    _plain(axes.yaxis, " ms")
    axes.set_xlabel("requests a second, at random times")
    told = f"{server['rate']:,.0f} requests/s claimed" if server["rate"] is not None else "no rate claimed"
    axes.set_title(f"Latency against rate: {told}", loc="left", fontweight="bold", color=INK)
    _legend(axes)


def _throughput(axes: Any, numbers: Mapping[str, Any]) -> None:
    """Rows a second offline, with the interval; the only panel where nothing else was measured."""
    of = [numbers, *([numbers["versus"]] if "versus" in numbers else [])]
    for place, one in enumerate(reversed(of)):
        rows = one["scenarios"]["offline"]["rows_per_second"]
        if rows["low"] is not None:
            axes.plot([rows["low"], rows["high"]], [place, place], color=SERIES[0], linewidth=2)
        axes.plot([rows["median"]], [place], "o", color=SERIES[0])
    axes.set_yticks(range(len(of)), [one["ref"] for one in reversed(of)])
    axes.set_ylim(-0.6, len(of) - 0.4)
    axes.set_xlim(left=0)
    axes.set_xlabel("rows a second, with the 95 % interval")
    axes.set_title("Offline", loc="left", fontweight="bold", color=INK)


def _ratios(axes: Any, numbers: Mapping[str, Any]) -> None:
    """Every ratio with its interval; at 1 the two are the same."""
    versus = numbers["versus"]
    told = [
        (f"{scenario} {metric}", ratio)
        for scenario, metrics in versus["ratios"].items()
        for metric, ratio in metrics.items()
    ]
    for place, (_, ratio) in enumerate(reversed(told)):
        if ratio["median"] is None:
            axes.annotate("not claimed", (1.0, place), color=MUTED, va="center", ha="center")
            continue
        if ratio["low"] is not None:
            axes.plot([ratio["low"], ratio["high"]], [place, place], color=SERIES[0], linewidth=2)
        axes.plot([ratio["median"]], [place], "o", color=SERIES[0])
        axes.annotate(
            f"{ratio['median']:.2f}",
            (ratio["median"], place),
            textcoords="offset points",
            xytext=(0, 7),
            ha="center",
            color=INK,
        )
    axes.axvline(1.0, color=MUTED, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(told)), [name for name, _ in reversed(told)])
    axes.set_ylim(-0.6, len(told) - 0.4)
    axes.margins(x=0.15)
    known = [r for _, ratio in told for r in (ratio["median"], ratio["low"], ratio["high"]) if r]
    if known and max(1.0, *known) / min(1.0, *known) > WIDE:
        axes.set_xscale("log")
        _plain(axes.xaxis, "")
    axes.set_xlabel(f"{numbers['ref']} / {versus['ref']}, {versus['rounds']} rounds")
    axes.set_title("Ratio, and its 95 % interval", loc="left", fontweight="bold", color=INK)


def _legend(axes: Any) -> None:
    if not axes.get_legend_handles_labels()[0]:
        return
    legend = axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2)
    for text in legend.get_texts():
        text.set_color(INK)


def _plain(axis: Any, unit: str) -> None:
    """0.2, 1, 20 and not 2×10⁻¹, on an axis of logarithms."""
    ticker = extras.need("matplotlib.ticker", extra="plots")
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}{unit}"))
    axis.set_minor_locator(ticker.NullLocator())


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --muted: #59636e; --grid: #d8dee4; --paper: #fefefe;
  --series0: #0860ca; --series1: #bc4c01; --series2: #1a7f36; --series3: #8250de; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --muted: #9198a1; --grid: #30363d; --paper: #0d1117;
  --series0: #4493f8; --series1: #f0883e; --series2: #3fb950; --series3: #ab7df8; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 84rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; } p { margin: .25rem 0 1rem; }
.no { color: var(--series1); font-weight: 600; }
svg { width: 100%; height: auto; } svg text { font-family: system-ui, sans-serif !important; }
table { border-collapse: collapse; margin: 1rem 0; } caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { text-align: left; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--grid); vertical-align: top;
  font-variant-numeric: tabular-nums; } th { color: var(--muted); font-weight: 500; }
.wide { overflow-x: auto; } footer { color: var(--muted); font-size: .85rem; margin-top: 2rem; }
"""


def _svg(figure: Any) -> str:
    """The figure as SVG whose colours are the page's."""
    buffer = io.StringIO()
    with extras.need("matplotlib", extra="plots").rc_context({"svg.fonttype": "none", "svg.hashsalt": "modelkeep"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    return re.sub("|".join(NAMES), lambda found: f"var(--{NAMES[found[0]]})", drawn)


def _page(report: Report, title: str, drawn: str) -> str:
    numbers = report.numbers
    mark = ' class="no"' if report.ok is False else ""
    sentences = "<br>".join(html.escape(sentence) for sentence in numbers["sentences"])
    tables = [_table(one) for one in (numbers, *([numbers["versus"]] if "versus" in numbers else []))]
    if versus := numbers.get("versus"):
        head = ("", "ratio", "95 % interval", "rounds", "requests")
        tables.append(_rows(f"{numbers['ref']} / {versus['ref']}", head, ratio_cells(versus)))
    machine = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in numbers["machine"].items() if value)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
<h1>{html.escape(title)}</h1>
<p{mark}>{sentences}</p>
<div class="wide">{drawn}</div>
{"".join(tables)}
<footer>{html.escape(report.data)}. {html.escape(machine)}. Percentiles are claimed by LoadGen's early stopping (99 %
confidence); “at most” is that bound. CPU time includes what put the load on.</footer>
</html>
"""


def _table(numbers: Mapping[str, Any]) -> str:
    """One version's scenarios, and what it runs with."""
    gpus = [f"<p>{html.escape(f'{name}: {told}')}</p>" for name, f in numbers["scenarios"].items() if (told := gpu(f))]
    return _rows(f"{numbers['ref']}: {setting(numbers)}", COLUMNS, cells(numbers)) + "".join(gpus)


def setting(numbers: Mapping[str, Any]) -> str:
    """What one version ran with, in a few words."""
    config = ServeConfig(**numbers["config"])
    device = "" if config.device == "cpu" else f", on {config.device}"
    return results.label(config) + device + (", in the server's process" if config.in_process else "")


def cells(numbers: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table that a person reads, here and in the terminal: a line for each scenario."""
    lines = []
    for name, found in numbers["scenarios"].items():
        percentiles = [found["percentiles"][key] for key in claims.SHARES]
        times = [milliseconds(p["value"]) for p in percentiles]
        if percentiles[-1]["at_most"] is not None:
            times[-1] += f" ({milliseconds(percentiles[-1]['at_most'])})"
        claim = scenarios.summary(name, found).partition(" ")[2]
        peak = f"{found['peak_memory'] / 1e6:,.0f} MB"
        peak += " (of its whole life)" if found.get("peak_memory_of_whole_life") else ""
        costs = (f"{found['cpu_seconds']:.2f}", peak) if found["n"] else ("–", "–")
        lines.append((name, claim, *times, f"{found['n']:,}", *costs))
    return lines


def gpu(found: Mapping[str, Any]) -> str:
    """What a scenario took of the GPU, in one line; empty where none was watched and nothing kept it from that."""
    usage = found.get("gpu")
    if usage is None:
        return str(found.get("gpu_problem", ""))
    whose = "used on the whole device" if usage["shared"] else "of its memory"
    return (
        f"{usage['name']}: {usage['peak_memory'] / 1e6:,.0f} of {usage['memory_total'] / 1e6:,.0f} MB {whose}, busy "
        f"{usage['utilisation']:.0%} of the time ({usage['peak_utilisation']:.0%} at most, {usage['looks']:,} looks)"
    )


def ratio_cells(versus: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A line for each ratio, here and in the terminal."""
    lines: list[tuple[str, ...]] = []
    for scenario, metrics in versus["ratios"].items():
        for metric, ratio in metrics.items():
            middle = "not claimed" if ratio["median"] is None else f"{ratio['median']:.2f}"
            sure = "not claimed" if ratio["low"] is None else f"{ratio['low']:.2f} to {ratio['high']:.2f}"
            lines.append((f"{scenario} {metric}", middle, sure, str(ratio["n"]), f"{ratio['requests']:,}"))
    return lines


def milliseconds(value: float | None) -> str:
    """Or that there were too few to say."""
    return "not claimed" if value is None else figures.milliseconds(value)


def _rows(caption: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def row(tag: str, line: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) + "</tr>"

    body = "".join(row("td", line) for line in lines)
    return f'<div class="wide"><table><caption>{html.escape(caption)}</caption>{row("th", head)}{body}</table></div>'
