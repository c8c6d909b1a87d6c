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
import asyncio
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

WIDTH, CLASSES, CONNECTIONS = 784, 10, 32
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


def perceptron(path: Path, hidden: int) -> Path:
    """An ONNX file with seeded weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    sizes = {"w1": (WIDTH, hidden), "b1": (hidden,), "w2": (hidden, CLASSES), "b2": (CLASSES,)}
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32) / 28, n) for n, s in sizes.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    x, y = value("x", TensorProto.FLOAT, [None, WIDTH]), value("y", TensorProto.FLOAT, [None, CLASSES])
    graph = helper.make_graph(nodes, "mlp", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def requests() -> dict[str, bytes]:
    """One HTTP request of one row in each form."""
    row = np.random.default_rng(1).random((1, WIDTH)).astype(np.float32)
    tensor: dict[str, Any] = {"name": "x", "shape": [1, WIDTH], "datatype": "FP32"}
    plain = json.dumps({"inputs": [{**tensor, "data": [round(float(v), 4) for v in row[0]]}]}).encode()
    head = json.dumps(
        {
            "inputs": [{**tensor, "parameters": {"binary_data_size": row.nbytes}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    forms = {"JSON": ("", plain), "binary": (f"inference-header-content-length: {len(head)}\r\n", head + row.tobytes())}
    return {
        form: f"POST /v2/models/mlp/infer HTTP/1.1\r\nhost: x\r\n{extra}content-length: {len(body)}\r\n\r\n".encode()
        + body
        for form, (extra, body) in forms.items()
    }


class Client(asyncio.Protocol):
    """Sends the request again as soon as it is answered, until ``until``."""

    def __init__(self, request: bytes, until: float, latencies: list[float]) -> None:
        self.request, self.until, self.latencies = request, until, latencies
        self.done = asyncio.get_running_loop().create_future()
        self.buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
            return
        assert head.startswith(b"HTTP/1.1 200"), self.buffer
        now = time.perf_counter()
        self.latencies.append(now - self.sent)
        self.buffer = b""
        if now < self.until:
            self.send()
        else:
            self.transport.close()
            self.done.set_result(None)


def load(port: int, request: bytes, connections: int, seconds: float) -> list[float]:
    """Latencies of a closed loop."""
    import uvloop

    async def main() -> list[float]:
        latencies: list[float] = []
        loop, until = asyncio.get_running_loop(), time.perf_counter() + seconds
        made = [
            await loop.create_connection(lambda: Client(request, until, latencies), "127.0.0.1", port)
            for _ in range(connections)
        ]
        await asyncio.gather(*(client.done for _, client in made))
        return latencies

    return uvloop.run(main())


def cpu(pid: int) -> float:
    """Seconds that a process and those below it have computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    below = Path(f"/proc/{pid}/task").glob("*/children")
    ticks = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return ticks + sum(cpu(int(child)) for file in below for child in file.read_text().split())


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
            for form, request in requests().items():
                for how, (port, pid) in (("process", process), ("thread", thread)):
                    before = cpu(pid)
                    busy = sorted(load(port, request, CONNECTIONS, seconds))
                    spent = cpu(pid) - before
                    lone = sorted(load(port, request, 1, seconds / 2))
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
    for form in requests():
        for name in ("requests/s", "CPU µs"):
            pairs = zip(found[f"{form} process"][name], found[f"{form} thread"][name], strict=True)
            ratios = [p / t for p, t in pairs]
            print(f"{form}, {name}, process / thread: {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
