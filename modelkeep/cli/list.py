"""modelkeep list"""

from __future__ import annotations

import click

from modelkeep.cli.output import as_json, dump, open_keep, place, say, table, version_json
from modelkeep.quantities import size


@click.command("list", epilog="Examples: modelkeep list    modelkeep list digits")
@click.argument("name", required=False)
@as_json
def list_(name: str | None, json_: bool) -> None:
    """List the models; with NAME, the versions of that one."""
    from modelkeep.provenance import told

    with open_keep() as keep:
        names = [name] if name else keep.registry.names()
        found = {n: (keep.registry.route(n), keep.registry.versions(n)) for n in names}
    if json_:
        return dump(
            {n: {"route": route, "versions": [version_json(v) for v in vs]} for n, (route, vs) in found.items()}
        )
    if not found:
        return say("no model yet; register one with: modelkeep add NAME FILE")
    for n, (route, versions) in found.items():
        table(
            n,
            ("version", "route", "format", "size", "made by", "parent"),
            [
                (v.ref, place(route, v.number), v.model.format, size(v.model.size), told(v.made_by), v.parent or "")
                for v in versions
            ],
        )
    return None
