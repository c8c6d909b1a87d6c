"""The closed loop on a live service: the world changes, and the model is replaced; no person, no request lost."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep import Keep
from modelkeep.data.dataset import Dataset
from modelkeep.operate.loop import Loop
from modelkeep.operate.policy import Policy, Rolling, Spending, Updating, Watching
from modelkeep.serve.server import Running
from modelkeep.serve.sources.follow import Follower
from modelkeep.settings import Settings


class Client(threading.Thread):
    """Asks one digit after the other, upside down from request ``change_at`` on, and hands in the truth."""

    def __init__(self, url: str, rows: Dataset, change_at: int) -> None:
        super().__init__(daemon=True)
        self.address, self.rows, self.change_at = url.removeprefix("http://"), rows, change_at
        self.sent = 0
        self.lost: list[str] = []
        self.versions: list[str] = []
        self.right: list[bool] = []
        self.changed, self.stopping = threading.Event(), threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.address, timeout=30)
        rng = np.random.default_rng(0)
        truth: dict[str, int] = {}
        assert self.rows.labels is not None
        while not self.stopping.wait(0.002):
            row = int(rng.integers(len(self.rows)))
            pixels = self.rows.inputs["pixels"][row]
            if self.sent >= self.change_at:
                pixels = pixels[::-1]
                self.changed.set()
            self.sent += 1
            tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": pixels.tolist()}
            status, body = self._post(connection, "/v2/models/digits/infer", {"inputs": [tensor]})
            if status != 200:
                self.lost.append(str(body))
                continue
            label = int(self.rows.labels[row])
            self.versions.append(body["model_version"])
            self.right.append(int(np.argmax(body["outputs"][0]["data"])) == label)
            truth[body["id"]] = label
            if len(truth) == 20:
                self._post(connection, "/v2/models/digits/labels", {"labels": truth})
                truth = {}
        connection.close()

    def _post(self, connection: http.client.HTTPConnection, path: str, body: Any) -> tuple[int, Any]:
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read())


POLICY = Policy(
    "digits",
    watch=Watching(every=0.3, min_accuracy=0.85),
    update=Updating(min_labels=300, epochs=40, lr=3e-3, max_forgetting=1.0),
    rollout=Rolling(steps=(0.5,), max_seconds=60),
    budget=Spending(cooldown=0),
)


def test_a_changed_world_is_noticed_learned_and_rolled_out(
    nets: Path,
    trained: Callable[[str], Any],
    digits: tuple[Dataset, Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    trained("MLP")
    settings = Settings(home=tmp_path / "home")
    with Keep(settings, who="operate") as keep:
        first = keep.add(nets / "MLP.pt", "digits", factory="nets:MLP", data=digits[0])
        live = keep.convert(first, "onnx")
        keep.promote(live)
        source = Follower(keep.registry, ["digits"], machine=lambda *formats: "test", poll=0.05)
        with Running(source, settings=settings, traffic=keep.traffic) as url:
            client = Client(url, digits[1], change_at=600)
            client.start()
            try:
                calm = Loop(keep, POLICY)
                while client.sent < 500:
                    assert calm.turn() is None, "an alarm before the change"
                    client.changed.wait(0.3)
                assert client.changed.wait(30)
                outcome = Loop(keep, POLICY).run(cycles=1, max_seconds=90)
                at_the_end = client.sent + 100
                while client.sent < at_the_end and client.is_alive():
                    client.stopping.wait(0.05)
            finally:
                client.stopping.set()
                client.join(30)
        assert outcome.promoted
        assert outcome.cycles == 1
        route = keep.registry.route("digits")
        assert (route.live, route.previous, route.canary) == (outcome.live, live.number, None)
        stages = [e.data["stage"] for e in keep.registry.journal("digits", kind="operate")]
        assert stages == ["update started", "verified", "promoted"]
        assert {e.data["kind"] for e in keep.registry.journal("digits", kind="finding")} & {"drift", "quality"}
    assert client.lost == []
    assert len(client.versions) == client.sent
    assert set(client.versions) == {str(live.number), str(outcome.live)}
    assert np.mean(client.right[:500]) > 0.9
    assert np.mean(client.right[-80:]) > 0.7
