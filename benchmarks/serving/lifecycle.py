"""Is any request lost by switches of the live version, by workers that are killed, or by the end of the service?

    python benchmarks/serving/lifecycle.py [--switches 100] [--clients 6] [--kill-every 10] [--json FILE]

`modelkeep serve` follows a registry of three versions, each of which multiplies by its number. Clients ask all the time
and check that each answer is that of the version which it names. Meanwhile the live version is switched, now and then
a worker is killed with SIGKILL, and at last SIGTERM ends the server under load. Prints what was asked, answered and
lost, seconds from promotion to the first answer of the new version, the memory of server and workers, and whether a
process is left. Exit code 1 where a request was lost or a process is left.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modelkeep.data.dataset import Dataset
from modelkeep.model import formats
from modelkeep.registry import Registry
from modelkeep.settings import Settings

VERSIONS = 3
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]})


def fill(room: Path) -> Registry:
    """A registry with the versions."""
    import onnx
    from onnx import TensorProto, helper

    registry = Registry.open(Settings(home=room / ".modelkeep"))
    value = helper.make_tensor_value_info
    for number in range(1, VERSIONS + 1):
        graph = helper.make_graph(
            [helper.make_node("Mul", ["x", "factor"], ["y"])],
            "scale",
            [value("x", TensorProto.FLOAT, ["rows", 4])],
            [value("y", TensorProto.FLOAT, ["rows", 4])],
            [helper.make_tensor("factor", TensorProto.FLOAT, [1], [float(number)])],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(made, room / f"{number}.onnx")
        (room / str(number)).mkdir()
        rows = Dataset({"x": np.ones((4, 4), np.float32)}, None, "made")
        formats.adopt(room / f"{number}.onnx", room / str(number), data=rows)
        registry.add("m", room / str(number), made_by="benchmark")
    return registry


class Client(threading.Thread):
    """Asks over one connection until it is told that this one closes."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port, self.answered, self.version = port, 0, 0
        self.lost: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)
        while True:
            try:
                connection.request("POST", "/v2/models/m/infer", BODY)
                reply = connection.getresponse()
                said = json.loads(reply.read())
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                return
            if reply.status != 200 or said["outputs"][0]["data"][0] != int(said["model_version"]):
                self.lost.append(f"{reply.status} {said}")
            else:
                self.answered += 1
                self.version = int(said["model_version"])
            if reply.headers.get("connection") == "close":
                return


def below(pid: int) -> list[int]:
    """Processes that this one has started."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def memory(pid: int) -> int:
    """Bytes of a process and those below it, what they share counted once for each."""
    pages = 0
    for one in (pid, *below(pid)):
        with contextlib.suppress(OSError):  # it has just ended
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def switch(registry: Registry, clients: list[Client], number: int) -> float:
    """Promote, and the seconds until every client has had an answer of that version."""
    began = time.monotonic()
    registry.promote("m", number, why="benchmark")
    while any(c.version != number and c.is_alive() for c in clients):
        if time.monotonic() - began > 60:
            raise TimeoutError(f"version {number} does not answer: {[c.lost for c in clients]}")
        time.sleep(0.002)
    return time.monotonic() - began


def run(room: Path, switches: int, how_many: int, kill_every: int) -> dict[str, Any]:
    """The whole life of one server."""
    registry = fill(room)
    registry.promote("m", 1, why="first")
    with contextlib.closing(registry), serving(room) as server:
        return measure(registry, server, switches, how_many, kill_every)


@contextlib.contextmanager
def serving(room: Path) -> Iterator[subprocess.Popen[str]]:
    """The server; it is ended whatever happens here."""
    server = subprocess.Popen(
        [sys.executable, "-m", "modelkeep", "serve", "m", "--port", "0", "--threads", "1", "--workers", "2"],
        cwd=room,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield server
    finally:
        server.kill()
        server.wait()


def measure(
    registry: Registry, server: subprocess.Popen[str], switches: int, how_many: int, kill_every: int
) -> dict[str, Any]:
    """What is to be printed."""
    assert server.stdout is not None
    line = server.stdout.readline()
    port = int(line.partition("http://127.0.0.1:")[2].partition(" ")[0])
    clients = [Client(port) for _ in range(how_many)]
    for client in clients:
        client.start()
    took, killed, sizes = [], 0, []
    for turn in range(switches):
        took.append(switch(registry, clients, 1 + (turn + 1) % VERSIONS))
        sizes.append(memory(server.pid))
        if kill_every and turn % kill_every == 0 and (workers := below(server.pid)):
            os.kill(random.choice(workers), signal.SIGKILL)
            killed += 1
    workers = below(server.pid)
    server.send_signal(signal.SIGTERM)
    for client in clients:
        client.join(60)
    code = server.wait(60)
    left = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    return {
        "answered": sum(c.answered for c in clients),
        "lost": [one for c in clients for one in c.lost],
        "switches": switches,
        "killed": killed,
        "switch_seconds": sorted(took),
        "memory": {"first": max(sizes[: len(sizes) // 4]), "last": max(sizes[-len(sizes) // 4 :])},
        "exit_code": code,
        "left": left,
    }


def main() -> int:
    """Run and print; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--switches", type=int, default=100)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--kill-every", type=int, default=10)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        found = run(Path(room), given.switches, given.clients, given.kill_every)
    took = found["switch_seconds"]
    print(f"{found['answered']:,} requests answered, {len(found['lost'])} lost: {found['lost'][:3]}")
    print(f"{found['switches']} switches, {took[len(took) // 2]:.2f} s each (p50; the longest {took[-1]:.2f} s)")
    print(f"{found['killed']} workers killed; exit code {found['exit_code']}; processes left: {found['left']}")
    first, last = found["memory"]["first"], found["memory"]["last"]
    print(f"memory: {first / 1e6:.0f} MB in the first quarter, {last / 1e6:.0f} MB in the last")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return int(bool(found["lost"] or found["left"] or found["exit_code"]))


if __name__ == "__main__":
    sys.exit(main())
