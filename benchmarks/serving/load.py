"""What the benchmarks of serving share: a model, requests as bytes, a closed loop of load, the CPU time of a server."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, CLASSES = 784, 10


def perceptron(path: Path, *hidden: int) -> Path:
    """An ONNX file 784-HIDDEN-…-10 with seeded weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    sizes, nodes, weights, at = (WIDTH, *hidden, CLASSES), [], [], "x"
    for number, (wide, to) in enumerate(itertools.pairwise(sizes)):
        last = number == len(hidden)
        for name, shape in ((f"w{number}", (wide, to)), (f"b{number}", (to,))):
            values = rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(wide))
            weights.append(numpy_helper.from_array(values, name))
        into = "y" if last else f"h{number}"
        nodes.append(helper.make_node("Gemm", [at, f"w{number}", f"b{number}"], [into]))
        if not last:
            nodes.append(helper.make_node("Relu", [into], [at := f"r{number}"]))
    value = helper.make_tensor_value_info
    x, y = value("x", TensorProto.FLOAT, [None, WIDTH]), value("y", TensorProto.FLOAT, [None, CLASSES])
    graph = helper.make_graph(nodes, "mlp", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def row() -> Any:
    """One row of pixels, with as many digits as a camera gives."""
    return np.random.default_rng(1).random((1, WIDTH)).round(4).astype(np.float32)


def post(path: str, body: bytes, extra: str = "") -> bytes:
    """An HTTP request."""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{extra}content-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def asked() -> dict[str, bytes]:
    """One row as an infer request of the Open Inference Protocol, in each of its forms."""
    x = row()
    tensor: dict[str, Any] = {"name": "x", "shape": [1, WIDTH], "datatype": "FP32"}
    plain = json.dumps({"inputs": [{**tensor, "data": [round(float(v), 4) for v in x[0]]}]}).encode()
    return {"JSON": post("/v2/models/mlp/infer", plain), "binary": binary("mlp", {"x": x})}


def binary(model: str, inputs: Mapping[str, Any]) -> bytes:
    """An infer request of the Open Inference Protocol with its tensors as bytes, and the answer's too."""
    tensors, raw = [], b""
    for name, array in inputs.items():
        kind = {"float32": "FP32", "int64": "INT64"}[str(array.dtype)]
        size = {"binary_data_size": array.nbytes}
        tensors.append({"name": name, "shape": list(array.shape), "datatype": kind, "parameters": size})
        raw += array.tobytes()
    head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    length = f"inference-header-content-length: {len(head)}\r\n"
    return post(f"/v2/models/{model}/infer", head + raw, length)


class _Client(asyncio.Protocol):
    """Sends the next request as soon as the last is answered, until ``until``."""

    def __init__(self, requests: Iterator[bytes], until: float, latencies: list[float]) -> None:
        self.requests, self.until, self.latencies = requests, until, latencies
        self.done = asyncio.get_running_loop().create_future()
        self.buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        request = next(self.requests)
        self.sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(self.buffer.decode("utf-8", "replace")))
            self.transport.close()
            return
        now = time.perf_counter()
        self.latencies.append(now - self.sent)
        self.buffer = b""
        if now < self.until:
            self.send()
        else:
            self.transport.close()
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or RuntimeError("the server closed the connection"))


def closed(port: int, request: bytes | Sequence[bytes], connections: int, seconds: float) -> list[float]:
    """Latencies, sorted, of a closed loop, which sends several requests in turn. RuntimeError for what is not 200."""
    return timed(port, request, connections, seconds)[0]


def timed(port: int, request: bytes | Sequence[bytes], connections: int, seconds: float) -> tuple[list[float], float]:
    """The same, and answers a second: all that were asked for within ``seconds``, until the last of them has come."""
    (latencies,), spent = _load([port], request, connections, seconds)
    return sorted(latencies), len(latencies) / spent


def together(ports: Sequence[int], request: bytes | Sequence[bytes], connections: int, seconds: float) -> list[int]:
    """Answers of several servers that are loaded at the same time, with so many connections each."""
    return [len(latencies) for latencies in _load(ports, request, connections, seconds)[0]]


def _load(
    ports: Sequence[int], request: bytes | Sequence[bytes], connections: int, seconds: float
) -> tuple[list[list[float]], float]:
    """Latencies by port, and the seconds that it took."""
    import uvloop

    async def main() -> tuple[list[list[float]], float]:
        latencies: list[list[float]] = [[] for _ in ports]
        requests = itertools.cycle([request] if isinstance(request, bytes) else request)
        loop, began = asyncio.get_running_loop(), time.perf_counter()
        made = [
            await loop.create_connection(partial(_Client, requests, began + seconds, found), "127.0.0.1", port)
            for port, found in zip(ports, latencies, strict=True)
            for _ in range(connections)
        ]
        await asyncio.gather(*(client.done for _, client in made))
        return latencies, time.perf_counter() - began

    return uvloop.run(main())


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in file.read_text().split():
            found += tree(int(child))
    return found


def cpu(pid: int) -> float:
    """Seconds that a process and those below it have computed."""
    ticks = 0
    for one in tree(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
