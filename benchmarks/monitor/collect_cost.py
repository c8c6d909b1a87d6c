"""What does it cost to gather what requests and answers look like: time for each request, bytes for each model?

    python benchmarks/monitor/collect_cost.py [--rounds 5] [--requests 20000] [--only perceptron] [--json FILE]

A collector is offered requests of one row as a server would at thousands a second: in lots of 5,000, or of 4 MB, with
its share of the processor not limited. Each kind of model has a process of its own. Prints the processor time that the
server's event loop spends in `offer`, that of the collector's thread, and their sum, in microseconds for each request
(median of rounds, with the least and the most); features; the bytes of the largest sketch of a feature after all
requests; and the resident memory that the process gained, requests that wait included, in MB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from modelkeep.data import profiles
from modelkeep.data.bins import Bins
from modelkeep.data.features import Columns
from modelkeep.data.profiles import ProfileLog
from modelkeep.metrics import Metrics
from modelkeep.model.baseline import Baseline, Subject
from modelkeep.serve.observers.collect import Budget, Collector
from modelkeep.types import BATCH, Request, Signature, TensorSpec

LOT = 5_000
REFERENCE = 1_024
WORDS = [f"word{at}" for at in range(5_000)]
Rows = Callable[[np.random.Generator, int], dict[str, Any]]


def perceptron(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """MNIST's size."""
    return {"x": rng.random((n, 784), dtype=np.float32)}


def table(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """Sixteen columns."""
    return {"x": rng.normal(size=(n, 16)).astype(np.float32)}


def image(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """ImageNet's size."""
    return {"x": rng.random((n, 3, 224, 224), dtype=np.float32)}


def tokens(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """Sequences of 128."""
    return {"x": rng.integers(0, 30_000, (n, 128))}


def texts(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """Twenty words each."""
    return {"x": np.array([" ".join(rng.choice(WORDS, 20)) for _ in range(n)], dtype=object)}


CASES: dict[str, tuple[Rows, str, tuple[int | None, ...], int]] = {
    "perceptron": (perceptron, "float32", (784,), 10),
    "table": (table, "float32", (16,), 2),
    "image": (image, "float32", (3, 224, 224), 1000),
    "tokens": (tokens, "int64", (None,), 2),
    "texts": (texts, "str", (), 2),
}
"""Rows, dtype and shape of one, classes."""


@dataclass(frozen=True)
class Target:
    """As much of a Loaded as the collector looks at."""

    name: str
    number: int
    ref: str
    signature: Signature


def subject(specs: tuple[TensorSpec, ...], arrays: Any, *, answers: bool) -> Subject:
    """Features and bins of reference rows."""
    columns = Columns.of(specs, arrays, answers=answers)
    return Subject(columns, Bins.of(columns.read_reference(arrays), columns.edges))


def resident() -> float:
    """MB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1024**2


def measured(name: str, rounds: int, requests: int) -> dict[str, Any]:
    """One kind of model, in this process."""
    sys.setswitchinterval(0.0005)  # as the server does
    make, dtype, shape, classes = CASES[name]
    axes = (BATCH, *(None if size else "sequence" for size in shape))
    given = TensorSpec("x", dtype, (None, *shape), axes)
    signature = Signature((given,), (TensorSpec("y", "float32", (None, classes)),))
    rng = np.random.default_rng(0)
    rows = make(rng, 64 if name == "image" else REFERENCE)
    answers = {"y": rng.normal(size=(len(rows["x"]), classes)).astype(np.float32)}
    known = Baseline(subject(signature.inputs, rows, answers=False), subject(signature.outputs, answers, answers=True))
    target: Any = Target("model", 1, "model@1", signature)
    asked = [
        (Request(f"r{at}", "model", {"x": rows["x"][at : at + 1].copy()}), {"y": answers["y"][at : at + 1].copy()})
        for at in range(len(rows["x"]))
    ]
    with tempfile.TemporaryDirectory() as room:
        path = Path(room) / "profiles.db"
        before = resident()
        collector = Collector(Metrics(), lambda model, version: known, ProfileLog(path))
        collector._budget = Budget(share=1e6)
        offered, gathered = [], []
        for at in range(-1, rounds):  # the first is thrown away
            spent = collector.seconds
            in_offer = one_round(collector, target, asked, requests)
            if at >= 0:
                offered.append(in_offer / requests * 1e6)
                gathered.append((collector.seconds - spent) / requests * 1e6)
        gained = resident() - before
        collector.close()
        buckets = [b for what in ("inputs", "answers") for b in profiles.buckets(path, "model", 1, what)]
        largest = max(len(one.serialize()) for b in buckets for one in b.sketches.each)
    both = [a + b for a, b in zip(offered, gathered, strict=True)]
    features = len(known.inputs.columns.names) + len(known.answers.columns.names) if known.answers else 0
    return {
        "offer_us": spread(offered),
        "thread_us": spread(gathered),
        "request_us": spread(both),
        "features": features,
        "sketch_bytes": largest,
        "memory_mb": gained,
        "dropped": collector.dropped,
    }


def one_round(collector: Collector, target: Any, asked: list[Any], requests: int) -> float:
    """Offer so many requests, in lots; the seconds spent in offering them."""
    seconds, sent = 0.0, 0
    while sent < requests:
        lot = min(LOT, requests - sent)
        began = time.thread_time()
        for at in range(sent, sent + lot):
            request, outputs = asked[at % len(asked)]
            collector.offer(target, "live", request, outputs)
            if collector._offered - collector._taken > 4 * 1024**2:  # a server would be as far apart in time
                seconds += time.thread_time() - began
                collector.flush(60)
                began = time.thread_time()
        seconds += time.thread_time() - began
        collector.flush(60)
        sent += lot
    return seconds


def spread(values: list[float]) -> list[float]:
    """Median, least, most."""
    return [median(values), min(values), max(values)]


def main() -> None:
    """Measure each kind in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found: dict[str, Any] = {}
    shown = Table("model", "offer µs", "thread µs", "both µs", "features", "largest sketch, B", "memory, MB")
    for name in [given.only] if given.only else list(CASES):
        with context.Pool(1) as pool:
            found[name] = one = pool.apply(measured, (name, given.rounds, given.requests))
        times = ["{:.2f} ({:.2f} to {:.2f})".format(*one[key]) for key in ("offer_us", "thread_us", "request_us")]
        shown.add_row(name, *times, str(one["features"]), f"{one['sketch_bytes']:,}", f"{one['memory_mb']:.1f}")
    Console().print(shown)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
