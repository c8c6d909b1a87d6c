"""One look as a page: a single file that asks for nothing from outside, in light and dark, readable on a phone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from modelkeep import quantities
from modelkeep.monitor.burn import NAMES, PAIRS, factor
from modelkeep.monitor.plots import Line, bars, lines, percent
from modelkeep.quantities import counted

if TYPE_CHECKING:
    from modelkeep.monitor.look import Checked
    from modelkeep.types import Finding

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --card: #fff; --ink: #1c2024; --soft: #60646c; --rule: #e2e4e8;
  --before: #a9b0bb; --live: #2f6fde; --other: #b7791f; --bad: #c02b2b; --good: #1d7a46; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #111315; --card: #1a1d20; --ink: #e8eaed; --soft: #a0a6ae; --rule: #33383e;
    --before: #6b7480; --live: #6ea8fe; --other: #e0b050; --bad: #ff8a80; --good: #63d297; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
h3 { font-size: .95rem; margin: 0; }
p { margin: .3rem 0; }
.soft, figcaption, th { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: .9rem; }
figure, .finding, .tile { margin: 0; padding: .8rem .9rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: .5rem; min-width: 0; }
figcaption { font-size: .85rem; }
.finding { border-left: 4px solid var(--bad); margin-bottom: .6rem; overflow-wrap: anywhere; }
.clear { border-left-color: var(--good); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .9rem; margin-top: 1rem; }
.tile b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; max-width: 36rem; height: auto; margin-top: .4rem; }
svg text { font-size: 13px; fill: var(--soft); }
.grid { stroke: var(--rule); }
.mark { stroke: var(--bad); stroke-dasharray: 5 4; }
.line { fill: none; stroke-width: 2; }
rect.before { fill: var(--before); }
rect.live, circle.live, polygon.live { fill: var(--live); }
rect.bad, circle.bad { fill: var(--bad); }
circle.other { fill: var(--other); }
polyline.live { stroke: var(--live); }
polyline.bad { stroke: var(--bad); }
polyline.other { stroke: var(--other); }
.band { opacity: .18; }
.key { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; margin: 0 .3rem 0 .8rem; }
.key.before { background: var(--before); }
.key.live { background: var(--live); }
.key.other { background: var(--other); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--rule); }
.over { color: var(--bad); }
"""
SHARES = ("accuracy", "f1", "auc")


def page(checked: Checked, at: float | None = None) -> str:
    """HTML of a look that was made with its plots; ``at`` is when, epoch seconds, now by default."""
    when = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(at))
    since = (
        "" if checked.since is None else f" since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(checked.since))}"
    )
    parts = [
        f"<h1>{escape(checked.ref)}</h1>",
        f'<p class="soft">{counted(checked.n, "request")} {checked.of}{since}; looked at {escape(when)}</p>',
        _findings(checked.findings),
        _tiles(checked.numbers),
        *(_features(subject, checked) for subject in ("inputs", "answers")),
        _quality(checked),
        _service(checked),
        "".join(f'<p class="soft">{escape(note)}</p>' for note in checked.notes),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(checked.ref)}: monitor</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return '<h2>Findings</h2><div class="finding clear">Nothing found.</div>'
    told = "".join(
        f'<div class="finding"><h3>{escape(f.kind)} of {escape(f.subject)}</h3><p>{escape(f.why)}</p>{_since(f)}</div>'
        for f in findings
    )
    return f"<h2>Findings</h2>{told}"


def _since(finding: Finding) -> str:
    if finding.since is None:
        return ""
    return f'<p class="soft">since {_clock(finding.since)}</p>'


def _tiles(numbers: Mapping[str, Any]) -> str:
    found = "".join(
        f'<div class="tile"><span class="soft">{what}</span><b>{told}</b></div>' for what, told in _told(numbers)
    )
    return f'<div class="tiles">{found}</div>' if found else ""


def _told(numbers: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is worth a large figure."""
    for subject in ("inputs", "answers"):
        if "moved" in numbers.get(subject, {}):
            yield f"{subject}: moved most", percent(numbers[subject]["moved"])
    quality, health = numbers.get("quality", {}), numbers.get("health", {})
    if "accuracy" in quality:
        yield f"accuracy, {quality['n']:,} labelled", percent(quality["accuracy"])
    if "accuracy" in numbers.get("estimated", {}):
        held = numbers.get("calibration", {}).get("holds", True)
        doubt = " (doubtful)" if numbers["estimated"].get("doubtful") else ""
        yield f"accuracy, estimated{doubt if held else ' (void)'}", percent(numbers["estimated"]["accuracy"]["value"])
    if health.get("n"):
        yield "failed", f"{health['failed']:,} of {health['n']:,} {health['of']}"
    if "p99" in health:
        yield "p99 of those captured", quantities.seconds(health["p99"])
    if "slo" in health:
        yield "error budget left", percent(health["slo"]["budget_left"])


def _features(subject: str, checked: Checked) -> str:
    rows = checked.plots.get("features", {}).get(subject)
    if not rows:
        return ""
    numbers = checked.numbers[subject]
    evidence = max(numbers["log_evidence"], 0.0)
    said = (
        f"Of {counted(numbers['features'], 'feature')}; {counted(numbers['since_n'], 'request')} {numbers['of']} "
        f"beside the reference rows; {percent(numbers['tolerance'])} may move. Evidence {evidence:.1f} of the "
        f"{numbers['log_threshold']:.1f} that make a finding."
    )
    drawn = "".join(_figure(_title(row), "", _bars(row)) for row in rows)
    keys = '<span class="key before"></span>reference rows<span class="key live"></span>requests'
    return f'<h2>Drift of {subject}</h2><p class="soft">{said}{keys}</p><div class="cards">{drawn}</div>'


def _title(row: Mapping[str, Any]) -> str:
    over = ' class="over"' if row["raised"] else ""
    return f"{escape(row['feature'])} <span{over}>{percent(row['moved'])} moved</span>"


def _bars(row: Mapping[str, Any]) -> str:
    groups = (("reference rows", "before", row["before"]), ("requests", "live", row["after"]))
    return bars(f"{row['feature']}, before and after", row["bins"], groups)


def _quality(checked: Checked) -> str:
    numbers, points = checked.numbers, checked.plots.get("quality", [])
    table = _metrics(numbers)
    drawn = ""
    if points:
        band = [p["low"] for p in points], [p["high"] for p in points]
        floor = numbers["quality"].get("floor")
        marks = [] if floor is None else [("held to", floor)]
        accuracy = Line("accuracy", [p["value"] for p in points], band=band)
        plot = lines(
            "Accuracy with its confidence sequence", [p["at"] for p in points], [accuracy], marks=marks, low=None
        )
        drawn = _figure("Accuracy", "of all labelled requests up to then, with its confidence sequence", plot)
    if not table and not drawn:
        return ""
    return f'<h2>Quality</h2><div class="cards">{drawn}{table}</div>{_slices(numbers)}{_assumption(numbers)}'


def _metrics(numbers: Mapping[str, Any]) -> str:
    """Every metric with labels, and beside it what was estimated without."""
    quality, estimated = numbers.get("quality", {}), numbers.get("estimated", {})
    real = {name: one for name, one in quality.items() if isinstance(one, Mapping) and "value" in one}
    if "accuracy" in quality:
        real = {"accuracy": {"value": quality["accuracy"], "low": quality["low"], "high": quality["high"]}} | real
    names = [*real, *(name for name in SHARES if name in estimated and name not in real)]
    if not names:
        return ""
    rows = "".join(
        f"<tr><td>{name.replace('_', ' ')}</td><td>{_cell(name, real.get(name))}</td>"
        f"<td>{_cell(name, estimated.get(name))}</td></tr>"
        for name in names
    )
    head = "<tr><th>metric</th><th>with labels</th><th>estimated without</th></tr>"
    coverage = quality.get("coverage") or 0.0
    answers = counted(quality.get("answers", 0), "captured answer")
    said = f"{counted(quality.get('n', 0), 'labelled request')}; labels came for {percent(coverage)} of {answers}"
    return _figure("Metrics", said, f'<div class="wide"><table>{head}{rows}</table></div>')


def _cell(name: str, one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "–"
    form = percent if name in SHARES else quantities.figure
    if one.get("low") is None:
        return form(one["value"])
    upper = "or more" if one["high"] is None else f"to {form(one['high'])}"
    return f'{form(one["value"])} <span class="soft">{form(one["low"])} {upper}</span>'


def _slices(numbers: Mapping[str, Any]) -> str:
    slices = [one for one in numbers.get("slices", []) if "accuracy" in one]
    if not slices:
        return ""
    rows = "".join(
        f"<tr><td>{escape(one['slice'])}</td><td>{one['n']:,}</td><td>{_cell('accuracy', one['accuracy'])}</td></tr>"
        for one in slices
    )
    head = "<tr><th>where</th><th>n</th><th>accuracy</th></tr>"
    return f'<h2>Slices</h2><div class="wide"><table>{head}{rows}</table></div>'


DOUBT = "The inputs have moved, and too few labels have come since to tell whether that is still so: doubt them."


def _assumption(numbers: Mapping[str, Any]) -> str:
    if "estimated" not in numbers:
        return ""
    held = numbers.get("calibration", {})
    n = held.get("n", 0)
    verdict = f"Held against {counted(n, 'label')}, that is so." if n else "No label has come yet that could tell."
    if not held.get("holds", True):
        verdict = f"Held against {counted(n, 'label')}, that is no longer so: the estimates are void."
    elif numbers["estimated"].get("doubtful"):
        verdict = DOUBT
    return f'<p class="soft">Estimates assume that {escape(numbers["estimated"]["assumes"])}. {verdict}</p>'


def _service(checked: Checked) -> str:
    plots, health = checked.plots, checked.numbers.get("health", {})
    drawn = []
    if points := plots.get("seconds"):
        at = [p["at"] for p in points]
        both = [Line("p50", [p["p50"] for p in points]), Line("p99", [p["p99"] for p in points], "other")]
        marks = [("promised", health["promised_p99"])] if health.get("promised_p99") else []
        keys = '<span class="key live"></span>p50<span class="key other"></span>p99'
        drawn.append(_figure("Latency", keys, lines("Latency", at, both, form=quantities.seconds, marks=marks)))
    if points := plots.get("minutes"):
        share = Line("failed", [p["failed"] / max(p["requests"], 1) for p in points], "bad")
        drawn.append(_figure("Failed", "share of requests", lines("Failed", [p["at"] for p in points], [share])))
    if points := plots.get("memory"):
        size = Line("memory", [p["bytes"] for p in points])
        drawn.append(
            _figure(
                "Memory",
                "of the server and its workers",
                lines("Memory", [p["at"] for p in points], [size], form=quantities.size),
            )
        )
    if "slo" in health:
        drawn.append(_burn(health["slo"]))
    return f'<h2>Service</h2><div class="cards">{"".join(drawn)}</div>' if drawn else ""


def _burn(slo: Mapping[str, Any]) -> str:
    limits = {seconds: pair.factor for pair in reversed(PAIRS) for seconds in (pair.short, pair.long)}
    over = ' class="over"'
    rows = "".join(
        f"<tr><td>{name}</td><td>{slo['requests'][name]:,}</td>"
        f"<td{over if slo['burn'][name] >= limits[seconds] else ''}>{_rate(slo, name)}</td>"
        f"<td>{limits[seconds]:g}</td></tr>"
        for seconds, name in NAMES.items()
    )
    head = "<tr><th>window</th><th>requests</th><th>burn rate</th><th>too fast at</th></tr>"
    said = f"objective {slo['objective']:.3%}, {percent(slo['budget_left'])} of 30 days' budget is left"
    return _figure("Error budget", said, f'<div class="wide"><table>{head}{rows}</table></div>')


def _rate(slo: Mapping[str, Any], window: str) -> str:
    """Where nothing was asked there is none, instead of a perfect one."""
    return factor(slo["burn"][window]) if slo["requests"][window] else "–"


def _figure(title: str, caption: str, drawn: str) -> str:
    return f"<figure><h3>{title}</h3><figcaption>{caption}</figcaption>{drawn}</figure>"


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
