"""modelkeep serve"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelkeep.cli.output import DURATION, FILE, ROOM, SHARE, SOME_TIME, Whole, say

if TYPE_CHECKING:
    from modelkeep.settings import Settings


@click.command(epilog="Examples: modelkeep serve digits    modelkeep serve model.onnx --port 9000")
@click.argument("what", nargs=-1, required=True)
@click.option("--host", help="Address to listen on (default 127.0.0.1: this machine only).")
@click.option("--port", type=Whole(0, 65535), help="Port to listen on (default 8080; 0: any free one).")
@click.option("--grpc-port", type=Whole(1, 65535), help="Answer over gRPC too, on this port (default: not).")
@click.option("--keys", type=click.Path(dir_okay=False), help="File of API keys (default: keys.json inside home).")
@click.option("--anonymous", is_flag=True, default=None, help="Listen beyond this machine without keys.")
@click.option("--tls-cert", type=FILE, help="Certificate chain, PEM: answer over TLS.")
@click.option("--tls-key", type=FILE, help="Its private key, PEM (default: in the same file).")
@click.option(
    "--access-log", metavar="FILE", help="A JSON line for each question to a model (-: stderr; default: none)."
)
@click.option("--traces", metavar="URL", help="Send OpenTelemetry spans there (OTLP over HTTP; console: print them).")
@click.option(
    "--engine", help="onnxruntime, openvino, torch, torch-compile; by default what tune found, else the format's first."
)
@click.option("--threads", type=Whole(1, 1024), help="Threads of one run.")
@click.option("--workers", type=Whole(1, 256), help="Runs of one version at a time, each in its own process.")
@click.option(
    "--in-process", is_flag=True, default=None, help="Run the engine in the server: no copies, no protection."
)
@click.option("--run-timeout", type=SOME_TIME, help="A run of this length is taken for hung (default 10s).")
@click.option("--p99", type=SOME_TIME, help="Promise: what would take longer as things are is refused (default: none).")
@click.option("--max-batch", type=Whole(1, 65536), help="Rows of one run.")
@click.option("--max-wait", type=DURATION, help="How long a batch may wait for company (default 0: never).")
@click.option("--cache", type=ROOM, help="Room for answers to questions that come again (64mb; default 0: none).")
@click.option("--capture", type=SHARE, help="Share of requests kept for monitor (default 1; 0: none).")
@click.option("--sample", type=FILE, metavar="DIR", help="Keep a sample of requests and replies there, as parquet.")
@click.option(
    "--sample-share", type=SHARE, help="Share of the requests in it (default 0.1; under load it takes fewer)."
)
@click.option("--sample-bytes", type=ROOM, help="Its size: the oldest files go first (default 1gb).")
@click.option("--sample-age", type=SOME_TIME, help="Files go when they are older (default 7d).")
@click.option(
    "--sample-mask", metavar="NAMES", help="Fields left out of it, or hashed: email,hash:user_id,input.scan*."
)
@click.option("--monitor", type=DURATION, help="Look at what is served so often (default 5s; 0: never).")
@click.option("--webhook", metavar="URL", help="POST each new finding there, as JSON.")
@click.option("--alertmanager", metavar="URL", help="Tell findings to this Alertmanager, and when they are over.")
@click.option("--slo", type=SHARE, help="Promise: the share of requests that do not fail, such as 99.9%.")
@click.option("--min-accuracy", type=SHARE, help="Promise: the share of answers that are right.")
@click.option("--silence", type=SOME_TIME, help="The longest time without a request that is no finding (default any).")
@click.option("--ignore", multiple=True, metavar="COLUMN", help="It may move without a finding: a time, an id.")
@click.option("--console/--no-console", "console", default=True, help="A page to look at, at /console (default: yes).")
@click.option("--name", help="For a bare file: the model's name in the URL (default: the file's).")
def serve(
    what: tuple[str, ...],
    host: str | None,
    port: int | None,
    grpc_port: int | None,
    keys: str | None,
    anonymous: bool | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    access_log: str | None,
    traces: str | None,
    capture: float | None,
    cache: int | None,
    sample: Path | None,
    sample_share: float | None,
    sample_bytes: int | None,
    sample_age: float | None,
    sample_mask: str | None,
    monitor: float | None,
    webhook: str | None,
    alertmanager: str | None,
    slo: float | None,
    min_accuracy: float | None,
    silence: float | None,
    ignore: tuple[str, ...],
    name: str | None,
    console: bool,
    **given: Any,
) -> None:
    """Answer over HTTP for models of the registry, or for one bare model file.

    Follows the registry: promote, rollout and rollback take effect within a second and lose no request.
    SIGHUP reads modelkeep.toml anew. Stops on Ctrl-C or SIGTERM once what was accepted is answered.
    """
    from modelkeep import settings as settings_
    from modelkeep.extras import has
    from modelkeep.keep import Keep
    from modelkeep.serve import server

    changes: dict[str, Any] = {"host": host, "port": port, "grpc_port": grpc_port, "capture_share": capture}
    changes |= {"cache_bytes": cache, "keys": keys, "anonymous": anonymous, "access_log": access_log, "traces": traces}
    changes |= {"sample": sample and str(sample), "sample_share": sample_share, "sample_bytes": sample_bytes}
    changes |= {"sample_age": sample_age, "sample_mask": sample_mask}
    changes |= {"monitor_every": monitor, "webhook": webhook, "alertmanager": alertmanager}
    changes |= {"slo": slo, "min_accuracy": min_accuracy, "silence": silence, "ignore": ",".join(ignore) or None}
    changes |= {"tls_cert": tls_cert and str(tls_cert), "tls_key": tls_key and str(tls_key)}
    changes = {key: value for key, value in changes.items() if value is not None}

    def read() -> Settings:
        return dataclasses.replace(settings_.read(), **changes)

    settings = read()
    options = {key: value for key, value in given.items() if value is not None}
    what = tuple(dict.fromkeys(what))

    def ready(url: str) -> None:
        page = f", {url}/console" if mounts else ""
        say(f"serving {', '.join(what)} on {url} (try {url}/v2, {url}/metrics{page}; stop with Ctrl-C)")

    mounts: Mapping[str, Any] = {}

    if not settings.sample and (
        idle := _given(
            sample_share=sample_share, sample_bytes=sample_bytes, sample_age=sample_age, sample_mask=sample_mask
        )
    ):
        raise click.UsageError(f"{idle} is of the sample that --sample DIR keeps, and none is kept")
    if len(what) == 1 and _is_bare(what[0], settings):
        kept = _given(capture=capture, monitor=monitor, webhook=webhook, alertmanager=alertmanager)
        if idle := kept or _given(slo=slo, min_accuracy=min_accuracy, silence=silence, ignore=ignore or None):
            raise click.UsageError(
                f"{idle} is for a registered model: of a bare file nothing is kept or watched; first: modelkeep add "
                f"NAME {what[0]}"
            )
        server.serve_file(Path(what[0]), settings, name=name, options=options, on_ready=ready, reread=read)
        return
    if file := next((word for word in what if Path(word).exists() and _is_bare(word, settings)), None):
        raise click.UsageError(
            f"{file} is a bare file, of which serve takes one and no other model; first: modelkeep add NAME {file}"
        )
    if name:
        raise click.UsageError(f"--name is for a bare file; {what[0]} is served under its own name")
    with Keep(settings) as keep:
        if console and has("jinja2"):
            from modelkeep.console.server import mounts as of_console

            mounts = of_console(keep)
        said = partial(click.echo, err=True)
        keep.serve(what, options=options, on_ready=ready, on_setting=said, reread=read, mounts=mounts)


def _given(**options: Any) -> str:
    """The first option that asks for something, as it was typed; empty where none does."""
    return next((f"--{name.replace('_', '-')}" for name, value in options.items() if value), "")


def _is_bare(word: str, settings: Settings) -> bool:
    """Whether a word is a file or a folder and no registered model, which comes first: ./NAME is what lies here."""
    from modelkeep.registry import Registry

    path = Path(word)
    if not (path.exists() or "." in path.suffix):
        return False
    if path.name != word or not (settings.database or (settings.home / "registry.db").is_file()):
        return True
    with Registry.open(settings) as registry:
        registered = word.partition("@")[0] in registry.names()
    if registered and path.exists():
        click.echo(f"{word} is a model of the registry; what lies here under that name is ./{word}", err=True)
    return not registered
