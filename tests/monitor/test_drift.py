"""Drift: silent while nothing moves more than it may, however often one looks; loud soon after it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import erf as _erf
from typing import Any

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset
from modelkeep.data.features import Columns
from modelkeep.monitor.drift import CHUNK, MAX_KEPT, MAX_ROWS, Drift, Tolerance, thin
from modelkeep.types import Finding, TensorSpec

PIXELS = (TensorSpec("pixels", "float32", (None, 64)),)


def watch(reference: Any, tolerance: Tolerance | None = None) -> Drift:
    """A Drift over the columns of a matrix."""
    count = reference.shape[1]
    return Drift("inputs", reference, [f"x[{at}]" for at in range(count)], [None] * count, tolerance or Tolerance())


def look_often(drift: Drift, rows: Any) -> tuple[int, Finding | None]:
    """Give one request a row, look after each step; at which request it was first found, else 0."""
    for at in range(0, len(rows), CHUNK):
        part = rows[at : at + CHUNK]
        drift.add(list(part[:, None]), [float(at + i) for i in range(len(part))])
        if found := drift.finding():
            return at + len(part), found
    return 0, None


def of_pixels(reference: Any) -> tuple[Drift, Columns]:
    columns = Columns.of(PIXELS, {"pixels": reference})
    rows = columns.read({"pixels": reference})
    return Drift("inputs", rows, columns.names, columns.edges, Tolerance()), columns


class TestSilence:
    def test_no_alarm_on_two_hundred_quiet_streams_looked_at_after_every_step(self) -> None:
        rng = np.random.default_rng(0)
        alarms = looks = 0
        for _ in range(200):
            kinds = [rng.normal(size=(1412, 3)), rng.integers(0, 4, (1412, 2)), rng.exponential(size=(1412, 2))]
            rows = np.concatenate(kinds, axis=1)
            at, _ = look_often(watch(rows[:500]), rows[500:])
            alarms += at > 0
            looks += 912 // CHUNK
        assert looks == 200 * 57
        assert alarms == 0

    def test_false_alarms_are_as_rare_as_promised_where_they_are_hardest_to_avoid(self) -> None:
        """A shift that is exactly as large as the tolerance and the slack: one alarm in 800 requests is promised at
        most, so at most half of 60 streams of 400 may have one."""
        rng = np.random.default_rng(1)
        reference = np.repeat([[0.0], [1.0]], 500, axis=0)
        ones = np.array([[False, False, True, False, False]])
        edge = float(watch(reference).bins.upper(ones)[0]) + 0.1
        alarms = 0
        for _ in range(60):
            rows = (rng.random((400, 1)) < edge).astype(float)
            at, _ = look_often(watch(reference, Tolerance(0.1, false_alarm_every=800)), rows)
            alarms += at > 0
        assert alarms <= 30

    def test_a_shift_below_the_tolerance_stays_silent_however_many_come(self) -> None:
        """0.15 σ moves 6 % of the requests; a Kolmogorov-Smirnov test on these 30,000 is certain that it does."""
        from scipy import stats

        rng = np.random.default_rng(2)
        reference, rows = rng.normal(size=(1000, 4)), rng.normal(0.15, 1, (30_000, 4))
        assert stats.ks_2samp(reference[:, 0], rows[:, 0]).pvalue < 0.01
        drift = watch(reference)
        assert look_often(drift, rows) == (0, None)
        assert drift.numbers()["n"] == 30_000

    def test_held_out_digits_are_no_drift(self, digits: tuple[Dataset, Dataset]) -> None:
        reference, others = digits[0].inputs["pixels"][:1024], digits[1].inputs["pixels"]
        drift, columns = of_pixels(reference)
        stream = others[np.random.default_rng(3).integers(len(others), size=5000)]
        assert look_often(drift, columns.read({"pixels": stream})) == (0, None)


class TestNotice:
    @pytest.mark.parametrize(("shift", "within"), [(1.0, 400), (1.5, 160), (3.0, 96)])
    def test_a_shift_is_noticed(self, shift: float, within: int) -> None:
        rng = np.random.default_rng(4)
        drift = watch(rng.normal(size=(1000, 20)))
        rows = rng.normal(size=(within, 20))
        rows[:, 7] += shift
        at, found = look_often(drift, rows)
        assert 0 < at <= within
        assert found is not None
        assert found.evidence["most_moved"][0]["feature"] == "x[7]"

    def test_turned_noisy_digits_are_noticed_after_a_long_quiet_time(
        self, digits: tuple[Dataset, Dataset], changed: Callable[..., Any]
    ) -> None:
        others = digits[1].inputs["pixels"]
        drift, columns = of_pixels(digits[0].inputs["pixels"][:1024])
        rng = np.random.default_rng(5)
        quiet = columns.read({"pixels": others[rng.integers(len(others), size=4000)]})
        loud = columns.read({"pixels": changed(others[rng.integers(len(others), size=512)])})
        assert look_often(drift, quiet) == (0, None)
        at, found = look_often(drift, loud)
        assert 0 < at <= 128
        assert found is not None
        assert found.subject == "inputs"
        assert found.kind == "drift"

    def test_more_variance_alone_is_noticed(self) -> None:
        rng = np.random.default_rng(6)
        at, _ = look_often(watch(rng.normal(size=(1000, 1))), rng.normal(0, 4, (400, 1)))
        assert 0 < at <= 400

    def test_missing_values_are_noticed(self) -> None:
        rng = np.random.default_rng(7)
        rows = rng.normal(size=(300, 1))
        rows[rng.random(300) < 0.5] = np.nan
        at, found = look_often(watch(rng.normal(size=(1000, 1))), rows)
        assert 0 < at <= 300
        assert found is not None
        told = found.evidence["most_moved"][0]
        assert told["after"][told["bins"].index("NaN")] > 0.3
        assert told["before"][told["bins"].index("NaN")] == 0

    def test_what_may_move_is_no_finding_and_hides_none(self) -> None:
        """A time moves all the while."""
        rng = np.random.default_rng(9)
        names, reference = ["time", "age"], rng.normal(size=(1000, 2))
        rows = rng.normal((9.0, 0.0), size=(600, 2))
        drift = Drift("inputs", reference, names, [None, None], Tolerance(), ignored=["time"])
        assert look_often(drift, rows) == (0, None)
        assert drift.numbers()["features"] == 1
        assert [one["feature"] for one in drift.numbers()["most_moved"]] == ["age"]
        assert drift.numbers()["log_evidence"] < 1
        assert drift.detector.raised.tolist() == [True, False]
        _, found = look_often(drift, rows + np.array([0.0, 3.0]))
        assert found is not None
        assert found.why.startswith("age, the one feature of the inputs, moved")
        assert found.since is not None
        assert found.since >= 0
        assert [one["feature"] for one in found.evidence["most_moved"]] == ["age"]

    def test_a_new_category_is_noticed(self) -> None:
        rng = np.random.default_rng(8)
        rows = rng.choice([0.0, 1.0, 7.0], size=(300, 1), p=[0.3, 0.3, 0.4])
        at, _ = look_often(watch(rng.integers(0, 2, (800, 1)).astype(float)), rows)
        assert 0 < at <= 200

    def test_it_ends_when_the_world_returns(self) -> None:
        rng = np.random.default_rng(9)
        drift = watch(rng.normal(size=(1000, 2)))
        at, _ = look_often(drift, rng.normal(2, 1, (320, 2)))
        assert at
        back = rng.normal(size=(2000, 2))
        drift.add(list(back[:, None]), [0.0] * len(back))
        assert drift.finding() is None


class TestAClassThatIsGone:
    """One class of ten that never comes any more moves 10 % of the requests: no more than the tolerance."""

    @staticmethod
    def answers(gone: float, n: int, seed: int) -> Any:
        """Ten classes alike, of which class 7 has lost this part of its share."""
        chances = np.where(np.arange(10) == 7, 0.1 * (1 - gone), 0.1)
        return np.random.default_rng(seed).choice(10, n, p=chances / chances.sum())[:, None].astype(float)

    @staticmethod
    def watch_answers(reference: Any, **tolerance: float) -> Drift:
        return Drift("answers", reference, ["predicted class"], [None], Tolerance(**tolerance), tests=20)

    def test_it_is_noticed_soon_and_named(self) -> None:
        for seed in range(3):
            drift = self.watch_answers(self.answers(0.0, 10_000, seed))
            assert look_often(drift, self.answers(0.0, 2000, 10 + seed)) == (0, None)
            at, found = look_often(drift, self.answers(1.0, 1000, 20 + seed))
            assert 0 < at <= 500
            assert found is not None
            assert found.why.startswith("predicted class, the one feature of the answers, moved: 7 is the answer to ")
            assert "of which it may lose 25%" in found.why

    def test_it_is_called_by_its_name_where_it_has_one(self) -> None:
        names = [f"kind {at}" for at in range(10)]
        given: Any = ("answers", self.answers(0.0, 10_000, 0), ["predicted class"], [None], Tolerance())
        drift = Drift(*given, tests=20, classes=names)
        _, found = look_often(drift, self.answers(1.0, 1000, 20))
        assert found is not None
        assert "moved: kind 7 is the answer to " in found.why
        assert found.evidence["most_moved"][0]["bins"] == names

    def test_one_that_lost_less_than_it_may_is_no_drift_however_many_come(self) -> None:
        drift = self.watch_answers(self.answers(0.0, 10_000, 3))
        assert look_often(drift, self.answers(0.22, 30_000, 4)) == (0, None)

    def test_the_classes_of_an_input_come_and_go_as_they_like(self) -> None:
        drift = Drift("inputs", self.answers(0.0, 10_000, 5), ["predicted class"], [None], Tolerance())
        assert look_often(drift, self.answers(1.0, 3000, 6)) == (0, None)

    def test_false_alarms_are_as_rare_as_promised_where_they_are_hardest_to_avoid(self) -> None:
        """A class at the very edge: one alarm in 800 requests is promised at most, so at most half of 60 streams of 400
        may have one."""
        reference = np.repeat(np.arange(10.0), 1000)[:, None]
        drift = self.watch_answers(reference)
        others = np.arange(drift.bins.count)[None] != 8
        left = (1 - Tolerance().lost) * (1 - float(drift.bins.upper(others)[0]))
        alarms = 0
        for seed in range(60):
            stream = self.answers(1 - left / 0.1, 400, 100 + seed)
            at, _ = look_often(self.watch_answers(reference, false_alarm_every=800), stream)
            alarms += at > 0
        assert alarms <= 30


class TestFinding:
    @pytest.fixture
    def found(self) -> Finding:
        rng = np.random.default_rng(10)
        drift = watch(rng.normal(size=(1000, 5)))
        quiet, loud = rng.normal(size=(1600, 5)), rng.normal(size=(320, 5))
        loud[:, 2] += 2
        rows = np.concatenate([quiet, loud])
        drift.add(list(rows[:, None]), [float(at) for at in range(len(rows))])
        finding = drift.finding()
        assert finding is not None
        return finding

    def test_it_says_since_when_and_in_how_many(self, found: Finding) -> None:
        assert found.since is not None
        assert 1550 <= found.since <= 1680
        assert found.evidence["n"] == 1920 - found.since
        assert found.evidence["reference_rows"] == 1000
        assert found.evidence["moved"] == 1

    def test_before_and_after(self, found: Finding) -> None:
        told = found.evidence["most_moved"][0]
        assert told["feature"] == "x[2]"
        assert sum(told["before"]) == pytest.approx(1)
        assert sum(told["after"]) == pytest.approx(1)
        assert len(told["bins"]) == len(told["before"]) == len(told["after"])
        distance = sum(abs(a - b) for a, b in zip(told["before"], told["after"], strict=True)) / 2
        assert told["moved"] == pytest.approx(distance)
        assert 0.5 < distance < 0.8

    def test_the_sentence(self, found: Finding) -> None:
        assert found.why.startswith("1 of 5 features of the inputs moved, most of all x[2]: ")
        assert "where 10% may (one false alarm in 1,000,000 requests at most)" in found.why

    def test_the_sentence_of_a_lone_feature(self) -> None:
        rng = np.random.default_rng(4)
        drift = watch(rng.normal(size=(1000, 1)))
        _, found = look_often(drift, rng.normal(1.5, 1, size=(640, 1)))
        assert found is not None
        name = drift.names[0]
        assert found.why.startswith(f"{name}, the one feature of the inputs, moved: ")
        assert drift.describe().startswith(f"inputs: {name} moved, ")

    def test_it_is_json(self, found: Finding) -> None:
        import json

        assert Finding(**json.loads(json.dumps(found.to_json()))) == found


class TestRequestsWithManyRows:
    def requests(self, rng: Any, mean: float, count: int, size: int) -> Sequence[Any]:
        return [rng.normal(mean, 1, (size, 2)) for _ in range(count)]

    def test_they_count_as_one_observation_each(self) -> None:
        """Rows of one request may be all alike: forty requests of 30 equal rows must not pass for 1,200."""
        rng = np.random.default_rng(11)
        drift = watch(rng.normal(size=(1000, 2)))
        alike = [np.repeat(rng.normal(size=(1, 2)), 30, axis=0) for _ in range(400)]
        drift.add(alike, [0.0] * 400)
        assert drift.finding() is None
        assert drift.n == 400

    def test_they_are_noticed_sooner_when_they_all_moved(self) -> None:
        rng = np.random.default_rng(12)
        drift = watch(rng.normal(size=(1000, 2)))
        drift.add(self.requests(rng, 1.5, 80, 8), [0.0] * 80)
        assert drift.finding() is not None

    def test_mixed_sizes_and_empty_requests(self) -> None:
        rng = np.random.default_rng(13)
        drift = watch(rng.normal(size=(500, 2)))
        drift.add([rng.normal(size=(at % 5, 2)) for at in range(500)], [0.0] * 500)
        assert drift.n == 400
        assert drift.finding() is None

    def test_thin(self) -> None:
        rows = np.arange(1000)[:, None]
        assert len(thin(rows)) == MAX_ROWS
        assert thin(rows)[0, 0] == 0
        assert thin(rows)[-1, 0] == 999
        assert thin(rows[:5]) is not rows
        assert len(thin(rows[:5])) == 5


class TestCounts:
    """What a server hands over: chunks of any size, as counts by bin."""

    def chunks(self, drift: Drift, rows: Any, sizes: Sequence[int]) -> None:
        at = 0
        for size in sizes:
            part = rows[at : at + size]
            drift.add_counts(drift.bins.tally(drift.bins.place(part), np.ones(size)), size, float(at), float(at + size))
            at += size

    def test_they_come_to_the_same_as_the_requests(self) -> None:
        rng = np.random.default_rng(20)
        reference, rows = rng.normal(size=(500, 3)), rng.normal(0.4, 1, (640, 3))
        by_rows, by_counts = watch(reference), watch(reference)
        by_rows.add(list(rows[:, None]), [float(at) for at in range(640)])
        self.chunks(by_counts, rows, [CHUNK] * 40)
        assert by_counts.numbers() == by_rows.numbers()

    def test_quiet_chunks_of_any_size_are_silent_and_loud_ones_are_not(self) -> None:
        rng = np.random.default_rng(21)
        for sizes in ([1] * 600, [5, 300, 16, 79] * 10, [2000] * 5):
            reference, n = rng.normal(size=(800, 3)), sum(sizes)
            quiet, loud = watch(reference), watch(reference)
            self.chunks(quiet, rng.normal(size=(n, 3)), sizes)
            self.chunks(loud, rng.normal(1.2, 1, (n, 3)), sizes)
            assert quiet.finding() is None
            found = loud.finding()
            assert found is not None
            assert found.evidence["moved"] == 3
            assert loud.n == n
            assert loud.until == n

    def test_a_shift_below_the_tolerance_stays_silent_in_large_chunks(self) -> None:
        """A million requests, 4 % of them moved; looked at a thousand times."""
        rng = np.random.default_rng(22)
        reference = rng.normal(size=(1000, 1))
        drift = watch(reference)
        shares = np.diff([0.0, *(0.5 + 0.5 * _erf((edge - 0.1) / 2**0.5) for edge in drift.bins.cuts[0]), 1.0])
        for at in range(1000):
            counts = np.zeros_like(drift.bins.shares)
            counts[0, : len(shares)] = rng.multinomial(1000, shares)
            drift.add_counts(counts, 1000, float(at), float(at))
            assert not drift.detector.raised.any()
        assert drift.n == 1_000_000

    def test_what_is_remembered_is_bounded_and_still_tells_since_when(self) -> None:
        rng = np.random.default_rng(23)
        drift = watch(rng.normal(size=(300, 1)))
        rows = np.concatenate([rng.normal(size=(4000, 1)), rng.normal(3, 1, (160, 1))])
        for at, row in enumerate(rows):
            drift.add_counts(drift.bins.tally(drift.bins.place(row[None]), np.ones(1)), 1, float(at), float(at))
        assert len(drift._kept) <= MAX_KEPT
        found = drift.finding()
        assert found is not None
        assert found.since is not None
        assert 3900 <= found.since <= 4050
        assert found.evidence["n"] == 4160 - found.since

    def test_counts_of_another_shape_are_refused(self) -> None:
        drift = watch(np.zeros((100, 2)))
        with pytest.raises(ValueError, match=r"counts of shape \[3, 5\]; the reference has \[2, 4\]"):
            drift.add_counts(np.ones((3, 5)), 1, 0.0, 0.0)
        drift.add_counts(np.zeros_like(drift.bins.shares), 0, 0.0, 0.0)
        assert drift.n == 0


def test_how_requests_are_handed_in_does_not_matter() -> None:
    rng = np.random.default_rng(14)
    reference, rows = rng.normal(size=(500, 3)), rng.normal(0.7, 1, (333, 3))
    at_once, one_by_one = watch(reference), watch(reference)
    at_once.add(list(rows[:, None]), [0.0] * 333)
    for row in rows:
        one_by_one.add([row[None]], [0.0])
    assert at_once.numbers() == one_by_one.numbers()


def test_too_few_requests_say_so() -> None:
    drift = watch(np.zeros((100, 2)))
    assert drift.describe() == "inputs: too few requests were captured to judge drift"
    assert drift.numbers() == {"n": 0, "features": 2}
    assert drift.finding() is None


def test_the_line_for_a_person() -> None:
    rng = np.random.default_rng(15)
    drift = watch(rng.normal(size=(500, 3)))
    drift.add(list(rng.normal(size=(320, 1, 3))), [0.0] * 320)
    assert "inputs: of 3 features x[" in drift.describe()
    assert "of 320 requests captured (tolerance 10%)" in drift.describe()


def test_five_thousand_requests_of_digits_take_less_than_a_second(digits: tuple[Dataset, Dataset]) -> None:
    drift, columns = of_pixels(digits[0].inputs["pixels"][:1024])
    pixels = digits[1].inputs["pixels"]
    rows = columns.read({"pixels": pixels[np.arange(5000) % len(pixels)]})
    began = time.process_time()
    drift.add(list(rows[:, None]), [0.0] * 5000)
    assert time.process_time() - began < 1.0
