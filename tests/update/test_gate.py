"""The gate of an update: what is held out, and the verdicts on both sides of every limit."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, Regressed
from modelkeep.evidence import paired_drop, wilson
from modelkeep.update import gate


def rows(n: int, *, start: int = 0, labels: Any = ...) -> Dataset:
    """Row i holds the number start + i; class i % 4."""
    x = np.arange(start, start + n, dtype=np.float32)[:, None]
    return Dataset({"x": x}, np.arange(n) % 4 if labels is ... else labels, "made rows")


def numbers(part: Dataset | None) -> set[float]:
    assert part is not None
    return set(part.inputs["x"][:, 0].tolist())


def right(n: int, wrong: int, *, at: int = 0) -> Any:
    """n answers, ``wrong`` of which are wrong, from row ``at`` on."""
    found = np.ones(n, bool)
    found[at : at + wrong] = False
    return found


def test_split_parts_new_and_old_without_a_row_in_two_places() -> None:
    parts = gate.split(rows(80), rows(40, start=1000), share=0.25, seed=0)
    assert numbers(parts.train) | numbers(parts.held_out) == numbers(rows(80))
    assert not numbers(parts.train) & numbers(parts.held_out)
    assert len(parts.held_out) == 20
    assert numbers(parts.old_train) | numbers(parts.old_held_out) == numbers(rows(40, start=1000))
    assert not numbers(parts.old_train) & numbers(parts.old_held_out)


def test_split_is_the_same_for_a_seed() -> None:
    first, again, other = (gate.split(rows(80), None, share=0.25, seed=seed) for seed in (1, 1, 2))
    assert numbers(first.held_out) == numbers(again.held_out)
    assert numbers(first.held_out) != numbers(other.held_out)


def test_every_class_is_held_out() -> None:
    labels = np.array([0] * 76 + [1] * 4)
    parts = gate.split(rows(80, labels=labels), None, share=0.25, seed=0)
    assert parts.held_out.labels is not None
    assert np.bincount(parts.held_out.labels).tolist() == [19, 1]


@pytest.mark.parametrize("old", [None, rows(19), rows(40, labels=None)])
def test_old_rows_that_cannot_judge_are_left_out(old: Dataset | None) -> None:
    parts = gate.split(rows(80), old, share=0.25, seed=0)
    assert parts.old_train is None
    assert parts.old_held_out is None


def test_twenty_rows_are_enough_and_nineteen_are_not() -> None:
    assert len(gate.split(rows(20), None, share=0.25, seed=0).train) >= 12
    with pytest.raises(BadData, match="19 labelled rows are too few to learn from and to judge by; give 20 at least"):
        gate.split(rows(19), None, share=0.25, seed=0)


def test_rows_without_labels_are_refused() -> None:
    with pytest.raises(BadData, match="an update learns from labelled rows"):
        gate.split(rows(80, labels=None), None, share=0.25, seed=0)


def test_classes_of_one_row_each_cannot_be_held_out() -> None:
    with pytest.raises(BadData, match="each class of made rows has a single row"):
        gate.split(rows(30, labels=np.arange(30)), None, share=0.25, seed=0)


def test_old_rows_that_are_among_the_new_ones_are_taken_out() -> None:
    kept = gate.apart(rows(30), rows(10, start=25))
    assert numbers(kept) == set(range(25))
    assert gate.apart(rows(10), rows(30)) is None


def test_large_rows_are_compared_without_copies_of_all() -> None:
    pictures = [Dataset({"x": np.full((40, 3, 224, 224), at, np.float32)}, None, "pictures") for at in (1, 2)]
    tracemalloc.start()
    kept = gate.apart(*pictures)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept is pictures[0]
    assert peak < 3e6  # the pictures are 24 MB each


def test_a_module_is_given_few_large_rows_at_a_time_and_may_work_in_place() -> None:
    class Module(nn.Module):
        def forward(self, x: Any) -> Any:
            sizes.append(len(x))
            return x.add_(1).flatten(1)[:, :2]

    sizes: list[int] = []
    pictures = Dataset({"x": np.zeros((60, 3, 224, 224), np.float32)}, None, "pictures")
    assert gate.logits(Module(), pictures, ["x"]).tolist() == [[1, 1]] * 60
    assert not pictures.inputs["x"].any()
    assert sum(sizes) == 60
    assert max(sizes) == 27


def test_an_old_text_is_known_again_in_other_padding() -> None:
    old = Dataset({"ids": np.array([[5, 6, 0], [7, 8, 9]])}, None, "old")
    new = Dataset({"ids": np.array([[5, 6, 0, 0, 0]])}, None, "new")
    kept = gate.apart(old, new)
    assert kept is not None
    assert kept.inputs["ids"].tolist() == [[7, 8, 9]]


def test_right_and_logits_are_what_the_module_says_in_any_number_of_batches() -> None:
    torch.set_num_threads(1)
    module = nn.Linear(1, 4)
    given = rows(600)
    with torch.no_grad():
        want = module(torch.from_numpy(given.inputs["x"])).numpy()
    np.testing.assert_allclose(gate.logits(module, given, ["x"]), want, rtol=1e-5, atol=1e-4)
    assert gate.right(module, given, ["x"]).tolist() == (want.argmax(1) == given.labels).tolist()


def test_better_is_reported_with_its_interval() -> None:
    before, after = right(100, 30), right(100, 5)
    report = gate.learned(before, after, rows(100))
    assert (report.kind, report.ok, report.data) == ("new rows", True, "made rows")
    assert report.numbers["before"] == pytest.approx(0.70)
    assert report.numbers["after"] == pytest.approx(0.95)
    assert (report.numbers["low"], report.numbers["high"]) == wilson(95, 100)
    assert report.numbers["n"] == 100
    assert "70.0% → 95.0% of 100 held-out new rows right" in report.why


@pytest.mark.parametrize("wrong", [30, 31, 100])
def test_the_same_or_worse_is_refused(wrong: int) -> None:
    with pytest.raises(Regressed, match=r"the update is not better: 70\.0% → .* held-out new rows right.*nothing was"):
        gate.learned(right(100, 30), right(100, wrong), rows(100))


def test_better_by_luck_is_refused() -> None:
    """21 rows won and 20 others lost: more are right, and it may still be worse."""
    before, after = right(100, 21), right(100, 20, at=50)
    assert after.sum() > before.sum()
    with pytest.raises(Regressed, match=r"not .*better: 79\.0% → 80\.0% of 100"):
        gate.learned(before, after, rows(100))


def test_nothing_left_to_learn_is_said() -> None:
    with pytest.raises(Regressed, match="there is nothing left to learn from them"):
        gate.learned(right(100, 0), right(100, 0), rows(100))


@pytest.mark.parametrize(("wrong", "kept"), [(0, True), (1, True), (3, False), (5, False), (40, False)])
def test_forgetting_is_allowed_up_to_its_limit_by_its_upper_bound(wrong: int, kept: bool) -> None:
    """Three of 100 rows lost may well be eight of 100 in the long run."""
    before, after = right(100, 0), right(100, wrong)
    if not kept:
        told = rf"the update forgets: 100\.0% → {100 - wrong}\.0% of 100 .*over the 5\.0% allowed.*--max-forgetting"
        with pytest.raises(Regressed, match=told):
            gate.remembered(before, after, rows(100), 0.05)
        return
    report = gate.remembered(before, after, rows(100), 0.05)
    assert (report.kind, report.ok) == ("old rows", True)
    assert (report.numbers["drop"], report.numbers["drop_upper"]) == paired_drop(before, after)
    assert report.numbers["n"] == 100


@pytest.mark.parametrize("n", [5, 20, 40])
def test_of_few_old_rows_none_may_be_lost(n: int) -> None:
    assert gate.remembered(right(n, 0), right(n, 0), rows(n), 0.05).ok
    with pytest.raises(Regressed, match="the update forgets"):
        gate.remembered(right(n, 0), right(n, 1), rows(n), 0.05)


def test_what_was_not_judged_is_not_called_good() -> None:
    report = gate.unjudged()
    assert report.ok is None
    assert "what was forgotten is not known" in report.why
