"""modelkeep monitor"""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from modelkeep.cli.output import DURATION, SHARE, as_json, dump, open_keep, say
from modelkeep.extras import load

BESIDE: dict[str, tuple[str, str]] = {
    "setup": ("modelkeep.cli.prometheus:setup", "Write files for Prometheus, Alertmanager and Grafana."),
    "up": ("modelkeep.cli.prometheus:up", "Start Prometheus and Alertmanager on this machine."),
}
"""Verbs of their own below ``monitor``: their commands, imported when they are called, and a line of help."""


class Monitor(click.Command):
    """``monitor REF``, or one of the verbs in BESIDE. A model that is called like one of them is written NAME@live."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """That of the verb where one was typed."""
        if args and args[0] in BESIDE:
            command: click.Command = load(BESIDE[args[0]][0])
            return command.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of ``monitor REF``, then the verbs."""
        super().format_options(ctx, formatter)
        with formatter.section("Verbs of its own"):
            formatter.write_dl([(f"monitor {verb}", text) for verb, (_, text) in BESIDE.items()])


@click.command(cls=Monitor)
@click.argument("ref")
@click.option(
    "--tolerance", type=SHARE, help="Share of requests that may move before it counts as drift (default 0.1)."
)
@click.option("--false-alarm-every", type=click.FloatRange(min=1), help="Requests per false alarm (default 1,000,000).")
@click.option("--min-accuracy", type=SHARE, help="The accuracy that was promised, judged once labels come.")
@click.option("--p99", type=DURATION, help="The latency that was promised.")
@click.option("--watch", type=DURATION, metavar="TIME", help="Look again so often, until something is found.")
@click.option("--webhook", metavar="URL", help="POST each new finding there, as JSON.")
@as_json
def monitor(ref: str, watch: float | None, webhook: str | None, json_: bool, **given: Any) -> int:
    """Compare the captured traffic of REF with its reference rows: inputs, answers, quality, health.

    Exit code 1 when something was found. Looking often costs no false alarms: the evidence stays valid under peeking.
    """
    from modelkeep.monitor.alerts import Alerts

    alerts = Alerts(webhook, stream=sys.stderr) if webhook else None
    limits = {key: value for key, value in given.items() if value is not None}
    with open_keep() as keep:
        checked = keep.monitor(ref, alerts=alerts, **limits)
        while watch and not checked.findings:
            if sys.stderr.isatty():
                click.echo(f"\r{time.strftime('%H:%M:%S')} nothing found in {checked.n} requests", nl=False, err=True)
            time.sleep(watch)
            checked = keep.monitor(ref, alerts=alerts, **limits)
    if json_:
        dump(checked)
    else:
        say(checked.describe())
    return int(bool(checked.findings))
