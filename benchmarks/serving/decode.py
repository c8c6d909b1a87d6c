"""How long is a JSON request's way into arrays, with simdjson and without?

    python benchmarks/serving/decode.py [--repeats 15]

Requests of the Open Inference Protocol as clients send them, each read by codec.decode as it is and with simdjson left
out; the two take turns, the best of the repeats counts, and the ratio is of one process.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from timeit import timeit
from typing import Any

import numpy as np

from modelkeep.serve.protocol import codec, lists

BYTES = 2_000_000
"""Of bodies that each repeat reads."""


def body(inputs: Mapping[str, Any]) -> bytes:
    """An infer request with its numbers flat, as most clients send them."""
    kinds = {"float64": "FP32", "int64": "INT64"}
    tensors = [
        {"name": name, "shape": list(a.shape), "datatype": kinds[str(a.dtype)], "data": a.ravel().tolist()}
        for name, a in inputs.items()
    ]
    return json.dumps({"inputs": tensors}).encode()


def requests() -> dict[str, bytes]:
    """By what they are."""
    rng = np.random.default_rng(0)
    return {
        "a row of 784 numbers": body({"x": rng.random((1, 784)).round(4)}),
        "32 such rows": body({"x": rng.random((32, 784)).round(4)}),
        "a picture of 3 × 224 × 224": body({"x": rng.random((1, 3, 224, 224)).round(4)}),
        "512 tokens and their mask": body({"ids": rng.integers(0, 30_000, (1, 512)), "mask": np.ones((1, 512), int)}),
        "16 columns of a row": body({f"c{n}": rng.random((1, 1)).round(4) for n in range(16)}),
    }


def best(sent: bytes, repeats: int) -> tuple[float, float]:
    """Microseconds with simdjson and without."""
    number, most = max(BYTES // len(sent), 1), lists.MOST
    found: dict[int, list[float]] = {most: [], 0: []}
    try:
        for _ in range(repeats):
            for lists.MOST, times in found.items():
                times.append(1e6 * timeit(lambda: codec.decode(sent), number=number) / number)
    finally:
        lists.MOST = most
    return min(found[most]), min(found[0])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    print("| request | kB | with simdjson | without | ratio |\n|---|---|---|---|---|")
    for name, sent in requests().items():
        fast, slow = best(sent, given.repeats)
        print(f"| {name} | {len(sent) / 1000:.1f} | {fast:.0f} µs | {slow:.0f} µs | {slow / fast:.2f}× |")


if __name__ == "__main__":
    main()
