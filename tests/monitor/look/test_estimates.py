"""The estimate of quality beside the labels, which know better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelkeep.data import labels, traffic
from modelkeep.monitor.look import check
from modelkeep.monitor.page import page
from modelkeep.types import Model, Version
from tests.monitor.look.found import Send, kinds


def test_the_estimate_stands_beside_the_real_one(
    version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
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
    version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Any, changed: Any
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
    version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Any, changed: Any
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
