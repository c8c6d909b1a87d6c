"""The Open Inference Protocol v2 over gRPC: the plane of http.py, with another first and last step.

A tensor travels as the binary extension's bytes (``raw_input_contents``) or as numbers (``contents``); the answer
takes the form of the question. codec.py reads and writes both, so that HTTP and gRPC refuse the same things.
"""

from __future__ import annotations

import logging
import math
import struct
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from modelkeep import __version__, extras
from modelkeep.errors import (
    BadInput,
    Busy,
    Forbidden,
    ModelkeepError,
    NotFound,
    NotReady,
    Overloaded,
    PortInUse,
    TooLate,
    Unauthenticated,
    Wrong,
)
from modelkeep.serve import codec
from modelkeep.serve.keys import Gate
from modelkeep.serve.listener import certificate
from modelkeep.serve.messages import CHOICE, METHODS, SERVICE, classes
from modelkeep.serve.plane import Plane
from modelkeep.serve.router import STICKY
from modelkeep.types import Reply, Request, TensorSpec

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
STATUS: tuple[tuple[type[ModelkeepError], str], ...] = (
    (Overloaded, "RESOURCE_EXHAUSTED"),
    (TooLate, "DEADLINE_EXCEEDED"),
    (NotReady, "UNAVAILABLE"),
    (Busy, "UNAVAILABLE"),
    (NotFound, "NOT_FOUND"),
    (Unauthenticated, "UNAUTHENTICATED"),
    (Forbidden, "PERMISSION_DENIED"),
    (Wrong, "INVALID_ARGUMENT"),
    (ModelkeepError, "INTERNAL"),
)
"""The first that fits is what a client is told (grpc.io, 'Status codes')."""
PUSHBACK = "grpc-retry-pushback-ms"
"""Trailer: when to try again (gRPC proposal A6)."""
ROOM = 64 * 1024
"""Bytes of a message besides its tensors."""

_log = logging.getLogger(__name__)
Handler = Callable[[Any, Any], Awaitable[Any]]


class Endpoint:
    """A gRPC server over a plane. All methods belong to the plane's loop. Raises MissingExtra without grpcio."""

    def __init__(self, plane: Plane, keys: Gate | None = None) -> None:
        self._settings, self._metrics, self._keys = plane.settings, plane.metrics, keys or Gate(None)
        self._grpc: Any = extras.need("grpc", extra="grpc")
        aio: Any = extras.need("grpc.aio", extra="grpc")
        most = plane.settings.max_body_bytes + ROOM
        self._server = aio.server(
            options=[
                ("grpc.max_receive_message_length", most),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # or two servers would share a port, and each get some of the requests
            ]
        )
        handlers = _Handlers(plane)
        made = classes()
        methods = {
            name: self._grpc.unary_unary_rpc_method_handler(
                self._guarded(getattr(handlers, _snake(name)), scope_of(name)),
                request_deserializer=made[f"{name}Request"].FromString,
                response_serializer=made[f"{name}Response"].SerializeToString,
            )
            for name in METHODS
        }
        self._server.add_generic_rpc_handlers((self._grpc.method_handlers_generic_handler(SERVICE, methods),))

    async def start(self, host: str, port: int) -> int:
        """Listen, and give the port (of ``port`` 0: a free one). Raises PortInUse."""
        at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound: int = self._bind(at)
        except RuntimeError as error:
            raise PortInUse(f"gRPC cannot listen on {at}: another program may; choose another port") from error
        await self._server.start()
        return bound

    def _bind(self, at: str) -> int:
        if not self._settings.tls_cert:
            return int(self._server.add_insecure_port(at))
        chain, key = certificate(self._settings)
        return int(self._server.add_secure_port(at, self._grpc.ssl_server_credentials([(key, chain)])))

    async def stop(self, grace: float) -> None:
        """Take no more requests, and wait ``grace`` seconds at most for the answers to those that came."""
        await self._server.stop(grace)

    def _guarded(self, handler: Handler, scope: str) -> Handler:
        """The key first. Errors as status codes with one sentence; a defect's traceback goes to the log only."""

        async def guarded(message: Any, context: Any) -> Any:
            try:
                self._admit(context, scope)
                return await handler(message, context)
            except ModelkeepError as error:
                later = math.ceil(error.retry_after * 1000) if isinstance(error, Overloaded) else None
                trailer = () if later is None else ((PUSHBACK, str(later)),)
                code = next(code for kind, code in STATUS if isinstance(error, kind))
                await context.abort(getattr(self._grpc.StatusCode, code), str(error), trailer)
            except Exception:  # noqa: BLE001 - a defect of modelkeep, and the server must outlive it
                _log.exception("a gRPC request failed")
                said = "the server failed on this request; its log says why"
                await context.abort(self._grpc.StatusCode.INTERNAL, said)

        return guarded

    def _admit(self, context: Any, scope: str) -> None:
        given = dict(context.invocation_metadata() or ()).get("authorization")
        try:
            self._keys.admit(given, scope)
        except ModelkeepError as error:
            self._metrics.rejected("rate" if isinstance(error, Overloaded) else "key")
            raise


def scope_of(method: str) -> str:
    """What a key must be allowed for a method: one that nobody thought of needs the most."""
    if method in ("ModelInfer", "ModelStreamInfer"):
        return "infer"
    return "read" if method.startswith(("Server", "ModelReady", "ModelMetadata")) else "admin"


class _Handlers:
    """One method for each of the service's, named as it is."""

    def __init__(self, plane: Plane) -> None:
        self.plane, self.made = plane, classes()

    async def server_live(self, message: Any, context: Any) -> Any:
        return self.made["ServerLiveResponse"](live=True)

    async def server_ready(self, message: Any, context: Any) -> Any:
        return self.made["ServerReadyResponse"](ready=self.plane.ready())

    async def model_ready(self, message: Any, context: Any) -> Any:
        problem = self.plane.problem(message.name, _version(message.version))
        return self.made["ModelReadyResponse"](ready=not problem)

    async def server_metadata(self, message: Any, context: Any) -> Any:
        return self.made["ServerMetadataResponse"](name="modelkeep", version=__version__)

    async def model_metadata(self, message: Any, context: Any) -> Any:
        found = self.plane.find(message.name, _version(message.version))
        held = sorted(self.plane.router(message.name).loaded)
        answer = self.made["ModelMetadataResponse"](
            name=message.name, versions=[str(n) for n in held], platform=found.format or found.config.engine
        )
        for ours, theirs in ((found.signature.inputs, answer.inputs), (found.signature.outputs, answer.outputs)):
            for spec in ours:
                theirs.add(name=spec.name, datatype=codec.NAMES.get(spec.dtype, spec.dtype), shape=_shape(spec))
        return answer

    async def model_infer(self, message: Any, context: Any) -> Any:
        began, most = time.monotonic(), self.plane.settings.request_timeout
        self.plane.router(message.model_name)
        asked = decode(message)
        for key, value in context.invocation_metadata() or ():
            if key == STICKY:
                asked.parameters[STICKY] = value
        left = context.time_remaining()
        request = Request(
            id=asked.id or uuid.uuid4().hex,
            model=message.model_name,
            inputs=asked.inputs,
            parameters=asked.parameters,
            outputs=asked.outputs,
            deadline=began + min(most, asked.timeout or most, most if left is None else left),
            version=_version(message.model_version),
        )
        reply = await self.plane.infer(request)
        return encode(reply, raw=bool(message.raw_input_contents) or not message.inputs)


# ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def decode(message: Any) -> codec.Asked:
    """A ModelInferRequest as codec.decode would give it. Raises BadInput."""
    raw = list(message.raw_input_contents)
    if raw and len(raw) != len(message.inputs):
        raise BadInput(f"raw_input_contents has {len(raw)} parts and there are {len(message.inputs)} inputs")
    blobs = [_blob(tensor, raw[i] if raw else None) for i, tensor in enumerate(message.inputs)]
    head = {
        "id": message.id,
        "parameters": _plain(message.parameters),
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                "parameters": {**_plain(tensor.parameters), "binary_data_size": len(blob)},
            }
            for tensor, blob in zip(message.inputs, blobs, strict=True)
        ],
        "outputs": [{"name": o.name, "parameters": _plain(o.parameters)} for o in message.outputs],
    }
    start = orjson.dumps(head)
    return codec.decode(b"".join([start, *blobs]), len(start))


def _blob(tensor: Any, raw: bytes | None) -> bytes:
    """The tensor's bytes, as the binary extension has them."""
    if raw is not None:
        if tensor.HasField("contents"):
            raise BadInput(f"input '{tensor.name}' has contents, and raw_input_contents is given too; send one of them")
        return raw
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


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """InferParameter by name as Python's own kinds."""
    chosen = {name: value.WhichOneof(CHOICE) for name, value in parameters.items()}
    return {name: getattr(parameters[name], choice) for name, choice in chosen.items() if choice}


def _version(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal():
        raise BadInput(f"version '{text[:80]}' is no whole number; leave it out for the live one")
    return int(text)


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
            getattr(output.contents, kind).extend(_values(reply.outputs[tensor["name"]], kind))
        at += size
    return answer


def _values(array: Array, kind: str) -> Sequence[Any]:
    if kind == "bytes_contents":
        return [x if isinstance(x, bytes) else str(x).encode() for x in array.flat]
    values: list[Any] = array.ravel().tolist()
    return values


def _shape(spec: TensorSpec) -> list[int]:
    return [-1 if size is None else size for size in spec.shape]


def _snake(name: str) -> str:
    """``ModelInfer`` → ``model_infer``."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
