"""Writes the Keras rows as .keras files: Keras 3 on PyTorch, so that no TensorFlow is needed to make them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np

from zoo import inputs, weights
from zoo.row import Source

ROWS = 8
Made = tuple[keras.Model, dict[str, np.ndarray[Any, Any]]]
layers = keras.layers


def mlp() -> Made:
    """Sequential, with dropout."""
    model = keras.Sequential(
        [
            keras.Input((20,), name="features"),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(5, activation="softmax", name="chances"),
        ]
    )
    return model, {"features": inputs.normal(ROWS, 20)}


def cnn() -> Made:
    """Convolutions with BatchNorm on pictures of any size."""
    image = keras.Input((None, None, 3), name="image")
    x = image
    for width in (16, 32):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.MaxPooling2D()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x)), _pictures(32)


def lstm() -> Made:
    """Words of sentences of any length to one label."""
    tokens = keras.Input((None,), dtype="int64", name="tokens")
    x = layers.Embedding(200, 32)(tokens)
    x = layers.Bidirectional(layers.LSTM(32, return_sequences=True))(x)
    x = layers.LSTM(32)(x)
    return keras.Model(tokens, layers.Dense(4, name="logits")(x)), {"tokens": inputs.tokens(ROWS, 9, 200)}


def attention() -> Made:
    """A block of a transformer: multi-head attention, residuals, LayerNorm."""
    sequence = keras.Input((None, 32), name="sequence")
    x = layers.LayerNormalization()(sequence + layers.MultiHeadAttention(4, 8)(sequence, sequence))
    x = layers.LayerNormalization()(x + layers.Dense(32)(layers.Dense(64, activation="gelu")(x)))
    logits = layers.Dense(6, name="logits")(layers.GlobalAveragePooling1D()(x))
    return keras.Model(sequence, logits), {"sequence": inputs.normal(ROWS, 9, 32)}


def resnet50() -> Made:
    """keras.applications.ResNet50, its head without softmax."""
    return keras.applications.ResNet50(weights=None, classifier_activation=None, name="resnet50"), _pictures(224)


def mobilenetv3() -> Made:
    """keras.applications.MobileNetV3Small, which rescales its pictures itself."""
    options = {"weights": None, "classifier_activation": None, "include_preprocessing": False}
    return keras.applications.MobileNetV3Small((224, 224, 3), **options), _pictures(224)


MODELS: dict[str, Callable[[], Made]] = {
    "mlp": mlp,
    "cnn": cnn,
    "lstm": lstm,
    "attention": attention,
    "resnet50": resnet50,
    "mobilenetv3": mobilenetv3,
}


def saved(folder: Path, *, model: str) -> Source:
    """The model of this name, seeded, its BatchNorm statistics those of the rows and of constant ones."""
    keras.utils.set_random_seed(weights.SEED)
    made, rows = MODELS[model]()
    for layer in made._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    made(inputs.with_extremes(next(iter(rows.values()))), training=True)
    made.save(folder / "model.keras")
    return Source(folder / "model.keras", rows)


def _pictures(size: int) -> dict[str, np.ndarray[Any, Any]]:
    return {"image": inputs.pictures(ROWS, size).transpose(0, 2, 3, 1).copy()}
