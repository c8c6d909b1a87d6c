"""What a server with worker processes promises, broken on purpose: kills, crashes, signals, floods, leaving clients."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelkeep.metrics import Metrics
from modelkeep.serve.workers.worker import model_to
from modelkeep.types import Model, ServeConfig
from tests.waiting import alive, until

MakeModel = Callable[..., Model]
SEGFAULT, HANG = 11.0, 12.0  # as in tricky.py
INFER = "/v2/models/m/infer"
PROGRAM = """
import json, sys
from modelkeep.model import engines
from modelkeep.serve import server
from modelkeep.serve.sources.source import Fixed
from modelkeep.serve.protocol.address import listen
from modelkeep.serve.workers.worker import model_from
from modelkeep.settings import Settings
from modelkeep.types import ServeConfig
engines.ENGINES["tricky"] = engines.Engine("tricky:load", ("tricky",), "numpy")
model, settings, config = json.loads(sys.argv[1])
source = Fixed({"m": model_from(model)}, {"m": ServeConfig(engine="tricky", **config)})
with listen("127.0.0.1", 0) as sock:
    service = server.Service(source, Settings(**settings), sock)
    server._block(service, lambda url: print(url, flush=True))
"""


class Server:
    """A server in a process of its own, with what one can see of it from outside."""

    def __init__(self, model: Model, settings: dict[str, Any], config: dict[str, Any], *, wait: bool = True) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps([model_to(model), settings, config])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )
        assert self.process.stdout is not None
        if not wait:
            return
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            pytest.fail(f"the server did not start: {self.process.communicate()}")
        self.port = int(self.url.rsplit(":", 1)[1])

    def workers(self) -> list[int]:
        """Numbers of the worker processes."""
        files = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return sorted(int(pid) for file in files for pid in file.read_text().split())

    def memory(self) -> int:
        """Bytes of the server and its workers."""
        pages = sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in (self.process.pid, *self.workers()))
        return pages * os.sysconf("SC_PAGE_SIZE")

    def metric(self, start: str) -> float:
        """The sum of all series whose line starts so."""
        lines = httpx.get(f"{self.url}/metrics", timeout=20).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start))

    def ask(self, value: float) -> httpx.Response:
        """One row of one number."""
        return httpx.post(self.url + INFER, content=body(value), timeout=30)


def body(value: float) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [value]}]}).encode()


def asking(port: int, value: float) -> socket.socket:
    """A request that was sent and whose answer nobody has read."""
    content = body(value)
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content)
    return client


@contextmanager
def serving(model: Model, settings: dict[str, Any] | None = None, **config: Any) -> Iterator[Server]:
    server = Server(model, settings or {}, config)
    try:
        yield server
    finally:
        workers = server.workers()
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
        try:
            server.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            server.process.kill()
            raise
        until(lambda: not any(map(alive, workers)))


@dataclass
class Load:
    """Clients that ask again and again, each over one connection, until ``stop`` or until told that it closes."""

    port: int
    clients: int = 6
    statuses: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._ask, args=(n,), daemon=True) for n in range(self.clients)]
        for thread in self._threads:
            thread.start()
        until(lambda: sum(self.statuses.values()) >= self.clients)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _ask(self, number: int) -> None:
        value = 100.0 + number
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            while not self.stop.is_set():
                try:
                    connection.request("POST", INFER, body(value))
                    reply = connection.getresponse()
                    said = json.loads(reply.read())
                except (OSError, ValueError, http.client.HTTPException) as error:
                    self.lost.append(repr(error))
                    return
                if reply.status == 200 and said["outputs"][0]["data"] != [value]:
                    self.lost.append(f"{value}: {said}")
                if reply.status not in (200, 429):
                    self.lost.append(f"{reply.status}: {said}")
                self.statuses[reply.status] += 1
                if reply.headers.get("connection") == "close":
                    return


def test_workers_killed_under_load_lose_no_request_and_are_back_soon(tricky: MakeModel) -> None:
    back: list[float] = []
    with serving(tricky(seconds=0.002), workers=2) as server, Load(server.port) as load:
        for _ in range(4):
            before = server.workers()
            os.kill(before[0], signal.SIGKILL)
            killed = time.monotonic()
            until(lambda before=before: len(set(server.workers()) - set(before)) == 1)
            back.append(time.monotonic() - killed)
            until(lambda: server.metric('modelkeep_workers{model="m",version="1"}') == 2)
        assert server.metric("modelkeep_worker_deaths_total") == 4
    assert load.lost == []
    assert set(load.statuses) == {200}
    assert max(back) < 2, "each was noticed, and the next one started, within two seconds"


def test_the_only_worker_killed_is_unready_for_a_moment_and_answers_all_the_same(tricky: MakeModel) -> None:
    with serving(tricky()) as server:
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        reply = server.ask(1.0)
        assert (reply.status_code, reply.json()["outputs"][0]["data"]) == (200, [1.0])
        ready = httpx.get(f"{server.url}/v2/health/ready")
        assert ready.status_code == 200
        (other,) = server.workers()
        os.kill(other, signal.SIGSTOP)  # and one that does nothing is found out by its run's length
    assert not alive(worker)
    assert not alive(other)


def test_an_input_that_crashes_or_hangs_the_engine_fails_and_the_service_lives(tricky: MakeModel) -> None:
    with serving(tricky(), max_batch=8, run_timeout=0.5) as server, Load(server.port) as load:
        crashed = server.ask(SEGFAULT)
        hung = server.ask(HANG)
        again = [server.ask(SEGFAULT) for _ in range(5)]
        deaths = server.metric("modelkeep_worker_deaths_total")
    assert crashed.status_code == hung.status_code == 500
    assert crashed.json()["error"] == "m@1 failed on this request: the worker process was ended by SIGSEGV"
    assert "the worker process had not finished after 0.5 s, and was ended" in hung.json()["error"]
    assert all("they are not run again for a while" in reply.json()["error"] for reply in again)
    assert deaths == 4, "two for each, none for those who asked again"
    assert load.lost == []


@pytest.mark.parametrize("idle", [True, False])
def test_a_killed_server_takes_its_workers_along(tricky: MakeModel, idle: bool) -> None:
    server = Server(tricky(), {}, {"workers": 2})
    workers = server.workers()
    assert len(workers) == 2
    if not idle:
        with asking(server.port, HANG):
            until(lambda: server.metric("modelkeep_requests_in_flight") == 1)
    server.process.kill()
    server.process.communicate()
    until(lambda: not any(map(alive, workers)))


def test_sigterm_to_everybody_under_load_answers_everything(tricky: MakeModel) -> None:
    """As a service manager ends a service: the server and its workers get the signal."""
    server = Server(tricky(seconds=0.002), {}, {"workers": 2})
    with Load(server.port) as load:
        until(lambda: sum(load.statuses.values()) > 50)
        for pid in (*server.workers(), server.process.pid):
            os.kill(pid, signal.SIGTERM)
        load.join()
    _, said = server.process.communicate(timeout=30)
    assert load.lost == []
    assert (server.process.returncode, said) == (0, "")


def test_a_signal_ends_a_server_that_is_still_loading(tricky: MakeModel, tmp_path: Path) -> None:
    child = tmp_path / "child"
    server = Server(tricky(child=str(child), sleeps=True), {}, {}, wait=False)
    until(lambda: child.exists() and child.read_text())
    server.process.send_signal(signal.SIGTERM)
    server.process.communicate(timeout=20)
    until(lambda: not alive(int(child.read_text())))


def test_forty_abandoned_requests_cost_one_batch_at_most(tricky: MakeModel, tmp_path: Path) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    with serving(tricky(log=str(log), gate=str(gate)), {"max_queue_requests": 41}, max_batch=4) as server:
        held = threading.Thread(target=server.ask, args=(100.0,))
        held.start()
        until(log.exists)
        leavers = []
        for number in range(40):
            leavers.append(asking(server.port, 100.0 + number))
        until(lambda: server.metric("modelkeep_requests_in_flight") == 41)
        assert server.ask(1.0).status_code == 429
        for client in leavers:
            client.close()
        until(lambda: server.metric("modelkeep_requests_in_flight") == 1)  # their places are free
        gate.touch()
        held.join()
        assert server.ask(200.0).status_code == 200
        runs = log.read_text().split()
        assert runs[0] == runs[-1] == "1"
        assert len(runs) <= 3
        assert server.metric('modelkeep_requests_total{model="m",outcome="cancelled"') == 40


def test_at_ten_times_the_load_memory_is_flat_and_what_is_counted_is_what_clients_saw(tricky: MakeModel) -> None:
    """A model that can do 400 requests a second is asked by 64 clients that never wait."""
    settings = {"max_queue_requests": 16}
    with serving(tricky(seconds=0.01), settings, max_batch=4) as server:
        with Load(server.port, clients=8) as warm:
            until(lambda: sum(warm.statuses.values()) > 200)
        before = server.memory()
        with Load(server.port, clients=64) as load:
            until(lambda: load.statuses[200] > 400 and load.statuses[429] > 400)
        assert server.memory() < 1.1 * before
        seen = warm.statuses + load.statuses
        assert load.lost == warm.lost == []
        assert server.metric('modelkeep_requests_total{model="m",outcome="ok"') == seen[200]
        assert server.metric('modelkeep_requests_total{model="m",outcome="overloaded"') == seen[429]
        assert server.metric("modelkeep_rejections_total") == seen[429]
        assert server.metric("modelkeep_batch_size_sum") == seen[200]
        text = httpx.get(f"{server.url}/metrics").text
        within = re.findall(
            r'request_duration_seconds_bucket\{le="0.5",model="m",track="live",version="1"\} (\S+)', text
        )
        assert float(within[0]) >= 0.99 * sum(seen.values()), "sixteen in the server, 10 ms for four: 40 ms, not more"


def test_a_scrape_is_quick_after_ten_thousand_deaths_and_counters_never_go_back() -> None:
    metrics = Metrics()
    metrics.version("m", 1)
    metrics.loaded("m", 1, "onnx", ServeConfig())
    for _ in range(10_000):
        metrics.worker_died("m", 1, "crash")
    took = []
    for _ in range(5):
        began = time.perf_counter()
        text = metrics.render().decode()
        took.append(time.perf_counter() - began)
    assert 'modelkeep_worker_deaths_total{kind="crash",model="m",version="1"} 10000.0' in text
    assert min(took) < 0.01


def test_a_promised_p99_is_kept_at_ten_times_the_load_by_refusing_the_rest(tricky: MakeModel) -> None:
    """The queue may hold 64 requests, which would take 640 ms; what is promised are 300."""
    with serving(tricky(seconds=0.04), {"max_queue_requests": 64}, max_batch=4, p99=0.3) as server:
        with Load(server.port, clients=48) as load:
            until(lambda: load.statuses[200] > 150 and load.statuses[429] > 150)
        assert load.lost == []
        assert server.metric('modelkeep_rejections_total{reason="promise"}') == load.statuses[429]
        text = httpx.get(f"{server.url}/metrics").text
        (waited,) = re.findall(r'queue_duration_seconds_bucket\{le="0.5",model="m",version="1"\} (\S+)', text)
        assert float(waited) >= 0.99 * load.statuses[200]
