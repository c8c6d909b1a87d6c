"""What was found is written and told once, goes on quietly, and is over once."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelkeep.monitor import telling
from modelkeep.monitor.alerts import Alerts
from modelkeep.monitor.look import Checked
from modelkeep.monitor.telling import FOUND, OVER, SENT, TOLD, Past, tell, unserved
from modelkeep.registry import Registry
from modelkeep.settings import Settings
from modelkeep.types import Finding, Route, Version

DRIFT = Finding("drift", "inputs", "they moved", {"n": 9}, 1000.0)
SLOW = Finding("health", "latency", "they are slow", {}, 2000.0)


class Heard(Alerts):
    """Alerts that remember instead of telling."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, str]] = []

    def tell(self, ref: str, finding: Finding) -> bool:
        self.heard.append(("tell", finding.subject))
        return True

    def still(self, ref: str, findings: Any) -> bool:
        self.heard += [("still", finding.subject) for finding in findings]
        return True

    def over(self, ref: str, finding: Finding) -> bool:
        self.heard.append(("over", finding.subject))
        return True


class Watching:
    """A registry, and a version that is looked at again and again."""

    def __init__(self, registry: Registry, version: Version) -> None:
        self.registry, self.version, self.alerts = registry, version, Heard()
        self.past = Past(registry, version.name)

    def look(
        self, *findings: Finding, who: str = "monitor", over: bool = True, tells: bool = True, **limits: Any
    ) -> list[tuple[str, str]]:
        """What is told of a look with these findings."""
        self.alerts.heard.clear()
        alerts = self.alerts if tells else None
        tell(self.past, self.version, Checked("digits@1", 9, 1.0, findings), alerts, who, limits=limits, over=over)
        return list(self.alerts.heard)

    def journal(self) -> list[tuple[str, str]]:
        entries = [e for kind in (FOUND, TOLD, OVER) for e in self.registry.journal("digits", kind=kind)]
        return [(e.kind, str(e.data["subject"])) for e in sorted(entries, key=lambda e: e.id)]


@pytest.fixture
def watching(version: Version, tmp_path: Path) -> Any:
    registry = Registry.open(Settings(home=tmp_path / "home"))
    yield Watching(registry, version)
    registry.close()


def test_once_then_still_then_over_then_anew(watching: Watching) -> None:
    assert watching.look() == []
    assert watching.look(DRIFT) == [("tell", "inputs")]
    assert watching.look(DRIFT) == [("still", "inputs")]
    assert watching.look() == [("over", "inputs")]
    assert watching.look() == []
    assert watching.look(DRIFT) == [("tell", "inputs")]
    assert watching.journal() == [(FOUND, "inputs"), (OVER, "inputs"), (FOUND, "inputs")]


def test_a_look_reads_on_in_the_journal(watching: Watching, monkeypatch: pytest.MonkeyPatch) -> None:
    """A latency that comes and goes leaves hundreds of entries a day, and looks came later and later."""
    for _ in range(3):
        watching.look(DRIFT)
        watching.look()
    read: list[Any] = []
    journal = watching.registry.journal
    monkeypatch.setattr(watching.registry, "journal", lambda *a, **k: read.extend(journal(*a, **k)) or read)
    watching.look()
    assert read == [], "what it wrote itself was read then"


class TestTwoServers:
    """Of one registry, which look at the same moment and find the same: each has read all before the other writes."""

    @pytest.fixture
    def both(self, watching: Watching, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, str]]]:
        """Both look; what is told by both."""
        other = Watching(watching.registry, watching.version)
        told: list[tuple[str, str]] = []

        def look(*findings: Finding) -> list[tuple[str, str]]:
            told.clear()
            read = Past.read

            def read_then_let_the_other_look(past: Past) -> Past:
                read(past)
                with monkeypatch.context() as patch:
                    patch.setattr(Past, "read", read)
                    if past is watching.past and not told:
                        told.append(("", ""))
                        told.extend(other.look(*findings))
                return past

            with monkeypatch.context() as patch:
                patch.setattr(Past, "read", read_then_let_the_other_look)
                told.extend(watching.look(*findings))
            return told[1:]

        return look

    def test_one_of_them_tells_and_one_of_them_ends_it(
        self, both: Callable[..., list[tuple[str, str]]], watching: Watching
    ) -> None:
        for _ in range(2):
            assert sorted(both(DRIFT, SLOW)) == [
                ("still", "inputs"),
                ("still", "latency"),
                ("tell", "inputs"),
                ("tell", "latency"),
            ]
            assert sorted(both()) == [("over", "inputs"), ("over", "latency")]
        assert watching.journal()[:4] == [
            (FOUND, "inputs"),
            (FOUND, "latency"),
            (OVER, "inputs"),
            (OVER, "latency"),
        ]


def test_each_has_its_own_end(watching: Watching) -> None:
    watching.look(DRIFT, SLOW)
    assert watching.look(SLOW) == [("still", "latency"), ("over", "inputs")]


def test_the_entry_holds_the_evidence(watching: Watching) -> None:
    watching.look(DRIFT)
    (entry,) = watching.registry.journal("digits", kind=FOUND)
    assert entry.why == "they moved"
    assert entry.data == {**DRIFT.to_json(), "version": 1, "told": True, "limits": {}}
    assert entry.who == "monitor"
    watching.look()
    (entry,) = watching.registry.journal("digits", kind=OVER)
    assert entry.why == "drift of inputs is found no more"
    assert entry.data["since"] == 1000.0


def test_who_looks_for_less_ends_nothing(watching: Watching) -> None:
    watching.look(DRIFT, SLOW)
    assert watching.look(DRIFT, who="person", over=False) == [("tell", "inputs")], "to those whom the person tells"
    assert watching.look(DRIFT, who="person", over=False) == [("still", "inputs")]
    assert watching.look(who="other", over=True) == []
    assert watching.journal() == [(FOUND, "inputs"), (FOUND, "latency"), (TOLD, "inputs")]


@pytest.mark.parametrize("tells", [True, False])
def test_a_person_who_looks_first_takes_nothing_from_whom_the_service_tells(watching: Watching, tells: bool) -> None:
    watching.look(DRIFT, who="person", over=False, tells=tells)
    assert watching.look(DRIFT) == [("tell", "inputs")]
    assert watching.look(DRIFT) == [("still", "inputs")]
    assert watching.look() == [("over", "inputs")], "the service found it too, and finds it no more"
    assert watching.look(DRIFT) == [("tell", "inputs")]
    assert watching.journal() == [(FOUND, "inputs"), (TOLD, "inputs"), (OVER, "inputs"), (FOUND, "inputs")]


def test_what_only_a_person_found_is_not_for_the_service_to_end(watching: Watching) -> None:
    watching.look(DRIFT, who="person", over=False, tells=False)
    watching.look(DRIFT, who="person", over=False, tells=False)
    assert watching.look() == []
    assert watching.journal() == [(FOUND, "inputs")]


def test_who_looks_again_by_the_same_limits_ends_what_nobody_else_found(watching: Watching) -> None:
    """A line of cron, whose findings would stay open for ever, so that none came a second time."""
    cron: dict[str, Any] = {"who": "person:cron", "over": False, "min_accuracy": 0.9, "slices": ("age",)}
    assert watching.look(DRIFT, **cron) == [("tell", "inputs")]
    assert watching.look(**{**cron, "min_accuracy": 0.8}) == [], "it may have looked for less"
    assert watching.look(**{**cron, "who": "person:other"}) == []
    assert watching.look(**cron) == [("over", "inputs")]
    assert watching.look(DRIFT, **cron) == [("tell", "inputs")]
    assert watching.look(DRIFT, who="monitor") == [("tell", "inputs")]
    assert watching.look(**cron) == [], "the service finds it still"


def test_who_told_nobody_may_tell_later(watching: Watching) -> None:
    watching.look(DRIFT, who="person", over=False, tells=False)
    assert watching.look(DRIFT, who="person", over=False) == [("tell", "inputs")]
    assert watching.look(DRIFT, who="person", over=False) == [("still", "inputs")]


def test_other_versions_and_alerts_from_outside_are_their_own(watching: Watching) -> None:
    for extra in ({"version": 2}, {"version": 1, "alert": "fingerprint"}):
        watching.registry.note("digits", FOUND, "…", {**DRIFT.to_json(), **extra}, who="monitor")
    assert watching.look() == []
    assert watching.look(DRIFT) == [("tell", "inputs")]


class TestUnserved:
    def end(self, watching: Watching, **route: Any) -> list[tuple[str, str]]:
        """What is told once these versions are served."""
        watching.alerts.heard.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(watching.registry, "route", lambda name: Route(name, **route))
            unserved(watching.past, watching.alerts, "monitor")
        return list(watching.alerts.heard)

    def test_what_was_found_is_over_once_and_new_when_it_is_served_again(self, watching: Watching) -> None:
        watching.look(DRIFT, SLOW)
        assert self.end(watching, live=1) == []
        assert self.end(watching, canary=1) == []
        assert self.end(watching) == [("over", "inputs"), ("over", "latency")]
        assert self.end(watching) == []
        over = watching.registry.journal("digits", kind=OVER)
        assert [entry.why for entry in over] == [
            "drift of inputs is over: digits@1 is no longer served",
            "health of latency is over: digits@1 is no longer served",
        ]
        assert over[0].data == {"kind": "drift", "subject": "inputs", "version": 1, "since": 1000.0}
        self.end(watching, live=1)
        assert watching.look(DRIFT) == [("tell", "inputs")]

    def test_whoever_found_it_and_nobody_hears_of_the_end_of_what_he_was_not_told(self, watching: Watching) -> None:
        watching.look(DRIFT, who="person", over=False)
        assert self.end(watching) == []
        assert watching.journal() == [(FOUND, "inputs"), (OVER, "inputs")]

    def test_what_alertmanager_told_has_its_own_end(self, watching: Watching) -> None:
        data = {**DRIFT.to_json(), "version": 1, "alert": "fingerprint"}
        watching.registry.note("digits", FOUND, "…", data, who="alertmanager")
        assert self.end(watching) == []
        assert watching.journal() == [(FOUND, "inputs")]


def test_without_alerts_the_journal_is_enough(watching: Watching) -> None:
    tell(watching.past, watching.version, Checked("digits@1", 9, 1.0, (DRIFT,)), None, "monitor", over=True)
    tell(watching.past, watching.version, Checked("digits@1", 9, 1.0, ()), None, "monitor", over=True)
    assert watching.journal() == [(FOUND, "inputs"), (OVER, "inputs")]


class TestWebhook:
    """Each has the registry and a webhook only, as after a restart: nothing else is remembered."""

    @pytest.fixture
    def look(self, watching: Watching, hook: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
        """A look of a new process with these findings; what the webhook was sent by it."""
        monkeypatch.setattr(telling, "AGAIN", 0.0)

        def look(*findings: Finding, who: str = "monitor") -> list[Any]:
            hook.got.clear()
            alerts, checked = Alerts(hook.url, stream=io.StringIO()), Checked("digits@1", 9, 1.0, findings)
            tell(Past(watching.registry, "digits"), watching.version, checked, alerts, who, over=who == "monitor")
            return [body for _, body in hook.got]

        return look

    def test_it_is_told_once(self, look: Callable[..., list[Any]], watching: Watching) -> None:
        (body,) = look(DRIFT)
        (entry,) = watching.registry.journal("digits", kind=FOUND)
        assert body == {"id": entry.id, "model": "digits@1", **DRIFT.to_json()}
        (sent,) = watching.registry.journal("digits", kind=SENT)
        assert (sent.why, sent.data) == ("the webhook was told of drift of inputs", {"finding": entry.id})
        assert look(DRIFT) == []
        assert look() == []

    def test_what_it_was_not_told_comes_once_it_listens(self, look: Callable[..., list[Any]], hook: Any) -> None:
        hook.status = 503
        assert len(look(DRIFT, SLOW)) == 1, "who cannot be reached is not asked for each"
        hook.status = 200
        assert [body["subject"] for body in look()] == ["inputs", "latency"], "though both are over"
        assert look() == []

    def test_what_it_refuses_is_not_sent_again(
        self, look: Callable[..., list[Any]], hook: Any, watching: Watching
    ) -> None:
        hook.status = 400
        look(DRIFT)
        hook.status = 200
        assert look(DRIFT) == []
        (sent,) = watching.registry.journal("digits", kind=SENT)
        assert sent.why == "the webhook refused drift of inputs"

    def test_each_owes_what_it_found_itself(self, look: Callable[..., list[Any]], hook: Any) -> None:
        hook.status = 503
        look(DRIFT, who="cron")
        hook.status = 200
        assert [body["subject"] for body in look(SLOW)] == ["latency"]
        assert [body["subject"] for body in look(SLOW, DRIFT, who="cron")] == ["inputs", "latency"]

    def test_what_was_found_before_there_was_a_webhook_is_not_owed(
        self, look: Callable[..., list[Any]], watching: Watching
    ) -> None:
        watching.look(DRIFT)
        assert look(DRIFT) == []

    def test_what_waits_is_bounded(
        self, look: Callable[..., list[Any]], hook: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(telling, "OWED", 2)
        hook.status = 500
        look(*(replace(DRIFT, subject=str(number)) for number in range(4)))
        hook.status = 200
        assert [body["subject"] for body in look()] == ["2", "3"]
        assert look() == [], "nor do the older ones come back"

    def test_another_server_has_a_moment_to_send_what_it_found(
        self, look: Callable[..., list[Any]], hook: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(telling, "AGAIN", 60.0)
        hook.status = 503
        assert len(look(DRIFT)) == 1
        hook.status = 200
        assert look(DRIFT) == []

    def test_what_is_owed_is_sent_where_the_clock_was_set_back(
        self, look: Callable[..., list[Any]], hook: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(telling, "AGAIN", 60.0)
        hook.status = 503
        look(DRIFT)
        hook.status = 200
        now = time.time()
        monkeypatch.setattr(telling.time, "time", lambda: now - 86400)
        assert [body["subject"] for body in look(DRIFT)] == ["inputs"]
