"""Models brought into a running server and taken away from it, over a socket, while others are answered."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from modelkeep.errors import NotFound
from modelkeep.serve.server import Running
from modelkeep.serve.sources.follow import Follower
from modelkeep.types import Model, Ref, Route, ServeConfig, Version
from tests.waiting import until


class Registry:
    """Three models of one version each, as far as a Follower reads them."""

    def __init__(self, fakes: SimpleNamespace) -> None:
        model = Model(Path("nowhere"), "onnx", fakes.signature(), ("weights",))
        self.held = {n: Version(n, 1, f"digest-{n}", model, None, "made", 0.0) for n in ("first", "second", "broken")}
        self.routes = {name: Route(name, live=1) for name in self.held}

    def names(self) -> list[str]:
        return list(self.held)

    def revision(self) -> int:
        return 1

    def route(self, name: str) -> Route:
        return self.routes[name]

    def versions(self, name: str) -> list[Version]:
        if name not in self.held:
            raise NotFound(f"no model is called '{name}'")
        return [self.held[name]]

    def get(self, ref: Ref) -> Version:
        return self.held[ref.name]

    def config(self, version: Version, machine: str) -> ServeConfig | None:
        return None

    def checkout(self, version: Version) -> Model:
        return replace(version.model, path=Path(version.name))

    def note(self, name: str, kind: str, why: str, data: Any, who: str) -> None:
        pass


@pytest.fixture
def world(fakes: SimpleNamespace) -> SimpleNamespace:
    slow = threading.Event()
    slow.set()
    made = {"slow": slow, "loading": threading.Lock(), "runners": [], "broken": {"broken"}}
    return SimpleNamespace(registry=Registry(fakes), fakes=fakes, **made)


@pytest.fixture
def client(world: SimpleNamespace) -> Iterator[httpx.Client]:
    def load(model: Model, config: ServeConfig) -> tuple[Any, list[tuple[int, float]]]:
        with world.loading:
            assert world.slow.wait(20)
        if model.path.name in world.broken:
            raise ValueError("its file is torn")
        world.runners.append(world.fakes.Fake(add=1.0))
        return world.runners[-1], []

    follower = Follower(world.registry, ["first"], machine=lambda *formats: "this machine", load=load)
    with Running(follower) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


def states(client: httpx.Client, **body: Any) -> dict[str, str]:
    rows = client.post("/v2/repository/index", json=body).json()
    return {row["name"]: row["state"] for row in rows}


def ask(client: httpx.Client, name: str) -> int:
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}
    return client.post(f"/v2/models/{name}/infer", json={"inputs": [tensor]}).status_code


def test_the_index_says_what_could_be_served_and_what_is(client: httpx.Client) -> None:
    assert states(client) == {"first": "READY", "second": "UNAVAILABLE", "broken": "UNAVAILABLE"}
    assert states(client, ready=True) == {"first": "READY"}
    assert client.post("/v2/repository/index").status_code == 200  # a body is not needed
    odd = client.post("/v2/repository/index", json={"ready": "false"})
    assert (odd.status_code, odd.json()) == (400, {"error": "ready is 'false'; give true or false"})


def test_a_model_is_brought_and_taken_away(client: httpx.Client, world: SimpleNamespace) -> None:
    assert ask(client, "second") == 404
    assert client.post("/v2/repository/models/second/load").status_code == 200
    assert ask(client, "second") == 200
    assert states(client)["second"] == "READY"
    assert client.post("/v2/repository/models/second/load").status_code == 200  # again: nothing to do
    assert len(world.runners) == 2
    assert client.post("/v2/repository/models/second/unload").status_code == 200
    assert ask(client, "second") == 404
    assert 'modelkeep_route_weight_ratio{model="second",track="live"} 0.0' in client.get("/metrics").text
    assert ask(client, "first") == 200
    assert client.post("/v2/repository/models/second/unload").status_code == 404
    assert client.get("/v2/health/ready").status_code == 200


def test_two_who_bring_a_model_at_once_bring_it_once(client: httpx.Client, world: SimpleNamespace) -> None:
    """Or it stays half there once it is taken away, and the registry is followed no more for any model."""
    both, route = threading.Barrier(2), world.registry.route

    def together(name: str) -> Route:
        both.wait(20)
        return route(name)  # type: ignore[no-any-return]

    found: list[int] = []
    asking = [
        threading.Thread(target=lambda: found.append(client.post("/v2/repository/models/second/load").status_code))
        for _ in range(2)
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(world.registry, "route", together)
        for one in asking:
            one.start()
        for one in asking:
            one.join(20)
    assert found == [200, 200]
    assert client.post("/v2/repository/models/second/unload").status_code == 200
    assert client.post("/v2/repository/models/second/load").status_code == 200
    assert ask(client, "second") == 200


def test_one_that_is_taken_away_while_it_is_changed_is_closed_once_and_comes_back_as_it_was(
    client: httpx.Client, world: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    world.slow = threading.Event()
    found: list[int] = []
    configured = {"max_batch": 3}
    changing = threading.Thread(
        target=lambda: found.append(client.post("/v2/models/first/config", json=configured).status_code)
    )
    changing.start()
    until(lambda: world.loading.locked())
    assert client.post("/v2/repository/models/first/unload").status_code == 200
    world.slow.set()
    changing.join(20)
    assert found == [404]
    until(lambda: [one.closed for one in world.runners] == [1, 1])
    assert client.post("/v2/repository/models/first/load").status_code == 200
    assert client.get("/v2/models/first/config").json()["max_batch_size"] == ServeConfig().max_batch
    assert client.get("/metrics").text.count("modelkeep_model_info{") == 1
    gc.collect()
    assert caplog.messages == []


def test_what_a_model_had_accepted_before_it_left_is_answered(client: httpx.Client, world: SimpleNamespace) -> None:
    world.runners[0].gate.clear()
    found: list[int] = []
    asking = threading.Thread(target=lambda: found.append(ask(client, "first")))
    asking.start()
    assert world.runners[0].entered.acquire(timeout=20)
    assert client.post("/v2/repository/models/first/unload").status_code == 200
    assert not world.runners[0].closed
    world.runners[0].gate.set()
    asking.join(20)
    assert found == [200]


def test_one_that_cannot_be_loaded_says_why_and_can_be_tried_again(
    client: httpx.Client, world: SimpleNamespace
) -> None:
    refused = client.post("/v2/repository/models/broken/load")
    assert refused.status_code == 503
    assert "its file is torn" in refused.json()["error"]
    assert ask(client, "first") == 200
    world.broken.clear()
    assert client.post("/v2/repository/models/broken/load").status_code == 200
    assert ask(client, "broken") == 200


def test_one_of_which_no_version_is_live_is_refused_and_the_server_stays_ready(
    client: httpx.Client, world: SimpleNamespace
) -> None:
    world.registry.routes["second"] = Route("second")
    refused = client.post("/v2/repository/models/second/load")
    assert refused.status_code == 503
    said = "no version of 'second' is live; say which: modelkeep promote second@NUMBER"
    assert refused.json() == {"error": said}
    assert client.get("/v2/health/ready").status_code == 200
    assert ask(client, "second") == 404
    world.registry.routes["second"] = Route("second", live=1)
    assert client.post("/v2/repository/models/second/load").status_code == 200


@pytest.mark.parametrize("name", ["nobody", "..", "..%2f..%2fetc%2fpasswd", "%2e%2e", "a%00b", "~", "c:%5cx", "x" * 99])
def test_a_name_cannot_leave_the_repository(client: httpx.Client, world: SimpleNamespace, name: str) -> None:
    for verb in ("load", "unload"):
        assert client.post(f"/v2/repository/models/{name}/{verb}").status_code in (400, 404, 405)
    assert len(world.runners) == 1
    assert ask(client, "first") == 200


def test_a_load_may_carry_a_configuration(client: httpx.Client) -> None:
    def load(name: str, **body: Any) -> httpx.Response:
        return client.post(f"/v2/repository/models/{name}/load", json=body)

    now = client.get("/v2/models/first/config").json()
    assert load("first", parameters={"config": json.dumps({**now, "max_batch_size": 4})}).status_code == 200
    assert client.get("/v2/models/first/config").json() == {**now, "max_batch_size": 4}
    assert load("second", parameters={"config": json.dumps({"instance_group": [{"count": 2}]})}).status_code == 200
    assert client.get("/v2/models/second/config").json()["instance_group"][0]["count"] == 2
    assert load("first").status_code == 200
    assert client.get("/v2/models/first/config").json()["max_batch_size"] == 4, "nothing was asked for"


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("second", b'{"parameters": {"config": "{"}}', "is not JSON"),
        ("second", b'{"parameters": {"file:1/model.onnx": "AAAA"}}', "models come from the registry only"),
        ("second", b"[1]", "send an object"),
        ("first", b'{"parameters": {"config": "{\\"name\\": \\"other\\"}"}}', "cannot be changed by a load"),
        ("first", b'{"parameters": {"config": "{\\"instance_group\\": [{\\"count\\": 0}]}"}}', "'workers' is 0"),
    ],
)
def test_what_cannot_be_loaded_so_is_refused_and_changes_nothing(
    client: httpx.Client, world: SimpleNamespace, name: str, body: bytes, said: str
) -> None:
    refused = client.post(f"/v2/repository/models/{name}/load", content=body)
    assert refused.status_code == 400
    assert said in refused.json()["error"]
    assert states(client) == {"first": "READY", "second": "UNAVAILABLE", "broken": "UNAVAILABLE"}
    assert len(world.runners) == 1


def test_an_unload_with_more_than_it_takes_is_refused(client: httpx.Client) -> None:
    unload = "/v2/repository/models/first/unload"
    assert client.post(unload, json={"parameters": {"colour": 1}}).status_code == 400
    assert ask(client, "first") == 200
    assert client.post(unload, json={"parameters": {"unload_dependents": False}}).status_code == 200


def test_a_bare_file_stays_as_it_is(fakes: SimpleNamespace) -> None:
    with Running({"m": fakes.Fake()}) as url, httpx.Client(base_url=url, timeout=20) as client:
        assert states(client) == {"m": "READY"}
        refused = client.post("/v2/repository/models/m/unload")
        assert refused.status_code == 400
        assert "bare file" in refused.json()["error"]
        assert client.get("/v2/health/ready").status_code == 200
