"""Does a server keep its promises for ten minutes at 70 % load, with all that goes wrong in a long night?

    python benchmarks/serving/soak.py [--seconds 600] [--share 0.7] [--connections 16] [--json FILE] [--report FILE.md]

First a closed loop finds what the server can do; then clients ask at that share of it and check that each answer is
that of the version which it names. Meanwhile workers are killed with SIGKILL, the live version is switched, clients
leave before their answer, and malformed requests come in; at last SIGTERM ends the server under load. Nothing that was
accepted may be lost, no malformed request may be answered with a 5xx, the server's own counters must agree with what
clients saw, no process may be left, and in a run of five minutes or more the server's resident memory may grow by less
than 2 % (the median of the last tenth beside that of the second; workers are replaced all the time, so that theirs is
told, not judged). Exit code 1 where one of these was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import lifecycle
import load

JUDGED = 300.0
"""Seconds from which growth of memory says something: before, caches and counters are still filling."""
GROWTH = 0.02
CATCH_UP = 1.0
"""Seconds that a client may be behind its plan and still make up for."""
ANSWER = re.compile(rb'"model_version":"(\d+)".*"data":\[(\d+)\.0,')
BODY = lifecycle.BODY.encode()
REQUEST = load.post("/v2/models/m/infer", BODY)
EMPTY = json.dumps(
    {"inputs": [{"name": "x", "shape": [0, 2**62, 2**62], "datatype": "FP32", "parameters": {"binary_data_size": 0}}]}
).encode()
MALFORMED = (
    load.post("/v2/models/m/infer", b"{"),
    load.post("/v2/models/m/infer", b'{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1]}]}'),
    load.post("/v2/models/m/infer", b'{"inputs": [{"name": "x", "shape": [9e9], "datatype": "FP64", "data": []}]}'),
    load.post("/v2/models/m/infer", b"\x00\xff" * 50, "inference-header-content-length: 90\r\n"),
    load.post("/v2/models/m/infer", b'{"parameters": {"deep": ' + b"[" * 900 + b"]" * 900 + b"}, " + BODY[1:]),
    load.post("/v2/models/m/infer", EMPTY, f"inference-header-content-length: {len(EMPTY)}\r\n"),
    load.post(f"/v2/models/m/versions/{'9' * 5000}/infer", BODY),
    load.post("/v2/models/nobody/infer", BODY),
    load.post("/v2/models/m/infer", BODY, "content-encoding: gzip\r\n"),
    b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01 this is no HTTP\r\n\r\n",
)


@dataclass
class Tally:
    """What clients saw."""

    answered: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    latencies: array[float] = field(default_factory=lambda: array("d"))
    versions: Counter[int] = field(default_factory=Counter)
    happened: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, int, int]] = field(default_factory=list)
    count: tuple[int, int, int] = (0, 0, 0)
    """Answers that clients had before the server was asked, that it has counted, and that clients had after."""
    held: int = 0
    """Requests that the server then said were in it."""
    stopping: bool = False


class Client(asyncio.Protocol):
    """Asks every ``every`` seconds over one connection, later where the answer takes longer, and checks it."""

    def __init__(self, tally: Tally, every: float) -> None:
        self.tally, self.every, self.loop = tally, every, asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()
        self.due, self.waiting, self.buffer = self.loop.time() + random.random() * every, False, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.loop.call_at(self.due, self.send)

    def send(self) -> None:
        if not self.transport.is_closing():
            self.sent, self.waiting = self.loop.time(), True
            self.transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        head = head.lower()
        if not found or len(body) < int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]):
            return
        self.buffer, self.waiting = b"", False
        self.check(int(head[9:12]), body)
        if b"connection: close" in head:
            self.transport.close()
            return
        now = self.loop.time()
        self.due = max(now - CATCH_UP, self.due + self.every)
        self.loop.call_at(max(now, self.due), self.send)

    def check(self, status: int, body: bytes) -> None:
        found = ANSWER.search(body)
        if status == 200 and found is not None and found[1] == found[2]:
            self.tally.answered += 1
            self.tally.versions[int(found[1])] += 1
            self.tally.latencies.append(self.loop.time() - self.sent)
        elif status == 429:
            self.tally.refused[status] += 1
        else:
            self.tally.lost.append(f"{status}: {body[:200]!r}")

    def connection_lost(self, error: Exception | None) -> None:
        if self.waiting or not (self.tally.stopping or self.transport.is_closing()):
            self.tally.lost.append(f"the connection was closed: {error!r}")
        if not self.done.done():
            self.done.set_result(None)


class Trouble:
    """All that happens to the server meanwhile."""

    def __init__(self, registry: Any, pid: int, port: int, tally: Tally) -> None:
        self.registry, self.pid, self.port, self.tally = registry, pid, port, tally
        self.turn = 0

    async def kill(self) -> None:
        """A worker ends as if the system had taken it."""
        if workers := lifecycle.below(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(random.choice(workers), signal.SIGKILL)
                self.tally.happened["workers killed"] += 1

    async def switch(self) -> None:
        """Another version is live."""
        self.turn += 1
        number = 1 + self.turn % lifecycle.VERSIONS
        await asyncio.to_thread(self.registry.promote, "m", number, why="soak")
        self.tally.happened["switches"] += 1

    async def leave(self) -> None:
        """A client that does not wait for its answer."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(REQUEST)
        await writer.drain()
        writer.transport.abort()
        self.tally.happened["abandoned requests"] += 1

    async def malform(self) -> None:
        """A request that makes no sense must be refused, as the client's fault."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        request = random.choice(MALFORMED)
        writer.write(request)
        said = b""
        with contextlib.suppress(ConnectionError):
            said = await asyncio.wait_for(reader.readline(), 30)
        writer.close()
        self.tally.happened["malformed requests"] += 1
        if not said.startswith(b"HTTP/1.1 4"):
            self.tally.lost.append(f"malformed {request[:80]!r} got {said!r}")

    async def weigh(self) -> None:
        """The memory of the server, and of it with its workers."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        own = pages * os.sysconf("SC_PAGE_SIZE")
        self.tally.memory.append((time.monotonic(), own, lifecycle.memory(self.pid)))


async def again(what: Callable[[], Awaitable[None]], every: float, tally: Tally) -> None:
    """Until it is cancelled, at moments that nobody can foresee."""
    while True:
        await asyncio.sleep(random.uniform(0.5, 1.5) * every)
        try:
            await what()
        except OSError as error:  # the server took no connection, or did not answer in time
            tally.lost.append(f"{what.__name__}: {error!r}")


async def asking(registry: Any, server: subprocess.Popen[str], port: int, given: Any, rate: float) -> Tally:
    """The whole soak, to the end of the server."""
    tally, loop = Tally(), asyncio.get_running_loop()
    trouble = Trouble(registry, server.pid, port, tally)
    made = [
        await loop.create_connection(lambda: Client(tally, given.connections / rate), "127.0.0.1", port)
        for _ in range(given.connections)
    ]
    happening = ((trouble.kill, 10.0), (trouble.switch, 5.0), (trouble.leave, 0.5), (trouble.malform, 0.25))
    tasks = [asyncio.create_task(again(what, every, tally)) for what, every in (*happening, (trouble.weigh, 1.0))]
    ended, _ = await asyncio.wait(tasks, timeout=given.seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()  # it ends by an error only
    before = tally.answered
    tally.count = (before, await asyncio.to_thread(counted, port), tally.answered)
    tally.held = await asyncio.to_thread(told, port, "modelkeep_requests_in_flight ")
    tally.stopping = True
    server.send_signal(signal.SIGTERM)
    await asyncio.wait([client.done for _, client in made], timeout=60)
    tally.lost += ["a client never heard of the end" for _, client in made if not client.done.done()]
    return tally


def counted(port: int) -> int:
    """Requests that the server says it has answered, of all versions."""
    return told(port, "modelkeep_requests_total{", 'outcome="ok"')


def told(port: int, start: str, within: str = "") -> int:
    """The sum of the server's metrics whose lines start so and hold that."""
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    found = [line for line in lines if line.startswith(start) and within in line]
    return round(sum(float(line.rpartition(" ")[2]) for line in found))


def run(room: Path, given: Any) -> dict[str, Any]:
    """Everything that is to be printed."""
    registry = lifecycle.fill(room)
    registry.promote("m", 1, why="first")
    with contextlib.closing(registry), lifecycle.serving(room) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().partition("http://127.0.0.1:")[2].partition(" ")[0])
        load.closed(port, REQUEST, given.connections, 1.0)
        most = len(load.closed(port, REQUEST, given.connections, min(5.0, given.seconds / 4))) / min(
            5.0, given.seconds / 4
        )
        before = counted(port)
        tally = asyncio.run(asking(registry, server, port, given, given.share * most))
        workers = lifecycle.below(server.pid)
        code = server.wait(60)
        left = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    return judged(tally, given, most, before) | {"exit_code": code, "left": left}


def judged(tally: Tally, given: Any, most: float, before: int) -> dict[str, Any]:
    """Numbers of a tally, and what was broken."""
    least, served, most_seen = tally.count
    served -= before
    tenth = max(len(tally.memory) // 10, 1)
    early = statistics.median(own for _, own, _ in tally.memory[tenth : 2 * tenth])
    late = statistics.median(own for _, own, _ in tally.memory[-tenth:])
    ordered = sorted(tally.latencies)
    broken = [f"lost: {len(tally.lost)}"] if tally.lost else []
    # the server counts before a client has read, and those who had left may have been answered too
    if not least <= served <= most_seen + given.connections + tally.happened["abandoned requests"]:
        broken.append(f"the server counted {served} answers and clients {least} to {most_seen}")
    if tally.held > given.connections:
        broken.append(f"{tally.held} requests hold places, and {given.connections} clients ask")
    if given.seconds >= JUDGED and late > (1 + GROWTH) * early:
        broken.append(f"memory grew by {late / early - 1:.1%}")
    return {
        "seconds": given.seconds,
        "capacity": most,
        "rate": len(ordered) / given.seconds,
        "answered": tally.answered,
        "refused": sum(tally.refused.values()),
        "lost": tally.lost,
        "counted": {"server": served, "clients": [least, most_seen]},
        "latency": {name: ordered[int(share * (len(ordered) - 1))] for name, share in QUANTILES.items()},
        "versions": dict(sorted(tally.versions.items())),
        "happened": dict(tally.happened),
        "memory": {"early": early, "late": late, "with_workers": max(whole for _, _, whole in tally.memory)},
        "broken": broken,
    }


QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "longest": 1.0}


def table(found: dict[str, Any]) -> str:
    """For people, as Markdown."""
    memory, latency, counts = found["memory"], found["latency"], found["counted"]
    clients = [f"{count:,}" for count in dict.fromkeys(counts["clients"])]
    judged = "" if found["seconds"] >= JUDGED else f" (judged from {JUDGED:.0f} s on)"
    rows = {
        "load": f"{found['rate']:,.0f} requests a second for {found['seconds']:.0f} s, of {found['capacity']:,.0f}",
        "answered": f"{found['answered']:,}; refused with 429: {found['refused']:,}",
        "lost": f"{len(found['lost'])} {found['lost'][:3] or ''}",
        "latency": ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in latency.items()),
        "meanwhile": ", ".join(f"{count} {what}" for what, count in found["happened"].items()),
        "the server's counters": f"{counts['server']:,} answered, when clients had {' to '.join(clients)}",
        "memory of the server": f"{memory['early'] / 1e6:.1f} MB early, {memory['late'] / 1e6:.1f} MB late: "
        f"{memory['late'] / memory['early'] - 1:+.1%}{judged}",
        "with its workers": f"{memory['with_workers'] / 1e6:.0f} MB at most",
        "the end": f"SIGTERM under load: exit code {found['exit_code']}, processes left: {found['left'] or 'none'}",
        "broken": "; ".join(found["broken"]) or "nothing",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {what} | {said.strip()} |" for what, said in rows.items())])


def main() -> int:
    """Run and print; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--share", type=float, default=0.7)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        found = run(Path(room), given)
    print(said := table(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if given.report:
        given.report.write_text(f"# Soak\n\n{said}\n", encoding="utf-8")
    return int(bool(found["broken"] or found["left"] or found["exit_code"]))


if __name__ == "__main__":
    sys.exit(main())
