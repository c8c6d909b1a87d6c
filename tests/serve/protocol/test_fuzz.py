"""The parser of requests against bytes that nobody meant: BadInput or an answer, quickly, and nothing kept."""

from __future__ import annotations

import json
import random
import resource
import struct
import time
from typing import Any

import numpy as np
import pytest

from modelkeep.errors import BadInput
from modelkeep.serve.protocol import codec
from modelkeep.types import Signature, TensorSpec

INPUTS = 100_000
SLOWEST = 1.0
"""Seconds that one input may take, on a machine that others use too."""
GROWTH = 64 * 1024**2
DEEP = b"[" * 1000 + b"]" * 1000
"""As deep as the parser of JSON goes, and deeper than Python prints."""
INTERESTING = (
    0,
    1,
    -1,
    2**31,
    -(2**31),
    2**32,
    2**63 - 1,
    2**64,
    10**30,
    0.5,
    1e309,
    True,
    None,
    "",
    "a",
    [],
    {},
    [[]],
    [0, 2**62, 2**62],
    [0] * 70,
    json.loads(b"[" * 900 + b"]" * 900),
)


def seeds() -> list[tuple[bytes, int | None]]:
    """Requests as clients send them: JSON, bytes, both, text, several inputs."""
    made: list[tuple[bytes, int | None]] = []
    for datatype, dtype in codec.DATATYPES.items():
        blob = b"\x00\x00" * 6 if datatype == "BF16" else b""
        if datatype == "BYTES":
            blob = b"".join(struct.pack("<I", n) + b"x" * n for n in (0, 3, 1, 0, 2, 5))
        elif datatype != "BF16":
            blob = np.arange(6).astype(dtype).tobytes()
        tensor: dict[str, Any] = {"name": "x", "shape": [2, 3], "datatype": datatype}
        tensor["parameters"] = {"binary_data_size": len(blob)}
        plain = {"name": "z", "shape": [2], "datatype": "INT32", "data": [1, 2]}
        head = {"id": "i", "inputs": [tensor, plain], "outputs": [{"name": "y", "parameters": {"classification": 1}}]}
        text = json.dumps(head).encode()
        made.append((text + blob, len(text)))
        made.append((json.dumps({"inputs": [plain], "parameters": {"timeout": 5}}).encode(), None))
    return made


def bent(chance: random.Random, body: bytes, length: int | None) -> tuple[bytes, int | None]:
    """One of the seeds with bytes flipped, cut, doubled or put in, or with a value of its JSON exchanged."""
    kind = chance.randrange(6)
    if kind == 0:
        head = json.loads(body[:length])
        _exchange(chance, head)
        text = json.dumps(head).encode()
        return text + body[length or len(body) :], len(text) if length is not None else None
    raw = bytearray(body)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(raw) + 1)
        if kind == 1 and raw:
            raw[at % len(raw)] = chance.randrange(256)
        elif kind == 2:
            del raw[at : at + chance.randrange(1, 40)]
        elif kind == 3:
            raw[at:at] = raw[at : at + chance.randrange(1, 40)]
        elif kind == 4:
            raw[at:at] = chance.randbytes(chance.randrange(1, 12))
    if kind == 5:
        length = chance.choice((None, 0, 1, -1, len(raw), len(raw) + 1, 2**63, chance.randrange(len(raw) + 2)))
    return bytes(raw), length


def _exchange(chance: random.Random, value: Any) -> None:
    """Somewhere inside, another value."""
    while isinstance(value, dict | list) and value:
        key = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        inside = value[key]
        if not isinstance(inside, dict | list) or not inside or chance.random() < 0.3:
            value[key] = chance.choice(INTERESTING)
            return
        value = inside


def test_a_hundred_thousand_inputs() -> None:
    chance, from_clients = random.Random(7), seeds()
    taken = refused = longest = 0
    slowest = 0.0
    signature = Signature((TensorSpec("x", "float32", (None, None)),), ())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(INPUTS):
        body, length = bent(chance, *chance.choice(from_clients))
        began = time.perf_counter()
        try:
            codec.decode_raw(body, signature) if length == 0 else codec.decode(body, length)
            taken += 1
        except BadInput as error:
            refused += 1
            longest = max(longest, len(str(error)))
        slowest = max(slowest, time.perf_counter() - began)
    assert taken > INPUTS // 100
    assert refused > INPUTS // 4
    assert slowest < SLOWEST
    assert longest < 2000, "a client need not get its whole body back"
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 < GROWTH


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [4294967296, 4294967296], "data": []}]}',
        b'{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [9223372036854775807], "data": ["a"]}]}',
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [0, 9223372036854775807], "data": []}]}',
        b'{"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [' + b"9" * 5000 + b"]}]}",
        b'{"inputs": ' + DEEP + b"}",
        b'{"id": ' + DEEP + b', "inputs": [{"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}]}',
        b'{"parameters": {"a": '
        + DEEP
        + b'}, "inputs": [{"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}]}',
        b'{"parameters": {"a": [1]}, "inputs": [{"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}]}',
        b'{"inputs": [{"name": "x", "datatype": "INT8", "shape": ' + DEEP + b', "data": [1]}]}',
        b'{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ' + DEEP + b"}]}",
        b'{"id": "' + b"i" * 1025 + b'", "inputs": [{"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}]}',
    ],
    ids=[
        *("deep lists", "deep objects", "product overflows", "more texts than memory", "huge and empty", "long number"),
        *("deep inputs", "deep id", "deep parameter", "a list as parameter", "deep shape", "deep text", "long id"),
    ],
)
def test_bodies_that_mean_harm(body: bytes) -> None:
    with pytest.raises(BadInput):
        codec.decode(body)


@pytest.mark.parametrize("datatype", ["FP32", "BF16", "BYTES"])
@pytest.mark.parametrize("shape", [[2**63, 0], [2**70, 0], [0, 2**62, 2**62], [0] * 70], ids=str)
def test_bytes_of_a_shape_that_no_array_can_have(datatype: str, shape: list[int]) -> None:
    tensor = {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": 0}}
    head = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(BadInput, match="input 'x' has shape"):
        codec.decode(head, len(head))


def test_text_of_forty_axes() -> None:
    body = b'{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [%s], "data": %s"a"%s}]}'
    asked = codec.decode(body % (b",".join([b"1"] * 40), b"[" * 40, b"]" * 40))
    assert asked.inputs["x"].ndim == 40
