"""modelkeep tune"""

from __future__ import annotations

import click

from modelkeep.cli.output import DURATION, as_json, dump, open_keep, progress, say, seconds, table


@click.command(epilog="Example: modelkeep tune digits@2 --p99 20ms --budget 30s")
@click.argument("ref")
@click.option("--p99", type=DURATION, default="50ms", show_default=True, help="The latency that was promised.")
@click.option("--budget", type=DURATION, default="1m", show_default=True, help="Time to spend on measuring.")
@click.option("--concurrency", type=click.IntRange(1, 1024), default=16, show_default=True, help="Requests in flight.")
@as_json
def tune(ref: str, p99: float, budget: float, concurrency: int, json_: bool) -> int:
    """Measure settings (engine, threads, batch, workers) of REF on this machine, through the serving plane.

    The fastest that keeps the promise is stored, and serve uses it. Exit code 1 when none keeps it.
    """
    from modelkeep.tune.search import Tune

    with open_keep() as keep, progress("measuring", quiet=json_) as advance:
        report = keep.tune(ref, Tune(p99=p99, budget=budget, concurrency=concurrency), progress=advance)
    if json_:
        dump(report)
        return int(not report.ok)
    table(
        f"{ref}: {concurrency} requests in flight, promise p99 ≤ {seconds(p99)}",
        ("engine", "threads", "workers", "max batch", "requests/s", "p50", "p99", "n", ""),
        [
            (
                c["config"]["engine"],
                c["config"]["threads"] or "engine's",
                c["config"]["workers"],
                c["config"]["max_batch"],
                f"{c['throughput']:.0f}",
                seconds(c["p50"]),
                seconds(c["p99"]),
                c["n"],
                c["verdict"],
            )
            for c in report.numbers["candidates"]
        ],
    )
    say(report.why)
    return int(not report.ok)
