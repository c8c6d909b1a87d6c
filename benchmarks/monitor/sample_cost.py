"""What does a sample of the traffic cost (serve --sample), by request, and how many bytes does a request take?

    python benchmarks/monitor/sample_cost.py [--requests 20000] [--rounds 5] [--json FILE]

Exchanges of a perceptron (784 floats in, 10 out), of a table (12 columns of one number) and of a text are handed to a
Sample of share 1, 0.1 and 0, as fast as its writer keeps up. Prints, as the median of the rounds with the least and the
most: microseconds that offer() holds the server up, microseconds of processor time
that the writer takes for each request written, bytes in the files for each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from modelkeep.data import sample
from modelkeep.data.masks import Masks
from modelkeep.data.sample import Sample
from modelkeep.data.traffic import Exchange

LOT = 1000
"""Requests between two waits for the writer."""


def exchanges(kind: str, n: int) -> list[Exchange]:
    """So many different requests."""
    rng = np.random.default_rng(0)
    answer = {"score": rng.random((1, 10), dtype=np.float32)}
    words = np.array([f"word{i}" for i in range(500)])

    def inputs() -> dict[str, Any]:
        if kind == "perceptron":
            return {"pixels": rng.random((1, 784), dtype=np.float32)}
        if kind == "table":
            return {f"column{i}": rng.random((1, 1)) for i in range(12)}
        return {"text": np.array([[" ".join(rng.choice(words, 40))]], dtype=object)}

    return [
        Exchange(f"{kind}-{i}", time.time(), "m", 1, "live", "ok", 0.001, inputs(), answer, parameters={"t": 0.5})
        for i in range(n)
    ]


def measure(given: list[Exchange], share: float, masks: str, folder: Path) -> dict[str, float]:
    """One round."""
    one = Sample(folder, share=share or 1.0, masks=Masks(masks, bytes(32)))
    one.share = share
    held, before = 0.0, _cpu(one)
    for at in range(0, len(given), LOT):
        began = time.perf_counter()
        for exchange in given[at : at + LOT]:
            one.offer(exchange)
        held += time.perf_counter() - began
        one.flush(60)
    taken = _cpu(one) - before
    one.close()
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    return {
        "offer_us": held / len(given) * 1e6,
        "writer_us": taken / one.written * 1e6 if one.written else 0.0,
        "bytes": size / one.written if one.written else 0.0,
        "written": one.written,
        "dropped": one.dropped,
    }


def _cpu(one: Sample) -> float:
    """Seconds of processor time that the writer's thread has taken."""
    clock = time.pthread_getcpuclockid(one._thread.ident or 0)
    return time.clock_gettime(clock)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sample.CPU = 1e9  # its pace is not what is measured
    found: dict[str, dict[str, list[float]]] = {}
    for kind, masks in (("perceptron", ""), ("table", ""), ("text", ""), ("text", "hash:text")):
        given = exchanges(kind, options.requests)
        for share in (1.0, 0.1, 0.0):
            name = f"{kind}{', hashed' if masks else ''}, share {share:g}"
            rounds = []
            for _ in range(options.rounds):
                with tempfile.TemporaryDirectory(prefix="modelkeep-") as room:
                    rounds.append(measure(given, share, masks, Path(room)))
            found[name] = {key: [one[key] for one in rounds] for key in rounds[0]}
            told = "  ".join(
                f"{key} {median(values):,.2f} ({min(values):,.2f} to {max(values):,.2f})"
                for key, values in found[name].items()
            )
            print(f"{name:24} {told}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
