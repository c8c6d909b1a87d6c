"""Labels that come late, their promise, and those that count for nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data import labels
from modelkeep.errors import BadSettings
from modelkeep.model import baseline
from modelkeep.monitor import truth
from modelkeep.monitor.look import check
from modelkeep.types import Model, Version
from tests.monitor.look.found import Send, kinds


def test_truth_that_comes_late_is_joined(
    version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
) -> None:
    pixels, truth = held_out(400)
    ids = send(pixels)
    assert check(version, model, home).numbers["quality"]["n"] == 0
    labels.record(path, "digits", dict(zip(ids[:300], truth[:300].tolist(), strict=True)))
    first = check(version, model, home).numbers["quality"]
    labels.record(path, "digits", dict(zip(ids, truth.tolist(), strict=True)))
    second = check(version, model, home)
    assert "labelled requests; labels came for 100% of 400 captured answers" in second.describe()
    assert (first["n"], first["coverage"]) == (300, 0.75)
    assert second.numbers["quality"]["n"] == 400
    assert second.numbers["quality"]["accuracy"] > 0.85
    assert second.findings == ()


@pytest.mark.parametrize(("label", "said"), [("three", "'three'"), ([3, None], "[3, null]")])
def test_labels_of_another_kind_are_said_and_count_for_nothing(
    version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Any, label: Any, said: str
) -> None:
    """A name where classes have none, or two labels of one row."""
    pixels, truth = held_out(20)
    ids = send(pixels)
    labels.record(path, "digits", dict(zip(ids[1:], truth[1:].tolist(), strict=True)) | {ids[0]: label})
    checked = check(version, model, home)
    assert checked.numbers["quality"]["n"] == 19
    assert any(
        note.startswith("1 label cannot be compared") and f"such as {said} of request r0" in note
        for note in checked.notes
    )


def test_answers_without_the_classes_are_said_and_count_for_nothing(
    version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
) -> None:
    """A client may ask for one output, and not for the one that is judged."""
    pixels, truth = held_out(20)
    ids = send(pixels) + send(pixels[:3], outputs={"embedding": np.zeros((1, 4), "float32")})
    labels.record(path, "digits", dict(zip(ids, [*truth.tolist(), 1, 2, 3], strict=True)))
    checked = check(version, model, home)
    assert checked.numbers["quality"]["n"] == checked.numbers["estimated"]["n"] == 20
    assert [note for note in checked.notes if "labels" in note] == [
        "3 labels came for answers without the output 'logits', which clients did not ask for, and counted for nothing"
    ]


def test_a_label_waits_for_its_request_a_while(
    version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
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
    version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
) -> None:
    pixels, truth = held_out(400)
    wrong = np.where(np.arange(400) % 10 < 4, (truth + 1) % 10, truth)
    labels.record(path, "digits", dict(zip(send(pixels), wrong.tolist(), strict=True)))
    calibration = ("quality", "calibration")  # the labels are wrong whatever the confidence
    assert kinds(check(version, model, home, min_accuracy=0.9)) == [("quality", "accuracy"), calibration]
    assert kinds(check(version, model, home, min_accuracy=0.3)) == [calibration]


def test_slices_hold_the_promise_in_each_value(
    version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
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


def test_without_a_promise_the_reference_rows_set_the_floor(
    version: Version, model: Model, home: Path, path: Path, send: Send, held_out: Callable[[int], Any]
) -> None:
    known = baseline.build(model)
    assert known is not None
    assert known.accuracy is not None
    pixels, truth = held_out(300)
    labels.record(path, "digits", dict(zip(send(pixels), ((truth + 1) % 10).tolist(), strict=True)))
    found = check(version, model, home).findings[0]
    assert found.evidence["floor"] == pytest.approx(known.accuracy - 0.1)
    assert "the least to expect from its reference rows" in found.why
