"""What is gathered of one version on one track: which subjects, how sure it is, when a chunk and a minute are full."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelkeep.data.bins import Bins
from modelkeep.data.features import CONFIDENCES, Columns
from modelkeep.data.sketches import Sketches
from modelkeep.model.baseline import Baseline, Subject
from modelkeep.monitor.drift import Drift, Tolerance
from modelkeep.serve.observers.profiled import (
    CHUNK_LATEST,
    CHUNK_SECONDS,
    MAX_ROWS,
    SKETCHED,
    Confidences,
    Profiled,
    thin,
    within,
)
from modelkeep.types import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", (None, 2)),), (TensorSpec("y", "float32", (None, 3)),))
TARGET: Any = SimpleNamespace(name="m", number=3, ref="m@3", signature=SIGNATURE)
NOW = 1_000_000.0


def lot(n: int, rows: int = 1, at: int = 0) -> Any:
    """So many requests."""
    rng = np.random.default_rng(at)
    shape = (rows, 2), (rows, 3)
    x, y = ([rng.normal(size=one).astype(np.float32) for _ in range(n)] for one in shape)
    return [(TARGET, "live", f"r{i}", {"x": a}, {"y": b}, 0) for i, (a, b) in enumerate(zip(x, y, strict=True))]


def known() -> Baseline:
    rows = lot(1, rows=300)[0]
    made = []
    for specs, arrays, answers in ((SIGNATURE.inputs, rows[3], False), (SIGNATURE.outputs, rows[4], True)):
        columns = Columns.of(specs, arrays, answers=answers)
        made.append(Subject(columns, Bins.of(columns.read(arrays), columns.edges)))
    return Baseline(*made)


class TestConfidences:
    def test_rows_by_bound_and_their_sum(self) -> None:
        found = Confidences()
        found.add(np.array([0.25, 0.26, 0.995, np.nan, 1.0]))
        assert len(found.counts) == len(CONFIDENCES) + 1
        assert found.counts[0] == 1
        assert found.counts[1] == 1
        assert found.counts[-1] == 2
        assert found.sum == pytest.approx(2.505)

    def test_answers_tell_how_sure_they_are(self) -> None:
        profiled = Profiled(TARGET, "live", known())
        assert profiled.take(lot(50), NOW) == 0
        assert profiled.confidences.counts.sum() == 50


class TestChunks:
    def test_it_needs_requests_and_seconds(self) -> None:
        profiled = Profiled(TARGET, "live", known())
        profiled.take(lot(15), NOW)
        assert profiled.chunks(NOW + CHUNK_SECONDS) == []
        profiled.take(lot(1), NOW + 0.1)
        assert profiled.chunks(NOW + 0.1) == []
        inputs, answers = profiled.chunks(NOW + CHUNK_SECONDS)
        assert (inputs.subject, inputs.n, inputs.at, inputs.until) == ("inputs", 16, NOW, NOW + CHUNK_SECONDS)
        assert (answers.subject, answers.n, answers.version, answers.track) == ("answers", 16, 3, "live")
        assert profiled.chunks(NOW + 100) == []

    def test_a_few_are_handed_on_at_last(self) -> None:
        profiled = Profiled(TARGET, "live", known())
        profiled.take(lot(1), NOW)
        assert {chunk.n for chunk in profiled.chunks(NOW + CHUNK_LATEST)} == {1}
        profiled.take(lot(1), NOW)
        assert {chunk.n for chunk in profiled.chunks(NOW, last=True)} == {1}

    def test_the_next_chunk_begins_when_its_first_request_comes(self) -> None:
        profiled = Profiled(TARGET, "live", known())
        profiled.take(lot(16), NOW)
        profiled.chunks(NOW + 1)
        profiled.take(lot(16), NOW + 7)
        assert profiled.chunks(NOW + 8)[0].at == NOW + 7

    def test_a_clock_that_is_set_back_holds_none_up(self) -> None:
        profiled = Profiled(TARGET, "live", known(), Sketches)
        profiled.take(lot(4), NOW)
        earlier = NOW - 2 * 86400
        assert [chunk.n for chunk in profiled.chunks(earlier)] == [4, 4]
        assert [bucket.n for bucket in profiled.buckets(earlier)] == [4, 4]
        profiled.take(lot(16), earlier)
        assert [chunk.n for chunk in profiled.chunks(earlier + CHUNK_SECONDS)] == [16, 16]

    def test_what_cannot_be_read_spoils_no_other_request(self) -> None:
        profiled = Profiled(TARGET, "live", known())
        mixed = [*lot(10), (TARGET, "live", "odd", {"x": np.zeros((1, 5), np.float32)}, lot(1)[0][4], 0)]
        assert profiled.take(mixed, NOW) == 1
        assert [chunk.n for chunk in profiled.chunks(NOW, last=True)] == [10, 11]

    @pytest.mark.parametrize(("before", "first"), [(0, [16, 32, 64, 128, 160]), (10, [16, 32, 64, 128, 170])])
    def test_a_burst_is_several_chunks(self, before: int, first: list[int]) -> None:
        """By the first of them bets are laid on the others; once requests come on and on, each second has one."""
        profiled = Profiled(TARGET, "live", Baseline(known().inputs))
        if before:
            profiled.take(lot(before), NOW)
        profiled.take(lot(400), NOW + 0.1)
        assert [chunk.n for chunk in profiled.chunks(NOW + 1.2)] == first
        for second in range(2, 5):
            profiled.take(lot(250), NOW + second)
            assert [chunk.n for chunk in profiled.chunks(NOW + second + 1)] == [250]
        profiled.take(lot(400), NOW + 5 + 2 * CHUNK_LATEST)
        chunks = profiled.chunks(NOW, last=True)
        assert [chunk.n for chunk in chunks] == [16, 32, 64, 128, 160]
        for chunk in chunks:
            np.testing.assert_allclose(chunk.counts.sum(axis=1), chunk.n)

    @pytest.mark.parametrize("before", [0, 200])
    def test_a_burst_that_has_moved_is_found(self, before: int) -> None:
        """In one chunk nothing was, until one more request came."""
        base = known()
        profiled = Profiled(TARGET, "live", Baseline(base.inputs))
        moved = [(*one[:3], {"x": one[3]["x"] + 3}, *one[4:]) for one in lot(400)]
        profiled.take([*lot(before), *moved], NOW)
        columns = base.inputs.columns
        drift = Drift("inputs", base.inputs.bins, columns.names, columns.edges, Tolerance())
        for chunk in profiled.chunks(NOW + CHUNK_SECONDS):
            drift.add_counts(chunk.counts, chunk.n, chunk.at, chunk.until)
        assert drift.finding() is not None

    def test_a_shadow_has_answers_only(self) -> None:
        assert list(Profiled(TARGET, "shadow", known()).subjects) == ["answers"]

    def test_reference_rows_without_answers_judge_the_inputs(self) -> None:
        profiled = Profiled(TARGET, "live", Baseline(known().inputs))
        profiled.take(lot(10), NOW)
        assert [chunk.subject for chunk in profiled.chunks(NOW, last=True)] == ["inputs"]


class TestMinutes:
    def test_they_end_with_the_minute(self) -> None:
        profiled = Profiled(TARGET, "live", known(), Sketches)
        start = NOW // 60 * 60
        profiled.take(lot(30), start + 20)
        assert profiled.buckets(start + 59) == []
        inputs, answers = profiled.buckets(start + 60)
        assert (inputs.at, inputs.span, inputs.n) == (start, 60, 30)
        assert answers.sketches.n(1) == 30
        assert profiled.buckets(start + 200) == []

    def test_of_many_requests_at_once_some_are_sketched(self) -> None:
        profiled = Profiled(TARGET, "live", known(), Sketches)
        profiled.take(lot(5 * SKETCHED), NOW)
        inputs, _ = profiled.buckets(NOW, last=True)
        assert inputs.n == 5 * SKETCHED
        assert inputs.sketches.n(0) == SKETCHED

    def test_without_sketches_there_are_none(self) -> None:
        profiled = Profiled(TARGET, "live", known())
        profiled.take(lot(30), NOW)
        assert profiled.buckets(NOW, last=True) == []


class TestThin:
    def test_of_a_request_with_many_rows_some_are_looked_at(self) -> None:
        few = {"x": np.zeros((3, 2)), "y": np.zeros(3)}
        assert thin(few) is few
        many = thin({"x": np.arange(1000)[:, None], "y": np.arange(1000)})
        assert len(set(many["y"])) == MAX_ROWS
        np.testing.assert_array_equal(many["x"][:, 0], many["y"])

    def test_each_row_is_as_likely_as_another(self) -> None:
        chosen = np.concatenate([thin({"x": np.arange(10)}, 3)["x"] for _ in range(2000)])
        counts = np.bincount(chosen, minlength=10)
        assert counts.sum() == 6000
        assert (abs(counts - 600) < 150).all()  # seven standard deviations

    def test_only_so_many_rows_as_have_these_bytes(self) -> None:
        rows = {"x": np.zeros((64, 100), np.float32)}
        assert within(rows, 64 * 400) is rows
        assert len(within(rows, 5 * 400 + 399)["x"]) == 5
        assert len(within(rows, 1)["x"]) == 1
        assert len(within(rows, 64 * 400 - 1)["x"]) == MAX_ROWS
        assert within({}, 1) == {}
