"""The e-detector: how often it cries wolf, and how soon it cries when it must."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from modelkeep.monitor import detector as detector_module
from modelkeep.monitor.detector import HEADROOM, Detector, Rising


def first_alarm(x: np.ndarray, q: np.ndarray, needed: float) -> int | None:
    """The step of the first alarm of a stream [steps, features], one observation a step."""
    detector = Detector(x.shape[1], needed)
    for at, row in enumerate(x):
        detector.step(row[None], q)
        if detector.raised.any():
            return at + 1
    return None


@pytest.mark.parametrize(("q", "features"), [(0.1, 1), (0.5, 1), (0.3, 5)])
def test_the_mean_time_between_false_alarms_is_kept(q: float, features: int) -> None:
    """At the very edge of the hypothesis, the hardest place: 200 steps promised, over all features together."""
    rng = np.random.default_rng(0)
    steps, promised, times = 1000, 200, []
    for _ in range(40):
        x = (rng.random((steps, features)) < q).astype(float)
        times.append(first_alarm(x, np.full(features, q), log(promised * features)) or steps)
    assert np.mean(times) > promised


def test_a_change_after_a_long_quiet_time_is_found_as_soon_as_one_at_the_start() -> None:
    rng = np.random.default_rng(1)
    q, needed = np.array([0.2]), log(1e5)
    after, at_once = [], []
    for _ in range(10):
        quiet = (rng.random((3000, 1)) < 0.15).astype(float)
        loud = (rng.random((300, 1)) < 0.6).astype(float)
        alarm = first_alarm(np.concatenate([quiet, loud]), q, needed)
        assert alarm is not None
        assert alarm > 3000
        after.append(alarm - 3000)
        at_once.append(first_alarm(loud, q, needed))
    assert max(after) < 100
    assert np.mean(after) <= np.mean(at_once) + 3


def test_since_is_the_step_of_the_change() -> None:
    rng = np.random.default_rng(2)
    starts = []
    for _ in range(20):
        detector = Detector(1, log(1e5))
        for rate in [0.1] * 500 + [0.7] * 60:
            detector.step((rng.random((1, 1)) < rate).astype(float), np.array([0.2]))
        assert detector.raised.all()
        starts.append(int(detector.since[0]))
    assert abs(np.median(starts) - 500) <= 5


def test_features_do_not_disturb_each_other() -> None:
    rng = np.random.default_rng(3)
    detector = Detector(3, log(1e4))
    rates = np.array([0.1, 0.9, 0.3])
    for _ in range(200):
        detector.step((rng.random((4, 3)) < rates).astype(float), np.full(3, 0.3))
    assert detector.raised.tolist() == [False, True, False]


def test_an_alarm_ends_soon_after_its_cause() -> None:
    detector = Detector(1, log(1e5))
    for _ in range(5000):
        detector.step(np.ones((1, 1)), np.array([0.2]))
    assert detector.log_evidence[0] <= log(1e5) + HEADROOM
    steps = 0
    while detector.raised[0]:
        detector.step(np.zeros((1, 1)), np.array([0.2]))
        steps += 1
    assert 0 < steps < 120


def test_an_alarm_does_not_flicker_at_the_threshold() -> None:
    """Evidence that goes up and down by less than RELEASE around the threshold is one alarm."""
    rng = np.random.default_rng(5)
    detector, changes, before = Detector(1, log(1e3)), 0, False
    for _ in range(400):
        detector.step((rng.random((1, 1)) < 0.5).astype(float), np.array([0.25]))
        changes += bool(detector.raised[0]) != before
        before = bool(detector.raised[0])
    assert changes == 1


class TestSums:
    """Steps of which only the sums are known: what a chunk of counts gives."""

    def test_of_zeros_and_ones_they_tell_all(self) -> None:
        rng = np.random.default_rng(6)
        by_one, by_sum, q = Detector(3, log(1e4)), Detector(3, log(1e4)), np.array([0.2, 0.5, 1.0])
        for size in rng.integers(1, 200, 40):
            x = (rng.random((size, 3)) < 0.3).astype(float)
            by_one.step(x, q)
            by_sum.step_sums(x.sum(axis=0), int(size), q)
            assert by_sum.log_evidence == pytest.approx(by_one.log_evidence)
        assert by_sum.raised.tolist() == by_one.raised.tolist() == [True, False, False]

    def test_of_shares_they_tell_less_and_never_more(self) -> None:
        rng = np.random.default_rng(7)
        for _ in range(50):
            by_one, by_sum, q = Detector(2, 1e9), Detector(2, 1e9), rng.random(2)
            x = rng.beta(rng.uniform(0.3, 3), rng.uniform(0.3, 3), (30, 2))
            by_one.step(x, q)
            by_sum.step_sums(x.sum(axis=0), 30, q)
            assert (by_sum.log_evidence <= by_one.log_evidence + 1e-9).all()

    @pytest.mark.parametrize("sizes", [(3, 4), (16, 17), (1, 200)])
    def test_false_alarms_are_as_rare_as_promised_whatever_the_sizes(self, sizes: tuple[int, int]) -> None:
        """At the edge of the hypothesis, stakes by size: an alarm in 800 observations at most, on average."""
        rng = np.random.default_rng(8)
        promised, total, alarms, runs = 800, 0, 0, 25
        for _ in range(runs):
            detector, n = Detector(1, log(promised / 16)), 0
            while n < 2 * promised:
                size = int(rng.integers(*sizes))
                detector.step_sums(rng.binomial(size, [0.3]).astype(float), size, np.array([0.3]), stake=size / 16)
                n += size
                if detector.raised[0]:
                    alarms += 1
                    break
            total += n
        assert total / max(alarms, 1) > promised

    def test_a_skipped_step_counts(self) -> None:
        detector = Detector(1, log(10))
        detector.skip()
        for _ in range(5):
            detector.step_sums(np.array([16.0]), 16, np.array([0.2]))
        assert detector.steps == 6
        assert detector.since.tolist() == [1]


def test_a_bound_of_one_is_no_bet() -> None:
    detector = Detector(2, log(100))
    for _ in range(50):
        detector.step(np.ones((8, 2)), np.array([1.0, 1.3]))
    assert detector.log_evidence.tolist() == pytest.approx([0.0, 0.0])
    assert not detector.raised.any()


class TestRising:
    def test_quiet_below_and_loud_above(self) -> None:
        rng = np.random.default_rng(4)
        quiet, loud = Rising(0.1, 1e6, chunk=16), Rising(0.1, 1e6, chunk=16)
        for at in range(5000):
            quiet.add(float(rng.random() < 0.1), float(at))
        for at in range(1000):
            loud.add(float(rng.random() < (0.05 if at < 800 else 0.5)), float(at))
        assert not quiet.raised
        assert loud.raised
        since, values = loud.since()
        assert 760 <= since <= 840
        assert values.mean() == pytest.approx(0.5, abs=0.12)

    def test_a_chunk_counts_once_it_is_full(self) -> None:
        rising = Rising(0.01, 100, chunk=16)
        for _ in range(15):
            rising.add(1.0, 0.0)
        assert not rising.raised
        rising.add(1.0, 0.0)
        assert rising.raised

    def test_what_is_remembered_is_bounded_and_the_evidence_is_of_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(detector_module, "MAX_VALUES", 160)
        rng = np.random.default_rng(9)
        rising = Rising(0.1, 1e6, chunk=16)
        for at in range(2000):
            rising.add(float(rng.random() < (0.05 if at < 1900 else 0.7)), float(at))
            assert len(rising.values) == len(rising.ats) <= 321
        assert rising.raised
        since, values = rising.since()
        assert 1860 <= since <= 1920
        assert len(values) == 2000 - since
        for at in range(2000, 4000):
            rising.add(0.0, float(at))
        assert not rising.raised
