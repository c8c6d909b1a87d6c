"""modelkeep monitor"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelkeep.cli.output import DURATION, FILE, SHARE, SOME_TIME, Finite, as_json, dump, open_keep, say, table
from modelkeep.extras import load

if TYPE_CHECKING:
    from modelkeep.monitor.look import Checked

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
@click.option("--false-alarm-every", type=Finite(min=1), help="Requests per false alarm (default 1,000,000).")
@click.option("--min-accuracy", type=SHARE, help="The accuracy that was promised, judged once labels come.")
@click.option("--max-error", type=Finite(min=0, min_open=True), help="The promised mean absolute error.")
@click.option("--p99", type=DURATION, help="The latency that was promised.")
@click.option("--slo", type=SHARE, help="The promised share of requests that do not fail, such as 99.9%.")
@click.option("--silence", type=SOME_TIME, help="The longest time without a request that is no finding.")
@click.option("--slice", "slices", multiple=True, metavar="COLUMN", help="Hold accuracy in each value of it too.")
@click.option("--ignore", multiple=True, metavar="COLUMN", help="It may move: a time, an id.")
@click.option("--watch", type=DURATION, metavar="TIME", help="Look again so often, until something is found.")
@click.option("--webhook", metavar="URL", help="POST each new finding there, as JSON.")
@click.option("--alertmanager", metavar="URL", help="Tell findings to this Alertmanager, for five minutes a look.")
@click.option("--html", type=FILE, help="Write a page with plots there: one file that needs nothing else.")
@as_json
def monitor(
    ref: str,
    watch: float | None,
    webhook: str | None,
    alertmanager: str | None,
    html: Path | None,
    json_: bool,
    **given: Any,
) -> int:
    """Compare what REF was asked and answered with its reference rows: inputs, answers, quality, health.

    Exit code 1 when something was found. Looking often costs no false alarms: the evidence stays valid under peeking.
    """
    from modelkeep.monitor.alerts import Alerts

    alerts = Alerts(webhook, alertmanager=alertmanager, stream=sys.stderr) if webhook or alertmanager else None
    limits = {key: value for key, value in given.items() if value not in (None, ())} | {"plots": html is not None}
    with open_keep() as keep:
        checked = keep.monitor(ref, alerts=alerts, **limits)
        while watch and not checked.findings:
            if sys.stderr.isatty():
                click.echo(
                    f"\r{time.strftime('%H:%M:%S')} {checked.about}: nothing found",
                    nl=False,
                    err=True,
                )
            time.sleep(watch)
            checked = keep.monitor(ref, alerts=alerts, **limits)
    if html is not None:
        _write(html, checked)
    if json_:
        dump(checked)
    else:
        _show(checked)
    return int(bool(checked.findings))


def _show(checked: Checked) -> None:
    """The findings as a table, then what else is known, a line each."""
    if checked.findings:
        rows = [(f.kind, f.subject, _clock(f.since), f.why) for f in checked.findings]
        table(checked.about, ("kind", "of", "since", "what was found"), rows)
    else:
        say(f"{checked.about}: nothing found")
    for line in checked.lines:
        say(f"  {line}")


def _clock(at: float | None) -> str:
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _write(file: Path, checked: Checked) -> None:
    """Raises BadData where there is no place for it."""
    from modelkeep.errors import BadData
    from modelkeep.monitor.page import page

    try:
        file.write_text(page(checked), encoding="utf-8")
    except OSError as error:
        raise BadData(f"the page cannot be written to {file}: {error.strerror or error}") from error
