"""What each method of the service does: one method for each, named as it is."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

from modelkeep import __version__, extras
from modelkeep.errors import BadInput, ModelkeepError, Overloaded
from modelkeep.serve.grpc.codec import decode, encode, parse, plain
from modelkeep.serve.grpc.messages import SERVICE, classes
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.plane.router import STICKY
from modelkeep.serve.protocol import apart, describe, statistics
from modelkeep.serve.protocol.classify import classified, weight
from modelkeep.serve.protocol.codec import Asked
from modelkeep.serve.sources.repository import READY, Repository
from modelkeep.types import Request

AHEAD = 64
"""Requests of one stream that are answered at a time; their answers keep the order of the questions."""
AHEAD_BYTES = 16 * 1024**2
"""Bytes of them, one question at least: a client that does not read has the server keep its answers."""
DATA_TYPES = (
    *("TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8"),
    *("TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16"),
)
"""Numbers of the enum DataType (triton-inference-server/common, protobuf/model_config.proto)."""
FINAL = "triton_enable_empty_final_response"
"""A parameter: the client wants to be told which answer of a stream is a question's last."""
SERVING, NOT_SERVING = 1, 2
ROOM = 64 * 1024
"""Bytes of a message besides its tensors."""
LONGEST_VERSION = 18
"""Digits."""
TRACE = "traceparent"


class Handlers:
    """Methods by the service's names in snake case; each takes the message and gRPC's context."""

    def __init__(self, plane: Plane, repository: Repository) -> None:
        self.plane, self.repository, self.made = plane, repository, classes()
        self._largest = plane.settings.max_body_bytes
        self._fill: Callable[..., Any] = extras.need("google.protobuf.json_format", extra="grpc").ParseDict

    # ── what is here ─────────────────────────────────────────────────────────────────────────────────────────────

    async def server_live(self, message: Any, context: Any) -> Any:
        return self.made["ServerLiveResponse"](live=True)

    async def server_ready(self, message: Any, context: Any) -> Any:
        return self.made["ServerReadyResponse"](ready=self.plane.ready())

    async def check(self, message: Any, context: Any) -> Any:
        """grpc.health.v1: of the server (no name, or that of its service), or of a model. Raises NotFound."""
        ready = self.plane.ready(None if message.service in ("", SERVICE) else message.service)
        return self.made["HealthCheckResponse"](status=SERVING if ready else NOT_SERVING)

    async def model_ready(self, message: Any, context: Any) -> Any:
        problem = self.plane.problem(message.name, _version(message.version))
        return self.made["ModelReadyResponse"](ready=not problem)

    async def server_metadata(self, message: Any, context: Any) -> Any:
        answer = self.made["ServerMetadataResponse"]
        return answer(name="modelkeep", version=__version__, extensions=describe.EXTENSIONS)

    async def model_metadata(self, message: Any, context: Any) -> Any:
        found = self.plane.find(message.name, _version(message.version))
        held = sorted(self.plane.router(message.name).loaded)
        return self._filled("ModelMetadataResponse", describe.metadata(message.name, found, held))

    async def model_config(self, message: Any, context: Any) -> Any:
        found = describe.config(message.name, self.plane.find(message.name, _version(message.version)))
        for tensor in (*found["input"], *found["output"]):
            tensor["data_type"] = DATA_TYPES.index(tensor["data_type"])
        return self._filled("ModelConfigResponse", {"config": found})

    async def model_statistics(self, message: Any, context: Any) -> Any:
        tables = statistics.of(self.plane, message.name or None, _version(message.version))
        return self._filled("ModelStatisticsResponse", {"model_stats": tables})

    # ── what is to be here ───────────────────────────────────────────────────────────────────────────────────────

    async def repository_index(self, message: Any, context: Any) -> Any:
        rows = [r for r in await self.repository.index(self.plane) if r["state"] == READY or not message.ready]
        return self._filled("RepositoryIndexResponse", {"models": rows})

    async def repository_model_load(self, message: Any, context: Any) -> Any:
        given = {"parameters": plain(message.parameters)}
        await self.repository.load(self.plane, message.model_name, given)
        return self.made["RepositoryModelLoadResponse"]()

    async def repository_model_unload(self, message: Any, context: Any) -> Any:
        await self.repository.unload(message.model_name, {"parameters": plain(message.parameters)})
        return self.made["RepositoryModelUnloadResponse"]()

    # ── questions ────────────────────────────────────────────────────────────────────────────────────────────────

    async def model_infer(self, sent: bytes, context: Any) -> Any:
        began = time.monotonic()
        return await self._answer(await self._read(sent), len(sent), began, context)

    async def _read(self, sent: bytes) -> Any:
        return await self._taken(len(sent), partial(parse, self.made["ModelInferRequest"], sent))

    async def _taken(self, size: int, work: Callable[[], Any]) -> Any:
        """What ``work`` reads in so many bytes. One that cannot be read is counted."""
        try:
            return await apart.read(self.plane, size, work)
        except BadInput:
            self.plane.metrics.rejected("malformed")
            raise

    async def _answer(self, message: Any, size: int, began: float, context: Any) -> Any:
        most = self.plane.settings.request_timeout
        self.plane.asked_for(message.model_name)
        self._bound(size)
        asked, version = await self._taken(size, partial(_question, message))
        given = dict(context.invocation_metadata() or ())
        if STICKY in given:
            asked.parameters[STICKY] = given[STICKY]
        left = context.time_remaining()
        request = Request(
            id=asked.id or uuid.uuid4().hex,
            model=message.model_name,
            inputs=asked.inputs,
            parameters={k: v for k, v in asked.parameters.items() if k != FINAL},
            outputs=asked.outputs,
            deadline=began + min(most, asked.timeout or most, most if left is None else left),
            version=version,
            trace=str(given.get(TRACE, "")),
        )
        raw = bool(message.raw_input_contents) or not message.inputs
        del message  # the inputs are a copy, and a request may wait for long
        reply = await self.plane.infer(request)
        size = weight(reply, asked.classes)
        if asked.classes:
            answered = self.plane.router(reply.model).loaded.get(reply.version)
            reply = await apart.write(size, partial(classified, reply, asked.classes, answered))
        return await apart.write(size, partial(encode, reply, raw=raw))

    async def model_stream_infer(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        """Answers in the order of the questions, AHEAD of them at work at a time, or AHEAD_BYTES where the largest that
        the stream had tells how large they are; an error ends its question only.
        """
        tasks: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue(AHEAD)
        taken, largest = asyncio.Event(), 0

        async def ask() -> None:
            nonlocal largest
            try:
                async for sent in messages:
                    largest = max(largest, len(sent))
                    task = asyncio.ensure_future(self._streamed(sent, context))
                    del sent
                    try:
                        await tasks.put(task)
                    except asyncio.CancelledError:  # nobody knows of it but us
                        task.cancel()
                        raise
                    del task
                    while tasks.qsize() * largest > AHEAD_BYTES:
                        taken.clear()
                        await taken.wait()
            finally:
                await tasks.put(None)

        asking = asyncio.ensure_future(ask())
        try:
            while (task := await tasks.get()) is not None:
                taken.set()
                answer = await task
                largest = max(largest, answer.ByteSize())
                del task
                yield answer
                del answer
            await asking  # what ended the questions before their end ends the stream
        finally:
            asking.cancel()
            while not tasks.empty():
                if (left := tasks.get_nowait()) is not None:
                    left.cancel()

    async def _streamed(self, sent: bytes, context: Any) -> Any:
        began, size = time.monotonic(), len(sent)
        id_: str | None = None
        answer = self.made["ModelStreamInferResponse"]()
        try:
            message = await self._read(sent)
            del sent
            id_, final = message.id, FINAL in message.parameters
            answering = self._answer(message, size, began, context)
            del message  # it is known to who answers it
            answer.infer_response.CopyFrom(await answering)
            if final:
                answer.infer_response.parameters["triton_final_response"].bool_param = True
        except ModelkeepError as error:
            if id_ is None and not isinstance(error, Overloaded):
                raise  # bytes that are no message end the stream
            answer.error_message = str(error)
            answer.infer_response.id = id_ or ""
        return answer

    def _bound(self, size: int) -> None:
        """gRPC itself keeps to the bound of the start, and to no smaller one."""
        most = self.plane.settings.max_body_bytes
        if most < self._largest and size > most + ROOM:
            self.plane.metrics.rejected("body_too_large")
            raise BadInput(f"the message is larger than {most} bytes (max_body_bytes); send fewer rows at a time")

    def _filled(self, name: str, values: Mapping[str, Any]) -> Any:
        return self._fill(values, self.made[name](), ignore_unknown_fields=True)


def _question(message: Any) -> tuple[Asked, int | None]:
    return decode(message), _version(message.model_version)


def _version(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > LONGEST_VERSION:
        raise BadInput(f"version '{text[:80]}' is no whole number; leave it out for the live one")
    return int(text)
