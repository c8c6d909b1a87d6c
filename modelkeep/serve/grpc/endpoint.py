"""The Open Inference Protocol v2 over gRPC: the plane that HTTP asks, with another first and last step.

A tensor travels as the binary extension's bytes (``raw_input_contents``) or as numbers (``contents``); the answer
takes the form of the question.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
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
from modelkeep.serve.grpc.codec import parse
from modelkeep.serve.grpc.handlers import ROOM, Handlers
from modelkeep.serve.grpc.incoming import STOPPING, Incoming
from modelkeep.serve.grpc.messages import HEALTH, METHODS, SERVICE, STREAM, classes, pool
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.protocol.address import certificate
from modelkeep.serve.protocol.keys import Gate
from modelkeep.serve.protocol.patience import KEEP_ALIVE, LAME_DUCK, PATIENCE
from modelkeep.serve.sources.repository import Repository
from modelkeep.settings import Settings

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
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""One service under two names (github.com/grpc/grpc, doc/server-reflection.md): what grpcurl asks."""
DESCRIBE = "ServerReflectionInfo"
ASKING = frozenset({"ModelInfer", STREAM})
READING = frozenset({*METHODS, "HealthCheck", DESCRIBE}) - {"RepositoryModelLoad", "RepositoryModelUnload"}
LONGEST = 4096
"""Characters of a sentence: it travels as a header, and clients drop an answer with one that is too large."""
PUSHBACK = "grpc-retry-pushback-ms"
"""Trailer: when to try again (gRPC proposal A6)."""
_log = logging.getLogger(__name__)
Handler = Callable[[Any, Any], Awaitable[Any]]
Read = Callable[[bytes], Any]
Trailer = tuple[tuple[str, str], ...]
Streamed = Callable[[AsyncIterator[Any], Any], AsyncIterator[Any]]


class Endpoint:
    """A gRPC server over a plane. All methods belong to the plane's loop. Raises MissingExtra without grpcio."""

    def __init__(self, plane: Plane, keys: Gate | None = None, repository: Repository | None = None) -> None:
        # read as it is imported: its own lines about a busy port say nothing that we do not
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        self._plane, self._keys = plane, keys or Gate(None)
        self._settings, self._metrics = plane.settings, plane.metrics
        self._incoming = Incoming(plane)
        self._grpc: Any = extras.need("grpc", extra="grpc")
        aio: Any = extras.need("grpc.aio", extra="grpc")
        self._certificate: Any = None
        self._server = aio.server(
            options=[
                ("grpc.max_receive_message_length", plane.settings.max_body_bytes + ROOM),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # or two servers would share a port, and each get some of the requests
                ("grpc.http2.bdp_probe", 0),  # or more than 64 kB of a message would come in before anybody reads it
                ("grpc.max_allowed_incoming_connections", plane.settings.max_connections),
                ("grpc.server_handshake_timeout_ms", int(plane.settings.head_timeout * 1000)),
                ("grpc.keepalive_time_ms", KEEP_ALIVE * 1000),  # who has gone without a word holds no stream
            ],
            maximum_concurrent_rpcs=plane.settings.max_connections,
        )
        handlers, handler = Handlers(plane, repository or Repository()), self._grpc.method_handlers_generic_handler
        methods = {name: self._unary(name, getattr(handlers, _snake(name))) for name in METHODS}
        made = classes()
        messages = (made["ModelInferRequest"], made["ModelStreamInferResponse"])
        methods[STREAM] = self._stream(STREAM, handlers.model_stream_infer, *messages)
        health = {"Check": self._unary("HealthCheck", handlers.check)}
        describing = {name: self._reflection() for name in REFLECTION if extras.has("grpc_reflection")}
        services = {SERVICE: methods, HEALTH: health, **describing}
        self._server.add_generic_rpc_handlers(tuple(handler(name, table) for name, table in services.items()))

    async def start(self, host: str, port: int) -> int:
        """Listen, and give the port (of ``port`` 0: a free one). Raises PortInUse."""
        at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound: int = self._bind(at)
        except RuntimeError as error:
            raise PortInUse(
                f"gRPC cannot listen on {at}: something else does, or may; give another port with --grpc-port"
            ) from error
        await self._server.start()
        return bound

    def _bind(self, at: str) -> int:
        if not self._settings.tls_cert:
            return int(self._server.add_insecure_port(at))
        # kept, for the server asks them at each handshake whether there is a newer certificate
        self._credentials = self._grpc.dynamic_ssl_server_credentials(self._read(self._settings), self._renewed)
        return int(self._server.add_secure_port(at, self._credentials))

    def _read(self, settings: Settings) -> Any:
        chain, key = certificate(settings)
        return self._grpc.ssl_server_certificate_configuration([(key, chain)])

    def _renewed(self) -> Any:
        """Called by gRPC on a thread of its own; None where nothing is new."""
        fresh, self._certificate = self._certificate, None
        return fresh

    def adjust(self, settings: Settings) -> None:
        """New connections get the certificate that lies there now; smaller bounds hold at once (handlers.py).

        Raises BadSettings for a certificate that does not work.
        """
        if self._settings.tls_cert:
            self._certificate = self._read(settings)
        if settings.max_body_bytes > self._settings.max_body_bytes:
            _log.warning(
                "messages over gRPC that are larger than at the start take effect at a start only: max_body_bytes"
            )

    async def stop(self, grace: float) -> None:
        """Take no more requests, and wait ``grace`` seconds at most for the answers to those that came.

        A stream that is between its questions, be it for hours, ends now; one that still gets answers, after them; a
        message that is still coming in has PATIENCE.
        """
        self._incoming.stop(PATIENCE)
        # gRPC's own stop ends calls that it has not handed over yet as CANCELLED, which no client takes for "try again"
        await asyncio.sleep(min(LAME_DUCK, grace))
        await self._server.stop(max(0.0, grace - LAME_DUCK))

    def _unary(self, name: str, handler: Handler) -> Any:
        made = classes()
        read = _reader(name, made[f"{name}Request"])

        async def guarded(_: object, context: Any) -> Any:
            try:
                key = await self._admit(context, scope_of(name))
                if self._incoming.stopping and name == "ModelInfer":
                    self._metrics.rejected("not_ready")
                    raise NotReady(STOPPING)
                return await handler(read(await self._incoming.only(context, key)), context)
            except Exception as error:  # noqa: BLE001 - a defect of modelkeep, and the server must outlive it
                refused = self._refusal(error)
            return await context.abort(*refused)

        serialize = made[f"{name}Response"].SerializeToString
        # to gRPC a stream of one message, or it would take the whole of a stranger's before anybody is asked
        return self._grpc.stream_unary_rpc_method_handler(guarded, response_serializer=serialize)

    def _stream(self, name: str, handler: Streamed, asked: Any, answered: Any) -> Any:
        read = _reader(name, asked)

        async def guarded(_: object, context: Any) -> None:
            try:
                await self._admit(context, scope_of(name))
                with self._incoming.stream():
                    async for answer in handler(self._each(name, read, context), context):
                        await context.write(answer)
                        del answer  # or a stream would keep it until the next, be that for hours
                return
            except Exception as error:  # noqa: BLE001 - a defect of modelkeep, and the server must outlive it
                refused = self._refusal(error)
            await context.abort(*refused)

        return self._grpc.stream_stream_rpc_method_handler(guarded, response_serializer=answered.SerializeToString)

    async def _each(self, name: str, read: Read, context: Any) -> AsyncIterator[Any]:
        """The messages of a stream. Each but the first, for which the stream was let in, is let in by itself: a key
        may have been revoked meanwhile, and its rate counts questions.
        """
        first = True
        while (message := await self._incoming.next(context)) is not None:
            if not first:
                await self._admit(context, scope_of(name))
            first = False
            parsed = read(message)
            del message  # as with answers: nobody keeps a question for as long as the next does not come
            yield parsed
            del parsed

    def _reflection(self) -> dict[str, Any]:
        """What the services are, for a client that has no .proto file."""
        library = extras.need("grpc_reflection.v1alpha.reflection", extra="grpc")
        messages = extras.need("grpc_reflection.v1alpha.reflection_pb2", extra="grpc")
        servicer = library.aio.ReflectionServicer((SERVICE, HEALTH), pool=pool())
        asked, answered = messages.ServerReflectionRequest, messages.ServerReflectionResponse
        return {DESCRIBE: self._stream(DESCRIBE, servicer.ServerReflectionInfo, asked, answered)}

    def _refusal(self, error: Exception) -> tuple[Any, str, Trailer]:
        """What abort takes: a status code and one sentence; a defect's traceback goes to the log, never to a client.

        The error forgets where it was raised: in a cycle with those frames it would keep messages of many megabytes.
        """
        status, trailer = self._grpc.StatusCode, Trailer()
        if isinstance(error, self._grpc.aio.AbortError):
            raise error
        if isinstance(error, ModelkeepError):
            if isinstance(error, Overloaded):
                trailer = ((PUSHBACK, str(math.ceil(error.retry_after * 1000))),)
            code = next(code for kind, code in STATUS if isinstance(error, kind))
            refused = getattr(status, code), str(error)[:LONGEST], trailer
        else:
            _log.error("a gRPC request failed", exc_info=error)
            refused = status.INTERNAL, "the server failed on this request; its log says why", trailer
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return refused

    async def _admit(self, context: Any, scope: str) -> str:
        """The name of the caller's key. Raises what Gate.admit does."""
        given = dict(context.invocation_metadata() or ()).get("authorization")
        try:
            return self._keys.admit(given, scope)
        except ModelkeepError as error:
            self._metrics.rejected("rate" if isinstance(error, Overloaded) else "key")
            if isinstance(error, Overloaded):  # of its message no more has come than gRPC reads ahead
                await asyncio.sleep(self._plane.refusals.pause(0))
            raise


def _reader(method: str, kind: Any) -> Read:
    """How a message is read, once the key was looked at; questions, which may be large, by their handler."""
    return bytes if method in ASKING else partial(parse, kind)


def scope_of(method: str) -> str:
    """What a key must be allowed for a method: one that nobody thought of needs the most."""
    if method in ASKING:
        return "infer"
    return "read" if method in READING else "admin"


def _snake(name: str) -> str:
    """``ModelInfer`` → ``model_infer``."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
