"""What a running server is told: by the admin route and by SIGHUP, under load, and with what it must not take."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trustme

from modelkeep.data import traffic
from modelkeep.errors import BadInput, BadModel, NotFound, Unsupported
from modelkeep.serve.server import Running
from modelkeep.serve.sources import adjustable
from modelkeep.serve.sources.follow import Follower
from modelkeep.serve.sources.source import Fixed
from modelkeep.settings import Settings
from modelkeep.types import Model, Ref, Route, ServeConfig, Version
from tests.waiting import until

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [7]}]})


class Registry:
    """One model of one version; ``tuned`` is what tune has found."""

    def __init__(self, fakes: SimpleNamespace) -> None:
        self.held = Version("m", 1, "d", Model(Path("no"), "onnx", fakes.signature(), ("w",)), None, "made", 0.0)
        self.tuned = ServeConfig(max_batch=4, p99=0.5)
        self.notes: list[str] = []

    def revision(self) -> int:
        return 1  # as it is with a change that this server cannot see, until it is told to look again

    def route(self, name: str) -> Route:
        return Route("m", live=1)

    def versions(self, name: str) -> list[Version]:
        if name != "m":
            raise NotFound(f"no model is called '{name}'")
        return [self.held]

    def names(self) -> list[str]:
        return ["m"]

    def get(self, ref: Ref) -> Version:
        return self.held

    def config(self, version: Version, machine: str) -> ServeConfig | None:
        return self.tuned

    def checkout(self, version: Version) -> Model:
        return version.model

    def note(self, name: str, kind: str, why: str, data: Any, who: str) -> None:
        self.notes.append(why)


@pytest.fixture
def world(fakes: SimpleNamespace) -> SimpleNamespace:
    """A follower over one model; ``configs`` are those that were loaded. An engine 'abacus' cannot be loaded."""
    made = SimpleNamespace(registry=Registry(fakes), configs=[], runners=[])

    def load(model: Model, config: ServeConfig) -> Any:
        if config.engine == "abacus":
            raise BadModel("no abacus can run this")
        made.configs.append(config)
        made.runners.append(fakes.Fake())
        return made.runners[-1], []

    made.follower = Follower(
        made.registry, ["m"], machine=lambda *formats: "here", load=load, poll=0.01, options={"threads": 1}
    )
    return made


class Load(threading.Thread):
    """Asks over one kept connection; ``lost`` is whatever was not the right answer."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.port = int(url.rsplit(":", 1)[1])
        self.stopping = threading.Event()
        self.answered = 0
        self.lost: list[object] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not self.stopping.is_set():
            try:
                connection.request("POST", "/v2/models/m/infer", BODY)
                reply = connection.getresponse()
                said = json.loads(reply.read())
                if reply.status != 200 or said["outputs"][0]["data"] != [7.0]:
                    self.lost.append(said)
                self.answered += 1
            except Exception as error:  # noqa: BLE001 - anything at all is a lost request
                self.lost.append(error)
                return
        connection.close()


@contextmanager
def loaded(url: str) -> Iterator[list[Load]]:
    clients = [Load(url) for _ in range(3)]
    for client in clients:
        client.start()
    yield clients
    for client in clients:
        until(lambda client=client: client.answered or client.lost)
        client.stopping.set()
        client.join(20)
    assert [client.lost for client in clients] == [[], [], []]


def configure(url: str, **given: Any) -> httpx.Response:
    return httpx.post(f"{url}/v2/models/m/config", json=given, timeout=20)


def test_every_field_of_a_config_has_its_bounds() -> None:
    assert list(adjustable.KINDS) == [f.name for f in fields(ServeConfig)]
    whole = {f.name: getattr(ServeConfig(), f.name) for f in fields(ServeConfig)}
    assert replace(ServeConfig(), **adjustable.changes(whole)) == ServeConfig()
    assert set(adjustable.BOUNDS) <= {f.name for f in fields(Settings)}


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"workers": 0}, BadInput, "'workers' is 0; give a whole number from 1 to 256"),
        ({"workers": True}, BadInput, "'workers' is true; give a whole number"),
        ({"max_batch": 2.5}, BadInput, "'max_batch' is 2.5; give a whole number from 1 to 65536"),
        ({"threads": 1025}, BadInput, "'threads' is 1025; give a whole number from 1 to 1024, or null"),
        ({"max_wait": -1}, BadInput, "'max_wait' is -1; give a number of seconds, 0 or more"),
        ({"max_wait": float("nan")}, BadInput, "'max_wait' is nan"),
        ({"p99": 0}, BadInput, "'p99' is 0; give a number of seconds, more than 0, or null"),
        ({"run_timeout": None}, BadInput, "'run_timeout' is null"),
        ({"in_process": 1}, BadInput, "'in_process' is 1; give true or false"),
        ({"engine": ""}, BadInput, "'engine' is ''; give text"),
        ({"speed": 1}, BadInput, "'speed' is no setting of a model; there are: engine, device"),
        ({"port": 1}, Unsupported, "'port' belongs to the server and not to a model; it is set at the start only"),
        ({"max_body_bytes": 1}, Unsupported, "set it in modelkeep.toml and send the server SIGHUP"),
    ],
)
def test_what_no_config_can_hold_is_refused_with_what_it_can(
    given: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        adjustable.changes(given)


def test_numbers_are_of_the_kind_that_a_config_has() -> None:
    made = adjustable.changes({"max_wait": 1, "p99": None, "run_timeout": 2, "workers": 3})
    assert [type(value) for value in made.values()] == [float, type(None), float, int]


def test_settings_of_a_model_change_under_load_and_no_request_is_lost(world: SimpleNamespace) -> None:
    with Running(world.follower) as url, loaded(url):
        for turn in range(20):
            reply = configure(url, workers=1 + turn % 2, max_wait=0.001 * (turn + 1))
            assert (reply.status_code, reply.json()["name"], reply.json()["version"]) == (200, "m", "1")
            assert reply.json()["config"]["workers"] == 1 + turn % 2
        assert configure(url, p99=None).json()["config"] == {
            **reply.json()["config"],
            "p99": None,
            "workers": 2,  # what was said before stays said
            "max_batch": 4,  # tuned
            "threads": 1,  # given at the start
        }
        told = httpx.get(f"{url}/v2/models/m/config").json()
        assert told["instance_group"][0]["count"] == 2
    assert len(world.configs) == 22
    assert [runner.closed for runner in world.runners] == [1] * 22


def test_what_cannot_be_loaded_so_leaves_everything_as_it_was(world: SimpleNamespace) -> None:
    with Running(world.follower) as url, loaded(url):
        assert configure(url, max_batch=9).status_code == 200
        reply = configure(url, engine="abacus")
        assert (reply.status_code, reply.json()) == (400, {"error": "no abacus can run this"})
        assert configure(url, port=1).status_code == configure(url, workers=0).status_code == 400
        assert httpx.post(f"{url}/v2/models/q/config", json={}).status_code == 404
        assert httpx.post(f"{url}/v2/models/m/config", content=b"[]").status_code == 400
        assert httpx.get(f"{url}/v2/health/ready").status_code == 200
        assert configure(url).json()["config"]["max_batch"] == 9
        assert configure(url).json()["config"]["engine"] == "onnxruntime"
    assert len(world.configs) == 2, "what is equal is not loaded again"
    assert world.registry.notes == [
        "m@1 is served with max_batch 9",
        "m@1 cannot be loaded: no abacus can run this",
    ]


def test_a_bare_model_is_loaded_beside_itself_too(tricky: Callable[..., Model]) -> None:
    source = Fixed({"m": tricky()}, {"m": ServeConfig(engine="tricky", in_process=True)})
    with Running(source) as url, loaded(url):
        assert configure(url, max_batch=3).json()["config"]["max_batch"] == 3
        assert configure(url, workers=2).json()["config"] == {
            **configure(url).json()["config"],
            "max_batch": 3,
            "workers": 2,
        }
        assert "there is no engine 'abacus'" in configure(url, engine="abacus").json()["error"]
        assert httpx.get(f"{url}/v2/models/m/config").json()["max_batch_size"] == 3


def test_a_runner_in_memory_stays_as_it_is(fakes: SimpleNamespace) -> None:
    with Running({"m": fakes.Fake()}) as url:
        assert configure(url).status_code == 200
        reply = configure(url, workers=2)
    assert reply.status_code == 400
    assert "was given to this server in memory" in reply.json()["error"]


def test_told_to_look_again_it_reads_settings_and_registry(
    world: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    running = Running(world.follower, settings=Settings(port=1))
    fresh = Settings(port=1, max_queue_requests=50, max_queue_bytes=4096, max_body_bytes=100, max_connections=7)
    with running as url, loaded(url):
        running.service.reread = lambda: fresh
        world.registry.tuned = ServeConfig(max_batch=16)
        running.call(running.service.again())
        until(lambda: world.configs[-1].max_batch == 16)
        assert caplog.messages == []
        assert (running.plane.limits.max_requests, running.plane.limits.max_bytes) == (50, 4096)
        assert running.service._listener._protocol.settings.max_connections == 7
        assert httpx.post(f"{url}/v2/models/m/infer", content=b" " * 101).status_code == 413
        running.service.reread = lambda: replace(fresh, port=2, max_body_bytes=10_000)
        running.call(running.service.again())
        assert caplog.messages == ["these settings take effect at a start only: port"]
        assert httpx.post(f"{url}/v2/models/m/infer", content=b" " * 101).status_code == 400

        def broken() -> Settings:
            raise BadInput("modelkeep.toml is not TOML")

        running.service.reread = broken
        running.call(running.service.again())
    assert "what was in force stays: modelkeep.toml is not TOML" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("first", "then", "told"),
    [(1.0, 0.0, []), (0.0, 1.0, ["these settings take effect at a start only: capture_share (it was 0)"])],
)
def test_a_share_of_traffic_that_is_or_was_nothing(
    fakes: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture, first: float, then: float, told: list[str]
) -> None:
    file = tmp_path / "traffic.db"
    running = Running({"m": fakes.Fake()}, settings=Settings(capture_share=first), traffic=file)
    with running as url:
        httpx.post(f"{url}/v2/models/m/infer", content=BODY).raise_for_status()
        running.service.reread = lambda: Settings(capture_share=then)
        running.call(running.service.again())
        httpx.post(f"{url}/v2/models/m/infer", content=BODY).raise_for_status()
    assert len(traffic.read(file, "m")) == first
    assert caplog.messages == told


def test_who_may_ask_for_longer_is_waited_for_longer(fakes: SimpleNamespace) -> None:
    running = Running({"m": fakes.Fake()}, settings=Settings(request_timeout=1.0))
    with running:
        running.service.reread = lambda: Settings(request_timeout=90.0)
        running.call(running.service.again())
        assert running.service._listener.config.timeout_graceful_shutdown == 95


def test_sighup_reads_the_file_anew_and_the_server_lives(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", tensors[:1], tensors[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    command = [sys.executable, "-m", "modelkeep", "serve", "m.onnx", "--port", "0", "--in-process"]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MODELKEEP_")}
    server = subprocess.Popen(
        command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = next(word for word in server.stdout.readline().split() if word.startswith("http"))
        with loaded(url):
            (tmp_path / "modelkeep.toml").write_text("max_body_bytes = 200\n")
            large = f"{url}/v2/models/m/infer"
            assert httpx.post(large, content=b" " * 201).status_code == 400
            server.send_signal(signal.SIGHUP)
            until(lambda: httpx.post(large, content=b" " * 201).status_code == 413)
            (tmp_path / "modelkeep.toml").write_text("max_body_bytes = \n")
            server.send_signal(signal.SIGHUP)
            assert server.stderr is not None
            assert "is not TOML" in server.stderr.readline()
            assert httpx.post(large, content=b" " * 201).status_code == 413
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=20)
        assert server.returncode == 0
    finally:
        server.kill()
        server.communicate()


def test_a_new_certificate_is_for_new_connections_and_a_broken_one_is_left(
    tmp_path: Path, fakes: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "server.pem"

    def renew() -> None:
        trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(file)

    renew()
    running = Running({"m": fakes.Fake()}, settings=Settings(tls_cert=str(file)))
    with running as url:
        port = int(url.rsplit(":", 1)[1])
        running.service.reread = lambda: Settings(tls_cert=str(file))
        before = ssl.get_server_certificate(("127.0.0.1", port))
        renew()
        assert ssl.get_server_certificate(("127.0.0.1", port)) == before, "nobody has said that there is another"
        running.call(running.service.again())
        after = ssl.get_server_certificate(("127.0.0.1", port))
        assert after != before
        file.write_text("no certificate")
        running.call(running.service.again())
        assert "TLS cannot use certificate" in caplog.messages[-1]
        assert ssl.get_server_certificate(("127.0.0.1", port)) == after
