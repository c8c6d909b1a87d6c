"""The Open Inference Protocol v2 over gRPC: the plane of http.py, with another first and last step.

A tensor travels as the binary extension's bytes (``raw_input_contents``) or as numbers (``contents``); the answer
takes the form of the question.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from modelkeep import extras
from modelkeep.errors import (
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
from modelkeep.serve.grpc_handlers import Handlers
from modelkeep.serve.keys import Gate
from modelkeep.serve.listener import certificate
from modelkeep.serve.messages import HEALTH, METHODS, SERVICE, STREAM, classes
from modelkeep.serve.plane import Plane
from modelkeep.serve.repository import Repository

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
READING = frozenset({*METHODS, "HealthCheck"}) - {"RepositoryModelLoad", "RepositoryModelUnload"}
PUSHBACK = "grpc-retry-pushback-ms"
"""Trailer: when to try again (gRPC proposal A6)."""
ROOM = 64 * 1024
"""Bytes of a message besides its tensors."""

_log = logging.getLogger(__name__)
Handler = Callable[[Any, Any], Awaitable[Any]]


class Endpoint:
    """A gRPC server over a plane. All methods belong to the plane's loop. Raises MissingExtra without grpcio."""

    def __init__(self, plane: Plane, keys: Gate | None = None, repository: Repository | None = None) -> None:
        self._settings, self._metrics, self._keys = plane.settings, plane.metrics, keys or Gate(None)
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines about a busy port say nothing that we do not
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
        handlers, handler = Handlers(plane, repository or Repository()), self._grpc.method_handlers_generic_handler
        methods = {name: self._unary(name, getattr(handlers, _snake(name))) for name in METHODS}
        methods[STREAM] = self._stream(handlers.model_stream_infer)
        health = {"Check": self._unary("HealthCheck", handlers.check)}
        self._server.add_generic_rpc_handlers((handler(SERVICE, methods), handler(HEALTH, health)))

    async def start(self, host: str, port: int) -> int:
        """Listen, and give the port (of ``port`` 0: a free one). Raises PortInUse."""
        at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound: int = self._bind(at)
        except RuntimeError as error:
            raise PortInUse(
                f"gRPC cannot listen on {at}: another program may; give another with --grpc-port"
            ) from error
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

    def _unary(self, name: str, handler: Handler) -> Any:
        async def guarded(message: Any, context: Any) -> Any:
            try:
                self._admit(context, scope_of(name))
                return await handler(message, context)
            except Exception as error:  # noqa: BLE001 - a defect of modelkeep, and the server must outlive it
                await self._refuse(context, error)

        made = classes()
        return self._grpc.unary_unary_rpc_method_handler(
            guarded,
            request_deserializer=made[f"{name}Request"].FromString,
            response_serializer=made[f"{name}Response"].SerializeToString,
        )

    def _stream(self, handler: Callable[[AsyncIterator[Any], Any], AsyncIterator[Any]]) -> Any:
        async def guarded(messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            try:
                self._admit(context, scope_of(STREAM))
                async for answer in handler(messages, context):
                    yield answer
            except Exception as error:  # noqa: BLE001 - a defect of modelkeep, and the server must outlive it
                await self._refuse(context, error)

        made = classes()
        return self._grpc.stream_stream_rpc_method_handler(
            guarded,
            request_deserializer=made["ModelInferRequest"].FromString,
            response_serializer=made["ModelStreamInferResponse"].SerializeToString,
        )

    async def _refuse(self, context: Any, error: Exception) -> None:
        """A status code with one sentence; a defect's traceback goes to the log, never to a client."""
        if isinstance(error, ModelkeepError):
            later = math.ceil(error.retry_after * 1000) if isinstance(error, Overloaded) else None
            trailer = () if later is None else ((PUSHBACK, str(later)),)
            code = next(code for kind, code in STATUS if isinstance(error, kind))
            await context.abort(getattr(self._grpc.StatusCode, code), str(error), trailer)
        if isinstance(error, self._grpc.aio.AbortError):
            raise error
        _log.error("a gRPC request failed", exc_info=error)
        said = "the server failed on this request; its log says why"
        await context.abort(self._grpc.StatusCode.INTERNAL, said)

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
    return "read" if method in READING else "admin"


def _snake(name: str) -> str:
    """``ModelInfer`` → ``model_infer``."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
