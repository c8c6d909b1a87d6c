"""modelkeep monitor setup, modelkeep monitor up"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click

from modelkeep.cli.output import FILE, SHARE, SOME_TIME, as_json, dump, say

HOME = "monitoring"
"""The folder inside home where ``up`` looks when it is given none."""


@click.command(epilog="Example: modelkeep monitor setup monitoring --p99 50ms --key-file prometheus.key")
@click.argument("folder", type=FILE)
@click.option("--target", "targets", multiple=True, metavar="URL", help="A service to scrape (default: this home's).")
@click.option("--availability", type=SHARE, help="Share of requests that may not fail, in 30 days (default 99.9%).")
@click.option("--p99", type=SOME_TIME, help="99 % of the answers come within this time (default 500ms).")
@click.option("--key-file", type=FILE, help="Holds an API key of the service that may read and admin.")
@click.option("--ca-file", type=FILE, help="The certificate (PEM) that signed the service's.")
@click.option("--prometheus", metavar="HOST:PORT", help="Where Prometheus listens (default 127.0.0.1:9090).")
@click.option("--alertmanager", metavar="HOST:PORT", help="Where Alertmanager listens (default 127.0.0.1:9093).")
@click.option("--force", is_flag=True, help="Overwrite files that were changed.")
@as_json
def setup(folder: Path, force: bool, json_: bool, **given: Any) -> None:
    """Write files for Prometheus, Alertmanager and Grafana into FOLDER: what to scrape, rules, alerts, dashboards."""
    from modelkeep.monitor.prometheus import write

    written = write.write(folder, _plan(given), force=force)
    if json_:
        return dump({"folder": folder, "files": written})
    for path in written:
        say(str(path))
    return say(f"start Prometheus and Alertmanager on them with: modelkeep monitor up {folder}")


@click.command()
@click.argument("folder", type=FILE, required=False)
@as_json
def up(folder: Path | None, json_: bool) -> None:
    """Start Prometheus and Alertmanager, where they are installed, on what ``monitor setup`` wrote into FOLDER.

    Without FOLDER, on files inside home, which are written first. Both listen on this machine only and end with
    Ctrl-C. --json says in one document where they listen once both are ready.
    """
    from modelkeep import settings
    from modelkeep.monitor.prometheus import run, write

    if folder is None:
        folder = settings.read().home / HOME
        if not folder.exists():
            write.write(folder, _plan({}))
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell that starts us behind itself has SIGINT ignored
        signal.signal(number, signal.default_int_handler)  # both programs are ended before we are
    with run.Up(folder) as both:
        if json_:
            dump({"folder": folder, **both.urls})
        else:
            for what, url in run.links(both):
                say(f"{what}: {url}")
            say(f"watching {', '.join(both.plan.targets)}; data and logs in {folder / 'data'}; stop with Ctrl-C")
        both.wait()


def _plan(given: dict[str, Any]) -> Any:
    """What was given, and the service of the settings where no other was."""
    from modelkeep import settings
    from modelkeep.monitor.prometheus.plan import Plan

    here = settings.read()
    chosen: dict[str, Any] = {
        key: str(value) if isinstance(value, Path) else value for key, value in given.items() if value
    }
    scheme = "https" if here.tls_cert else "http"
    host = "127.0.0.1" if here.host in ("0.0.0.0", "::") else f"[{here.host}]" if ":" in here.host else here.host
    return Plan(**{"targets": (f"{scheme}://{host}:{here.port}",)} | chosen)
