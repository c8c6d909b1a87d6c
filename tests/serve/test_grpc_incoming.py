"""Callers over gRPC whose message does not come, or not whole: strangers are told so before it, others are not awaited
for ever.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelkeep.serve.keys import Gate, Ring
from modelkeep.serve.messages import METHODS, SERVICE, classes
from modelkeep.serve.server import Running
from modelkeep.settings import Settings

grpc: Any = pytest.importorskip("grpc")
MADE = classes()
WAIT = 20.0
Connect = Callable[..., Any]


@pytest.fixture
def connect(fakes: SimpleNamespace) -> Iterator[Connect]:
    """A channel to a server of model m."""
    from modelkeep.serve.grpc import Endpoint

    with contextlib.ExitStack() as stack:

        def begin(ring: Ring | None = None, **settings: Any) -> Any:
            running = Running({"m": fakes.Fake()}, settings=Settings(**settings))
            stack.enter_context(running)

            async def start() -> tuple[Endpoint, int]:
                endpoint = Endpoint(running.plane, Gate(ring))
                return endpoint, await endpoint.start("127.0.0.1", 0)

            endpoint, port = running.call(start())
            stack.callback(lambda: running.call(endpoint.stop(5.0)))
            return stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))

        yield begin


def refused(channel: Any, method: str, messages: Iterator[bytes], **options: Any) -> tuple[str, str]:
    """The name of the status, and the sentence."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(f"/{SERVICE}/{method}")(messages, timeout=WAIT, **options)
    return caught.value.code().name, caught.value.details()


@pytest.fixture
def never() -> Iterator[Iterator[bytes]]:
    """Messages of which the first does not come while the test runs."""
    over = threading.Event()

    def messages() -> Iterator[bytes]:
        over.wait(WAIT)
        yield from ()

    yield messages()
    over.set()


@pytest.mark.parametrize("method", METHODS)
def test_a_stranger_is_told_before_any_message_is_read(
    connect: Connect, tmp_path: Path, never: Iterator[bytes], method: str
) -> None:
    ring = Ring(tmp_path / "keys.json")
    ring.add("somebody", ["infer", "read", "admin"])
    code, said = refused(connect(ring), method, never)
    assert (code, said) == ("UNAUTHENTICATED", "the API key is missing; send it as 'Authorization: Bearer KEY'")


def test_a_message_that_does_not_come_in_time_is_not_awaited(connect: Connect, never: Iterator[bytes]) -> None:
    began = time.monotonic()
    code, said = refused(connect(request_timeout=0.3), "ModelInfer", never)
    assert (code, said) == (
        "DEADLINE_EXCEEDED",
        "the message took longer than 0.3 s (request_timeout); send less",
    )
    assert time.monotonic() - began < WAIT / 2


def test_a_call_without_a_message_is_told_so(connect: Connect) -> None:
    code, said = refused(connect(), "ServerLive", iter(()))
    assert (code, said) == ("INVALID_ARGUMENT", "the call ended without a message; send one")
