"""modelkeep rollout, as a person reads its verdict and as a machine does."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from modelkeep.data import labels
from modelkeep.data.traffic import Exchange, TrafficLog
from modelkeep.keep import Keep
from modelkeep.model import folder
from modelkeep.settings import Settings
from modelkeep.types import Model, Signature, TensorSpec
from tests.cli.conftest import Run

MISSED = "its accuracy is shown to be below the promised 95%, so it has to be better than digits@1, which stays live"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """digits@2 is a canary beside digits@1; both answered 1,500 requests, of which one in ten rightly."""
    signature = Signature((TensorSpec("x", "float32", (None, 1)),), (TensorSpec("y", "float32", (None, 2)),))
    with Keep(Settings(home=tmp_path / ".modelkeep")) as keep:
        for number in ("1", "2"):
            made = tmp_path / f"made{number}"
            made.mkdir()
            (made / "weights").write_text(number)
            folder.write(Model(made, "onnx", signature, ("weights",)))
            keep.registry.add("digits", made, made_by="hand")
        keep.registry.promote("digits", 1, why="the first")
        canary = replace(keep.registry.route("digits"), canary=2, weight=0.5)
        keep.registry.set_route(canary, why="left behind")
        keep.registry.note("digits", "rollout", "began", {"stage": "began", "version": 2, "row": 0})
        log = TrafficLog(keep.traffic)
        for at in range(3000):
            track, scores = ("live", "canary")[at % 2], [[0.0, 1.0]] if at % 20 < 2 else [[1.0, 0.0]]
            answer = {"y": np.array(scores, np.float32)}
            log.offer(Exchange(f"r{at}", time.time(), "digits", 1 + at % 2, track, "ok", 0.01, None, answer))
        log.close()
        labels.record(keep.traffic, "digits", {f"r{at}": 1 for at in range(3000)})
    return tmp_path


ENDED = ("rollout", "digits@2", "--steps", "50", "--max-time", "0", "--needs-labels")


def test_equals_that_miss_the_promise_are_not_promoted(run: Run) -> None:
    code, out, _ = run(*ENDED, "--min-accuracy", "95%", "--json")
    told = json.loads(out)
    assert (code, told["verdict"]) == (1, "inconclusive")
    assert told["why"].endswith(MISSED)
    promise = told["numbers"]["promise"]
    assert (promise["min_accuracy"], promise["missed"]) == (0.95, True)
    assert promise["log_evidence_missed"] > promise["log_evidence_needed"]["missed"]
    assert promise["log_evidence_better"] < promise["log_evidence_needed"]["better"]


def test_the_promise_of_the_settings_counts_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELKEEP_MIN_ACCURACY", "0.95")
    code, out, _ = run(*ENDED)
    assert code == 1
    assert out.strip().endswith(MISSED)


@pytest.mark.parametrize("more", [(), ("--min-accuracy", "0%")])
def test_without_one_they_are(run: Run, more: tuple[str, ...]) -> None:
    code, out, _ = run(*ENDED, *more, "--json")
    assert (code, json.loads(out)["verdict"]) == (0, "promote")


def test_the_verdict_is_said_once(run: Run) -> None:
    _, out, _ = run(*ENDED, "--min-accuracy", "95%")
    assert out.count(MISSED) == 1


def test_a_share_below_one_percent_is_told_as_it_is(run: Run) -> None:
    run("rollback", "digits")
    _, out, _ = run("rollout", "digits@2", "--steps", "0.1%", "--max-time", "0")
    assert "digits@2 gets 0.1% of the traffic (step 1 of 1)" in out


def test_who_stops_the_judge_is_told_that_the_canary_stays(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelkeep.rollout.canary.Canary.run", Mock(side_effect=KeyboardInterrupt))
    code, _, err = run(*ENDED)
    assert code == 130
    assert "digits@2 keeps its share of the traffic, and nobody judges it" in err
    assert "modelkeep rollback digits ends it" in err
