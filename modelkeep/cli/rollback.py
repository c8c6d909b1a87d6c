"""modelkeep rollback"""

from __future__ import annotations

import click

from modelkeep.cli.output import as_json, dump, open_keep, say


@click.command(epilog="Example: modelkeep rollback digits --why 'slow since noon'")
@click.argument("name")
@click.option("--why", default="rolled back by hand", help="Goes to the journal.")
@as_json
def rollback(name: str, why: str, json_: bool) -> None:
    """End the canary of NAME or, where there is none, bring its previous version back. One write."""
    with open_keep() as keep:
        route = keep.rollback(name, why=why)
    return dump(route) if json_ else say(f"{route.name}@{route.live} is live, no canary")
