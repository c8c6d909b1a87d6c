"""modelkeep show"""

from __future__ import annotations

import click

from modelkeep.cli.output import as_json, dump, open_keep, place, plain, say, say_reports, version_json


@click.command(epilog="Examples: modelkeep show digits    modelkeep show digits@3    modelkeep show digits@canary")
@click.argument("ref")
@as_json
def show(ref: str, json_: bool) -> None:
    """Show the version that REF names: signature, lineage, reports, route."""
    from modelkeep.provenance import told

    with open_keep() as keep:
        version = keep.get(ref)
        line = keep.lineage(version)
        reports = keep.registry.reports(version)
        route = keep.registry.route(version.name)
    if json_:
        return dump(
            {
                **version_json(version),
                "reports": [plain(r) for r in reports],
                "lineage": [v.ref for v in line],
                "route": route,
            }
        )
    at = place(route, version.number)
    say(f"{version.ref}  {version.model.format}  {f'{at}  ' if at else ''}sha256 {version.digest}")
    for tensor in version.model.signature.inputs:
        say(f"  takes {tensor.describe()}")
    for tensor in version.model.signature.outputs:
        say(f"  gives {tensor.describe()}")
    for ancestor in line:
        say(f"  {ancestor.ref}: {told(ancestor.made_by)}")
    say_reports(reports)
    return None
