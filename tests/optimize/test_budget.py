"""Kept or refused: the accuracy that may be lost, and the gain that must be shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelkeep.convert.torch_to_onnx import TorchToOnnx
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData
from modelkeep.evidence import paired_drop
from modelkeep.model import formats
from modelkeep.optimize import budget
from modelkeep.optimize.quantize import Quantize
from modelkeep.types import Model


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def wide(nets: Path, nets_module: Any, digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """512 hidden units, so that its weights are most of its file; as ONNX."""
    from modelkeep.train import loop

    room = tmp_path_factory.mktemp("wide")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nets_module.MLP(hidden=512)
    loop.fit(module, digits[0], epochs=10, lr=3e-3)
    torch.save(module.state_dict(), nets / "wide.pt")
    model = formats.adopt(
        nets / "wide.pt", room / "torch", factory="nets:MLP", factory_args={"hidden": 512}, data=digits[0]
    )
    return TorchToOnnx().run(model, room / "onnx")[0]


@pytest.fixture(scope="module")
def int8(wide: Model, digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Quantize(rows=digits[0]).run(wide, tmp_path_factory.mktemp("int8"))[0]


@pytest.fixture(scope="module")
def untrained(nets: Path, nets_module: Any, digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Small, fast, and wrong."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(nets_module.MLP(hidden=4).state_dict(), nets / "untrained.pt")
    room = tmp_path_factory.mktemp("untrained")
    return formats.adopt(nets / "untrained.pt", room, factory="nets:MLP", factory_args={"hidden": 4}, data=digits[0])


def test_int8_within_the_budget_is_kept(wide: Model, int8: Model, digits: Any) -> None:
    report = budget.within(wide, int8, digits[1], 0.02)
    assert (report.kind, report.ok) == ("optimize", True)
    numbers = report.numbers
    assert numbers["accuracy_before"] > 0.93
    assert numbers["drop_upper"] <= 0.02
    assert numbers["size_ratio"] == pytest.approx(int8.size / wide.size)
    assert numbers["size_ratio"] < 0.5
    assert numbers["n"] == len(digits[1])
    assert numbers["speedup_low"] <= numbers["speedup"] <= numbers["speedup_high"]
    assert "smaller" in report.why
    assert f"n={len(digits[1])}" in report.why


def test_a_candidate_below_the_budget_is_refused_with_its_sentence(wide: Model, untrained: Model, digits: Any) -> None:
    report = budget.within(wide, untrained, digits[1], 0.02)
    assert report.ok is False
    assert "which is over the budget of 2.0%" in report.why
    assert report.numbers["accuracy"] < 0.4
    assert report.numbers["drop"] == pytest.approx(report.numbers["accuracy_before"] - report.numbers["accuracy"])


def test_the_bound_counts_and_not_the_drop_seen(wide: Model, int8: Model, digits: Any) -> None:
    """On 20 rows nothing is lost, and still as much as an eighth might be."""
    report = budget.within(wide, int8, digits[1].head(20), 0.01)
    assert report.numbers["drop"] <= 0
    same = np.ones(20, bool)
    assert report.numbers["drop_upper"] >= paired_drop(same, same)[1] - 1e-9
    assert report.ok is False
    assert "over the budget of 1.0%" in report.why


def test_the_budget_decides(wide: Model, int8: Model, digits: Any) -> None:
    upper = budget.within(wide, int8, digits[1], 1.0).numbers["drop_upper"]
    assert budget.within(wide, int8, digits[1], upper + 1e-6).ok is True
    assert budget.within(wide, int8, digits[1], upper - 1e-6).ok is False


class Race:
    """Instead of a clock, which no test can rely on."""

    def __init__(self, low: float, high: float) -> None:
        self.numbers = {"ratio": (low + high) / 2, "low": low, "high": high}


def test_neither_smaller_nor_faster_is_refused(wide: Model, digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget.measure, "race", lambda *_, **__: Race(0.9, 1.2))
    report = budget.within(wide, wide, digits[1], 0.05)
    assert report.ok is False
    assert "neither smaller nor shown to be faster" in report.why


def test_as_large_but_faster_is_kept(wide: Model, digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget.measure, "race", lambda *_, **__: Race(1.3, 1.6))
    assert budget.within(wide, wide, digits[1], 0.05).ok is True


def test_rows_without_labels_are_refused(wide: Model, int8: Model, digits: Any) -> None:
    rows = Dataset(digits[1].inputs, None, "unlabelled.npz")
    with pytest.raises(BadData, match=r"unlabelled\.npz has no labels"):
        budget.within(wide, int8, rows, 0.02)


def test_names_of_classes_are_the_same_as_their_numbers(wide: Model, int8: Model, digits: Any) -> None:
    names = tuple("abcdefghij")
    rows = Dataset(digits[1].inputs, np.array(names)[digits[1].labels], "named")
    named = [dataclasses.replace(model, labels=names) for model in (wide, int8)]
    want = budget.within(wide, int8, digits[1], 0.02).numbers
    found = budget.within(*named, rows, 0.02).numbers
    assert (found["accuracy"], found["drop_upper"]) == (want["accuracy"], want["drop_upper"])


def told(**change: float) -> tuple[bool | None, str]:
    numbers = {
        "accuracy_before": 0.97,
        "accuracy": 0.96,
        "drop": 0.01,
        "drop_upper": 0.02,
        "max_drop": 0.03,
        "n": 500,
        "size_ratio": 0.25,
        "speedup": 1.5,
        "speedup_low": 1.2,
        "speedup_high": 1.8,
        "race_rows": 32,
    }
    report = budget.verdict({**numbers, **change})
    return report.ok, report.why


SLOWER = {"speedup": 0.7, "speedup_low": 0.6, "speedup_high": 0.8}
SAME = {"speedup": 1.0, "speedup_low": 0.9, "speedup_high": 1.1}


@pytest.mark.parametrize(
    ("change", "ok", "why"),
    [
        (
            {},
            True,
            "4× smaller, 1.50× as fast (1.20 to 1.80, 32 rows a run); accuracy 97.0% → 96.0%, "
            "at most 2.0% lost (95 %, n=500)",
        ),
        (SLOWER, True, "4× smaller, 0.70× as fast (0.60 to 0.80, 32 rows a run), so slower; accuracy"),
        ({"size_ratio": 1.5}, True, "1.5× larger, 1.50× as fast"),
        ({**SAME, "size_ratio": 1.0}, False, "neither smaller nor shown to be faster: as large, 1.00× as fast"),
        ({**SLOWER, "size_ratio": 1.2}, False, "neither smaller nor faster: 1.2× larger, 0.70× as fast"),
        ({"max_drop": 0.02}, True, "4× smaller"),
        ({"max_drop": 0.019}, False, "over the budget of 1.9%; more labelled rows may narrow the bound; 4× smaller"),
        ({"max_drop": 0.005}, False, "lost (95 %, n=500), which is over the budget of 0.5%; 4× smaller"),
        ({"drop": -0.01, "drop_upper": -0.002}, True, "at most 0.0% lost"),
    ],
)
def test_the_sentence_says_what_was_gained_or_why_it_was_refused(change: Any, ok: bool, why: str) -> None:
    found, sentence = told(**change)
    assert found is ok
    assert why in sentence
