"""A ModelInferRequest and a ModelInferResponse, to and from what protocol/codec.py reads and writes, so that HTTP
and gRPC refuse the same things.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from modelkeep import extras
from modelkeep.errors import BadInput
from modelkeep.serve.grpc.messages import CHOICE, classes
from modelkeep.serve.protocol import codec
from modelkeep.types import Reply

if TYPE_CHECKING:
    from modelkeep.types import Array

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field that holds a datatype's numbers. FP16 and BF16 have none, and travel as bytes only."""
PART = 16 * 1024
"""Numbers of an answer that are written at a time."""


# ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def parse(kind: Any, sent: bytes) -> Any:
    """A message of this kind. Raises BadInput for bytes that are none."""
    try:
        return kind.FromString(sent)
    except extras.need("google.protobuf.message", extra="grpc").DecodeError as error:
        raise BadInput(f"the bytes are no {kind.DESCRIPTOR.name}: {error}") from None


def decode(message: Any) -> codec.Asked:
    """A ModelInferRequest as codec.decode would give it. Raises BadInput."""
    raw = list(message.raw_input_contents)
    if raw and len(raw) != len(message.inputs):
        raise BadInput(f"raw_input_contents has {len(raw)} parts and there are {len(message.inputs)} inputs")
    blobs = [_blob(tensor, raw[i] if raw else None) for i, tensor in enumerate(message.inputs)]
    head = {
        "id": message.id,
        "parameters": plain(message.parameters),
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                "parameters": {**plain(tensor.parameters), "binary_data_size": len(blob)},
            }
            for tensor, blob in zip(message.inputs, blobs, strict=True)
        ],
        "outputs": [{"name": o.name, "parameters": plain(o.parameters)} for o in message.outputs],
    }
    start = orjson.dumps(head)
    return codec.decode(b"".join([start, *blobs]), len(start))


def _blob(tensor: Any, raw: bytes | None) -> bytes:
    """The tensor's bytes, as the binary extension has them."""
    if raw is not None:
        if tensor.HasField("contents"):
            raise BadInput(f"input '{tensor.name}' has contents, and raw_input_contents is given too; send one of them")
        return raw
    if codec.SHARED in tensor.parameters:
        return b""  # no such extension: codec says so
    kind = CONTENTS.get(tensor.datatype)
    if kind is None:
        if tensor.datatype in codec.ONLY_BINARY:
            raise BadInput(f"input '{tensor.name}' is {tensor.datatype}; send it in raw_input_contents")
        return b""  # no such datatype: codec says which there are
    others = [field.name for field, _ in tensor.contents.ListFields() if field.name != kind]
    if others:
        raise BadInput(f"input '{tensor.name}' is {tensor.datatype}; give {kind}, not {', '.join(others)}")
    given = getattr(tensor.contents, kind)
    if len(given) != math.prod(tensor.shape):
        raise BadInput(f"input '{tensor.name}' has shape {list(tensor.shape)} and {len(given)} values; make them agree")
    if tensor.datatype == "BYTES":
        return b"".join(part for text in given for part in (struct.pack("<I", len(text)), text))
    return _packed(tensor, np.array(given))


def _packed(tensor: Any, given: Array) -> bytes:
    """Numbers as bytes, never changing one: int_contents may hold what INT8 cannot."""
    wanted = np.dtype(codec.DATATYPES[tensor.datatype]).newbyteorder("<")
    if wanted.kind in "iu" and given.size:
        bounds = np.iinfo(wanted)
        if int(given.min()) < bounds.min or int(given.max()) > bounds.max:
            raise BadInput(f"input '{tensor.name}' is {tensor.datatype}, and some of its values are out of its range")
    return given.astype(wanted).tobytes()


def plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """InferParameter by name as Python's own kinds."""
    chosen = {name: value.WhichOneof(CHOICE) for name, value in parameters.items()}
    return {name: getattr(parameters[name], choice) for name, choice in chosen.items() if choice}


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def encode(reply: Reply, *, raw: bool) -> Any:
    """A ModelInferResponse: all outputs as bytes, or all as numbers. What has FP16 or BF16 in it is always bytes."""
    answer = classes()["ModelInferResponse"](model_name=reply.model, model_version=str(reply.version), id=reply.id)
    body, length = codec.encode(reply, {"": True})
    tensors = orjson.loads(body[:length])["outputs"]
    raw = raw or any(tensor["datatype"] in codec.ONLY_BINARY for tensor in tensors)
    at = len(body) if length is None else length
    for tensor in tensors:
        size = tensor["parameters"]["binary_data_size"]
        output = answer.outputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        if raw:
            answer.raw_output_contents.append(body[at : at + size])
        else:
            kind = CONTENTS[tensor["datatype"]]
            for part in _parts(reply.outputs[tensor["name"]], kind):
                getattr(output.contents, kind).extend(part)
        at += size
    return answer


def _parts(array: Array, kind: str) -> Iterator[Sequence[Any]]:
    """Values by the thousand: numpy and protobuf keep the interpreter's lock until they are through with a list."""
    flat = array.ravel()
    for at in range(0, flat.size, PART):
        part: list[Any] = flat[at : at + PART].tolist()
        yield [x if isinstance(x, bytes) else str(x).encode() for x in part] if kind == "bytes_contents" else part
