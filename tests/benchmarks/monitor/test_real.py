"""Parts of time through the detectors: what is counted, and what stands beside it."""

from __future__ import annotations

import numpy as np
import pytest
import real
from watched import Watched
from worlds import World


def world(shift: float) -> World:
    """A number whose sign is the class, with a model that is right nine times in ten; later it is shifted."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=6000), rng.normal(shift, 1, 3000)]).astype(np.float32)
    truth = np.where(rng.random(9000) < 0.9, x > 0, x <= 0).astype(int)
    sure = np.where(x > 0, 0.9, 0.1)
    parts = {"quiet": np.arange(3000, 6000), "later": np.arange(6000, 9000)}
    answers = np.stack([1 - sure, sure], 1).astype(np.float32)
    return World("made", {"x": x}, answers, truth, np.arange(3000), parts)


def test_what_moves_is_found_in_its_part_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    quiet, later = parts = real.through(world(2.0))
    assert quiet.found == {}
    assert 0 < later.first["drift of inputs"] < 500
    assert later.found["drift of inputs"] / later.looks > 0.8
    assert later.moved.startswith("x ")
    real.tell("made", parts)
    said = capsys.readouterr().out
    assert "| modelkeep | 0.0% | 1 of 1 |" in said
    assert "| one that always fires | 100 % | 1 of 1 | 0 |" in said


def test_where_nothing_moves_nothing_is_found() -> None:
    assert [part.found for part in real.through(world(0.0))] == [{}, {}]


def test_quality_that_falls_is_found_once_labels_come() -> None:
    rng = np.random.default_rng(1)
    x, answers = rng.normal(size=2000).astype(np.float32), np.zeros(2000, np.float32)
    watch = Watched({"x": x[:1000]}, answers[:1000], rng.normal(size=1000))
    for at in range(0, 1000, 16):
        watch.add({"x": x[1000:][at : at + 16]}, answers[at : at + 16], np.full(len(x[1000:][at : at + 16]), 5.0))
    assert [finding.kind for finding in watch.findings()] == ["quality"]
