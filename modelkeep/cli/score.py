"""modelkeep score"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from modelkeep.cli.output import FILE, SHARE, as_json, dump, open_keep, say


@click.command(epilog="Example: modelkeep score digits@2 --data test.npz --min 95%")
@click.argument("ref")
@click.option("--data", type=FILE, required=True, help="Labelled rows: .npz, .csv, or the folder of serve --sample.")
@click.option("--min", "floor", type=SHARE, help="The accuracy that was promised: exit code 1 below it.")
@as_json
def score(ref: str, data: Path, floor: float | None, json_: bool) -> int:
    """Accuracy of REF on labelled rows, with n and its 95 % interval."""
    with open_keep() as keep:
        report = keep.score(ref, keep.read_data(data, ref))
    if floor is not None:
        kept = bool(report.numbers["accuracy"] >= floor)
        verdict = "keeps" if kept else "below"
        report = replace(report, ok=kept, why=f"{report.why}; {verdict} the {floor:.4f} that was promised")
    dump(report) if json_ else say(f"{ref}: {report.why}")
    return int(report.ok is False)
