"""modelkeep rollout"""

from __future__ import annotations

import click

from modelkeep.cli.output import DURATION, SHARE, Finite, as_json, dump, open_keep, say, share


@click.command(epilog="Example: modelkeep rollout digits@7 --steps 20,50 --p99 50ms --needs-labels")
@click.argument("ref")
@click.option("--steps", default="10,50", show_default=True, metavar="A,B,…", help="The canary's shares, in percent.")
@click.option(
    "--tolerance", type=SHARE, default="5pp", show_default=True, help="Harm over the live version that is borne."
)
@click.option("--alpha", type=SHARE, default=0.01, show_default=True, help="Chance of a wrong verdict.")
@click.option("--max-time", type=DURATION, default="10m", show_default=True, help="Of one step; then it is undecided.")
@click.option("--p99", type=DURATION, help="The latency that was promised; slower answers count as harm.")
@click.option(
    "--min-accuracy", type=SHARE, help="The accuracy that was promised (default: the settings'); see docs/rollout.md."
)
@click.option(
    "--max-error",
    type=Finite(min=0, min_open=True),
    help="The mean absolute error that was promised of numbers.",
)
@click.option("--needs-labels", is_flag=True, help="Promote only on evidence from labels.")
@as_json
def rollout(
    ref: str,
    steps: str,
    tolerance: float,
    alpha: float,
    max_time: float,
    p99: float | None,
    min_accuracy: float | None,
    max_error: float | None,
    needs_labels: bool,
    json_: bool,
) -> int:
    """Send shares of the live traffic to REF, judge it against the live version, and promote it or roll it back.

    The verdict is on errors, slow answers and, where labels come, wrong answers; it may be looked at at any time.
    Exit code 1 when it was rolled back, stayed undecided or was stopped: it is not live then.
    """
    from modelkeep.rollout.canary import Canary

    plan = Canary(
        steps=_shares(steps),
        tolerance=tolerance,
        alpha=alpha,
        max_seconds=max_time,
        p99=p99,
        needs_labels=needs_labels,
        min_accuracy=min_accuracy,
        max_error=max_error,
    )

    told = ""

    def on_step(text: object) -> None:
        nonlocal told
        told = str(text)
        if not json_:
            say(f"  {text}")

    with open_keep() as keep:
        version = keep.get(ref)
        try:
            decision = keep.rollout(version, plan, on_step=on_step)
        except KeyboardInterrupt:
            if keep.registry.route(version.name).canary == version.number:
                click.echo(f"{version.ref} {_kept(version.name)}", err=True)
            raise
    if json_:
        dump(decision)
    elif told != decision.why:
        say(f"  {decision.why}")
    return int(decision.verdict != "promote")


def _kept(name: str) -> str:
    """What becomes of a canary whose judge was stopped."""
    return (
        "keeps its share of the traffic, and nobody judges it: modelkeep rollout goes on with it, "
        f"modelkeep rollback {name} ends it"
    )


def _shares(text: str) -> tuple[float, ...]:
    parts = [part.strip() for part in text.split(",")]
    try:
        shares = tuple(share(part if part.endswith("%") else f"{part}%") for part in parts)
    except click.BadParameter:
        shares = ()
    if any(0 < one < 0.01 and not part.endswith("%") for one, part in zip(shares, parts, strict=False)):
        raise click.BadParameter(
            f"--steps '{text}' are percentages below 1; for 10 % and 50 % write 10,50, for less than 1 % write 0.5%"
        )
    if not shares or not all(0 < one < 1 for one in shares) or list(shares) != sorted(shares):
        raise click.BadParameter(f"--steps '{text}' must be growing percentages below 100, such as 10,50")
    return shares
