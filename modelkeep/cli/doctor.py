"""modelkeep doctor"""

from __future__ import annotations

from typing import Any

import click

from modelkeep.cli.output import as_json, dump, say

WIDTH = 16


@click.command()
@click.option("--make", metavar="NAME", help="Make the environment NAME now, tensorflow say, and not on first use.")
@click.option("--remove", metavar="NAME", help="Delete the environment NAME; it is made again when it is needed.")
@click.option("--explain", is_flag=True, help="Say what the hardware gives, for whoever chooses a machine.")
@as_json
def doctor(explain: bool, make: str | None, remove: str | None, json_: bool) -> None:
    """Say what this machine has (cores, instruction sets, GPU, engines, extras), and what is missing."""
    from modelkeep.tune import machine

    _environments(make, remove)
    found = machine.describe()
    if explain:
        found["advice"] = machine.explain()
    if json_:
        return dump(found)
    advice = found.pop("advice")
    for key, value in found.items():
        name, unit = ("memory", " GiB") if key == "memory_gib" else (key.replace("_", " "), "")
        say(f"{name:<{WIDTH}} {_text(value)}{unit}")
    for line in advice:
        say(f"- {line}")
    return None


def _environments(make: str | None, remove: str | None) -> None:
    from modelkeep import environments, settings

    root = settings.read().environments
    for name in (make, remove):
        if name and name not in environments.ENVIRONMENTS:
            there = ", ".join(environments.ENVIRONMENTS)
            raise click.BadParameter(f"there is no environment '{name}'; there are: {there}")
    if remove:
        environments.remove(remove, root)
    if make:
        environments.ensure(make, root)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ("\n" + " " * (WIDTH + 1)).join(f"{k}: {_text(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
