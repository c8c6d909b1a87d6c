"""What ONNX Runtime's threads take between two runs: the engine that serves, beside a plain session.

    python benchmarks/serving/rest.py [--rounds 5]

A perceptron 784-256-256-10, batches of 32, two threads. In turn: microseconds of a run, one after the other without a
pause; and milliseconds of processor time for each of some runs 0.15 s apart. Medians of the rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
from load import WIDTH, perceptron

from modelkeep.model import engines, formats
from modelkeep.types import ServeConfig

THREADS, WARM, RUNS = 2, 200, 5000
ALONE, PAUSE = 8, 0.15


def plain(file: Path, room: Path) -> Callable[[Any], Any]:
    """A session as anybody makes one."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def ours(file: Path, room: Path) -> Callable[[Any], Any]:
    """The engine that serves."""
    return engines.load(formats.adopt(file, room / "adopted"), ServeConfig(threads=THREADS)).run


def measured(run: Callable[[Any], Any]) -> tuple[float, float]:
    """Microseconds of a run back to back, milliseconds of processor time of one alone."""
    feeds = {"x": np.random.default_rng(0).random((32, WIDTH)).astype(np.float32)}
    for _ in range(WARM):
        run(feeds)
    began = time.perf_counter()
    for _ in range(RUNS):
        run(feeds)
    each = (time.perf_counter() - began) / RUNS
    time.sleep(PAUSE)
    began = time.process_time()
    for _ in range(ALONE):
        run(feeds)
        time.sleep(PAUSE)
    return 1e6 * each, 1e3 * (time.process_time() - began) / ALONE


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {"plain session": [], "modelkeep's engine": []}
    for _ in range(given.rounds):
        for name, make in zip(found, (plain, ours), strict=True):
            with tempfile.TemporaryDirectory() as room:
                file = perceptron(Path(room) / "m.onnx", 256, 256)
                found[name].append(measured(make(file, Path(room))))
    print("| | back to back, µs a run | alone, ms of processor time a run |\n|---|---|---|")
    for name, rounds in found.items():
        back, alone = (median(values) for values in zip(*rounds, strict=True))
        print(f"| {name} | {back:.0f} | {alone:.2g} |")


if __name__ == "__main__":
    main()
