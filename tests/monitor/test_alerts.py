"""Telling a finding: a line, a webhook, and trouble that never raises."""

from __future__ import annotations

import contextlib
import io
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from modelkeep.errors import BadSettings
from modelkeep.monitor import alerts
from modelkeep.monitor.alerts import Alerts
from modelkeep.monitor.prometheus import write
from modelkeep.monitor.prometheus.plan import Plan
from modelkeep.types import Finding
from tests.waiting import until

FINDING = Finding("drift", "inputs", "3 of 64 features moved", {"n": 128, "log_evidence": 20.5}, 1000.0)


def test_a_line() -> None:
    out = io.StringIO()
    assert Alerts(stream=out).tell("digits@1", FINDING)
    assert out.getvalue().endswith(" drift digits@1 inputs: 3 of 64 features moved\n")


def test_stdout_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    Alerts().tell("digits@1", FINDING)
    assert "drift digits@1 inputs" in capsys.readouterr().out


def test_a_webhook_gets_the_document(hook: Any) -> None:
    told = Alerts(hook.url, stream=io.StringIO())
    assert told.hook(7, {"id": 7, **FINDING.to_json()})
    ((kind, body),) = hook.got
    assert kind == "application/json"
    assert body == {"id": 7, **FINDING.to_json()}
    assert told.failed == 0


def test_what_it_answered_is_not_sent_again(hook: Any) -> None:
    """Not even where its answer could not be written down."""
    told = Alerts(hook.url, stream=io.StringIO())
    hook.status = 400
    assert told.hook(7, {"id": 7}) is False
    hook.status = 200
    assert told.hook(8, {"id": 8}) is True
    assert (told.hook(7, {"id": 7}), told.hook(8, {"id": 8})) == (False, True)
    assert len(hook.got) == 2


def test_the_oldest_answers_are_forgotten(hook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "HEARD", 2)
    told = Alerts(hook.url, stream=io.StringIO())
    for number in (1, 2, 3, 3, 2, 1):
        told.hook(number, {"id": number})
    assert [body["id"] for _, body in hook.got] == [1, 2, 3, 1]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_it_could_not_take_may_come_again(hook: Any, status: int) -> None:
    hook.status = status
    out = io.StringIO()
    told = Alerts(hook.url, stream=out)
    assert told.hook(7, {"id": 7}) is None
    assert told.hook(7, {"id": 7}) is None
    assert out.getvalue().count(f"the webhook 127.0.0.1:{hook.server_port} was not told: HTTP Error {status}") == 1
    assert told.failed == 2
    hook.status = 200
    assert told.hook(7, {"id": 7})


def test_nobody_there_is_reported() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = io.StringIO()
    assert Alerts(f"http://127.0.0.1:{port}/", stream=out).hook(7, {}) is None
    assert "was not told" in out.getvalue()


def test_a_silent_webhook_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "TIMEOUT", 0.05)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        out = io.StringIO()
        assert Alerts(f"http://127.0.0.1:{deaf.getsockname()[1]}/", stream=out).hook(7, {}) is None
    assert "was not told" in out.getvalue()


class TestTrickles:
    """An answer that comes byte by byte, each of them in time, holds nobody up for longer than one that is silent."""

    @pytest.fixture
    def trickling(self) -> Iterator[Any]:
        """Its address, and how often it was asked."""
        asked, done = [], threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as server:

            def answer() -> None:
                while not done.is_set():
                    try:
                        caller, _ = server.accept()
                    except OSError:
                        return
                    asked.append(1)
                    with caller, contextlib.suppress(OSError):
                        while not done.wait(0.02):
                            caller.sendall(b"H")

            thread = threading.Thread(target=answer)
            thread.start()
            yield SimpleNamespace(url=f"http://127.0.0.1:{server.getsockname()[1]}/", asked=asked)
            done.set()
            server.shutdown(socket.SHUT_RDWR)
        thread.join()

    def test_it_is_given_up_and_not_asked_meanwhile(self, trickling: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(alerts, "TIMEOUT", 0.2)
        out = io.StringIO()
        told = Alerts(trickling.url, stream=out)
        began = time.monotonic()
        assert [told.hook(7, {}) for _ in range(3)] == [None] * 3
        assert time.monotonic() - began < 1.0
        assert len(trickling.asked) == 1
        assert out.getvalue().count("was not told: no answer came in") == 1
        assert told.failed == 3


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_for_that_would_be_a_get_without_the_document(hook: Any, status: int) -> None:
    hook.status, hook.location = status, hook.url
    out = io.StringIO()
    told = Alerts(hook.url, stream=out)
    assert told.hook(7, {"id": 7}) is None
    assert "(give the address that it redirects to)" in out.getvalue()
    hook.status = 200
    assert told.hook(7, {"id": 7})
    assert [body["id"] for _, body in hook.got] == [7, 7]


def test_the_secret_part_of_an_address_is_not_printed(hook: Any) -> None:
    hook.status = 500
    out = io.StringIO()
    address = hook.url.replace("http://", "http://somebody:secret@")
    for url in (f"{hook.url}?token=secret", address):
        Alerts(url, stream=out).hook(7, {})
    assert "was not told" in out.getvalue()
    assert "secret" not in out.getvalue()


class TestAlertmanager:
    """API v2: alerts are known by their labels, and end when they are told to be over."""

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
            "by": "service",
        }
        assert alert["annotations"] == {
            "summary": "drift of inputs, digits@1",
            "description": "3 of 64 features moved",
        }
        assert alert["startsAt"] == "1970-01-01T00:16:40.000Z"
        assert "endsAt" not in alert, "only what is over has an end"

    def test_it_is_known_by_the_same_labels_until_it_is_over(self, hook: Any, told: Alerts) -> None:
        told.tell("digits@1", FINDING)
        first = self.alert(hook)
        assert told.still("digits@1", [replace(FINDING, why="5 of 64 features moved")])
        assert self.alert(hook)["labels"] == first["labels"]
        assert told.over("digits@1", FINDING)
        last = self.alert(hook)
        assert last["labels"] == first["labels"]
        ends = datetime.fromisoformat(last["endsAt"]).timestamp()
        assert ends <= time.time() + alerts.SETTLES, "soon, once no rule can take it for news"

    def test_the_others_hear_it_once(self, hook: Any) -> None:
        out = io.StringIO()
        told = Alerts(hook.url, stream=out)
        told.tell("digits@1", FINDING)
        assert told.still("digits@1", [FINDING])
        assert len(out.getvalue().splitlines()) == 1
        assert told.over("digits@1", FINDING)
        assert out.getvalue().endswith("drift digits@1 inputs: over\n")
        assert hook.got == [], "what a webhook is told is in the journal"

    def test_nothing_that_goes_on_is_nothing_to_tell(self, hook: Any, told: Alerts) -> None:
        assert told.still("digits@1", [])
        assert hook.got == []

    def test_one_that_refuses_is_reported(self, hook: Any) -> None:
        hook.status = 400
        out = io.StringIO()
        assert not Alerts(alertmanager=hook.url, stream=out).tell("digits@1", FINDING)
        assert "the Alertmanager 127.0.0.1:" in out.getvalue()
        assert "was not told: HTTP Error 400" in out.getvalue()


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[str]:
    """The address of a real one, on the file that ``monitor setup`` writes."""
    if not shutil.which("prometheus-alertmanager"):
        pytest.skip("there is no Alertmanager on this machine")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    write.write(tmp_path, Plan(targets=("http://127.0.0.1:1",)))
    options = [f"--config.file={tmp_path / 'alertmanager.yml'}", f"--storage.path={tmp_path / 'data'}"]
    options += ["--cluster.listen-address=", f"--web.listen-address={url.removeprefix('http://')}"]
    process = subprocess.Popen(["prometheus-alertmanager", *options], stderr=subprocess.DEVNULL)

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/-/ready").is_success
        except httpx.TransportError:
            return False

    try:
        until(ready)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def active(url: str) -> list[Any]:
    """Alerts that go on and are muted by nothing."""
    return httpx.get(f"{url}/api/v2/alerts?active=true&inhibited=false").json()  # type: ignore[no-any-return]


def test_a_real_alertmanager_holds_it_until_it_is_over(alertmanager: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "SETTLES", 2.0)
    told = Alerts(alertmanager=alertmanager, stream=io.StringIO())
    assert told.tell("digits@1", FINDING)
    until(lambda: len(active(alertmanager)) == 1)
    (alert,) = active(alertmanager)
    assert alert["labels"]["alertname"] == "ModelkeepDrift"
    assert alert["annotations"]["description"] == "3 of 64 features moved"
    assert told.still("digits@1", [FINDING])
    assert len(active(alertmanager)) == 1
    assert told.over("digits@1", FINDING)
    assert len(active(alertmanager)) == 1, "it has a moment, as it has for rules"
    until(lambda: active(alertmanager) == [])


@pytest.mark.parametrize(("rule", "kind"), [("ModelkeepDrift", "drift"), ("ModelkeepQuality", "quality")])
def test_what_the_service_told_is_not_told_by_a_rule_too(alertmanager: str, rule: str, kind: str) -> None:
    """Nor is anything else muted: another kind, another model, or an alert about the service."""

    def of_rule(name: str, **labels: str) -> None:
        alert = {"labels": {"alertname": name, "model": "digits", "version": "1", "severity": "ticket"} | labels}
        httpx.post(f"{alertmanager}/api/v2/alerts", json=[alert]).raise_for_status()

    assert Alerts(alertmanager=alertmanager, stream=io.StringIO()).tell("digits@1", replace(FINDING, kind=kind))
    until(lambda: len(active(alertmanager)) == 1)
    of_rule(rule, kind=kind, origin="modelkeep")
    of_rule("ModelkeepFinding", kind="no-data", origin="modelkeep")
    of_rule(rule, kind=kind, origin="modelkeep", model="other")
    of_rule("ModelkeepErrors", kind=kind)
    until(lambda: len(active(alertmanager)) == 4)
    assert {one["labels"].get("by", "rule") for one in active(alertmanager) if one["labels"]["alertname"] == rule} == {
        "service",
        "rule",
    }
    muted = httpx.get(f"{alertmanager}/api/v2/alerts?active=false&silenced=false").json()
    assert [(one["labels"]["alertname"], one["labels"]["model"]) for one in muted] == [(rule, "digits")]


@pytest.mark.parametrize("bad", ["file:///etc/passwd", "ftp://host/x", "hook", "http://", ""])
def test_other_addresses_are_refused(bad: str) -> None:
    with pytest.raises(BadSettings, match="is no http:// or https:// address"):
        Alerts(bad)
    with pytest.raises(BadSettings, match=r"the Alertmanager .* is no http:// or https:// address"):
        Alerts(alertmanager=bad)
