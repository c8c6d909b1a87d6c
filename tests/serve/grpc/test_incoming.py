"""Callers over gRPC whose message does not come, or not whole: strangers are told so before it, others are not awaited
for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelkeep.serve.grpc_handlers import AHEAD
from modelkeep.serve.keys import Ring
from modelkeep.serve.messages import METHODS, SERVICE, STREAM
from modelkeep.settings import Settings
from tests.serve.grpc.client import WAIT, Connect, grpc, question
from tests.waiting import until


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
    code, said = refused(connect(ring=ring)[0], method, never)
    assert (code, said) == ("UNAUTHENTICATED", "the API key is missing; send it as 'Authorization: Bearer KEY'")


def test_a_message_that_does_not_come_in_time_is_not_awaited(connect: Connect, never: Iterator[bytes]) -> None:
    began = time.monotonic()
    code, said = refused(connect(Settings(request_timeout=0.3))[0], "ModelInfer", never)
    assert (code, said) == (
        "DEADLINE_EXCEEDED",
        "the message took longer than 0.3 s (request_timeout); send less",
    )
    assert time.monotonic() - began < WAIT / 2


def test_a_call_without_a_message_is_told_so(connect: Connect) -> None:
    code, said = refused(connect()[0], "ServerLive", iter(()))
    assert (code, said) == ("INVALID_ARGUMENT", "the call ended without a message; send one")


def test_a_stream_that_its_client_leaves_costs_no_place(connect: Connect, fakes: SimpleNamespace) -> None:
    """More questions than are at work at a time: the one that waits to be one of them goes too."""
    fake = fakes.Fake(gate=True)
    channel, running = connect(m=fake)
    limits = running.plane.limits
    answers = channel.stream_stream(f"/{SERVICE}/{STREAM}")(iter([question().SerializeToString()] * 100), timeout=WAIT)
    try:
        until(lambda: limits.requests > AHEAD)
        answers.cancel()
        until(lambda: limits.requests == 0)
    finally:
        fake.gate.set()
