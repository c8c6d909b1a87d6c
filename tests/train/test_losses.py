"""The losses against formulas written out with numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from modelkeep.train.losses import cross_entropy, distillation

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 4)) * 3
TEACHER = RNG.normal(size=(6, 4)) * 3
LABELS = RNG.integers(0, 4, 6)


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def plain() -> float:
    return float(-np.log(softmax(LOGITS)[np.arange(6), LABELS]).mean())


def soft(temperature: float) -> float:
    p, q = softmax(TEACHER / temperature), softmax(LOGITS / temperature)
    return float((p * np.log(p / q)).sum(1).mean())


def value(loss: Any, **targets: Any) -> float:
    return float(loss(torch.from_numpy(LOGITS), {name: torch.from_numpy(array) for name, array in targets.items()}))


def test_cross_entropy() -> None:
    assert value(cross_entropy, labels=LABELS) == pytest.approx(plain())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_distillation_weighs_soft_against_hard(temperature: float, alpha: float) -> None:
    want = alpha * temperature**2 * soft(temperature) + (1 - alpha) * plain()
    assert value(distillation(temperature, alpha), labels=LABELS, teacher=TEACHER) == pytest.approx(want)


def test_without_labels_only_the_soft_targets_count() -> None:
    assert value(distillation(2.0, 0.1), teacher=TEACHER) == pytest.approx(4 * soft(2.0))


def test_a_student_that_answers_as_its_teacher_has_no_soft_loss() -> None:
    assert value(distillation(3.0, 1.0), teacher=LOGITS) == pytest.approx(0, abs=1e-9)


def test_the_size_of_the_gradient_stays_when_the_temperature_grows() -> None:
    sizes = []
    for temperature in (10.0, 40.0):
        logits = torch.from_numpy(LOGITS).requires_grad_()
        distillation(temperature, 1.0)(logits, {"teacher": torch.from_numpy(TEACHER)}).backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        sizes.append(float(logits.grad.norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)
