"""modelkeep console"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from modelkeep.cli.output import FILE, Whole, say


@click.command(epilog="Example: modelkeep console --service http://127.0.0.1:8080")
@click.option("--port", type=Whole(0, 65535), default=8090, show_default=True, help="0: any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; keys are needed beyond it.")
@click.option("--service", metavar="URL", default="", help="A running service whose metrics are shown.")
@click.option("--key-file", type=FILE, help="File with an API key of that service, of scope read.")
def console(port: int, host: str, service: str, key_file: Path | None) -> None:
    """A page to look at: models, live traffic, drift, rollouts, the journal; promote and roll back.

    Shows the registry of the working folder. Without --service, what happens now is told from the captured traffic.
    A service has the same page at /console. Stops on Ctrl-C or SIGTERM.
    """
    from modelkeep import settings
    from modelkeep.console import server
    from modelkeep.keep import Keep

    if key_file and not service:
        raise click.UsageError("--key-file is for the service whose metrics are shown; name it with --service URL")
    key = key_file.read_text(encoding="utf-8").strip() if key_file else ""
    chosen = dataclasses.replace(settings.read(), host=host, port=port)
    with Keep(chosen, who="console") as keep:
        server.serve(keep, service=service, key=key, on_ready=lambda url: say(f"{url} (stop with Ctrl-C)"))
