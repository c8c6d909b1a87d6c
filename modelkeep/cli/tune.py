"""modelkeep tune"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelkeep.cli.output import FILE, SHARE, SOME_TIME, Finite, Whole, as_json, dump, open_keep, progress, say, table
from modelkeep.quantities import counted, seconds, size

if TYPE_CHECKING:
    from modelkeep.types import Report


@click.command(epilog="Example: modelkeep tune digits@2 --p99 20ms --budget 30s")
@click.argument("ref")
@click.option("--p99", type=SOME_TIME, default="50ms", show_default=True, help="The latency that was promised.")
@click.option("--min-throughput", type=Finite(0), default=0.0, help="Requests a second that were promised.")
@click.option("--max-accuracy-drop", type=SHARE, help="Admit bf16 and fp16 by accuracy on --data (paired, 95 %).")
@click.option("--data", type=FILE, help="Labelled rows for --max-accuracy-drop.")
@click.option("--budget", type=SOME_TIME, default="1m", show_default=True, help="Time to spend, loading included.")
@click.option("--concurrency", type=Whole(1, 1024), default=16, show_default=True, help="Requests in flight.")
@click.option("--fresh", is_flag=True, help="Measure anew what was measured on this machine before.")
@click.option("--all", "all_", is_flag=True, help="Show every setting, not only the Pareto front.")
@click.option("--explain", is_flag=True, help="Say what the hardware gives, for whoever chooses a machine.")
@click.option("--price-per-hour", type=Finite(0, min_open=True), help="Of this machine: gives costs.")
@as_json
def tune(
    ref: str,
    max_accuracy_drop: float | None,
    data: Path | None,
    fresh: bool,
    all_: bool,
    explain: bool,
    json_: bool,
    **promise: Any,
) -> int:
    """Measure settings (engine, precision, threads, workers, batch, wait) of REF here, through the serving plane.

    The fastest that keeps the promise is stored, and serve uses it. Exit code 1 when none keeps it.
    """
    from modelkeep.tune.search import Tune

    if (max_accuracy_drop is None) != (data is None):
        raise click.UsageError("--max-accuracy-drop and --data belong together: give both, or neither")
    with open_keep() as keep, progress("measuring", quiet=json_) as advance:
        rows = keep.read_data(data, ref) if data else None
        search = Tune(max_drop=max_accuracy_drop, rows=rows, **promise)
        report = keep.tune(ref, search, fresh=fresh, progress=advance)
    advice = _explained(report) if explain else []
    if json_:
        dump({**report.to_json(), **({"advice": advice} if explain else {})})
        return int(not report.ok)
    _front(ref, report, all_=all_)
    _say(report)
    if report.ok:
        say("stored: serve and bench run it so on this machine")
    for line in advice:
        say(f"- {line}")
    return int(not report.ok)


def _front(ref: str, report: Report, *, all_: bool) -> None:
    from modelkeep.tune.figures import rate
    from modelkeep.tune.results import CHOSEN, CLOSE

    found, promise = report.numbers, report.numbers["promise"]
    rows = [
        c
        for c in found["candidates"]
        if all_ or c["pareto"] or c["verdict"] in (CHOSEN, CLOSE) or c["config"] == found["config"]
    ]
    hidden = len(found["candidates"]) - len(rows)
    table(
        f"{ref}: {counted(found['concurrency'], 'request')} in flight, promise p99 ≤ {seconds(promise['p99'])}"
        + (f"; {hidden} that others beat in all three are hidden (--all)" if hidden else ""),
        ("setting", "requests/s", "p50", "p99", "memory", "n", ""),
        [
            (
                f"{c['of']} {_label(c)}".strip(),
                rate(c["throughput"]),
                seconds(c["p50"]),
                seconds(c["p99"]),
                size(c["memory"]) if c["memory"] is not None else "?",
                c["n"],
                c["verdict"],
            )
            for c in rows
        ],
    )


def _say(report: Report) -> None:
    """The sentences below the table."""
    from modelkeep.tune.figures import rate

    found = report.numbers
    say(report.why.replace("; ", "\n  "))
    naive, price, made = found["naive"], found["price"], found["measurements"]
    cost = ""
    if price:
        cost = (
            f"; a million predictions cost {price['naive_per_million']:.3g} with it and "
            f"{price['winner_per_million']:.3g} with the winner, at {price['per_hour']:g} an hour"
        )
    said = f"{rate(naive['throughput'])} requests/s, p99 {seconds(naive['p99'])}{cost}"
    say(f"the naive setting ({_label(naive)}): {said}")
    known = f" and {made['reused']} known from before" if made["reused"] else ""
    say(
        f"{counted(made['made'], 'measurement')} made{known}, where trying all would have been "
        f"{counted(made['settings'], 'setting')}"
    )
    for why, labels in _refused(found["refused"], found["candidates"]).items():
        say(f"left out: {', '.join(labels)}: {why}")
    if other := found["other"]:
        from modelkeep.tune.results import Gain

        gain = Gain(**other["gain"])
        better = "does better" if (gain.low or 0.0) > 1.0 else "may do better, which was not shown"
        say(
            f"{other['of']} {better}: {gain} the winner, with {_label(other)}; its settings are stored; "
            f"let it take over with: modelkeep rollout {other['of']}"
        )


def _refused(refused: list[dict[str, Any]], measured: list[dict[str, Any]]) -> dict[str, list[str]]:
    """By reason, the engines and precisions; of those that were measured in other settings, that it is some only."""
    found: dict[str, list[str]] = {}
    there = {_way(row) for row in measured}
    for one in refused:
        name = _way(one)
        if name in there:
            name += " in some settings"
        names = found.setdefault(one["why"], [])
        if name not in names:
            names.append(name)
    return found


def _way(row: Mapping[str, Any]) -> str:
    """The version, where it is another, with the engine and the precision."""
    words = (row["of"], row["config"]["engine"], row["config"]["precision"])
    return " ".join(word for word in words if word)


def _label(row: Mapping[str, Any]) -> str:
    from modelkeep.tune.results import label
    from modelkeep.types import ServeConfig

    return label(ServeConfig(**row["config"]))


def _explained(report: Report) -> list[str]:
    from modelkeep.tune import advice, machine

    return [*machine.explain(), *advice.on_report(report.numbers, machine.cores(), machine.memory())]
