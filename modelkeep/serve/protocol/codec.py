"""The Open Inference Protocol v2 in JSON and in its binary tensor extension, to and from numpy.

The protocol: github.com/kserve/open-inference-protocol. The extension: docs/protocol/extension_binary_data.md of
triton-inference-server/server; numbers lie little-endian and row-major after the JSON, in the order of the tensors.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from modelkeep.errors import BadInput, brief
from modelkeep.serve.protocol import lists
from modelkeep.types import Reply, Signature

if TYPE_CHECKING:
    from modelkeep.types import Array

DATATYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BF16": "bfloat16",
    "BYTES": "str",
}
"""The protocol's names, and those of TensorSpec."""
NAMES = {ours: theirs for theirs, ours in DATATYPES.items()}
BY_DTYPE = {np.dtype(ours): theirs for theirs, ours in DATATYPES.items() if ours not in ("bfloat16", "str")}
_NUMBERS = {theirs: (dtype.newbyteorder("<"), dtype) for dtype, theirs in BY_DTYPE.items()}
"""Of each datatype, how its numbers lie on the wire, and how they do here."""
ONLY_BINARY = ("FP16", "BF16")
TRANSPORT = ("binary_data_output", "headers", "timeout")
"""Parameters of a request that speak to the server, not to the model."""
SHARED = "shared_memory_region"
LONGEST_ID = 1024
"""Characters: it goes into logs, traces and what is captured."""
LONGEST_PARAMETERS = 16 * 1024
"""Characters of them all: they wait with the request, count against no bound on bytes, and are captured too."""
MOST_LISTS, DENSE = 1_000_000, 8
"""In JSON, where there are so many that one comes for each DENSE bytes: each takes 56 bytes, which may be thirty times
its text, and while they are made nobody else is answered.
"""
SHORT = 1024
"""Bytes of a head that is remembered."""
Table = Mapping[str, Any]


@dataclass(slots=True)
class Asked:
    """An infer request as it was sent. ``binary`` says of an output whether it is wanted as bytes, ``""`` of all;
    ``classes`` how many of an output's best classes are wanted instead of its scores.
    """

    id: str
    inputs: dict[str, Array]
    outputs: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    binary: dict[str, bool] = field(default_factory=dict)
    timeout: float | None = None
    classes: dict[str, int] = field(default_factory=dict)


class _Tensor(NamedTuple):
    """An input as it was sent: ``size`` of its bytes follow the JSON, or it is ``data``."""

    name: str
    datatype: str
    shape: list[int]
    size: int | None
    data: Any


class _Head(NamedTuple):
    """An infer request but for the bytes behind its JSON. Nobody changes one, for it may be that of others too."""

    id: str
    tensors: tuple[_Tensor, ...]
    outputs: tuple[str, ...]
    parameters: dict[str, Any]
    binary: dict[str, bool]
    timeout: float | None
    classes: dict[str, int]


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def decode(body: bytes, header_length: int | None = None) -> Asked:
    """Read an infer request, whose JSON is the first ``header_length`` bytes (None: all). Raises BadInput."""
    if header_length is None:
        head, tail = _head(lists.read(body) or parse(body)), memoryview(b"")
    elif 0 < header_length <= len(body):
        raw, tail = body[:header_length], memoryview(body)[header_length:]
        head = _known(raw) if header_length <= SHORT else _head(parse(raw))
    else:
        raise BadInput(f"Inference-Header-Content-Length is {header_length} and the body has {len(body)} bytes")
    inputs: dict[str, Array] = {}
    for tensor in head.tensors:
        inputs[tensor.name] = _array(tensor, tail)
        tail = tail[tensor.size or 0 :]
    if len(tail):
        raise BadInput(f"{len(tail)} bytes follow the last tensor; binary_data_size of the inputs does not add up")
    return Asked(head.id, inputs, head.outputs, dict(head.parameters), head.binary, head.timeout, head.classes)


@lru_cache(256)
def _known(raw: bytes) -> _Head:
    """Clients send the same head with each tensor, and reading it is a seventh of what a small request costs."""
    return _head(parse(raw))


def _head(head: Table) -> _Head:
    tensors = head.get("inputs")
    if not isinstance(tensors, list) or not tensors:
        raise BadInput('the request has no inputs; send {"inputs": [{"name", "shape", "datatype", "data"}]}')
    inputs: dict[str, _Tensor] = {}
    for given in tensors:
        tensor = _tensor(given)
        if tensor.name in inputs:
            raise BadInput(f"input '{tensor.name}' is given twice")
        inputs[tensor.name] = tensor
    parameters = _table(head, "parameters", "the request")
    wanted = _outputs(head)
    binary = {"": _flag("binary_data_output", parameters.get("binary_data_output", False))}
    classes: dict[str, int] = {}
    if wanted:
        of = {name: p["binary_data"] for name, p in wanted.items() if "binary_data" in p}
        binary |= {name: _flag(f"binary_data of output '{name}'", value) for name, value in of.items()}
        classes = {name: _count(name, p["classification"]) for name, p in wanted.items() if "classification" in p}
    id_ = head.get("id", "")
    if not isinstance(id_, str) or len(id_) > LONGEST_ID:
        raise BadInput(f"the request's id is {brief(id_)}; give a text of {LONGEST_ID} characters at most")
    kept = _kept(parameters) if parameters else {}
    return _Head(id_, tuple(inputs.values()), tuple(wanted), kept, binary, _timeout(parameters), classes)


def _kept(given: Table) -> dict[str, Any]:
    """The parameters that speak to the model."""
    parameters = {k: v for k, v in given.items() if k not in TRANSPORT}
    for key, value in parameters.items():
        if isinstance(value, list | dict):
            raise BadInput(f"parameter '{key[:80]}' is {brief(value)}; give a text, a number, true or false")
    size = sum(len(key) + (len(value) if isinstance(value, str) else 8) for key, value in parameters.items())
    if size > LONGEST_PARAMETERS:
        raise BadInput(f"the request's parameters have {size} characters; give {LONGEST_PARAMETERS} at most")
    return parameters


def decode_raw(body: bytes, signature: Signature) -> Asked:
    """A body that is nothing but one tensor: the only input, one row where it has rows. Raises BadInput."""
    if len(signature.inputs) != 1:
        raise BadInput("a raw binary request needs a model of one input; send JSON, or JSON and binary tensors")
    spec = signature.inputs[0]
    shape = list(spec.shape)
    if spec.dtype == "str":
        return Asked(
            "", {spec.name: from_bytes(spec.name, "BYTES", [1] * len(shape), memoryview(body))}, binary={"": True}
        )
    if signature.batched:
        shape[0] = 1
    free = [i for i, size in enumerate(shape) if size is None]
    if len(free) > 1:
        raise BadInput(f"a raw binary request cannot tell the shape of {spec.describe()}; send it with its shape")
    row = math.prod(s for s in shape if s is not None) * _width(NAMES[spec.dtype])
    for i in free:
        shape[i] = len(body) // row if row else 0
    sizes = [s or 0 for s in shape]
    return Asked("", {spec.name: from_bytes(spec.name, NAMES[spec.dtype], sizes, memoryview(body))}, binary={"": True})


def parse(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises BadInput that says where it breaks, or for one that is lists and little else."""
    if len(body) > MOST_LISTS:
        count = body.count(b"[") + body.count(b"{")
        if count > MOST_LISTS and count * DENSE > len(body):
            raise BadInput(
                f"the JSON has {count:,} lists and objects, and {MOST_LISTS:,} are read at most where they hold so "
                "little; send the numbers as one flat list, or as a binary tensor"
            )
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        kind = "null" if found is None else type(found).__name__
        raise BadInput(f"the body is a JSON {kind}; send an object")
    return found


def _table(head: Table, key: str, of: str) -> dict[str, Any]:
    found = head.get(key, {})
    if not isinstance(found, dict):
        raise BadInput(f"{key} of {of} is {brief(found)}; give an object")
    return found


def _timeout(parameters: Table) -> float | None:
    """The protocol counts microseconds."""
    given = parameters.get("timeout")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or given <= 0:
        raise BadInput(f"parameter timeout is {brief(given)}; give microseconds above 0")
    return given / 1e6


def _outputs(head: Table) -> dict[str, dict[str, Any]]:
    """The outputs that are asked for, with their parameters."""
    wanted = head.get("outputs", [])
    if not isinstance(wanted, list):
        raise BadInput(f'outputs is {brief(wanted)}; give a list of {{"name"}}')
    found: dict[str, dict[str, Any]] = {}
    for one in wanted:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            raise BadInput(f'{brief(one)} is no output; give {{"name": …}}')
        parameters = _table(one, "parameters", f"output '{one['name']}'")
        _refuse_unsupported(one["name"], parameters)
        found[one["name"]] = parameters
    return found


def _flag(what: str, given: Any) -> bool:
    """``bool("false")`` is True in Python, which no client means."""
    if not isinstance(given, bool):
        raise BadInput(f"{what} is {brief(given)}; give true or false")
    return given


def _count(name: str, given: Any) -> int:
    if type(given) is not int or given < 1:
        raise BadInput(f"classification of output '{name}' is {brief(given)}; give a whole number above 0")
    return given


def _refuse_unsupported(name: str, parameters: Table) -> None:
    """Extensions whose neglect would change the answer without a word."""
    if SHARED in parameters:
        raise BadInput(f"'{name}' asks for {SHARED}, an extension that this server does not have")


def _tensor(tensor: Any) -> _Tensor:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise BadInput(f'{brief(tensor)} is no input; give {{"name", "shape", "datatype", "data"}}')
    name, datatype, shape = tensor["name"], tensor.get("datatype"), tensor.get("shape")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise BadInput(f"input '{name}' has datatype {brief(datatype)}; there are {', '.join(DATATYPES)}")
    if not isinstance(shape, list) or not _counts(shape):
        raise BadInput(f"input '{name}' has shape {brief(shape)}; give a list of whole numbers, 0 or more")
    parameters = _table(tensor, "parameters", f"input '{name}'")
    _refuse_unsupported(name, parameters)
    size = parameters.get("binary_data_size")
    if size is None:
        if "data" not in tensor:
            raise BadInput(f"input '{name}' has neither data nor binary_data_size")
        return _Tensor(name, datatype, shape, None, tensor["data"])
    if type(size) is not int or size < 0:
        raise BadInput(f"input '{name}' has binary_data_size {brief(size)}; give a whole number, 0 or more")
    if "data" in tensor:
        raise BadInput(f"input '{name}' has data, and binary_data_size is given too; send one of them")
    return _Tensor(name, datatype, shape, size, None)


def _array(tensor: _Tensor, tail: memoryview) -> Array:
    """Of an input, whose bytes are the first of ``tail``."""
    name, datatype, shape, size, data = tensor
    if size is None:
        return from_json(name, datatype, shape, data)
    if size > len(tail):
        raise BadInput(f"input '{name}' has binary_data_size {size} and {len(tail)} bytes of the body are left")
    try:
        return from_bytes(name, datatype, shape, tail[:size])
    except (ValueError, OverflowError):  # [0, 2**62, 2**62] holds nothing, and is more than numpy can count
        raise BadInput(f"input '{name}' has shape {brief(shape)}, which no array can have") from None


def _counts(shape: list[Any]) -> bool:
    """As a loop, which takes a quarter of what ``all`` does of a generator."""
    for size in shape:  # noqa: SIM110
        if type(size) is not int or size < 0:
            return False
    return True


def from_json(name: str, datatype: str, shape: list[int], data: Any) -> Array:
    """A list, nested as the shape says, or flat and row-major; or an array as lists.read makes it. Raises BadInput."""
    if datatype in ONLY_BINARY:
        raise BadInput(f"input '{name}' is {datatype}, which JSON cannot carry; send it as a binary tensor")
    if not isinstance(data, list | np.ndarray):
        raise BadInput(f"the data of input '{name}' is {brief(data)}; give a list")
    try:
        # numpy would make floats of whole numbers on both sides of 2**63
        array = np.asarray(data, dtype=object if datatype in ("BYTES", "UINT64") else None)
        if array.size != math.prod(shape) or (array.size and array.ndim > 1 and list(array.shape) != shape):
            raise BadInput(
                f"input '{name}' has shape {brief(shape)} and data of shape {brief(list(array.shape))}; make them agree"
            )
        return _cast(array, datatype).reshape(shape)
    except (ValueError, TypeError, OverflowError, FloatingPointError):
        raise BadInput(f"the data of input '{name}' is not {datatype} of shape {brief(shape)} throughout") from None


def _cast(array: Array, datatype: str) -> Array:
    """The array as its datatype, never changing a value. Raises ValueError, FloatingPointError."""
    dtype = DATATYPES[datatype]
    if array.size == 0:
        return array.astype(object if dtype == "str" else dtype)
    if dtype == "str":
        if not all(isinstance(x, str) for x in array.ravel()):
            raise ValueError("not text")
        return array
    if dtype == "uint64":
        if not all(type(x) is int and 0 <= x < 2**64 for x in array.ravel()):
            raise ValueError("not whole numbers from 0 to 2**64")
        return array.astype(dtype)
    kinds = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}[np.dtype(dtype).kind]
    if array.dtype.kind not in kinds:
        raise ValueError("another kind")
    if kinds == "iu" and array.dtype != dtype:
        bounds = np.iinfo(dtype)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise ValueError("out of range")
    with np.errstate(over="raise"):
        return array.astype(dtype, copy=False)


def from_bytes(name: str, datatype: str, shape: Sequence[int], raw: memoryview) -> Array:
    """From bytes. A copy: aligned, writable, and the body can be freed. Raises BadInput."""
    count = math.prod(shape)
    if datatype == "BYTES":
        return _texts(name, count, raw).reshape(shape)
    width = _width(datatype)
    if len(raw) != count * width:
        raise BadInput(
            f"input '{name}' is {datatype} {brief(list(shape))}: {count * width} bytes, and {len(raw)} were sent"
        )
    if datatype == "BF16":  # numpy has no such type; widened to float32 nothing is lost
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    sent, kept = _NUMBERS[datatype]
    return np.frombuffer(raw, sent).astype(kept).reshape(shape)


def _width(datatype: str) -> int:
    return 2 if datatype == "BF16" else _NUMBERS[datatype][1].itemsize


def _texts(name: str, count: int, raw: memoryview) -> Array:
    """Each a u32 length and its bytes; bytes that are no UTF-8 stay bytes."""
    found: list[str | bytes] = []
    at = 0
    while at + 4 <= len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        piece = bytes(raw[at + 4 : at + 4 + length])
        if len(piece) != length:
            break
        at += 4 + length
        try:
            found.append(piece.decode())
        except UnicodeDecodeError:
            found.append(piece)
    if at != len(raw) or len(found) != count:
        raise BadInput(f"input '{name}' should hold {count} texts, each after its length in 4 bytes, and does not")
    array = np.empty(count, dtype=object)
    array[:] = found
    return array


# ── replies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def encode(reply: Reply, binary: Mapping[str, bool] | None = None) -> tuple[bytes, int | None]:
    """The body, and how many bytes of it are JSON where binary tensors follow. Raises BadInput for what JSON cannot
    carry: FP16, BF16, and bytes that are no UTF-8.

    NaN and infinity, which JSON has not, become null.
    """
    binary = binary or {}
    tensors: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, array in reply.outputs.items():
        datatype = datatype_of(array)
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": array.shape}
        if binary.get(name, binary.get("", False)):
            blobs.append(to_bytes(array, datatype))
            tensor["parameters"] = {"binary_data_size": len(blobs[-1])}
        elif datatype in ONLY_BINARY:
            raise BadInput(f"output '{name}' is {datatype}, which JSON cannot carry; ask for it with binary_data: true")
        else:
            tensor["data"] = _texts_of(name, array) if datatype == "BYTES" else np.ascontiguousarray(array).reshape(-1)
        tensors.append(tensor)
    head = orjson.dumps(
        {"model_name": reply.model, "model_version": str(reply.version), "id": reply.id, "outputs": tensors},
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
    return (b"".join([head, *blobs]), len(head)) if blobs else (head, None)


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's dtype; text of any kind is BYTES. Raises BadInput where there is none."""
    try:
        return BY_DTYPE.get(array.dtype) or ("BYTES" if array.dtype.kind in "OUS" else NAMES[array.dtype.name])
    except KeyError:
        raise BadInput(
            f"the protocol has no datatype for {array.dtype.name}; there are {', '.join(DATATYPES)}"
        ) from None


def _texts_of(name: str, array: Array) -> list[str]:
    try:
        return [x.decode() if isinstance(x, bytes) else str(x) for x in array.ravel()]
    except UnicodeDecodeError:
        raise BadInput(
            f"output '{name}' holds bytes that are no UTF-8, which JSON cannot carry; ask for it with binary_data: true"
        ) from None


def to_bytes(array: Array, datatype: str) -> bytes:
    """Little-endian and row-major; texts each after their length in four bytes."""
    if datatype == "BYTES":
        pieces = [x if isinstance(x, bytes) else str(x).encode() for x in array.ravel()]
        return b"".join(part for p in pieces for part in (struct.pack("<I", len(p)), p))
    if datatype == "BF16":
        return np.ascontiguousarray(array).view("<u2").tobytes()
    return np.ascontiguousarray(array, np.dtype(array.dtype).newbyteorder("<")).tobytes()
