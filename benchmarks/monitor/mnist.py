"""MNIST from MODELKEEP_DATA, a perceptron that is trained on it, and the ways in which its pictures change."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from modelkeep.data.dataset import Dataset
from modelkeep.model import engines, folder, formats
from modelkeep.types import Model

Array = np.ndarray[Any, np.dtype[Any]]

HELD_OUT = 10_000
"""The last rows of the training part: the reference, which the model has not seen."""


@dataclass(frozen=True)
class Digits:
    """``images`` [rows, 784] float32 in [0, 1], ``labels`` [rows]."""

    images: Array
    labels: Array

    def take(self, rows: Array | slice) -> Digits:
        """Some of them."""
        return Digits(self.images[rows], self.labels[rows])


def folder_of_data() -> Path:
    """MODELKEEP_DATA; SystemExit with one sentence where it is not there."""
    found = os.environ.get("MODELKEEP_DATA", "")
    if not found or not Path(found).is_dir():
        raise SystemExit("set MODELKEEP_DATA to the folder with mnist/, employment/, bike/ and elec2/")
    return Path(found)


def load() -> tuple[Digits, Digits, Digits]:
    """To train on (50,000 rows), the reference (10,000), and the live ones (10,000, of other writers)."""
    with np.load(folder_of_data() / "mnist" / "mnist.npz") as file:
        images = {part: (file[f"x_{part}"].reshape(-1, 784) / 255).astype(np.float32) for part in ("train", "test")}
        seen, live = Digits(images["train"], file["y_train"]), Digits(images["test"], file["y_test"])
    return seen.take(slice(-HELD_OUT)), seen.take(slice(-HELD_OUT, None)), live


def trained(digits: Digits, epochs: int = 5, seed: int = 0) -> nn.Module:
    """A perceptron 784-256-128-10, by Adam, in some seconds."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    x, y = torch.from_numpy(digits.images), torch.from_numpy(digits.labels.astype(np.int64))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(x)), 128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.eval()


def made(net: nn.Module, reference: Digits, into: Path) -> Model:
    """The same in ONNX, as a model folder that keeps reference rows."""
    program = torch.onnx.export(
        net,
        (torch.zeros(2, 784),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        input_names=["pixels"],
        output_names=["scores"],
        verbose=False,
    )
    assert program is not None
    (into / "made").mkdir(parents=True)
    program.save(into / "made" / "model.onnx", external_data=False)
    rows = Dataset({"pixels": reference.images}, reference.labels, "mnist")
    return folder.read(formats.adopt(into / "made" / "model.onnx", into / "model", data=rows).path)


@contextmanager
def loaded(model: Model) -> Iterator[Callable[[Array], Array]]:
    """[rows, 784] → [rows, 10], by the engine that would serve it."""
    with closing(engines.load(model)) as runner:
        yield lambda images: np.concatenate(
            [runner.run({"pixels": images[at : at + 256]})["scores"] for at in range(0, len(images), 256)]
        )


def rotated(degrees: float, order: int = 1) -> Callable[[Digits], Digits]:
    """Each picture turned around its middle; ``order`` 1 mixes neighbouring pixels, 0 takes the nearest."""
    return lambda d: _each(d, lambda cube: ndimage.rotate(cube, degrees, axes=(1, 2), reshape=False, order=order))


def blurred(sigma: float) -> Callable[[Digits], Digits]:
    """Each picture blurred by a Gaussian of ``sigma`` pixels."""
    return lambda d: _each(d, lambda cube: ndimage.gaussian_filter(cube, (0, sigma, sigma)))


def noisy(sigma: float, seed: int = 0) -> Callable[[Digits], Digits]:
    """Gaussian noise on each pixel, which stays in [0, 1]."""
    return lambda d: _each(d, lambda cube: cube + np.random.default_rng(seed).normal(0, sigma, cube.shape))


def without(digit: int) -> Callable[[Digits], Digits]:
    """None of this class comes any more."""
    return lambda d: d.take(d.labels != digit)


def _each(digits: Digits, change: Callable[[Array], Array]) -> Digits:
    changed = np.clip(change(digits.images.reshape(-1, 28, 28)), 0, 1).reshape(-1, 784).astype(np.float32)
    return Digits(changed, digits.labels)
