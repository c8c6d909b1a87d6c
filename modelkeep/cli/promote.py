"""modelkeep promote"""

from __future__ import annotations

import click

from modelkeep.cli.output import as_json, dump, open_keep, say


@click.command(epilog="Example: modelkeep promote digits@2 --why 'better on the new rows'")
@click.argument("ref")
@click.option("--why", default="promoted by hand", help="Goes to the journal.")
@as_json
def promote(ref: str, why: str, json_: bool) -> None:
    """Make REF live at once. Servers follow within a second and lose no request."""
    with open_keep() as keep:
        route = keep.promote(ref, why=why)
    if json_:
        return dump(route)
    return say(
        f"{route.name}@{route.live} is live" + (f"; {route.name}@{route.previous} was" if route.previous else "")
    )
