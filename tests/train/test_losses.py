"""The losses against formulas written out with numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from modelkeep.errors import BadData, BadSettings
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


@pytest.mark.parametrize("loss", [cross_entropy, distillation(3.0, 0.5)])
def test_probabilities_are_taken_for_what_they_are(loss: Any) -> None:
    targets = {"labels": torch.from_numpy(LABELS), "teacher": torch.from_numpy(TEACHER)}
    answers = torch.from_numpy(softmax(LOGITS))
    assert float(loss(answers, targets)) == pytest.approx(float(loss(torch.from_numpy(LOGITS), targets)), rel=1e-5)


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


def test_cross_entropy_without_labels_is_refused() -> None:
    with pytest.raises(BadData, match="no labels to train on; give them the true class of each row"):
        value(cross_entropy)


@pytest.mark.parametrize(("label", "told"), [(4, "4"), (-1, "-1")])
def test_a_label_that_is_no_class_is_named(label: int, told: str) -> None:
    with pytest.raises(BadData, match=rf"the label {told} is none of the module's 4 classes \(0 to 3\)"):
        value(cross_entropy, labels=np.array([0, 1, 2, 3, 0, label]))


@pytest.mark.parametrize("shape", [(5,), (6, 1)])
def test_labels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadData, match=r"labels of shape .* do not fit answers of shape \[6, 4\]"):
        value(cross_entropy, labels=np.zeros(shape, np.int64))


def test_answers_that_are_no_scores_are_refused() -> None:
    with pytest.raises(BadData, match=r"do not fit answers of shape \[6\]"):
        cross_entropy(torch.zeros(6), {"labels": torch.zeros(6, dtype=torch.int64)})


@pytest.mark.parametrize(("temperature", "alpha"), [(0.0, 0.5), (-1.0, 0.5), (2.0, -0.1), (2.0, 1.1)])
def test_settings_that_mean_nothing_are_refused(temperature: float, alpha: float) -> None:
    with pytest.raises(BadSettings, match=r"must be above 0, and alpha=.* between 0 and 1"):
        distillation(temperature, alpha)
