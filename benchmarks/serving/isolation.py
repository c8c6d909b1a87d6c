"""What does it cost to run the engine in a worker process, and not on a thread of the server?

    python benchmarks/serving/isolation.py [--rounds 5] [--seconds 2] [--hidden 128] [--json FILE]

A perceptron (784-HIDDEN-10, ONNX Runtime with one thread) is served by `modelkeep serve` on the first core, worker
included; the load comes from the last. Rounds of both alternate, so that what else the machine does meets both alike.
Prints requests a second with 32 connections, p50 and p99 there, CPU time of server and worker for each request (which
other programs on the machine disturb least), p50 and p99 of a lone client, each as the median of rounds with the least
and the most, for requests in JSON and in binary.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from load import asked, closed, cpu, perceptron

CONNECTIONS = 32
SERVER = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
from pathlib import Path
from modelkeep.serve.server import serve_file
from modelkeep.settings import Settings
options = {"threads": 1, "in_process": sys.argv[3] == "thread"}
told = lambda url: print(url, flush=True)
serve_file(Path(sys.argv[2]), Settings(port=0), name="mlp", options=options, on_ready=told)
"""


@contextmanager
def serving(file: Path, how: str, core: int) -> Iterator[tuple[int, int]]:
    """Port and process number of a server on one core."""
    command = [sys.executable, "-c", SERVER, str(core), str(file), how]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield int(server.stdout.readline().strip().rsplit(":", 1)[1]), server.pid
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def measure(file: Path, rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """By form, how and number: a value for each round."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    found: dict[str, dict[str, list[float]]] = {}
    with serving(file, "process", cores[0]) as process, serving(file, "thread", cores[0]) as thread:
        for number in range(-1, rounds):  # the first is thrown away
            for form, request in asked().items():
                for how, (port, pid) in (("process", process), ("thread", thread)):
                    before = cpu(pid)
                    busy = closed(port, request, CONNECTIONS, seconds)
                    spent = cpu(pid) - before
                    lone = closed(port, request, 1, seconds / 2)
                    numbers = {
                        "requests/s": len(busy) / seconds,
                        "p50 ms": 1e3 * busy[len(busy) // 2],
                        "p99 ms": 1e3 * busy[int(0.99 * len(busy))],
                        "CPU µs": 1e6 * spent / len(busy),
                        "lone p50 ms": 1e3 * lone[len(lone) // 2],
                        "lone p99 ms": 1e3 * lone[int(0.99 * len(lone))],
                    }
                    if number >= 0:
                        kept = found.setdefault(f"{form} {how}", {})
                        for name, value in numbers.items():
                            kept.setdefault(name, []).append(value)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        found = measure(perceptron(Path(room) / "mlp.onnx", given.hidden), given.rounds, given.seconds)
    names = list(next(iter(found.values())))
    print(f"784-{given.hidden}-10, {CONNECTIONS} connections; median of {given.rounds} rounds (least to most)")
    for what, numbers in found.items():
        cells = [f"{n} {median(numbers[n]):.3g} ({min(numbers[n]):.3g} to {max(numbers[n]):.3g})" for n in names]
        print(f"{what:<16}" + "  ".join(cells))
    for form in asked():
        for name in ("requests/s", "CPU µs"):
            pairs = zip(found[f"{form} process"][name], found[f"{form} thread"][name], strict=True)
            ratios = [p / t for p, t in pairs]
            print(f"{form}, {name}, process / thread: {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
