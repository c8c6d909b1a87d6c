"""The world that the service lives in: digits as they are scanned today, which may not be as they were."""

from collections.abc import Callable, Iterator

import numpy as np
from scipy import ndimage

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def unchanged(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As they were."""
    return pixels


def changed(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The scanner was mounted askew (30 degrees) and is noisy."""
    images = ndimage.rotate(pixels.reshape(-1, 8, 8), 30, axes=(1, 2), reshape=False, order=1)
    return np.clip(images + rng.normal(0, 1.0, images.shape), 0, 16).reshape(-1, 64).astype(np.float32)


def changed_again(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Somebody turned it the other way (-35 degrees), and the lamp has faded."""
    images = ndimage.rotate(pixels.reshape(-1, 8, 8), -35, axes=(1, 2), reshape=False, order=1)
    return np.clip(0.8 * images + rng.normal(0, 1.0, images.shape), 0, 16).reshape(-1, 64).astype(np.float32)


class World:
    """An endless stream of digits with their true labels; ``change`` may be replaced while it runs."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, *, change: Change = unchanged, seed: int = 0) -> None:
        self.pixels, self.labels, self.change = pixels, labels, change
        self.rng = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        """One digit of 64 pixels, and what it is."""
        while True:
            row = int(self.rng.integers(len(self.pixels)))
            yield self.change(self.pixels[row : row + 1], self.rng), int(self.labels[row])
