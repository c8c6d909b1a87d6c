"""Whatever simdjson reads is what orjson would have read; all that is unusual goes to orjson."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import reload
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from modelkeep.errors import BadInput
from modelkeep.serve.protocol import codec, lists

pytest.importorskip("simdjson")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Read short bodies so too."""
    with monkeypatch.context() as patched:
        patched.setattr(lists, "RUN", 1)
        yield


def body(data: str, datatype: str = "FP32", shape: str = "[1, 3]", more: str = "") -> bytes:
    return f'{{"inputs": [{{"name": "x", "datatype": "{datatype}", "shape": {shape}, "data": {data}}}]{more}}}'.encode()


def decoded(sent: bytes) -> Any:
    """What a client would notice of how it is read."""
    try:
        asked = codec.decode(sent)
    except BadInput as error:
        return str(error)
    arrays = {name: (str(a.dtype), a.shape, a.tobytes()) for name, a in asked.inputs.items()}
    return asked.id, asked.outputs, asked.parameters, asked.binary, asked.timeout, asked.classes, arrays


def by_orjson(sent: bytes) -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lists, "MOST", 0)
        return decoded(sent)


@pytest.mark.parametrize(
    ("data", "datatype", "expected"),
    [
        ("[1.5, -0.0, 3e-3]", "FP32", np.array([1.5, -0.0, 3e-3])),
        ("[1, 2.5, 18446744073709551615]", "FP64", np.array([1, 2.5, 2.0**64])),
        ("[-9223372036854775808, 0, 9223372036854775807]", "INT64", np.array([-(2**63), 0, 2**63 - 1])),
        ("[[1, 2, 3], [4, 5, 6]]", "UINT8", np.array([[1, 2, 3], [4, 5, 6]])),
    ],
)
def test_lists_of_numbers_become_arrays(data: str, datatype: str, expected: Any) -> None:
    read = lists.read(body(data, datatype))
    assert read is not None
    array = read["inputs"][0].pop("data")
    assert array.dtype == expected.dtype
    assert array.tobytes() == expected.tobytes()
    assert array.shape == expected.shape
    assert read == {"inputs": [{"name": "x", "datatype": datatype, "shape": [1, 3]}]}


def test_the_other_fields_are_as_they_were_sent() -> None:
    more = ', "id": "é", "parameters": {"a": {"b": null}}, "outputs": [{"name": "y"}]'
    read = lists.read(body("[1, 2, 3]", more=more))
    assert read is not None
    assert {name: read[name] for name in ("id", "parameters", "outputs")} == {
        "id": "é",
        "parameters": {"a": {"b": None}},
        "outputs": [{"name": "y"}],
    }


@pytest.mark.parametrize(
    "sent",
    [
        body("[1, [2, 3], []]"),
        body("[[1, 2], 3]"),
        body("[[1, 2], [3]]", shape="[2, 2]"),
        body("[[1, 2, 3], [4]]", shape="[2, 2]"),
        body("[[[1], [2]], [[3], [4]]]", shape="[2, 2, 1]"),
        body("[]", shape="[0, 3]"),
        body("[true, 1, 2]"),
        body("[1, null, 2]"),
        body('[1, "2", 3]'),
        body('["a", "b", "c"]', "BYTES"),
        body("[true, false, true]", "BOOL"),
        body("[1, 2, 3]", "UINT64"),
        body("[1, 2, 3]", "FP16"),
        body("[1, 2, 3]", "FP31"),
        body("[1.5, 2, 3]", "INT32"),
        body("[18446744073709551615, 2, 3]", "INT64"),
        body("[18446744073709551616, 2, 3]", "FP64"),
        body("7"),
        body('"[1, 2, 3]"'),
        body('{"a": 1}'),
        body("[1, 2, 3]", more=', "id": "["'),
        body("[1, 2, 3]", more=', "parameters": {"a": [1]}'),
        body("[1, 2, 3]", more=', "inputs": []'),
        body('[1, 2, 3], "data": [4, 5, 6]'),
        body("[1, 2, 3]").replace(b'"x"', b"5"),
        body("[1, 2, 3]")[:-1],
        body("[1, 2, 3]") + b"x",
        body("[1, 2, 3]", more=', "id": "').replace(b'"}', b'\xff"}'),
        b"[1, 2, 3]",
        b"[",
        b"",
    ],
)
def test_what_is_unusual_is_left_to_orjson(sent: bytes) -> None:
    assert lists.read(sent) is None


ITEMS = some.one_of(
    some.floats(allow_nan=False, allow_infinity=False),
    some.integers(-(2**53), 2**53),
    some.sampled_from([0, 127, 128, 255, 256, 2**31, -(2**31) - 1, 1e39, -0.0]),
)
ODD = some.one_of(some.none(), some.booleans(), some.text(max_size=3), some.lists(ITEMS, max_size=2))
DATA = some.one_of(
    some.lists(ITEMS, max_size=6),
    some.lists(some.integers(-200, 200), max_size=6),
    some.lists(some.one_of(ITEMS, ODD), max_size=4),
    some.lists(some.lists(ITEMS, min_size=2, max_size=2), max_size=3),
    some.lists(some.lists(ITEMS, max_size=3), max_size=3),
)
SIZES = some.lists(some.integers(0, 3), max_size=3)


@given(
    data=DATA,
    datatype=some.sampled_from([*codec.DATATYPES, "FP31"]),
    shape=some.one_of(SIZES, some.none()),
    more=some.fixed_dictionaries({}, optional={"id": some.text(max_size=3), "parameters": some.just({"p": 1})}),
)
def test_both_read_the_same(data: Any, datatype: str, shape: Any, more: dict[str, Any]) -> None:
    flat = [*data] if not any(isinstance(x, list) for x in data) else None
    fitting = [len(flat)] if shape is None and flat is not None else shape
    tensor = {"name": "x", "datatype": datatype, "shape": fitting, "data": data}
    sent = json.dumps({"inputs": [tensor], **more}).encode()
    assert decoded(sent) == by_orjson(sent)


def test_a_body_of_many_short_lists_is_left_to_orjson(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "RUN", 512)
    row = ", ".join(["0.25"] * 400)
    assert lists.read(body(f"[{row}]", shape="[1, 400]")) is not None
    assert lists.read(body("[" + ", ".join(["[0.25, 0.5]"] * 400) + "]", shape="[400, 2]")) is None


def test_a_body_that_is_too_large_is_left_to_orjson(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = body("[1, 2, 3]")
    monkeypatch.setattr(lists, "MOST", len(sent))
    assert lists.read(sent) is not None
    assert lists.read(sent + b" ") is None


def test_without_simdjson_everything_is_left_to_orjson(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "simdjson", None)
        assert reload(lists).read(body("[1, 2, 3]", shape="[3]") * 2) is None
    reload(lists)
