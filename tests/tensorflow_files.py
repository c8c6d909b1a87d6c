"""Run by the TensorFlow environment's Python: writes the files that the tests need into a folder.

python tensorflow_files.py FOLDER [WEIGHTS.npz]   with WEIGHTS, only that network of dense layers without bias
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def dense(into: Path, weights: list[np.ndarray]) -> None:
    """x → relu(x·w₁)·w₂ …, as each format that TensorFlow has: net.keras, net.h5, saved/, net.tflite."""
    model = keras.Sequential([keras.Input((weights[0].shape[0],), name="x")], name="net")
    for at, w in enumerate(weights):
        end = at == len(weights) - 1
        layer = layers.Dense(w.shape[1], None if end else "relu", use_bias=False, name="output" if end else f"h{at}")
        model.add(layer)
        layer.set_weights([w])
    model.save(into / "net.keras")
    model.save(into / "net.h5")
    spec = tf.TensorSpec([None, weights[0].shape[0]], tf.float32, "x")
    traced = tf.function(lambda x: {"output": model(x, training=False)}, input_signature=[spec])
    holder = tf.Module()
    holder.model = model
    tf.saved_model.save(holder, str(into / "saved"), signatures={"serving_default": traced.get_concrete_function()})

    @tf.function(input_signature=[spec])
    def constant(x: tf.Tensor) -> dict[str, tf.Tensor]:
        for w in weights[:-1]:
            x = tf.nn.relu(x @ tf.constant(w))
        return {"output": x @ tf.constant(weights[-1])}

    converter = tf.lite.TFLiteConverter.from_concrete_functions([constant.get_concrete_function()], tf.Module())
    (into / "net.tflite").write_bytes(converter.convert())


def networks(into: Path) -> None:
    """One small file for each kind of network, each with weights of chance."""
    tokens, words = keras.Input((None,), dtype="int32", name="tokens"), keras.Input((None, 16), name="words")
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Bidirectional(layers.LSTM(8))(layers.Embedding(50, 16)(tokens))
    keras.Model(tokens, layers.Dense(3, name="scores")(x)).save(into / "lstm.keras")
    x = layers.LayerNormalization(name="mixed")(words + layers.MultiHeadAttention(2, 8)(words, words))
    keras.Model(words, [layers.Dense(3, name="scores")(x[:, 0]), x]).save(into / "attention.keras")
    x = layers.MaxPooling2D()(layers.BatchNormalization()(layers.Conv2D(8, 3, activation="relu")(image)))
    x = layers.DepthwiseConv2D(3, padding="same", activation="hard_swish")(x)
    x = layers.GlobalAveragePooling2D(keepdims=True)(x) * x
    x = layers.Dropout(0.2)(layers.Flatten()(x))
    keras.Model(image, layers.Dense(4, name="scores")(x)).save(into / "cnn.keras")
    x = any_size = keras.Input((None, None, 3), name="image")
    for _ in range(2):
        x = layers.MaxPooling2D()(layers.Conv2D(8, 3, padding="same", activation="gelu")(x))
    x = layers.Dense(4, name="scores")(layers.GlobalAveragePooling2D()(x))
    keras.Model(any_size, x).save(into / "any_size.keras")
    keras.Model(words, layers.Lambda(lambda t: t * 2)(words)).save(into / "code.keras")
    keras.Model(words, Own()(words)).save(into / "own.keras")


@keras.saving.register_keras_serializable()
class Own(layers.Layer):
    """A layer that only its author has."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x + 1


def graphs(into: Path) -> None:
    """SavedModels of other kinds: no signature, two signatures, text, one that reads a file, one that fails."""
    module = tf.Module()
    spec = tf.TensorSpec([None], tf.string, "words")
    shout = tf.function(lambda words: {"loud": tf.strings.upper(words)}, input_signature=[spec]).get_concrete_function()
    read = tf.function(lambda words: {"loud": tf.map_fn(tf.io.read_file, words)}, input_signature=[spec])
    tf.saved_model.save(module, str(into / "bare"))
    tf.saved_model.save(module, str(into / "two"), signatures={"one": shout, "other": shout})
    tf.saved_model.save(module, str(into / "text"), signatures={"shout": shout})
    tf.saved_model.save(module, str(into / "reader"), signatures={"serving_default": read.get_concrete_function()})


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    if len(sys.argv) > 2:
        with np.load(sys.argv[2]) as given:
            dense(Path(sys.argv[1]), [given[name] for name in given.files])
    else:
        rng = np.random.default_rng(0)
        shapes = ((6, 8), (8, 4))
        dense(Path(sys.argv[1]), [rng.standard_normal(shape).astype(np.float32) for shape in shapes])
        networks(Path(sys.argv[1]))
        graphs(Path(sys.argv[1]))
