"""modelkeep bench"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelkeep.cli.output import DURATION, FILE, SOME_TIME, Whole, as_json, dump, open_keep, plain, progress, say, table
from modelkeep.quantities import seconds, size

SCENARIOS = ("single", "server", "offline")
SETTINGS = (
    click.option("--engine", help="Another engine than the one tuned for this machine."),
    click.option("--device", help="cpu, cuda, cuda:1 …"),
    click.option("--precision", help="float32, bfloat16 … where the engine can choose."),
    click.option("--threads", type=Whole(1, 1024), help="Threads of one run."),
    click.option("--workers", type=Whole(1, 1024), help="Runs at a time."),
    click.option("--max-batch", type=Whole(1, 65536), help="Rows of one run."),
    click.option("--in-process", is_flag=True, default=None, help="Workers are threads and not processes."),
    click.option("--run-timeout", type=SOME_TIME, help="A run of this length is taken for hung."),
    click.option("--max-wait", type=DURATION, help="How long a batch may wait for company."),
)


def settings(command: Any) -> Any:
    """The fields of a ServeConfig as options."""
    for option in reversed(SETTINGS):
        command = option(command)
    return command


@click.command(epilog="Example: modelkeep bench digits@2 --p99 20ms --vs digits@1")
@click.argument("ref")
@click.option("--scenario", type=click.Choice([*SCENARIOS, "all"]), default="all", show_default=True)
@click.option("--p99", type=SOME_TIME, default="50ms", show_default=True, help="The promise that server must keep.")
@click.option("--duration", type=SOME_TIME, default="10s", show_default=True, help="Time to measure each scenario.")
@click.option(
    "--budget", type=SOME_TIME, default="2m", show_default=True, help="Time that a scenario may take to be sure."
)
@click.option("--vs", "versus", metavar="REF2", help="A second version, measured in turns with the first.")
@click.option("--rounds", type=Whole(2, 100), help="Turns with REF2 (default 9).")
@click.option("--data", type=FILE, help="Rows to send instead of the version's own.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the arrival times and of made-up rows.")
@click.option("--into", type=FILE, help="Folder for the report and its plot.")
@settings
@as_json
def bench(
    ref: str,
    scenario: str,
    p99: float,
    duration: float,
    budget: float,
    versus: str | None,
    rounds: int | None,
    data: Path | None,
    seed: int,
    into: Path | None,
    json_: bool,
    **setting: Any,
) -> int:
    """Measure REF as MLPerf does, through the serving plane, in a process of its own.

    Exit code 1 when answers under load are not the answers alone, or when no rate keeps the promise.
    """
    from modelkeep.tune.benchmark import Benchmark

    if rounds and not versus:
        raise click.UsageError("--rounds is of the turns with a second version; give it with --vs REF2")
    chosen = SCENARIOS if scenario == "all" else (scenario,)
    turns = {"rounds": rounds} if rounds else {}
    plan = Benchmark(chosen, p99=p99, duration=duration, budget=budget, seed=seed, **turns)
    with open_keep() as keep, progress("measuring", quiet=json_) as advance:
        rows = keep.read_data(data, ref) if data else None
        report, files = keep.bench(ref, plan, versus=versus, rows=rows, setting=setting, folder=into, progress=advance)
    if json_:
        dump({**plain(report), "files": [str(file) for file in files]})
    else:
        show(report.numbers)
        for sentence in report.numbers["sentences"]:
            say(sentence)
        for file in files:
            say(f"  {file}")
        if len(files) == 1:
            say("  no plot: pip install 'modelkeep[plots]'")
    return int(report.ok is False)


def show(numbers: Any) -> None:
    """A table for each version, and one for the ratios."""
    from modelkeep.tune import plots

    for one in (numbers, numbers.get("versus")):
        if one is None:
            continue
        table(f"{one['ref']}: {plots.setting(one)}", plots.COLUMNS, plots.cells(one))
        memory = one["memory"]
        most = f"; at most {size(memory['peak'])} while it was measured" if memory["peak"] else ""
        say(
            f"  model {size(memory['model'])} in memory, {size(memory['disk'])} on disk; "
            f"loaded in {seconds(one['load_seconds'])}{most}"
        )
        for name, found in one["scenarios"].items():
            if told := plots.gpu(found):
                say(f"  {name}: {told}")
    if versus := numbers.get("versus"):
        columns = ("", "ratio", "95 % interval", "rounds", "requests")
        table(f"{numbers['ref']} / {versus['ref']}", columns, plots.ratio_cells(versus))
