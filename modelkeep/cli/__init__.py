"""A person at a terminal: a table of verbs in the order of a model's life, one file per verb.

The help of a verb stands here, so that ``modelkeep --help`` imports none of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from typing import Any, NoReturn

import click

from modelkeep import __version__
from modelkeep.errors import ModelkeepError
from modelkeep.extras import LOADING, load

VERBS: dict[str, tuple[str, str]] = {
    "doctor": ("modelkeep.cli.doctor:doctor", "Say what this machine has, and what is missing."),
    "add": ("modelkeep.cli.add:add", "Register a trained model as a new version."),
    "list": ("modelkeep.cli.list:list_", "List the models, or the versions of one."),
    "show": ("modelkeep.cli.show:show", "Show a version: signature, lineage, reports, route."),
    "convert": ("modelkeep.cli.convert:convert", "Same weights, new format, with proof that the answers agree."),
    "score": ("modelkeep.cli.score:score", "How good is a version on labelled rows?"),
    "optimize": ("modelkeep.cli.optimize:optimize", "Same answers, cheaper weights: distil, quantize."),
    "bench": ("modelkeep.cli.bench:bench", "What does a version cost and bear? Latency, rate, memory; two in turns."),
    "tune": ("modelkeep.cli.tune:tune", "Find the fastest settings that keep a latency promise."),
    "serve": ("modelkeep.cli.serve:serve", "Answer over HTTP (Open Inference Protocol v2)."),
    "keys": ("modelkeep.cli.keys:keys", "API keys of the service: add, list, revoke."),
    "label": ("modelkeep.cli.label:label", "Hand in the truth for requests that were answered."),
    "monitor": ("modelkeep.cli.monitor:monitor", "Has the world or the quality of the answers changed?"),
    "console": ("modelkeep.cli.console:console", "A page to look at: traffic, drift, rollouts; promote and roll back."),
    "update": ("modelkeep.cli.update:update", "New knowledge: fine-tune, or grow new classes."),
    "rollout": ("modelkeep.cli.rollout:rollout", "Give a version a share of the traffic, judge it, promote it or not."),
    "promote": ("modelkeep.cli.promote:promote", "Make a version live at once, with no canary."),
    "rollback": ("modelkeep.cli.rollback:rollback", "End a canary, or bring the previous version back: one write."),
    "operate": ("modelkeep.cli.operate:operate", "Do monitor, update and rollout by itself, from a policy file."),
    "journal": ("modelkeep.cli.journal:journal", "What happened, in order."),
}

STOPPED = 130
"""The exit code of what Ctrl-C ended."""


class Verbs(click.Group):
    """Commands from the table, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the table's order, which is the order of a model's life."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command; its module is imported here and nowhere else."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = load(VERBS[cmd_name][0])
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; a word that is no verb is told with those that are like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            if near := get_close_matches(args[0], VERBS, cutoff=0.7):
                told = f"{error.format_message()} Did you mean {' or '.join(near)}?"
                raise click.UsageError(told, error.ctx) from error
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """As click does it; an option without its value, of which click does not say whose it is, is the verb's."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if error.ctx is None and ctx.invoked_subcommand:
                verb = self.get_command(ctx, ctx.invoked_subcommand) or self
                error.ctx = click.Context(verb, parent=ctx, info_name=ctx.invoked_subcommand)
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line each, from the table."""
        with formatter.section("Verbs, in the order of a model's life"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])


@click.command(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="A REF names a version: digits (the live one, else the newest), digits@3, digits@live, @canary, @previous, "
    "@newest or an alias. Exit codes: 0 ok, 1 the answer is no, 2 wrong use. modelkeep VERB --help says more.",
)
@click.version_option(__version__, prog_name="modelkeep")
def group() -> None:
    """Keep a model working as a service: deploy it, watch it, and replace it safely."""


def fail(message: str, kind: str, code: int) -> NoReturn:
    """One sentence to stderr, or JSON to stdout where the caller asked for JSON; then exit."""
    told = False
    if "--json" in sys.argv:
        with contextlib.suppress(OSError):  # stdout may be what failed: a full disk, a pipe that nobody reads
            click.echo(json.dumps({"error": message, "kind": kind}))
            told = True
    if not told:
        with contextlib.suppress(OSError):
            click.echo(f"modelkeep: {message}", err=True)
    sys.exit(code)


def main(argv: list[str] | None = None) -> None:
    """Run one verb. A person never sees a traceback for what modelkeep expects."""
    try:
        outcome: Any = group.main(args=argv, prog_name="modelkeep", standalone_mode=False)
    except ModelkeepError as error:
        fail(str(error), type(error).__name__, error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.UsageError as error:
        fail(f"{error.format_message()} (see {_command(error)} --help)", "Usage", 2)
    except click.ClickException as error:
        fail(error.format_message(), "Usage", 2)
    except (KeyboardInterrupt, click.Abort):
        fail("stopped", "Stopped", STOPPED)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ", while writing to stdout or to a file"
        fail(f"{error.strerror or error}{where}", type(error).__name__, 2)
    sys.exit(outcome if isinstance(outcome, int) else 0)


def _command(error: click.UsageError) -> str:
    """What was typed, as far as it is known: modelkeep, or modelkeep VERB."""
    return error.ctx.command_path if error.ctx else "modelkeep"


def script() -> NoReturn:
    """``main`` as the whole of a process.

    An engine that was given up while it loaded a model still runs, in native code that an orderly end would abort
    ("terminate called without an active exception"): the process then ends at once, with the exit code that it has.
    So does one that a person stopped: what is under way on other threads would be told as leaked, object by object.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until the process ends
    try:
        main()
    except SystemExit as end:
        if end.code == STOPPED or any(thread.name == LOADING for thread in threading.enumerate()):
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)
        raise
    sys.exit(0)
