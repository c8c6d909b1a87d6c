"""How much of what the engine alone does with its best batching is left when clients ask over HTTP?

    python benchmarks/serving/shares.py [--model resnet18 bert-small] [--rounds 5] [--seconds 10] [--json FILE]

ResNet-18 gets pictures of 600 KB as binary tensors; BERT-small (4 layers, 512 wide, with a mask) sequences of 8 to 128
tokens, as many of each length. `modelkeep serve` with one thread of ONNX Runtime has the first core, its worker
included, and batches of as many rows at most as suit the engine best, which is what tune finds; 32 connections load it
from the last. The engine alone runs the same rows on the first core in the batches
that suit it best: of 1 to 32 rows, whichever is fastest; the sequences sorted by length and padded to the longest of a
batch, which no server can do, as it does not know what will come. Rounds alternate; shares are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from load import binary, timed

sys.path.insert(0, str(Path(__file__).parents[1]))

CONNECTIONS = 32
BATCHES = (1, 2, 4, 8, 16, 32)
NEEDED = 0.85
SERVER = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
from pathlib import Path
from modelkeep.keep import Keep
from modelkeep.settings import Settings
keep = Keep(Settings(home=Path(sys.argv[2]), port=0))
options = {"threads": 1, "max_batch": int(sys.argv[3])}
keep.serve(["m"], options=options, on_ready=lambda url: print(url, flush=True))
"""


def images() -> list[dict[str, Any]]:
    """Requests for ResNet-18: one picture each."""
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((1, 3, 224, 224)).astype(np.float32)} for _ in range(64)]


def sentences() -> list[dict[str, Any]]:
    """Requests for BERT-small: one sequence each, of 8 to 128 tokens."""
    rng = np.random.default_rng(0)
    lengths = rng.permutation(np.resize(np.arange(8, 129), 484))
    made = []
    for length in lengths.tolist():
        ids = rng.integers(1, 30_000, (1, length))
        made.append({"ids": ids, "mask": np.ones_like(ids)})
    return made


def file(name: str, into: Path) -> Path:
    """The model as ONNX, with what may vary free."""
    import torch
    from models import BertSmall, ResNet18
    from torch.export import Dim

    torch.manual_seed(0)
    torch.set_num_threads(1)
    path, rows, length = into / f"{name}.onnx", Dim("batch"), Dim("sequence", min=8, max=128)
    model: ResNet18 | BertSmall
    example: tuple[torch.Tensor, ...]
    free: tuple[dict[int, Dim], ...]
    if name == "resnet18":
        model, example, free = ResNet18().eval(), (torch.zeros(2, 3, 224, 224),), ({0: rows},)
    else:
        ids = torch.ones(2, 16, dtype=torch.int64)
        model, example, free = BertSmall().eval(), (ids, ids), ({0: rows, 1: length}, {0: rows, 1: length})
    names = ["x"] if name == "resnet18" else ["ids", "mask"]
    with torch.no_grad():
        made = torch.onnx.export(
            model, example, dynamo=True, dynamic_shapes=free, input_names=names, output_names=["y"], verbose=False
        )
    assert made is not None
    made.save(path)
    return path


@contextmanager
def serving(model: Path, core: int, room: Path, batch: int) -> Iterator[int]:
    """The port of a server on one core, with batches of so many rows at most."""
    from modelkeep.keep import Keep
    from modelkeep.settings import Settings

    Keep(Settings(home=room / "home")).add(model, "m")
    command = [sys.executable, "-c", SERVER, str(core), str(room / "home"), str(batch)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield int(server.stdout.readline().strip().rsplit(":", 1)[1])
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def padded(rows: Any, length: int) -> Any:
    """[rows, tokens] with zeros behind, up to ``length`` tokens."""
    return np.pad(rows, ((0, 0), (0, length - rows.shape[1])))


class Engine:
    """ONNX Runtime alone, with one thread on one core."""

    def __init__(self, model: Path, requests: list[dict[str, Any]]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        ordered = sorted(requests, key=lambda r: next(iter(r.values())).shape[1])
        self.batches = {size: self.joined(ordered, size) for size in BATCHES}

    def joined(self, requests: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
        """Batches of so many requests."""
        made = []
        for at in range(0, len(requests) - size + 1, size):
            group = requests[at : at + size]
            if "x" in group[0]:
                made.append({"x": np.concatenate([r["x"] for r in group])})
                continue
            longest = max(r["ids"].shape[1] for r in group)
            names = ("ids", "mask")
            made.append(
                {
                    n: np.concatenate([np.pad(r[n], ((0, 0), (0, longest - r[n].shape[1]))) for r in group])
                    for n in names
                }
            )
        return made

    def rate(self, size: int, seconds: float) -> float:
        """Rows a second, over batches of this size taken in turn, in an order by chance; of sequences, whole passes."""
        batches, rows, began = self.batches[size], 0, time.perf_counter()
        order = np.random.default_rng(0).permutation(len(batches))
        while True:
            for at in order:
                self.session.run(None, batches[at])
                rows += size
                spent = time.perf_counter() - began
                if spent > seconds and "x" in batches[at]:
                    return rows / spent
            if spent > seconds:
                return rows / spent


def measure(name: str, rounds: int, seconds: float, room: Path) -> dict[str, Any]:
    """Requests a second, round by round, of the server and of the engine at its best batch."""
    cores = sorted(os.sched_getaffinity(0))
    requests = images() if name == "resnet18" else sentences()
    model = file(name, room)
    os.sched_setaffinity(0, {cores[0]})
    engine = Engine(model, requests)
    rates = {size: engine.rate(size, seconds / 2) for size in BATCHES}
    best = max(rates, key=lambda size: rates[size])
    found: dict[str, Any] = {"engine by batch": rates, "best batch": best, "engine": [], "served": [], "p99": []}
    sent = [binary("m", r) for r in requests]
    with serving(model, cores[0], room, best) as port:
        for number in range(-1, rounds):
            os.sched_setaffinity(0, {cores[0]})
            alone = engine.rate(best, seconds)
            os.sched_setaffinity(0, {cores[-1]})
            latencies, rate = timed(port, sent, CONNECTIONS, seconds)
            if number >= 0:  # the first warms up
                found["engine"].append(alone)
                found["served"].append(rate)
                found["p99"].append(float(np.quantile(latencies, 0.99)))
    found["shares"] = [a / b for a, b in zip(found["served"], found["engine"], strict=True)]
    return found


def main() -> int:
    """Measure and print; 1 where a share is below what is needed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", choices=("resnet18", "bert-small"), default=["resnet18", "bert-small"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = {}
    print(
        "| model | served, requests/s | p99 ms | engine alone, rows/s | best batch | share |\n|---|---|---|---|---|---|"
    )
    for name in given.model:
        with tempfile.TemporaryDirectory() as room:
            one = found[name] = measure(name, given.rounds, given.seconds, Path(room))
        share = f"{median(one['shares']):.0%} ({min(one['shares']):.0%} to {max(one['shares']):.0%})"
        print(
            f"| {name} | {median(one['served']):.1f} | {1e3 * median(one['p99']):.0f} | {median(one['engine']):.1f} "
            f"| {one['best batch']} | {share} |"
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return int(any(median(one["shares"]) < NEEDED for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
