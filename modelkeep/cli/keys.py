"""modelkeep keys"""

from __future__ import annotations

import time

import click

from modelkeep.cli.output import Finite, as_json, dump, say, table

SCOPES = ("infer", "read", "admin")


@click.command(epilog="Example: modelkeep keys --add web --scope infer --rate 100")
@click.option("--add", metavar="NAME", help="Make a key and show it, once: only its hash is kept.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="What it may; give one or several.")
@click.option("--rate", type=Finite(0), default=0.0, help="Requests a second (default 0: no bound).")
@click.option("--revoke", metavar="NAME", help="Refuse a key from now on.")
@as_json
def keys(add: str | None, scopes: tuple[str, ...], rate: float, revoke: str | None, json_: bool) -> None:
    """List the API keys of the service, add one, or revoke one.

    Where there is a key, every route and every protocol asks for one. Scopes: infer (ask, and hand in truth), read
    (health, metadata, metrics), admin (change what is served). Running servers follow within a second.
    """
    from modelkeep import settings
    from modelkeep.serve.protocol.keys import Ring, describe

    if add and revoke:  # where the second cannot be done, the first would be all the same
        raise click.UsageError("--add and --revoke are two things; do one after the other")
    if not add and (scopes or rate):
        raise click.UsageError("--scope and --rate are of a new key; name it with --add NAME")
    ring = Ring(settings.read().keys_file)
    if revoke:
        ring.revoke(revoke)
    token = ring.add(add, scopes, rate) if add else None
    there = ring.read()
    if json_:
        return dump({"keys": [describe(key) for key in there], **({"key": token} if token else {})})
    if token:
        say(token)
        click.echo(f"key '{add}' may {', '.join(scopes)}; it is shown this once: {ring.path} holds its hash", err=True)
        return None
    if not there and ring.path.exists():
        return say(
            f"no keys are left, so the service refuses everybody: add one, or remove {ring.path} for a service that "
            "asks for none and listens on this machine only"
        )
    if not there:
        return say("no keys: the service asks for none, and listens on this machine only")
    return table(
        "API keys",
        ("name", "may", "requests a second", "made"),
        [
            (
                k.name,
                ", ".join(k.scopes),
                f"{k.rate:g}" if k.rate else "no bound",
                time.strftime("%F %T", time.localtime(k.created)),
            )
            for k in there
        ],
    )
