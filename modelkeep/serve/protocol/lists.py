"""The JSON of an infer request, its lists of numbers read into arrays without a Python object for each number.

A float in a list takes 40 bytes: those of a picture of 28 × 28 leave a core's first cache no room for anything else.
The reader is simdjson (Langdale and Lemire, 'Parsing Gigabytes of JSON per Second', VLDB Journal 28, 2019). It is for
requests as clients send them; whatever is unusual about one, and every error, is left to orjson.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from modelkeep.types import Array

simdjson: Any
try:
    simdjson = import_module("simdjson")
except ImportError:  # it has no wheel for every Python
    simdjson = None

MOST = 16 * 1024**2
"""Bytes of a body that is read so: simdjson's notes are 14 times as large as the text."""
RUN = 512
"""Bytes for each list of a body, from which it pays: a table that is sent as a column of few rows each is orjson's."""
BUFFERS = {
    "FP32": ("d", np.float64),
    "FP64": ("d", np.float64),
    "INT8": ("i", np.int64),
    "INT16": ("i", np.int64),
    "INT32": ("i", np.int64),
    "INT64": ("i", np.int64),
    "UINT8": ("i", np.int64),
    "UINT16": ("i", np.int64),
    "UINT32": ("i", np.int64),
}
"""Of the protocol's datatypes, simdjson's name of what their numbers are read as, and numpy's."""


def read(body: bytes) -> dict[str, Any] | None:
    """The request's object, as orjson would read it but for the ``data`` of each input: an array of float64 or int64,
    flat or [rows, columns] as it was sent. None where it is for orjson to read.
    """
    if simdjson is None or len(body) > MOST or (lists := _lists(body)) is None:
        return None
    try:
        head, read = _read(simdjson.Parser().parse(body))
    except Exception:  # noqa: BLE001 - whatever it is that is wrong with it, orjson has to read it anew
        return None
    # as_buffer flattens whatever it meets, and [1, [2, 3], []] is not three numbers
    return head if lists == read else None


def _lists(body: bytes) -> int | None:
    """How many there are, brackets in texts counted too; None where that is more than pays."""
    at, count = -1, 0
    while (at := body.find(b"[", at + 1)) >= 0:
        count += 1
        if count * RUN > len(body):
            return None
    return count


def _read(request: Any) -> tuple[dict[str, Any], int]:
    """The object, and how many lists were met in it."""
    head = _fields(request, but="inputs")
    lists = 1 + _met(head)
    head["inputs"] = tensors = []
    for given in request["inputs"]:
        tensor = _fields(given, but="data")
        if not isinstance(tensor["name"], str):
            raise TypeError("what is said of such an input has all of it")
        tensor["data"], more = _numbers(given["data"], tensor["datatype"])
        tensors.append(tensor)
        lists += _met(tensor) + more
    return head, lists


def _fields(given: Any, but: str) -> dict[str, Any]:
    """All but one of an object's fields as Python has them."""
    if not isinstance(given, simdjson.Object):
        raise TypeError("no object")
    names = list(given)
    if len(set(names)) != len(names):
        raise ValueError("the last of a name would be meant, and simdjson gives the first")
    return {name: _plain(given[name]) for name in names if name != but}


def _plain(value: Any) -> Any:
    if isinstance(value, simdjson.Array):
        return value.as_list()
    return value.as_dict() if isinstance(value, simdjson.Object) else value


def _numbers(data: Any, datatype: str) -> tuple[Array, int]:
    """The array, and how many lists it was sent as."""
    kind, dtype = BUFFERS[datatype]
    rows = list(data) if isinstance(data[0], simdjson.Array) else []
    if len({len(row) for row in rows}) > 1:
        raise ValueError("ragged")
    array = np.frombuffer(data.as_buffer(of_type=kind), dtype)
    return (array.reshape(len(rows), -1) if rows else array), 1 + len(rows)


def _met(fields: dict[str, Any]) -> int:
    return sum(isinstance(value, list) for value in fields.values())
