"""ONNX's LSTM, GRU and RNN with their default activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from modelkeep.environments.tensorflow.node import Node, shape

DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
Step = Callable[[tuple[Any, ...], Any], tuple[Any, ...]]


def _lstm(node: Node, hidden: int, r: Any, bias: Any, peep: Any) -> Step:
    """Gates in ONNX's order: input, output, forget, cell."""

    def step(state: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
        h, c = state
        i, o, f, g = tf.split(x + tf.matmul(h, r, transpose_b=True) + bias, 4, -1)
        pi, po, pf = (0.0, 0.0, 0.0) if peep is None else tf.split(peep, 3, -1)
        c = tf.sigmoid(f + pf * c) * c + tf.sigmoid(i + pi * c) * tf.tanh(g)
        return tf.sigmoid(o + po * c) * tf.tanh(c), c

    return step


def _gru(node: Node, hidden: int, r: Any, bias: Any, peep: Any) -> Step:
    """Gates in ONNX's order: update, reset, hidden."""
    before = bool(node.get("linear_before_reset", 0))
    gates, own = r[: 2 * hidden], r[2 * hidden :]

    def step(state: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
        (h,) = state
        z, q = tf.split(
            tf.sigmoid(x[:, : 2 * hidden] + tf.matmul(h, gates, transpose_b=True) + bias[: 2 * hidden]), 2, -1
        )
        if before:
            inner = q * (tf.matmul(h, own, transpose_b=True) + bias[2 * hidden :])
        else:
            inner = tf.matmul(q * h, own, transpose_b=True) + bias[2 * hidden :]
        return ((1 - z) * tf.tanh(x[:, 2 * hidden :] + inner) + z * h,)

    return step


def _rnn(node: Node, hidden: int, r: Any, bias: Any, peep: Any) -> Step:
    return lambda state, x: (tf.tanh(x + tf.matmul(state[0], r, transpose_b=True) + bias),)


def _recurrent(cell: Callable[..., Step], gates: int, states: int) -> Callable[..., Any]:
    def operator(node: Node, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, *rest: Any) -> list[Any]:
        ways = DIRECTIONS[node.get("direction", "forward")]
        _check(node, len(ways))
        hidden = node.get("hidden_size") or r.shape[-1]
        initial, peep = rest[:states], (rest[states] if len(rest) > states else None)
        outputs, ends = [], []
        for way, backwards in enumerate(ways):
            bias = tf.zeros([2 * gates * hidden]) if b is None else b[way]
            step = cell(node, hidden, r[way], bias[gates * hidden :], None if peep is None else peep[way])
            zero = tf.zeros(tf.stack([tf.cast(shape(x)[1], tf.int32), hidden]), tf.as_dtype(x.dtype))
            start = [initial[s][way] if len(initial) > s and initial[s] is not None else zero for s in range(states)]
            projected = tf.einsum("tbi,gi->tbg", x, w[way]) + bias[: gates * hidden]
            found, end = _unrolled(step, projected, tuple(start), lengths, backwards)
            outputs.append(found)
            ends.append(end)
        return [tf.stack(outputs, 1), *(tf.stack([end[s] for end in ends], 0) for s in range(states))]

    return operator


def _check(node: Node, ways: int) -> None:
    wanted = ACTIVATIONS[node.kind] * ways
    given = tuple(node.get("activations", wanted))
    if tuple(a.lower() for a in given) != tuple(a.lower() for a in wanted):
        raise ValueError(f"activations {', '.join(given)} are not supported")
    if node.get("clip") or node.get("layout", 0) or node.get("input_forget", 0):
        raise ValueError("clip, layout and input_forget are not supported")


def _unrolled(step: Step, x: Any, start: tuple[Any, ...], lengths: Any, backwards: bool) -> tuple[Any, tuple[Any, ...]]:
    """Every step's output, 0 beyond a row's length, and the state after the last step of each row."""
    count = tf.shape(x)[0]
    lengths = tf.fill([tf.shape(x)[1]], count) if lengths is None else tf.cast(lengths, tf.int32)

    def turned(values: Any) -> Any:
        return tf.reverse_sequence(values, lengths, seq_axis=0, batch_axis=1) if backwards else values

    def masked(state: tuple[Any, ...], now: tuple[Any, Any]) -> tuple[Any, ...]:
        at, values = now
        inside = (at < lengths)[:, None]
        return tuple(tf.where(inside, new, old) for new, old in zip(step(state, values), state, strict=True))

    history = tf.scan(masked, (tf.range(count), turned(x)), start)
    inside = (tf.range(count)[:, None] < lengths[None, :])[:, :, None]
    outputs = turned(tf.where(inside, history[0], tf.zeros_like(history[0])))
    return outputs, tuple(states[-1] for states in history)


OPERATORS: dict[str, Callable[..., Any]] = {
    "LSTM": _recurrent(_lstm, 4, 2),
    "GRU": _recurrent(_gru, 3, 1),
    "RNN": _recurrent(_rnn, 1, 1),
}
"""ONNX operator → function(node, *inputs)."""
