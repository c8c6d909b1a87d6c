"""Whole servers: in a child process with real signals, on a thread with a real registry, and ports that are taken."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.numpy

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel, BadSettings, NotFound, PortInUse
from modelkeep.model import engines, formats
from modelkeep.registry import Registry
from modelkeep.serve.protocol.address import listen, url_of
from modelkeep.serve.server import Running, serve_file, serve_registry
from modelkeep.serve.sources.follow import Follower
from modelkeep.serve.sources.source import Fixed
from modelkeep.settings import Settings
from modelkeep.types import ServeConfig
from tests.waiting import until

ONE = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


def onnx_file(path: Path, factor: float) -> Path:
    """y = factor × x, for rows of four."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "scale",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


class Child:
    """A Python program that prints its url once it is ready."""

    def __init__(self, code: str, *, cwd: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.port = int(self.url.rsplit(":", 1)[1]) if self.url.startswith("http") else 0

    def end(self, *, within: float = 20) -> tuple[int, str]:
        """Exit code and what was said on stderr."""
        _, said = self.process.communicate(timeout=within)
        return self.process.returncode, said


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[[str], Child]]:
    made: list[Child] = []

    def start(code: str) -> Child:
        made.append(Child(code, cwd=tmp_path))
        if not made[-1].port:
            pytest.fail(f"the child did not start: {made[-1].end()}")
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


SLOW = """
import time
import numpy as np
from modelkeep.serve import server
from modelkeep.serve.sources import source
from modelkeep.serve.protocol.address import listen
from modelkeep.settings import Settings
from modelkeep.types import ServeConfig, Signature, TensorSpec

class Slow:
    signature = Signature((TensorSpec("x", "float32", (None, 4)),), (TensorSpec("y", "float32", (None, 4)),))
    def run(self, inputs):
        time.sleep(SECONDS)
        return {"y": inputs["x"] * 2}
    def close(self):
        print("closed")

models = source.Fixed({"m": Slow()}, {"m": ServeConfig(max_batch=4)})
with listen("127.0.0.1", 0) as sock:
    server._block(server.Service(models, Settings(), sock), print)
print("ended")
"""


class Asker(threading.Thread):
    """Asks over one connection until it is told that the connection will close. A request without answer is lost."""

    def __init__(self, port: int, *, once: bool = False) -> None:
        super().__init__(daemon=True)
        self.port, self.once = port, once
        self.answered = 0
        self.lost: list[BaseException] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.connect()
        try:
            while True:
                connection.request("POST", "/v2/models/m/infer", json.dumps(ONE))
                reply = connection.getresponse()
                assert json.loads(reply.read())["outputs"][0]["data"] == [2, 4, 6, 8]
                self.answered += 1
                if self.once or reply.headers.get("connection") == "close":
                    return
        except (OSError, ValueError, AssertionError, http.client.HTTPException) as error:
            self.lost.append(error)
        finally:
            connection.close()


def in_flight(port: int) -> float:
    """Requests that the server has. Not by httpx, which may take longer to begin than they stay there."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", "/metrics")
        said = connection.getresponse().read().decode()
    return float(said.partition("\nmodelkeep_requests_in_flight ")[2].partition("\n")[0])


def test_a_signal_lets_everything_accepted_be_answered(child: Callable[[str], Child]) -> None:
    """Twelve requests in flight, in batches of 0.3 s, when SIGTERM comes: twelve answers, then a clean end."""
    server = child(SLOW.replace("SECONDS", "0.3"))
    askers = [Asker(server.port, once=True) for _ in range(12)]
    for asker in askers:
        asker.start()
    until(lambda: in_flight(server.port) == 12)
    server.process.send_signal(signal.SIGTERM)
    for asker in askers:
        asker.join(20)
    assert [a.answered for a in askers] == [1] * 12
    code, said = server.end()
    assert (code, said) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_no_request(child: Callable[[str], Child], number: signal.Signals) -> None:
    server = child(SLOW.replace("SECONDS", "0.002"))
    askers = [Asker(server.port) for _ in range(6)]
    for asker in askers:
        asker.start()
    until(lambda: min(a.answered for a in askers) >= 5)
    server.process.send_signal(number)
    for asker in askers:
        asker.join(20)
    assert [a.lost for a in askers] == [[]] * 6
    assert server.end() == (0, "")
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=5).connect()


def test_a_second_signal_ends_it_now(child: Callable[[str], Child]) -> None:
    server = child(SLOW.replace("SECONDS", "60"))
    asker = Asker(server.port, once=True)
    asker.start()
    until(lambda: in_flight(server.port) == 1)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGTERM)
    code, said = server.end(within=15)
    assert code != 0
    assert "KeyboardInterrupt: stopped at the second signal, before all was answered" in said
    asker.join(20)
    assert asker.answered == 0


def test_a_bare_file_is_served_and_leaves_nothing(child: Callable[[str], Child], tmp_path: Path) -> None:
    onnx_file(tmp_path / "scale.onnx", 3.0)
    server = child(
        """
        from pathlib import Path
        from modelkeep.serve.server import serve_file
        from modelkeep.settings import Settings
        serve_file(Path("scale.onnx"), Settings(port=0), options={"max_batch": 2, "threads": 1}, on_ready=print)
        """
    )
    with httpx.Client(base_url=server.url, timeout=20) as client:
        assert client.get("/v2/health/ready").status_code == 200
        assert client.get("/v2/models/scale").json()["platform"] == "onnx"
        assert client.post("/v2/models/scale/infer", json=ONE).json()["outputs"][0]["data"] == [3, 6, 9, 12]
        assert client.post("/v2/models/scale/labels", json={"labels": {}}).status_code == 400
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == (0, "")
    assert [p.name for p in tmp_path.iterdir()] == ["scale.onnx"]


# ── sockets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_port_in_use_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        said = rf"port {port} of 127.0.0.1 is in use by another program; give another with --port \(0: any free one\)"
        with pytest.raises(PortInUse, match=said):
            listen("127.0.0.1", port)
        with pytest.raises(PortInUse, match=said):
            serve_file(tmp_path / "no-such-model.onnx", Settings(port=port))
        with pytest.raises(PortInUse, match=said):
            serve_registry(None, ["m"], Settings(port=port), machine=lambda *formats: "m")  # type: ignore[arg-type]


def test_hosts_that_cannot_be_listened_on() -> None:
    with pytest.raises(BadSettings, match=r"'no such host' is no address to listen on .*; give another with --host"):
        listen("no such host", 0)
    with pytest.raises(BadSettings, match=r"cannot listen on port 0 of 192\.0\.2\.1 .*; give others with --host"):
        listen("192.0.2.1", 0)  # an address kept for documents (RFC 5737): no machine's own


def test_urls_are_what_a_person_types() -> None:
    with listen("127.0.0.1", 0) as sock:
        assert url_of(sock) == f"http://127.0.0.1:{sock.getsockname()[1]}"
    with listen("0.0.0.0", 0) as sock:
        assert url_of(sock).startswith("http://127.0.0.1:")


# ── on a thread ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_a_name_that_no_address_can_hold(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="is no part of an address, so that nobody could ask it"):
        serve_file(tmp_path / "m.onnx", Settings(port=0), name=name)


def test_what_keeps_it_from_starting_is_raised(fakes: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        serve_file(tmp_path / "no-such-model.onnx", Settings(port=0))
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(BadModel):
        serve_file(tmp_path / "empty.onnx", Settings(port=0))
    safetensors.numpy.save_file({"w": np.ones(3)}, tmp_path / "w.safetensors")
    with pytest.raises(BadModel, match=r"pass --factory .*; a bare file cannot be served so: modelkeep add it"):
        serve_file(tmp_path / "w.safetensors", Settings(port=0))
    registry = Registry.open(Settings(home=tmp_path))
    running = Running(Follower(registry, ["nothing"], machine=lambda *formats: "m"))
    with pytest.raises(NotFound), running:
        pass
    registry.close()
    listen("127.0.0.1", int(running.url.rsplit(":", 1)[1])).close()  # the port was given back


def test_an_error_while_running_is_not_swallowed(fakes: SimpleNamespace) -> None:
    class Broken(Fixed):
        async def end(self) -> None:
            raise RuntimeError("cannot end")

    running = Running(Broken({"m": fakes.Fake()}))
    with pytest.raises(RuntimeError, match="cannot end"), running:
        pass


def test_a_model_by_name_with_its_settings(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    model = formats.adopt(onnx_file(tmp_path / "a.onnx", 2.0), tmp_path / "room")
    config = ServeConfig(max_batch=2, threads=1)
    with Running({"a": model, "b": engines.load(model)}, configs={"a": config}) as url:
        for name in ("a", "b"):
            reply = httpx.post(f"{url}/v2/models/{name}/infer", json=ONE)
            assert reply.json()["outputs"][0]["data"] == [2, 4, 6, 8]
        assert (
            'modelkeep_model_info{device="cpu",engine="onnxruntime",format="onnx",model="a"'
            in httpx.get(f"{url}/metrics").text
        )


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """Versions 1 to 3 of m multiply by their number."""
    registry = Registry.open(Settings(home=tmp_path / "home"))
    rows = Dataset({"x": np.ones((4, 4), np.float32)}, None, "made")
    for number in (1, 2, 3):
        room = tmp_path / str(number)
        room.mkdir()
        formats.adopt(onnx_file(tmp_path / f"{number}.onnx", float(number)), room, data=rows)
        registry.add("m", room, made_by="test")
    yield registry
    registry.close()


def test_a_real_registry_is_followed_under_load(registry: Registry, tmp_path: Path) -> None:
    registry.promote("m", 1, why="first")
    follower = Follower(registry, ["m"], machine=lambda *formats: "here", options={"threads": 1}, poll=0.01)
    running = Running(follower, traffic=tmp_path / "traffic.db")
    lost: list[Any] = []
    asked: list[str] = []
    stop = threading.Event()

    def ask(url: str) -> None:
        with httpx.Client(base_url=url, timeout=20) as client:
            while not stop.is_set():
                reply = client.post("/v2/models/m/infer", json=ONE)
                found = reply.json()
                if reply.status_code != 200 or found["outputs"][0]["data"][0] != int(found["model_version"]):
                    lost.append(found)
                asked.append(found.get("model_version"))

    with running as url:
        threads = [threading.Thread(target=ask, args=(url,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(10):
            number = 1 + (turn + 1) % 3
            if turn % 3 == 2:
                number = registry.rollback("m", why="back").live or 0
            else:
                registry.promote("m", number, why="next")
            asked.clear()
            until(lambda number=number: asked[-1:] == [str(number)])
        stop.set()
        for thread in threads:
            thread.join()
        assert lost == []


def test_a_damaged_version_is_noted_and_the_old_one_answers(registry: Registry, tmp_path: Path) -> None:
    registry.promote("m", 1, why="first")
    damaged = registry.get("m@2")
    for file in (tmp_path / "home" / "store").rglob("*"):
        if file.is_file() and file.read_bytes() == (tmp_path / "2.onnx").read_bytes():
            file.chmod(0o644)
            file.write_bytes(b"rotten")
    for file in (tmp_path / "home" / "checkouts" / damaged.digest).rglob("*.onnx"):
        file.chmod(0o644)
        file.write_bytes(b"rotten")
    running = Running(Follower(registry, ["m"], machine=lambda *formats: "here", options={"threads": 1}, poll=0.01))
    with running as url:
        registry.promote("m", 2, why="it looked good")
        notes = until(lambda: registry.journal("m", kind="load-failed"))
        assert "m@2 cannot be loaded" in notes[0].why
        assert httpx.post(f"{url}/v2/models/m/infer", json=ONE).json()["model_version"] == "1"
        assert "2" in httpx.get(f"{url}/v2/models/m").json()["modelkeep"]["problems"]
