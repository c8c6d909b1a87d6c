"""A whole look: captured traffic of a real model in, findings and numbers out."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelkeep.data import labels, pulses, traffic
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadSettings
from modelkeep.metrics import SECONDS
from modelkeep.model import baseline
from modelkeep.monitor import captured, profiled, truth
from modelkeep.monitor.limits import Limits
from modelkeep.monitor.page import page
from modelkeep.monitor.series import FEATURES
from modelkeep.monitor.watch import Checked, check
from modelkeep.types import Model, Version

Send = Callable[..., list[str]]
Profile = Callable[..., None]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def path(home: Path) -> Path:
    return home / "traffic.db"


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
    def test_no_traffic_is_said(self, version: Version, model: Model, home: Path, path: Path) -> None:
        checked = check(version, model, home)
        assert kinds(checked) == [("no-data", "traffic")]
        assert checked.n == 0
        assert "no-data of traffic: no request was captured yet" in checked.describe()
        assert not path.exists()

    def test_quiet_traffic_has_no_finding(
        self, version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        send(held_out(1500)[0])
        checked = check(version, model, home)
        assert checked.findings == ()
        assert checked.n == 1500
        assert checked.since == 1e6
        assert checked.numbers["inputs"]["n"] == 1488
        assert checked.numbers["inputs"]["features"] == 16
        assert checked.numbers["answers"]["features"] == 3
        assert checked.describe().startswith("digits@1, 1,500 requests: nothing found\n  inputs: of 16 features")

    def test_a_changed_world_is_found_in_inputs_and_answers(
        self, version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any], changed: Any
    ) -> None:
        send(held_out(1000)[0])
        assert check(version, model, home).findings == ()
        send(changed(held_out(500)[0]))
        checked = check(version, model, home)
        assert kinds(checked) == [("drift", "inputs"), ("drift", "answers"), ("quality", "estimated accuracy")]
        for found in checked.findings[:2]:
            assert found.since is not None
            assert 1e6 + 9.5 <= found.since <= 1e6 + 12.5
        assert json.loads(json.dumps(asdict(checked)))["n"] == 1500

    def test_looking_often_or_once_comes_to_the_same(
        self, version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any], changed: Any
    ) -> None:
        for at in range(12):
            pixels = held_out(37)[0]
            send(changed(pixels) if at > 8 else pixels)
            often = check(version, model, home)
        once = check(replace(version, digest="another process"), model, home)
        assert often == once
        assert often.findings

    def test_the_version_alone_is_looked_at(
        self, version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any], changed: Any
    ) -> None:
        send(held_out(200)[0])
        send(changed(held_out(200)[0]), version=2)
        send(changed(held_out(200)[0]), model="other")
        send(changed(held_out(200)[0]), track="shadow")
        send(held_out(100)[0], track="canary")
        checked = check(version, model, home)
        assert checked.findings == ()
        assert checked.n == 300

    def test_a_file_that_was_made_anew_is_read_from_its_start(
        self, version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        send(held_out(100)[0])
        assert check(version, model, home).n == 100
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        send(held_out(30)[0])
        assert check(version, model, home).n == 30

    def test_a_run_covers_the_newest_requests_only(
        self,
        version: Version,
        model: Model,
        home: Path,
        send: Send,
        held_out: Callable[[int], Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(captured, "RUN", 100)
        seen = []
        for _ in range(7):
            send(held_out(50)[0])
            seen.append(check(version, model, home).n)
        assert seen == [50, 100, 150, 200, 150, 200, 150]

    def test_requests_of_another_form_are_counted_not_fatal(
        self, version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        send(held_out(32)[0])
        send(held_out(5)[0], inputs={"other": np.zeros((1, 3))})
        checked = check(version, model, home)
        assert checked.notes == ("5 requests did not have the form of the reference rows",)


class TestWithoutReference:
    def test_drift_is_not_judged_and_that_is_said(
        self, make_model: Callable[..., Model], version: Version, home: Path, send: Send, held_out: Any, tmp_path: Path
    ) -> None:
        bare = make_model(tmp_path / "bare", reference=None)
        send(held_out(50)[0])
        checked = check(replace(version, digest="bare"), bare, home)
        assert checked.findings == ()
        assert checked.notes == ("drift is not judged: the version keeps no reference rows; add it with --data",)
        assert "drift is not judged" in checked.describe()

    def test_too_few_reference_rows_are_none(
        self, make_model: Callable[..., Model], tmp_path: Path, digits: tuple[Dataset, Dataset]
    ) -> None:
        assert baseline.build(make_model(tmp_path / "few", reference=digits[0].head(20))) is None


class TestQuality:
    def test_truth_that_comes_late_is_joined(
        self, version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        pixels, truth = held_out(400)
        ids = send(pixels)
        assert check(version, model, home).numbers["quality"]["n"] == 0
        labels.record(path, "digits", dict(zip(ids[:300], truth[:300].tolist(), strict=True)))
        first = check(version, model, home).numbers["quality"]
        labels.record(path, "digits", dict(zip(ids, truth.tolist(), strict=True)))
        second = check(version, model, home)
        assert "labelled requests, 100% of those captured" in second.describe()
        assert (first["n"], first["coverage"]) == (300, 0.75)
        assert second.numbers["quality"]["n"] == 400
        assert second.numbers["quality"]["accuracy"] > 0.85
        assert second.findings == ()

    @pytest.mark.parametrize("label", ["three", [3, 4]])
    def test_labels_of_another_kind_are_said_and_count_for_nothing(
        self, version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Any, label: Any
    ) -> None:
        """A name where classes have none, or two labels of one row."""
        pixels, truth = held_out(20)
        ids = send(pixels)
        labels.record(path, "digits", dict(zip(ids[1:], truth[1:].tolist(), strict=True)) | {ids[0]: label})
        checked = check(version, model, home)
        assert checked.numbers["quality"]["n"] == 19
        assert any(
            note.startswith("1 label cannot be compared") and f"{str(label)!r} of request r0" in note
            for note in checked.notes
        )

    def test_answers_without_the_classes_are_said_and_count_for_nothing(
        self, version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        """A client may ask for one output, and not for the one that is judged."""
        pixels, truth = held_out(20)
        ids = send(pixels) + send(pixels[:3], outputs={"embedding": np.zeros((1, 4), "float32")})
        labels.record(path, "digits", dict(zip(ids, [*truth.tolist(), 1, 2, 3], strict=True)))
        checked = check(version, model, home)
        assert checked.numbers["quality"]["n"] == checked.numbers["estimated"]["n"] == 20
        assert [note for note in checked.notes if "labels" in note] == [
            "3 labels came for answers without the output 'logits', which clients did not ask for, and counted for "
            "nothing"
        ]

    def test_a_label_waits_for_its_request_a_while(
        self, version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        """It may be on its way into the file, or never have been there."""
        labels.record(path, "digits", {"r0": 3, "r1": 3})
        assert check(version, model, home).numbers["quality"]["n"] == 0
        send(held_out(1)[0])
        assert check(version, model, home).numbers["quality"]["n"] == 1
        for _ in range(truth.TRIES):
            check(version, model, home)
        send(held_out(1)[0])
        assert check(version, model, home).numbers["quality"]["n"] == 1

    def test_the_promise_is_what_counts(
        self, version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        pixels, truth = held_out(400)
        wrong = np.where(np.arange(400) % 10 < 4, (truth + 1) % 10, truth)
        labels.record(path, "digits", dict(zip(send(pixels), wrong.tolist(), strict=True)))
        calibration = ("quality", "calibration")  # the labels are wrong whatever the confidence
        assert kinds(check(version, model, home, min_accuracy=0.9)) == [("quality", "accuracy"), calibration]
        assert kinds(check(version, model, home, min_accuracy=0.3)) == [calibration]

    def test_without_a_promise_the_reference_rows_set_the_floor(
        self, version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        known = baseline.build(model)
        assert known is not None
        assert known.accuracy is not None
        pixels, truth = held_out(300)
        labels.record(path, "digits", dict(zip(send(pixels), ((truth + 1) % 10).tolist(), strict=True)))
        found = check(version, model, home).findings[0]
        assert found.evidence["floor"] == pytest.approx(known.accuracy - 0.1)
        assert "the least to expect from its reference rows" in found.why

    def test_the_estimate_stands_beside_the_real_one(
        self, version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        pixels, truth = held_out(600)
        ids = send(pixels)
        before = check(version, model, home)
        labels.record(path, "digits", dict(zip(ids, truth.tolist(), strict=True)))
        after = check(version, model, home)
        estimated, real = after.numbers["estimated"]["accuracy"], after.numbers["quality"]
        assert before.numbers["estimated"]["accuracy"] == estimated
        assert abs(estimated["value"] - real["accuracy"]) < 0.05
        assert after.numbers["calibration"]["holds"]
        assert after.numbers["calibration"]["n"] == 600
        assert after.findings == ()
        assert "estimated without labels: accuracy " in after.describe()
        assert {"f1", "auc", "log_loss"} <= set(real)

    def test_an_estimate_is_doubtful_while_inputs_have_moved_and_no_label_tells(
        self, version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Any, changed: Any
    ) -> None:
        """Labels from before the change say nothing of it."""
        pixels, truth = held_out(200)
        labels.record(path, "digits", dict(zip(send(pixels), truth.tolist(), strict=True)))
        assert not check(version, model, home).numbers["estimated"]["doubtful"]
        pixels, truth = held_out(400)
        ids = send(changed(pixels))
        doubtful = check(version, model, home)
        assert ("drift", "inputs") in kinds(doubtful)
        assert doubtful.numbers["estimated"]["doubtful"]
        assert "; doubtful, for the inputs moved" in doubtful.describe()
        assert "doubt them" in page(doubtful)
        labels.record(path, "digits", dict(zip(ids, truth.tolist(), strict=True)))
        told = check(version, model, home)
        assert not told.numbers["estimated"]["doubtful"], "the labels tell"
        assert "doubt them" not in page(told)

    def test_an_estimate_that_labels_disprove_is_not_told(
        self, version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Any, changed: Any
    ) -> None:
        """The estimate says that accuracy is too low; the labels say that all is right."""
        pixels = changed(held_out(500)[0])
        ids = send(pixels)
        assert ("quality", "estimated accuracy") in kinds(check(version, model, home, min_accuracy=0.95))
        answered = traffic.read(path, "digits")
        truth = {e.id: int(e.outputs["logits"].argmax()) for e in answered if e.outputs is not None}
        assert set(truth) == set(ids)
        labels.record(path, "digits", truth)
        assert ("quality", "estimated accuracy") not in kinds(check(version, model, home, min_accuracy=0.95))


class TestWithoutTraffic:
    """``serve --capture 0``: what a server counts is enough for drift and health."""

    def test_drift_is_judged_by_counts(
        self, version: Version, model: Model, home: Path, profile: Profile, held_out: Any, changed: Any
    ) -> None:
        profile(held_out(1000)[0])
        quiet = check(version, model, home)
        assert quiet.findings == ()
        assert quiet.n == 1000
        profile(changed(held_out(500)[0]))
        assert [k for k in kinds(check(version, model, home)) if k[0] == "drift"] == [
            ("drift", "inputs"),
            ("drift", "answers"),
        ]

    def test_health_is_judged_by_counts(self, version: Version, model: Model, home: Path) -> None:
        for at in range(60):
            failed = 50 if at >= 40 else 0
            slower = tuple(80 if bound < 0.1 else 0 for bound in SECONDS)
            pulses.write(home / "pulses.db", 1e6 + 5 * at, {("digits", 1): pulses.Counts(100, failed, slower)})
        checked = check(version, model, home, p99=0.05, slo=0.999)
        assert kinds(checked) == [("health", "errors"), ("health", "latency")]
        assert checked.n == 6000
        assert checked.findings[0].evidence["worth"] == "page"
        assert "of the error budget is left; burn rates" in checked.findings[0].why
        assert kinds(check(version, model, home, p99=0.2)) == [("health", "errors")]

    def test_counts_come_before_captured_requests(
        self, version: Version, model: Model, home: Path, send: Send, profile: Profile, held_out: Any, changed: Any
    ) -> None:
        send(changed(held_out(400)[0]))
        profile(held_out(400)[0])
        assert [k for k in kinds(check(version, model, home)) if k[0] == "drift"] == []


class TestBounded:
    def test_a_look_beside_a_busy_service_reads_the_newest_only(
        self, version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        send(held_out(300)[0])
        assert check(version, model, home, most=100).n == 100
        send(held_out(40)[0])
        assert check(version, model, home, most=100).n == 140

    def test_no_count_is_left_out_it_is_read_later(
        self, version: Version, model: Model, home: Path, profile: Profile, held_out: Callable[[int], Any]
    ) -> None:
        """320 requests are 20 chunks of inputs and as many of answers."""
        profile(held_out(320)[0])
        seen = [check(version, model, home, most=16).n for _ in range(4)]
        assert seen == [128, 256, 320, 320]
        assert check(version, model, home).numbers["inputs"]["n"] == 320

    def test_what_is_found_is_not_lost_while_a_new_run_catches_up(
        self,
        version: Version,
        model: Model,
        home: Path,
        profile: Profile,
        held_out: Any,
        changed: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(profiled, "RUN", 60)
        found = []
        for _ in range(16):
            profile(changed(held_out(64)[0]))
            looked = kinds(check(version, model, home, most=20))
            found.append(("drift", "inputs") in looked)
        first = found.index(True)
        assert first < 8
        assert all(found[first:])

    def test_no_label_is_left_out_it_is_read_later(
        self, version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        pixels, truth = held_out(100)
        labels.record(path, "digits", dict(zip(send(pixels), truth.tolist(), strict=True)))
        seen = [check(version, model, home, most=40).numbers["quality"]["n"] for _ in range(4)]
        assert seen == [40, 80, 100, 100]

    def test_how_late_labels_come_is_asked_the_more_seldom_the_more_it_costs(
        self, version: Version, model: Model, home: Path, send: Send, held_out: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A clock on which asking takes 0.3 s of CPU: 300 s are 0.1 % of a core. By hand it is asked each time."""
        now, asked = [0.0], []

        def lag(*_: Any, **__: Any) -> labels.Lag:
            asked.append(now[0])
            now[0] += 0.3
            return labels.Lag()

        clock = SimpleNamespace(monotonic=lambda: now[0], thread_time=lambda: now[0])
        monkeypatch.setattr(truth, "time", clock)
        monkeypatch.setattr(truth.labels, "lag", lag)
        send(held_out(20)[0])
        for now[0] in (0.0, 100.0, 299.0, 301.0, 400.0):
            check(version, model, home, most=500)
        assert asked == [0.0, 301.0]
        check(version, model, home)
        assert len(asked) == 3

    def test_silence_is_a_finding_where_it_was_ruled_out(
        self, version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        send(held_out(20)[0])
        assert kinds(check(version, model, home)) == []
        (found,) = check(version, model, home, silence=60.0).findings
        assert (found.kind, found.subject) == ("no-data", "traffic")
        assert "no request has come for" in found.why


class TestPlots:
    def test_they_are_drawn_from_what_there_is(
        self, version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Any, changed: Any
    ) -> None:
        assert check(version, model, home).plots == {}
        pixels, truth = held_out(300)
        ids = send(pixels)
        labels.record(path, "digits", dict(zip(ids, truth.tolist(), strict=True)))
        pulses.write(home / "pulses.db", 1e6, {("digits", 1): pulses.Counts(10, 1)}, pulses.Sample(1e6, 7, 3e8))
        plots = check(version, model, home, plots=True).plots
        assert set(plots) == {"features", "quality", "seconds"}, "one point is no line"
        later = 1e6 + 60
        pulses.write(home / "pulses.db", later, {("digits", 1): pulses.Counts(10, 1)}, pulses.Sample(later, 7, 3e8))
        plots = check(version, model, home, plots=True).plots
        assert set(plots) == {"features", "quality", "seconds", "minutes", "memory"}
        assert len(plots["features"]["inputs"]) == FEATURES
        assert plots["quality"][-1]["n"] == 300
        assert plots["quality"][-1]["low"] < plots["quality"][-1]["value"] < plots["quality"][-1]["high"]
        assert plots["minutes"][0] == {"at": 999960.0, "requests": 10.0, "failed": 1.0}
        assert plots["memory"][0] == {"at": 1e6, "bytes": 3e8}


class TestHealth:
    def test_failures_and_slowness(
        self, version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        send(held_out(500)[0])
        send(held_out(800)[0], outcome="error", outputs=None, seconds=2.0)
        checked = check(version, model, home, p99=0.5)
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
            ({"silence": -1.0}, "silence is -1.0; give seconds"),
            ({"slo": 1.0}, "slo is 1.0; give a share from 0 up to"),
            ({"max_error": 0.0}, "max_error is 0.0; give a number, more than 0"),
        ],
    )
    def test_wrong_ones_are_refused(self, wrong: dict[str, float], says: str) -> None:
        with pytest.raises(BadSettings, match=says):
            Limits(**wrong)

    def test_slices_hold_the_promise_in_each_value(
        self, version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
    ) -> None:
        """One kind of image is answered wrong: its slice is found, while the accuracy of all is as promised."""
        pixels, truth = held_out(1500)
        mean = pixels.mean(axis=1)
        bright = mean > np.quantile(mean, 0.9)
        told = np.where(bright, (truth + 1) % 10, truth)
        labels.record(path, "digits", dict(zip(send(pixels), told.tolist(), strict=True)))
        found = check(version, model, home, min_accuracy=0.7, slices=("mean of pixels",))
        subjects = [f.subject for f in found.findings if f.kind == "quality" and f.subject != "calibration"]
        assert len(subjects) == 1
        assert subjects[0].startswith("accuracy where mean of pixels ≥ ")
        assert found.numbers["slices"][0]["accuracy"]["value"] < 0.7
        assert "where mean of pixels" in found.describe()
        with pytest.raises(BadSettings, match="there is no column 'age' to slice by; the inputs have"):
            check(version, model, home, slices=("age",))

    def test_a_larger_tolerance_bears_more(
        self, version: Version, model: Model, home: Path, send: Send, held_out: Callable[[int], Any], changed: Any
    ) -> None:
        send(changed(held_out(400)[0]))
        assert check(version, model, home).findings
        assert check(version, model, home, tolerance=0.9).findings == ()


def test_a_damaged_file_is_refused_by_name(version: Version, model: Model, home: Path, path: Path) -> None:
    from modelkeep.errors import BadData

    path.write_text("no database " * 500)
    with pytest.raises(BadData, match=r"traffic\.db is not a file of captured traffic"):
        check(version, model, home)


def test_reading_disturbs_no_writer(
    version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
) -> None:
    """A server may hold the write lock for as long as it likes."""
    send(held_out(50)[0])
    writer = sqlite3.connect(path)
    writer.execute("BEGIN IMMEDIATE")
    assert check(version, model, home).n == 50
    writer.rollback()
    writer.close()
