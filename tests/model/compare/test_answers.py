"""Answers that are there already, pair by pair."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelkeep.model.compare import answers

PAIRS: Any = [({"y": np.array([[1.0, 2.0]]), "n": np.array([n])},) * 2 for n in range(5)]


def test_the_same_answers_agree() -> None:
    report = answers(PAIRS)
    assert report.ok
    assert report.numbers["n"] == 5
    assert report.numbers["max_abs"] == 0.0


def test_answers_alike_for_every_row_are_fine_here() -> None:
    assert answers([({"y": np.ones((1, 2))}, {"y": np.ones((1, 2))})] * 3).ok


def test_the_first_that_differs_is_named() -> None:
    wrong = {"y": np.array([[1.0, 2.1]]), "n": np.array([0])}
    report = answers([PAIRS[0], (PAIRS[0][0], wrong), PAIRS[1]])
    assert not report.ok
    assert report.numbers["n"] == 2
    assert "output 'y' at 1 row differs in 1 of 2, by up to 0.1" in report.why


def test_an_output_that_is_missing_is_named() -> None:
    report = answers([({"y": np.ones(1)}, {"z": np.ones(1)})])
    assert report.why == "output 'y' is missing"


def test_no_pairs_at_all_do_not_agree() -> None:
    assert answers([]).why == "there are no answers to compare"
    assert not answers([]).ok
