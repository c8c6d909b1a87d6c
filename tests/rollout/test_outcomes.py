"""Captured traffic as outcomes: what counts, for whom, and when its truth comes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data import labels, traffic
from modelkeep.data.traffic import Exchange, TrafficLog
from modelkeep.rollout.judge import Judge, Rules
from modelkeep.rollout.outcomes import Outcomes, usual_p99
from modelkeep.types import Model, Signature, TensorSpec

MODEL = Model(Path("x"), "onnx", Signature((), (TensorSpec("scores", "float32", (None, 2)),)), ("m",), ("no", "yes"))
YES = {"scores": np.array([[0.0, 1.0]], "float32")}
MODELS = {False: (1, MODEL), True: (2, MODEL)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "traffic.db"


@pytest.fixture
def capture(path: Path) -> Callable[..., None]:
    """One exchange with digits@1 live, or as told."""

    def give(name: str, count: int = 1, **other: Any) -> None:
        log = TrafficLog(path)
        for at in range(count):
            plain: dict[str, Any] = {"version": 1, "track": "live", "outcome": "ok", "inputs": {}, "outputs": YES}
            log.offer(Exchange(f"{name}{at or ''}", 0.0, "digits", **{"seconds": 0.01, **plain, **other}))
        log.close()

    return give


def counts(judge: Judge, harm: str) -> tuple[float, int, float, int]:
    """Harm and n of the canary, harm and n of the live version."""
    found = judge.harms[harm]
    return found.sums[True], found.counts[True], found.sums[False], found.counts[False]


def test_errors_and_slowness(path: Path, capture: Callable[..., None]) -> None:
    capture("a")
    capture("b", outcome="error")
    capture("c", version=2, track="canary", seconds=0.5)
    capture("d", version=2, track="canary", outcome="late", seconds=0.0)
    judge = Judge(Rules())
    Outcomes(path, "digits", MODELS, 0).tell(judge, 0.1)
    assert counts(judge, "errors") == (1, 2, 1, 2)
    assert counts(judge, "slow answers") == (2, 2, 0, 1)


def test_only_the_two_versions_on_their_tracks_count(path: Path, capture: Callable[..., None]) -> None:
    capture("a", version=3)
    capture("b", version=2, track="live")
    capture("c", version=1, track="canary")
    capture("d", version=2, track="shadow")
    capture("e", outcome="overloaded")
    judge = Judge(Rules())
    Outcomes(path, "digits", MODELS, 0).tell(judge, 0.1)
    assert counts(judge, "errors") == (0, 0, 0, 0)


def test_nothing_before_the_beginning_counts(path: Path, capture: Callable[..., None]) -> None:
    capture("old", 10)
    outcomes = Outcomes(path, "digits", MODELS, traffic.newest(path))
    capture("new", 3)
    judge = Judge(Rules())
    outcomes.tell(judge, None)
    outcomes.tell(judge, None)
    assert counts(judge, "errors") == (0, 0, 0, 3)


def test_truth_at_once_later_and_never(path: Path, capture: Callable[..., None]) -> None:
    labels.record(path, "digits", {"early": "yes"})
    capture("early")
    capture("late", version=2, track="canary")
    capture("never", version=2, track="canary")
    judge = Judge(Rules())
    outcomes = Outcomes(path, "digits", MODELS, 0)
    outcomes.tell(judge, None)
    assert counts(judge, "wrong answers") == (0, 0, 0, 1)
    labels.record(path, "digits", {"late": "no", "nobody": "yes"})
    outcomes.tell(judge, None)
    outcomes.tell(judge, None)
    assert counts(judge, "wrong answers") == (1, 1, 0, 1)


def test_failed_requests_have_no_answer_to_be_wrong(path: Path, capture: Callable[..., None]) -> None:
    capture("a", outcome="error", outputs=None)
    labels.record(path, "digits", {"a": "yes"})
    judge = Judge(Rules())
    Outcomes(path, "digits", MODELS, 0).tell(judge, None)
    assert counts(judge, "wrong answers") == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("said", "truth", "harm"),
    [
        ([[12.0]], 10.0, 0.5),
        ([[12.0], [9.0]], [10.0, None], 0.5),
        ([[12.0], [10.0]], [10.0, 10.0], 0.25),
        ([[1e9]], 10.0, 1.0),
        ([[np.nan]], 10.0, 1.0),
        ([[np.inf]], 10.0, 1.0),
        ([[12.0]], "dear", None),
        ([[12.0]], [10.0, 11.0], None),
    ],
)
def test_numbers_harm_by_their_error(
    path: Path, capture: Callable[..., None], said: Any, truth: Any, harm: float | None
) -> None:
    """1 was promised, so that 4 is the most that counts."""
    price = replace(MODEL, signature=Signature((), (TensorSpec("scores", "float32", (None, 1)),)), labels=())
    capture("a", outputs={"scores": np.array(said, "float32")})
    capture("b", outputs={})
    labels.record(path, "digits", {"a": truth, "b": truth})
    for rules, wanted in ((Rules(max_error=1.0), harm), (Rules(), None)):
        judge = Judge(rules)
        Outcomes(path, "digits", {False: (1, price), True: (2, price)}, 0).tell(judge, None)
        assert counts(judge, "wrong answers") == (0, 0, *((0, 0) if wanted is None else (wanted, 1)))


def test_more_than_a_page(path: Path, capture: Callable[..., None]) -> None:
    capture("a", 2500)
    judge = Judge(Rules())
    Outcomes(path, "digits", MODELS, 0).tell(judge, None)
    assert counts(judge, "errors")[3] == 2500


def test_large_requests_and_answers_take_little_memory(path: Path, capture: Callable[..., None]) -> None:
    picture, mask = np.zeros((1, 3, 224, 224), "float32"), np.zeros((1, 2, 224, 224), "float32")
    capture("a", 50, inputs={"image": picture}, outputs={**YES, "mask": mask})
    judge = Judge(Rules())
    tracemalloc.start()
    Outcomes(path, "digits", MODELS, 0).tell(judge, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert counts(judge, "errors")[3] == 50
    assert peak < 12e6  # the answers alone are 20 MB, the pictures 30


def test_no_file_is_no_outcome(path: Path) -> None:
    judge = Judge(Rules())
    Outcomes(path, "digits", MODELS, 0).tell(judge, None)
    assert judge.requests == 0


class TestUsual:
    def test_too_few(self, path: Path, capture: Callable[..., None]) -> None:
        assert usual_p99(path, "digits", 1) is None
        capture("a", 99)
        assert usual_p99(path, "digits", 1) is None

    def test_of_the_version_and_of_answers(self, path: Path, capture: Callable[..., None]) -> None:
        capture("a", 200)
        capture("b", 200, seconds=9.0, track="shadow")
        capture("c", 200, seconds=9.0, version=2)
        capture("d", 200, seconds=9.0, outcome="error")
        assert usual_p99(path, "digits", 1) == pytest.approx(0.01)
