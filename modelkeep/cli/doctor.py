"""modelkeep doctor"""

from __future__ import annotations

from typing import Any

import click

from modelkeep.cli.output import as_json, dump, say

WIDTH = 16


@click.command()
@click.option("--explain", is_flag=True, help="Say what the hardware gives, for whoever chooses a machine.")
@as_json
def doctor(explain: bool, json_: bool) -> None:
    """Say what this machine has (cores, instruction sets, GPU, engines, extras), and what is missing."""
    from modelkeep.tune import machine

    found = machine.describe()
    if explain:
        found["advice"] = machine.explain()
    if json_:
        return dump(found)
    advice = found.pop("advice")
    for key, value in found.items():
        say(f"{key.replace('_', ' '):<{WIDTH}} {_text(value)}")
    for line in advice:
        say(f"- {line}")
    return None


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ("\n" + " " * (WIDTH + 1)).join(f"{k}: {_text(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
