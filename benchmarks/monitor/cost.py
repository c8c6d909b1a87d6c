"""What does it cost to watch? Requests a second and memory of the service with everything on, against off.

    python benchmarks/monitor/cost.py [--model mlp|large|resnet18|bert-small] [--pairs 6] [--seconds 10] [--models 1]
                                      [--only capture|collect|monitor] [--lead 30] [--at-once] [--control] [--json FILE]

A model with reference rows is served by `modelkeep serve`, workers included on the first core: a perceptron 784-128-10,
one of 20 million parameters, ResNet-18 with pictures of 600 KB, or BERT-small with sequences of 8 to 128 tokens. With
capture, collector, metrics and watcher as they are by default (of the three, with --only those given), or with capture,
collector and watcher off. From the last core 32 connections load it without a pause, before anything is measured for
--lead seconds: 30, or 0 to see what a rush costs. The two take turns as processes, each started anew and alone on its
core, and the order changes from pair to pair: two processes of the same program differ by some percent for as long as
they run. Each pair gives a ratio; median of the pairs and the sign test's interval (95 %).

With --at-once both run at the same time on the same core, with half of the connections each, and the ratio is that of
the CPU time of an answer: whatever slows the machine slows both, so that a few pairs tell a difference of 1 %. Each
has half of the requests then, of which as many a second are kept, so what watching takes counts double. With --control
both are off, and the ratio shows how far it can be trusted. Memory is what the processes of a server hold, on less off,
by model, the median of the pairs: under load, as the median of the second half of the lead, and after it, once what was
freed is given back.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, repeat
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from load import WIDTH, asked, binary, closed, perceptron, timed, together, tree

from modelkeep import Keep
from modelkeep.data.dataset import Dataset
from modelkeep.evidence import median_interval
from modelkeep.settings import Settings

CONNECTIONS, LEAST, MOST_MB = 32, 0.97, 20.0
HIDDEN = {"mlp": (128,), "large": (4096, 4096)}
LONGEST = 128
HOWS = ("on", "off")
LEAD, NEXT = 30.0, 10.0
"""Seconds of load before the first form is measured, and before the next: of a rush more is kept than of a load that
goes on, and it takes half a minute until that is written and looked at.
"""
QUIET = 20.0
"""Seconds after the load, in which what waits is written and looked at, and what was freed is given back to the system
(modelkeep.serve.workers.settled.TIDY), before memory is read: until then a server holds tens of MB by chance.
"""
PARTS = {
    "capture": {"MODELKEEP_CAPTURE_SHARE": "0", "MODELKEEP_CAPTURE_RATE": "0"},
    "collect": {"MODELKEEP_COLLECT": "0"},
    "monitor": {"MODELKEEP_MONITOR_EVERY": "0"},
}
"""What watches, and how each part is switched off."""


class Served:
    """What is served: ``file``, its reference rows, and requests by their form, to be sent in turn."""

    def __init__(self, name: str, room: Path) -> None:
        self.requests: dict[str, list[bytes]]
        if name in HIDDEN:
            self.file = perceptron(room / "m.onnx", *HIDDEN[name])
            rows = {"x": np.random.default_rng(2).random((2000, WIDTH)).astype(np.float32)}
            self.requests = {form: [one] for form, one in asked().items()}
        else:
            import shares

            self.file = shares.file(name, room)
            made = shares.images() if name == "resnet18" else shares.sentences()
            rows = {key: np.concatenate([padded(one[key]) for one in made]) for key in made[0]}
            self.requests = {"binary": [binary("mlp", one) for one in made]}
        self.rows = Dataset(rows, None, "made")


def padded(array: Any) -> Any:
    """Sequences [1, tokens] with zeros behind, up to the longest; pictures as they are."""
    return array if array.ndim > 2 else np.pad(array, ((0, 0), (0, LONGEST - array.shape[1])))


def home(room: Path, served: Served, models: int) -> list[str]:
    """A registry in ``room`` with so many models alike, which keep reference rows; their names."""
    names = ["mlp", *(f"mlp{number}" for number in range(1, models))]
    with Keep(Settings(home=room / "home")) as keep:
        for name in names:
            keep.promote(keep.add(served.file, name, data=served.rows))
    return names


@contextmanager
def serving(
    room: Path, names: list[str], core: int, environ: dict[str, str], program: Sequence[str] = ("-m", "modelkeep")
) -> Iterator[tuple[int, int]]:
    """Port and process number of a server on one core."""
    command = [
        "taskset",
        "-c",
        str(core),
        sys.executable,
        *program,
        "serve",
        *names,
        "--port",
        "0",
        "--threads",
        "1",
    ]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "MODELKEEP_HOME": str(room / "home"), **environ}
    server = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True, cwd=room)
    assert server.stdout is not None
    try:
        yield port(server), server.pid
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def port(server: subprocess.Popen[str]) -> int:
    """What it says that it listens on."""
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r"http://[\w.]+:(\d+)", line):
            return int(found[1])
    raise SystemExit("the server ended before it listened")


def held(pid: int) -> float:
    """MB of a process and all below it: what each has for itself and its part of what they share, and the pages of
    libraries whole, for how many other processes of this machine share these is chance, some 20 MB of it.
    """
    kilobytes = 0
    for one in tree(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:", "Private_Clean:", "Shared_Clean:")):
                kilobytes += int(line.split()[1])
    return kilobytes / 1024


def switched(how: str, given: argparse.Namespace) -> dict[str, str]:
    """What switches off all that watches, or all but what is asked for."""
    on = () if how == "off" or given.control else (given.only or PARTS)
    return {key: value for part, off in PARTS.items() if part not in on for key, value in off.items()}


def run(room: Path, given: argparse.Namespace) -> dict[str, Any]:
    """By form and server, requests a second and CPU microseconds a request of each pair; their memory."""
    served = Served(given.model, room)
    found: dict[str, Any] = {form: {"on": [], "off": [], "on µs": [], "off µs": []} for form in served.requests}
    found |= {"on MB": [], "off MB": [], "on busy MB": [], "off busy MB": []}
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    for number in range(given.pairs):
        order = HOWS if number % 2 else HOWS[::-1]
        if given.at_once:
            both(room / str(number), served, given, cores[0], order, found)
            continue
        for how in order:
            (at := room / f"{number}-{how}").mkdir()
            with serving(at, home(at, served, given.models), cores[0], switched(how, given)) as (port, pid):
                for lead, (form, requests) in zip(leads(given), served.requests.items(), strict=False):
                    rate, cost, busy = measured(port, pid, requests, lead, given.seconds)
                    found[f"{how} busy MB"].append(busy)
                    found[form][how].append(rate)
                    found[form][f"{how} µs"].append(cost)
                time.sleep(QUIET)
                found[f"{how} MB"].append(held(pid))
    return found


def both(
    room: Path, served: Served, given: argparse.Namespace, core: int, order: Sequence[str], found: dict[str, Any]
) -> None:
    """One pair whose servers run at the same time."""
    with ExitStack() as stack:
        servers = []
        for how in order:
            (at := room / how).mkdir(parents=True)
            servers.append(stack.enter_context(serving(at, home(at, served, given.models), core, switched(how, given))))
        ports = [port for port, _ in servers]
        for lead, (form, requests) in zip(leads(given), served.requests.items(), strict=False):
            with ExitStack() as watching:
                busy = [watching.enter_context(memory(pid)) for _, pid in servers]
                together(ports, requests, CONNECTIONS // 2, lead)
            for how, samples in zip(order, busy, strict=True):
                found[f"{how} busy MB"].append(later(samples))
            before = [spent(pid) for _, pid in servers]
            answers = together(ports, requests, CONNECTIONS // 2, given.seconds)
            for how, n, begun, (_, pid) in zip(order, answers, before, servers, strict=True):
                found[form][how].append(n / given.seconds)
                found[form][f"{how} µs"].append(1e6 * (spent(pid) - begun) / n)
        time.sleep(QUIET)
        for how, (_, pid) in zip(order, servers, strict=True):
            found[f"{how} MB"].append(held(pid))


def leads(given: argparse.Namespace) -> Iterator[float]:
    """Seconds of load before each form is measured."""
    return chain([given.lead], repeat(min(NEXT, given.lead)))


def measured(port: int, pid: int, requests: list[bytes], lead: float, seconds: float) -> tuple[float, float, float]:
    """Requests a second of a server under load, CPU microseconds a request, and MB."""
    with memory(pid) as samples:
        closed(port, requests, CONNECTIONS, lead)
    before = spent(pid)
    latencies, rate = timed(port, requests, CONNECTIONS, seconds)
    return rate, 1e6 * (spent(pid) - before) / len(latencies), later(samples)


@contextmanager
def memory(pid: int) -> Iterator[list[float]]:
    """MB of a server, twice a second until the block ends."""
    samples, over = [held(pid)], threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            samples.append(held(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def later(samples: list[float]) -> float:
    """The median of the second half."""
    return median(samples[len(samples) // 2 :])


def spent(pid: int) -> float:
    """CPU seconds of the threads of a process and those below it, to the nanosecond."""
    files = (file for one in tree(pid) for file in Path(f"/proc/{one}/task").glob("*/schedstat"))
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def tell(found: dict[str, Any], models: int, *, at_once: bool) -> bool:
    """A table for a person; whether both promises are kept."""
    over, under = ("off µs", "on µs") if at_once else HOWS
    print(
        "| requests | on, requests/s | off, requests/s | on / off (95 % interval) | CPU µs on, off |\n"
        "|---|---|---|---|---|"
    )
    good = True
    for form in (key for key in found if not key.endswith("MB")):
        of = found[form]
        ratio, low, high = median_interval([a / b for a, b in zip(of[over], of[under], strict=True)])
        band = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
        cells = [f"{median(of['on']):,.0f}", f"{median(of['off']):,.0f}", f"{ratio:.3f}{band}"]
        print(f"| {form} | {' | '.join(cells)} | {median(of['on µs']):.1f}, {median(of['off µs']):.1f} |")
        good = good and bool(ratio >= LEAST)
    print()
    for when, key in (("under load", "busy MB"), ("after it", "MB")):
        mb = {how: median(found[f"{how} {key}"]) for how in HOWS}
        each = (mb["on"] - mb["off"]) / models
        print(f"memory {when}: {mb['on']:.0f} MB on, {mb['off']:.0f} MB off, so {each:.1f} MB a model ({models})")
        good = good and each <= MOST_MB
    print(f"{'ok' if good else 'NO'}  at least {LEAST:.0%} of the throughput, and at most {MOST_MB:g} MB a model")
    return good


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*HIDDEN, "resnet18", "bert-small"], default="mlp")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--models", type=int, default=1)
    parser.add_argument("--lead", type=float, default=LEAD)
    parser.add_argument("--only", choices=list(PARTS), action="append")
    parser.add_argument("--at-once", action="store_true")
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        found = run(Path(room), given)
    good = tell(found, given.models, at_once=given.at_once)
    if given.json:
        given.json.write_text(json.dumps(found), encoding="utf-8")
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
