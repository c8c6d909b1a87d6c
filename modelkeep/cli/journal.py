"""modelkeep journal"""

from __future__ import annotations

import time

import click

from modelkeep.cli.output import Whole, as_json, dump, open_keep, say, table
from modelkeep.provenance import said


@click.command(epilog="Examples: modelkeep journal    modelkeep journal digits --kind finding --last 5")
@click.argument("name", required=False)
@click.option("--kind", help="Only entries of this kind: add, route, finding, operate …")
@click.option("--last", type=Whole(min=1), default=50, show_default=True, help="The newest so many.")
@as_json
def journal(name: str | None, kind: str | None, last: int, json_: bool) -> None:
    """What happened to NAME (or to every model), in order."""
    with open_keep() as keep:
        entries = keep.registry.journal(name, kind=kind)[-last:]
        if name and not entries:
            keep.registry.versions(name)  # refuses a name that no model has
        kinds = {entry.kind for entry in keep.registry.journal(name)} if kind and not entries else set()
    if json_:
        return dump(entries)
    if not entries:
        there = f"; there are: {', '.join(sorted(kinds))}" if kinds else ""
        return say(f"the journal has no entry of kind '{kind}'{there}" if kind else "nothing has happened yet")
    rows = [
        (e.id, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(e.at)), e.who, e.name, e.kind, said(e))
        for e in entries
    ]
    return table("journal", ("", "when", "who", "model", "what", "why"), rows)
