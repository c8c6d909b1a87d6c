"""modelkeep doctor"""

from __future__ import annotations

from typing import Any

import click

from modelkeep.cli.output import as_json, dump, say


@click.command()
@as_json
def doctor(json_: bool) -> None:
    """Say what this machine has (cores, instruction sets, GPU, engines, extras), and what is missing."""
    from modelkeep.tune import machine

    found = machine.describe()
    if json_:
        return dump(found)
    for key, value in found.items():
        say(f"{key.replace('_', ' '):<14} {_text(value)}")
    return None


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ("\n" + " " * 15).join(f"{k}: {_text(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return (
        {None: "none", True: "yes", False: "no"}.get(value, str(value))
        if not isinstance(value, int) or isinstance(value, bool)
        else str(value)
    )
