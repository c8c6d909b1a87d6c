"""How pictures are changed."""

from __future__ import annotations

import mnist
import numpy as np
import pytest
from mnist import Digits


@pytest.fixture
def digits() -> Digits:
    images = np.zeros((6, 28, 28), np.float32)
    images[:, 6:22, 13:15] = 1.0
    return Digits(images.reshape(6, 784), np.arange(6))


def test_a_bar_that_stands_lies_once_it_is_turned(digits: Digits) -> None:
    turned = mnist.rotated(90, order=0)(digits).images.reshape(-1, 28, 28)
    assert turned[0, 13:15, 6:22].mean() > 0.8
    assert turned[0, :6].sum() == 0


def test_a_blur_keeps_the_ink_and_lowers_its_peak(digits: Digits) -> None:
    blurred = mnist.blurred(2)(digits).images
    assert blurred.sum() == pytest.approx(digits.images.sum(), rel=0.02)
    assert blurred.max() < 0.6


def test_noise_stays_in_range_and_is_the_same_for_a_seed(digits: Digits) -> None:
    one, two = (mnist.noisy(0.3, 1)(digits).images for _ in range(2))
    assert (one == two).all()
    assert one.min() >= 0
    assert one.max() <= 1
    assert one.std() > digits.images.std()


def test_a_missing_class_is_missing_and_the_others_are_as_they_were(digits: Digits) -> None:
    left = mnist.without(3)(digits)
    assert left.labels.tolist() == [0, 1, 2, 4, 5]
    assert len(left.images) == 5


def test_without_the_data_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELKEEP_DATA", raising=False)
    with pytest.raises(SystemExit, match="MODELKEEP_DATA"):
        mnist.load()
