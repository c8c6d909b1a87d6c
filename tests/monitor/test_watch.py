"""A whole look: captured traffic of a real model in, findings and numbers out."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data import labels
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadSettings
from modelkeep.monitor import watch
from modelkeep.monitor.watch import Checked, Limits, check
from modelkeep.types import Model, Version

Send = Callable[..., list[str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "traffic.db"


@pytest.fixture
def held_out(digits: tuple[Dataset, Dataset]) -> Callable[[int], Any]:
    """So many held-out digits, as pixels and labels."""
    rng = np.random.default_rng(0)

    def take(count: int) -> tuple[Any, Any]:
        at = rng.integers(len(digits[1]), size=count)
        return digits[1].inputs["pixels"][at], digits[1].labels[at]  # type: ignore[index]

    return take


def kinds(checked: Checked) -> list[tuple[str, str]]:
    return [(f.kind, f.subject) for f in checked.findings]


class TestLooks:
    def test_no_traffic_is_said(self, version: Version, model: Model, path: Path) -> None:
        checked = check(version, model, path)
        assert kinds(checked) == [("no-data", "traffic")]
        assert checked.n == 0
        assert "no-data of traffic: no request was captured yet" in checked.describe()
        assert not path.exists()

    def test_quiet_traffic_has_no_finding(
        self, version: Version, model: Model, path: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        send(held_out(1500)[0])
        checked = check(version, model, path)
        assert checked.findings == ()
        assert checked.n == 1500
        assert checked.since == 1e6
        assert checked.numbers["inputs"]["n"] == 1488
        assert checked.numbers["inputs"]["features"] == 16
        assert checked.numbers["answers"]["features"] == 3
        assert checked.describe().startswith("digits@1, 1500 requests: nothing found\n  inputs: of 16 features")

    def test_a_changed_world_is_found_in_inputs_and_answers(
        self, version: Version, model: Model, path: Path, send: Send, held_out: Callable[[int], Any], changed: Any
    ) -> None:
        send(held_out(1000)[0])
        assert check(version, model, path).findings == ()
        send(changed(held_out(500)[0]))
        checked = check(version, model, path)
        assert kinds(checked) == [("drift", "inputs"), ("drift", "answers")]
        for found in checked.findings:
            assert found.since is not None
            assert 1e6 + 9.5 <= found.since <= 1e6 + 12.5
        assert json.loads(json.dumps(asdict(checked)))["n"] == 1500

    def test_looking_often_or_once_comes_to_the_same(
        self, version: Version, model: Model, path: Path, send: Send, held_out: Callable[[int], Any], changed: Any
    ) -> None:
        for at in range(12):
            pixels = held_out(37)[0]
            send(changed(pixels) if at > 8 else pixels)
            often = check(version, model, path)
        once = check(replace(version, digest="another process"), model, path)
        assert often == once
        assert often.findings

    def test_the_version_alone_is_looked_at(
        self, version: Version, model: Model, path: Path, send: Send, held_out: Callable[[int], Any], changed: Any
    ) -> None:
        send(held_out(200)[0])
        send(changed(held_out(200)[0]), version=2)
        send(changed(held_out(200)[0]), model="other")
        send(changed(held_out(200)[0]), track="shadow")
        send(held_out(100)[0], track="canary")
        checked = check(version, model, path)
        assert checked.findings == ()
        assert checked.n == 300

    def test_a_file_that_was_made_anew_is_read_from_its_start(
        self, version: Version, model: Model, path: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        send(held_out(100)[0])
        assert check(version, model, path).n == 100
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        send(held_out(30)[0])
        assert check(version, model, path).n == 30

    def test_a_run_covers_the_newest_requests_only(
        self,
        version: Version,
        model: Model,
        path: Path,
        send: Send,
        held_out: Callable[[int], Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(watch, "RUN", 100)
        seen = []
        for _ in range(7):
            send(held_out(50)[0])
            seen.append(check(version, model, path).n)
        assert seen == [50, 100, 150, 200, 150, 200, 150]

    def test_requests_of_another_form_are_counted_not_fatal(
        self, version: Version, model: Model, path: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        send(held_out(32)[0])
        send(held_out(5)[0], inputs={"other": np.zeros((1, 3))})
        checked = check(version, model, path)
        assert checked.notes == ("5 requests did not have the form of the reference rows",)


class TestWithoutReference:
    def test_drift_is_not_judged_and_that_is_said(
        self, make_model: Callable[..., Model], version: Version, path: Path, send: Send, held_out: Any, tmp_path: Path
    ) -> None:
        bare = make_model(tmp_path / "bare", reference=None)
        send(held_out(50)[0])
        checked = check(replace(version, digest="bare"), bare, path)
        assert checked.findings == ()
        assert checked.notes == ("drift is not judged: the version keeps no reference rows; add it with --data",)
        assert "drift is not judged" in checked.describe()

    def test_too_few_reference_rows_are_none(
        self, make_model: Callable[..., Model], tmp_path: Path, digits: tuple[Dataset, Dataset]
    ) -> None:
        assert watch.baseline(make_model(tmp_path / "few", reference=digits[0].head(20))) is None


class TestQuality:
    def test_truth_that_comes_late_is_joined(
        self, version: Version, model: Model, path: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        pixels, truth = held_out(400)
        ids = send(pixels)
        assert check(version, model, path).numbers["quality"]["n"] == 0
        labels.record(path, "digits", dict(zip(ids[:300], truth[:300].tolist(), strict=True)))
        first = check(version, model, path).numbers["quality"]
        labels.record(path, "digits", dict(zip(ids, truth.tolist(), strict=True)))
        second = check(version, model, path)
        assert (first["n"], first["coverage"]) == (300, 0.75)
        assert second.numbers["quality"]["n"] == 400
        assert second.numbers["quality"]["accuracy"] > 0.85
        assert second.findings == ()

    def test_the_promise_is_what_counts(
        self, version: Version, model: Model, path: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        pixels, truth = held_out(400)
        wrong = np.where(np.arange(400) % 10 < 4, (truth + 1) % 10, truth)
        labels.record(path, "digits", dict(zip(send(pixels), wrong.tolist(), strict=True)))
        assert kinds(check(version, model, path, min_accuracy=0.9)) == [("quality", "accuracy")]
        assert kinds(check(version, model, path, min_accuracy=0.3)) == []

    def test_without_a_promise_the_reference_rows_set_the_floor(
        self, version: Version, model: Model, path: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        known = watch.baseline(model)
        assert known is not None
        assert known.accuracy is not None
        pixels, truth = held_out(300)
        labels.record(path, "digits", dict(zip(send(pixels), ((truth + 1) % 10).tolist(), strict=True)))
        (found,) = check(version, model, path).findings
        assert found.evidence["floor"] == pytest.approx(known.accuracy - 0.1)
        assert "the least to expect from its reference rows" in found.why


class TestHealth:
    def test_failures_and_slowness(
        self, version: Version, model: Model, path: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        send(held_out(500)[0])
        send(held_out(800)[0], outcome="error", outputs=None, seconds=2.0)
        checked = check(version, model, path, p99=0.5)
        assert kinds(checked) == [("health", "errors"), ("health", "latency")]
        assert checked.numbers["health"]["failed"] == 800


class TestLimits:
    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({"tolerance": 1.0}, "tolerance is 1.0; give a share from 0 up to"),
            ({"min_accuracy": -0.1}, "min_accuracy is -0.1"),
            ({"false_alarm_every": 0}, "false_alarm_every is 0; give a number of requests"),
            ({"p99": 0.0}, "p99 is 0.0; give seconds"),
        ],
    )
    def test_wrong_ones_are_refused(self, wrong: dict[str, float], says: str) -> None:
        with pytest.raises(BadSettings, match=says):
            Limits(**wrong)

    def test_a_larger_tolerance_bears_more(
        self, version: Version, model: Model, path: Path, send: Send, held_out: Callable[[int], Any], changed: Any
    ) -> None:
        send(changed(held_out(400)[0]))
        assert check(version, model, path).findings
        assert check(version, model, path, tolerance=0.9).findings == ()


def test_a_damaged_file_is_refused_by_name(version: Version, model: Model, path: Path) -> None:
    from modelkeep.errors import BadData

    path.write_text("no database " * 500)
    with pytest.raises(BadData, match=r"traffic\.db is not a file of captured traffic"):
        check(version, model, path)


def test_reading_disturbs_no_writer(
    version: Version, model: Model, path: Path, send: Send, held_out: Callable[[int], Any]
) -> None:
    """A server may hold the write lock for as long as it likes."""
    send(held_out(50)[0])
    writer = sqlite3.connect(path)
    writer.execute("BEGIN IMMEDIATE")
    assert check(version, model, path).n == 50
    writer.rollback()
    writer.close()
