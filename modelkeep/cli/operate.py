"""modelkeep operate"""

from __future__ import annotations

import time
from pathlib import Path

import click

from modelkeep.cli.output import DURATION, FILE, Whole, as_json, dump


@click.command(epilog='The shortest policy is one line, model = "digits"; docs/operate.md has all its keys.')
@click.argument("policy", type=FILE)
@click.option("--cycles", type=Whole(min=1), help="Stop after so many finished updates (default: never).")
@click.option(
    "--max-time", type=DURATION, help="Begin nothing after this time; an update and its rollout go on to their end."
)
@click.option("--reset", is_flag=True, help="A person has looked: forget earlier failures.")
@as_json
def operate(policy: Path, cycles: int | None, max_time: float | None, reset: bool, json_: bool) -> int:
    """Watch the live version, and on drift: update, verify, canary, promote or roll back. No person needed.

    Everything is in the journal, and every step is one a person can do by hand: stop it at any time and go on.
    Exit code 1 when a finished update did not end with a new live version.
    """
    from modelkeep.keep import Keep
    from modelkeep.operate import policy as policies
    from modelkeep.operate.budget import RESET
    from modelkeep.operate.loop import Loop

    rules = policies.read(policy)

    def tell(text: str) -> None:
        click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=json_)

    with Keep(who="operate") as keep:
        keep.registry.versions(rules.model)
        if reset:
            keep.registry.note(rules.model, "operate", "failures forgotten", {"stage": RESET})
        outcome = Loop(keep, rules, tell=tell).run(cycles=cycles, max_seconds=max_time)
    if json_:
        dump(outcome)
    return int(not outcome.promoted)
