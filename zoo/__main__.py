"""python -m zoo: run the suite, print the matrix, write docs/zoo.md. Exit code 1 if any row fails, 2 on wrong use."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from modelkeep.cli.output import dump, table
from modelkeep.quantities import size
from zoo import catalogue, matrix, run
from zoo.outcome import ROOT, Outcome, commit
from zoo.row import Row

PAGE = ROOT / "docs" / "zoo.md"


@click.command()
@click.option("--only", multiple=True, metavar="ROW", help="This row; may be given several times.")
@click.option("--room", multiple=True, metavar="ROOM", help=f"The rows of this room: {', '.join(catalogue.ROOMS)}.")
@click.option("--small", is_flag=True, help="Only the small rows, those of make test.")
@click.option("--fresh", is_flag=True, help="Run also what has passed with this code before.")
@click.option("--timeout", default=run.TIMEOUT, show_default=True, help="Seconds that one row may take.")
@click.option("--json", "json_", is_flag=True, help="One JSON document on stdout, for a machine.")
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "build" / "zoo", help="Where results lie.")
def main(
    only: tuple[str, ...], room: tuple[str, ...], small: bool, fresh: bool, timeout: float, json_: bool, results: Path
) -> None:
    """Convert every kind of model that modelkeep promises to convert, and print the matrix.

    A run of all rows writes docs/zoo.md.
    """
    try:
        rows = catalogue.chosen(only, room, small=small)
    except KeyError as error:
        raise click.UsageError(error.args[0]) from error
    found: dict[str, Outcome] = {}

    def told(number: int, row: Row, outcome: Outcome | None, before: bool) -> None:
        if outcome is not None:
            found[row.name] = outcome
        say(f"[{number}/{len(rows)}] {row.name}: {_state(outcome, before)}")

    run.run(rows, results, fresh=fresh, timeout=timeout, told=told)
    if json_:
        dump({name: {"ok": outcome.ok, **vars(outcome)} for name, outcome in found.items()})
    else:
        table(
            f"{sum(o.ok for o in found.values())} of {len(rows)} rows pass", matrix.COLUMNS, matrix.lines(rows, found)
        )
    if rows == catalogue.rows():
        PAGE.write_text(matrix.page(rows, found, commit=commit()), encoding="utf-8")
        say(f"written: {PAGE.relative_to(ROOT)}")
    sys.exit(0 if all(outcome.ok for outcome in found.values()) else 1)


def say(text: str) -> None:
    """Progress, on stderr."""
    click.echo(text, err=True)


def _state(outcome: Outcome | None, before: bool) -> str:
    if outcome is None:
        return "runs …"
    if outcome.ok:
        return f"passes, {outcome.seconds:.0f} s, {size(outcome.peak)}{' (as before, not run again)' if before else ''}"
    return "FAILS: " + "; ".join(f"{target} {why}".strip() for target, why in outcome.failures().items())


if __name__ == "__main__":
    main()
