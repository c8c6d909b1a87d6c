"""Keras models, saved as .keras."""

from typing import Any

from zoo.row import Row


def _row(name: str, about: str, free: dict[str, tuple[int, ...]] | None = None, **row: Any) -> Row:
    args = {"model": name.removeprefix("keras-")}
    return Row(name, "keras", about, "zoo.keras.write:saved", args, free or {}, **row)


ROWS = (
    _row("keras-mlp", "Sequential, two dense layers, dropout, softmax"),
    _row("keras-cnn", "two convolutions with BatchNorm, pictures of any size", {"image": (1, 2)}),
    _row("keras-lstm", "a bidirectional LSTM and another, sentences of any length", {"tokens": (1,)}),
    _row("keras-attention", "multi-head attention, residuals, LayerNorm", {"sequence": (1,)}),
    _row("keras-resnet50", "keras.applications.ResNet50, 224 pixels"),
    _row("keras-mobilenetv3", "keras.applications.MobileNetV3Small, 224 pixels"),
)
