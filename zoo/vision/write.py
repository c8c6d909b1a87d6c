"""Writes the vision rows: a state_dict with the file of its factory beside it, as a user keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo import inputs, weights
from zoo.row import Source
from zoo.saved import saved
from zoo.vision import alexnet, googlenet, timm_model

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples" / "digits"
PICTURES = 8


def timm(folder: Path, *, model: str, size: int, **options: Any) -> Source:
    """A timm model with random weights, calibrated on the pictures that it is then tried on."""
    data = {"image": inputs.pictures(PICTURES, size)}
    made = weights.calibrate(weights.seeded(timm_model.create, model, **options), data)
    weights.spread(made, made.get_classifier(), data)  # type: ignore[operator,arg-type]
    return saved(folder, made, HERE / "timm_model.py", "create", {"model": model, **options}, data)


def paper(folder: Path, *, model: str, size: int, **options: Any) -> Source:
    """AlexNet or GoogLeNet as their papers have them."""
    kind = {"alexnet": alexnet.AlexNet, "googlenet": googlenet.GoogLeNet}[model]
    data = {"image": inputs.pictures(PICTURES, size)}
    made = weights.seeded(kind, **options)
    head = made.classifier if model == "alexnet" else made.head
    weights.spread(made, head[-1], data)  # type: ignore[index,arg-type]
    return saved(folder, made, HERE / f"{model}.py", kind.__name__, options, data)


def digits(folder: Path) -> Source:
    """The seed's own MLP, trained for a few seconds on scikit-learn's digits (examples/digits)."""
    from modelkeep.model.formats import factories

    with factories.importable(EXAMPLES):
        import train
        from digits_mlp import MLP
        from sklearn.datasets import load_digits
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = pixels.astype(np.float32), labels.astype(np.int64)
    torch.manual_seed(weights.SEED)
    made = train.fit(MLP(), pixels[:900], labels[:900])
    return saved(folder, made, EXAMPLES / "digits_mlp.py", "MLP", {}, {"pixels": pixels[900:]})
