"""Is a promised p99 kept under more load than there is room for? By clients that heed Retry-After, and by others.

    python benchmarks/serving/promise.py [--seconds 10] [--connections 48] [--promise 0.05]

A perceptron of 37 million parameters, `modelkeep serve --p99 … --max-batch 8`, server and worker on the first core, the
load on the last: each connection asks again as soon as it is answered, and when it is refused at once (impatient) or
after Retry-After (patient). Answers that were asked for in the first LEAD seconds are left out: until then the server
learns how long a run takes beside so much else.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import uvloop
from load import asked, perceptron

LEAD = 2.0
LENGTH, AFTER = re.compile(rb"(?i)\r\ncontent-length: (\d+)"), re.compile(rb"(?i)\r\nretry-after: (\d+)")


async def client(port: int, request: bytes, until: float, found: list[tuple[float, float]], *, patient: bool) -> int:
    """Ask until then; (when, seconds) of each answer goes into ``found``. How often it was refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    refused = 0
    while (began := time.perf_counter()) < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = LENGTH.search(head)
        assert length is not None
        await reader.readexactly(int(length[1]))
        if head.startswith(b"HTTP/1.1 200"):
            found.append((began, time.perf_counter() - began))
            continue
        after = AFTER.search(head)
        if not head.startswith(b"HTTP/1.1 429") or after is None:
            raise SystemExit(head.decode())
        refused += 1
        if patient:
            await asyncio.sleep(float(after[1]) * (0.5 + np.random.default_rng().random()))
    writer.close()
    return refused


async def load(port: int, request: bytes, given: argparse.Namespace, *, patient: bool) -> str:
    """A row of the table."""
    began, found = time.perf_counter(), []  # type: tuple[float, list[tuple[float, float]]]
    until = began + LEAD + given.seconds
    many = [client(port, request, until, found, patient=patient) for _ in range(given.connections)]
    refused = sum(await asyncio.gather(*many))
    late = np.array([seconds for at, seconds in found if at - began > LEAD])
    low, high = 1e3 * np.quantile(late, [0.5, 0.99])
    rate = len(late) / given.seconds
    return f"{rate:.0f} | {refused / (LEAD + given.seconds):,.0f} | {low:.0f} ms | {high:.0f} ms |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=48)
    parser.add_argument("--promise", type=float, default=0.05)
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    print("| clients | answers/s | refusals/s | p50 | p99 |\n|---|---|---|---|---|")
    for name in ("patient", "impatient"):
        with tempfile.TemporaryDirectory() as room:
            file = perceptron(Path(room) / "mlp.onnx", 4096, 4096, 4096)
            command = ["taskset", "-c", str(cores[0]), sys.executable, "-m", "modelkeep", "serve", str(file)]
            command += ["--port", "0", "--threads", "1", "--max-batch", "8", "--p99", f"{given.promise}s"]
            environ = {**os.environ, "MODELKEEP_HOME": f"{room}/home"}
            server = subprocess.Popen(command, env=environ, cwd=room, stdout=subprocess.PIPE, text=True)
            assert server.stdout is not None
            port = next(int(said[1]) for line in server.stdout if (said := re.search(r"http://[\w.]+:(\d+)", line)))
            os.sched_setaffinity(0, {cores[-1]})
            told = uvloop.run(load(port, asked()["binary"], given, patient=name == "patient"))
            os.sched_setaffinity(0, set(cores))
            server.send_signal(signal.SIGTERM)
            server.wait(30)
        print(f"| {name} | {told}", flush=True)


if __name__ == "__main__":
    main()
