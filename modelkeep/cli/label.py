"""modelkeep label"""

from __future__ import annotations

from pathlib import Path

import click

from modelkeep.cli.output import FILE, as_json, dump, open_keep, say


@click.command()
@click.argument("name")
@click.argument("source", type=FILE)
@as_json
def label(name: str, source: Path, json_: bool) -> None:
    """Join the truth in SOURCE (csv with columns id,label, or JSON lines) with the answered requests of NAME."""
    from modelkeep.data import labels

    truth = labels.read_file(source)
    with open_keep() as keep:
        matched = keep.label(name, truth)
    if json_:
        return dump({"labels": len(truth), "matched": matched})
    return say(f"{len(truth)} labels, {matched} of them for requests that were captured")
