"""Telling a finding: a line, a webhook, and trouble that never raises."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelkeep.errors import BadSettings
from modelkeep.monitor import alerts
from modelkeep.monitor.alerts import Alerts
from modelkeep.types import Finding

FINDING = Finding("drift", "inputs", "3 of 64 features moved", {"n": 128, "log_evidence": 20.5}, 1000.0)


class Hook(BaseHTTPRequestHandler):
    """Keeps what it was sent; answers with ``server.status``."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.headers["Content-Type"], json.loads(body)))  # type: ignore[attr-defined]
        self.server.paths.append(self.path)  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), Hook)
    server.got, server.paths, server.status = [], [], 200
    server.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_line() -> None:
    out = io.StringIO()
    assert Alerts(stream=out).tell("digits@1", FINDING)
    assert out.getvalue().endswith(" drift digits@1 inputs: 3 of 64 features moved\n")


def test_stdout_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    Alerts().tell("digits@1", FINDING)
    assert "drift digits@1 inputs" in capsys.readouterr().out


def test_a_webhook_gets_the_finding(hook: Any) -> None:
    told = Alerts(hook.url, stream=io.StringIO())
    assert told.tell("digits@1", FINDING)
    ((kind, body),) = hook.got
    assert kind == "application/json"
    assert body == {"model": "digits@1", **FINDING.to_json()}
    assert (told.told, told.failed) == (1, 0)


def test_a_refusing_webhook_is_reported(hook: Any) -> None:
    hook.status = 503
    out = io.StringIO()
    told = Alerts(hook.url, stream=out)
    assert not told.tell("digits@1", FINDING)
    assert f"the webhook 127.0.0.1:{hook.server_port} was not told: HTTP Error 503" in out.getvalue()
    assert (told.told, told.failed) == (1, 1)


def test_what_a_webhook_was_not_told_comes_once_it_listens_again(hook: Any) -> None:
    hook.status = 503
    out = io.StringIO()
    told = Alerts(hook.url, stream=out)
    told.tell("digits@1", FINDING)
    told.still("digits@1", [])
    assert out.getvalue().count("was not told") == 1, "the same trouble is said once"
    hook.status = 200
    hook.got.clear()
    assert told.still("digits@1", [FINDING])
    told.still("digits@1", [FINDING])
    assert [body["subject"] for _, body in hook.got] == ["inputs"]


def test_what_a_webhook_refuses_is_not_sent_again(hook: Any) -> None:
    hook.status = 400
    told = Alerts(hook.url, stream=io.StringIO())
    assert not told.tell("digits@1", FINDING)
    told.still("digits@1", [FINDING])
    assert len(hook.got) == 1


def test_what_waits_for_a_webhook_is_bounded(hook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "OWED", 2)
    hook.status = 500
    told = Alerts(hook.url, stream=io.StringIO())
    for number in range(4):
        told.tell("digits@1", replace(FINDING, subject=str(number)))
    hook.status = 200
    hook.got.clear()
    told.still("digits@1", [])
    assert [body["subject"] for _, body in hook.got] == ["2", "3"]


def test_nobody_there_is_reported() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = io.StringIO()
    assert not Alerts(f"http://127.0.0.1:{port}/", stream=out).tell("digits@1", FINDING)
    assert "was not told" in out.getvalue()


def test_a_silent_webhook_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "TIMEOUT", 0.05)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        out = io.StringIO()
        assert not Alerts(f"http://127.0.0.1:{deaf.getsockname()[1]}/", stream=out).tell("digits@1", FINDING)
    assert "was not told" in out.getvalue()


def test_the_secret_part_of_an_address_is_not_printed(hook: Any) -> None:
    hook.status = 500
    out = io.StringIO()
    address = hook.url.replace("http://", "http://somebody:secret@")
    for url in (f"{hook.url}?token=secret", address):
        Alerts(url, stream=out).tell("digits@1", FINDING)
    assert "secret" not in out.getvalue()


class TestAlertmanager:
    """API v2: alerts are known by their labels, go on for LASTS, and end when they are told to be over."""

    @pytest.fixture
    def told(self, hook: Any) -> Alerts:
        return Alerts(alertmanager=hook.url.removesuffix("/hook") + "/", stream=io.StringIO())

    def alert(self, hook: Any) -> dict[str, Any]:
        """The last one that was sent."""
        kind, body = hook.got[-1]
        assert kind == "application/json"
        assert len(body) == 1
        return body[0]  # type: ignore[no-any-return]

    def test_a_finding_is_an_alert(self, hook: Any, told: Alerts) -> None:
        assert told.tell("digits@1", FINDING)
        assert hook.paths == ["/api/v2/alerts"]
        alert = self.alert(hook)
        assert alert["labels"] == {
            "alertname": "ModelkeepDrift",
            "model": "digits",
            "version": "1",
            "kind": "drift",
            "subject": "inputs",
            "severity": "ticket",
            "origin": "modelkeep",
        }
        assert alert["annotations"] == {
            "summary": "drift of inputs, digits@1",
            "description": "3 of 64 features moved",
        }
        assert alert["startsAt"] == "1970-01-01T00:16:40.000Z"
        ends = datetime.fromisoformat(alert["endsAt"]).timestamp()
        assert time.time() + alerts.LASTS - 60 < ends <= time.time() + alerts.LASTS

    def test_it_is_known_by_the_same_labels_until_it_is_over(self, hook: Any, told: Alerts) -> None:
        told.tell("digits@1", FINDING)
        first = self.alert(hook)
        assert told.still("digits@1", [replace(FINDING, why="5 of 64 features moved")])
        assert self.alert(hook)["labels"] == first["labels"]
        assert told.over("digits@1", FINDING)
        last = self.alert(hook)
        assert last["labels"] == first["labels"]
        assert datetime.fromisoformat(last["endsAt"]).timestamp() <= time.time()

    def test_the_others_hear_it_once(self, hook: Any) -> None:
        out = io.StringIO()
        told = Alerts(hook.url, stream=out)
        told.tell("digits@1", FINDING)
        assert told.still("digits@1", [FINDING])
        assert len(hook.got) == 1
        assert len(out.getvalue().splitlines()) == 1
        assert told.over("digits@1", FINDING)
        assert out.getvalue().endswith("drift digits@1 inputs: over\n")
        assert len(hook.got) == 1

    def test_nothing_that_goes_on_is_nothing_to_tell(self, hook: Any, told: Alerts) -> None:
        assert told.still("digits@1", [])
        assert hook.got == []

    def test_one_that_refuses_is_reported(self, hook: Any) -> None:
        hook.status = 400
        out = io.StringIO()
        assert not Alerts(alertmanager=hook.url, stream=out).tell("digits@1", FINDING)
        assert "the Alertmanager 127.0.0.1:" in out.getvalue()
        assert "was not told: HTTP Error 400" in out.getvalue()


@pytest.mark.skipif(not shutil.which("prometheus-alertmanager"), reason="there is no Alertmanager on this machine")
def test_a_real_alertmanager_holds_it_until_it_is_over(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    (tmp_path / "am.yml").write_text("route:\n  receiver: none\nreceivers:\n- name: none\n")
    options = [f"--config.file={tmp_path / 'am.yml'}", f"--storage.path={tmp_path}", "--cluster.listen-address="]
    options.append(f"--web.listen-address={url.removeprefix('http://')}")
    process = subprocess.Popen(["prometheus-alertmanager", *options], stderr=subprocess.DEVNULL)

    def active() -> list[Any]:
        return httpx.get(f"{url}/api/v2/alerts?active=true").json()  # type: ignore[no-any-return]

    def until(what: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not what():
            assert time.monotonic() < end
            time.sleep(0.05)

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/-/ready").is_success
        except httpx.TransportError:
            return False

    try:
        until(ready)
        told = Alerts(alertmanager=url, stream=io.StringIO())
        assert told.tell("digits@1", FINDING)
        until(lambda: len(active()) == 1)
        (alert,) = active()
        assert alert["labels"]["alertname"] == "ModelkeepDrift"
        assert alert["annotations"]["description"] == "3 of 64 features moved"
        assert told.still("digits@1", [FINDING])
        assert len(active()) == 1
        assert told.over("digits@1", FINDING)
        until(lambda: active() == [])
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("bad", ["file:///etc/passwd", "ftp://host/x", "hook", "http://", ""])
def test_other_addresses_are_refused(bad: str) -> None:
    with pytest.raises(BadSettings, match="is no http:// or https:// address"):
        Alerts(bad)
    with pytest.raises(BadSettings, match=r"the Alertmanager .* is no http:// or https:// address"):
        Alerts(alertmanager=bad)
