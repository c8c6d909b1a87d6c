"""modelkeep update"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelkeep.cli.output import (
    FILE,
    SHARE,
    Finite,
    Whole,
    as_json,
    dump,
    open_keep,
    progress,
    say,
    say_reports,
    version_json,
)


@click.command(
    epilog="Examples: modelkeep update digits --data new.npz    "
    "modelkeep update digits8 --method transfer --classes 0,1,2,3,4,5,6,7,8,9 --data new.npz"
)
@click.argument("ref")
@click.option("--data", type=FILE, help="Newly labelled rows; by default the captured requests that have labels.")
@click.option("--method", type=click.Choice(["finetune", "transfer"]), default="finetune", show_default=True)
@click.option("--classes", metavar="A,B,…", help="transfer: the classes of the new head, in order.")
@click.option("--epochs", type=Whole(min=1), help="Passes over the rows.")
@click.option("--lr", type=Finite(min=0, min_open=True), help="Learning rate.")
@click.option("--replay", type=Finite(min=0), help="finetune: old rows mixed in for each new one (default 2).")
@click.option("--max-forgetting", type=SHARE, help="Accuracy on the old rows that may be lost (5 %; transfer 10 %).")
@as_json
def update(ref: str, data: Path | None, method: str, classes: str | None, json_: bool, **given: Any) -> None:
    """Give REF new knowledge: fine-tune it on new rows, or grow its head for new classes (transfer).

    The nearest PyTorch ancestor is trained, and the steps that led from it to REF are done again.
    Exit code 1 when the result is not better on new rows or forgets the old; nothing is stored then.
    """
    options = {key: value for key, value in given.items() if value is not None}
    if method == "transfer":
        if not classes:
            raise click.UsageError("--method transfer needs --classes: the names of all classes, in order")
        options["labels"] = tuple(classes.split(","))
        if "replay" in options:
            raise click.UsageError("--replay is for --method finetune; transfer mixes in old rows as it needs them")
    elif classes:
        raise click.UsageError("--classes is for --method transfer, which grows the head")
    from modelkeep.provenance import told

    with open_keep() as keep, progress("training", quiet=json_, lines=True) as advance:
        version = keep.get(ref)
        rows = keep.read_data(data, version) if data else keep.labelled(version.name)
        made = keep.update(version, rows, method=method, on_step=advance, **options)
        line = [v for v in keep.lineage(made) if v.number > version.number]
    if json_:
        return dump({**version_json(made), "made": [version_json(v) for v in line]})
    for one in line:
        say(f"{one.ref}  {one.model.format}  {told(one.made_by)}")
        say_reports(one.reports)
    return None
