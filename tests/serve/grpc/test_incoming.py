"""Callers over gRPC whose message does not come, or not whole, or who send too many large ones at a time: strangers are
told so before it, others are not awaited for ever, and none keeps the small ones of others from being answered.
"""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelkeep.serve.grpc import handlers, incoming
from modelkeep.serve.grpc.handlers import AHEAD
from modelkeep.serve.grpc.incoming import AT_ONCE
from modelkeep.serve.grpc.messages import METHODS, SERVICE, STREAM
from modelkeep.serve.protocol.keys import Ring
from modelkeep.serve.server import Running
from modelkeep.settings import Settings
from modelkeep.types import Model, Request
from tests.serve.grpc.client import MADE, WAIT, Client, Connect, grpc, listen, question
from tests.serve.test_promises import serving
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


CROWDED = (
    "2 messages that take their time are coming in already, as many as fit in max_queue_bytes; send it again later"
)
TWO = Settings(max_body_bytes=1_000_000, max_queue_bytes=2_000_000)


class Late:
    """Messages that come once ``over`` is set; each call of it is another one."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def __call__(self) -> Iterator[bytes]:
        self.over.wait(2 * WAIT)
        yield question(id="late").SerializeToString()

    def call(self, channel: Any, **options: Any) -> Any:
        return channel.stream_unary(f"/{SERVICE}/ModelInfer").future(self(), timeout=WAIT, **options)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Iterator[Late]:
    monkeypatch.setattr(incoming, "LOOK", 0.01)
    made = Late()
    yield made
    made.over.set()


def told(asked: Any) -> tuple[str, str]:
    return asked.code().name, asked.details()


def test_messages_that_do_not_come_leave_room_for_small_ones(connect: Connect, late: Late) -> None:
    channel, running = connect(TWO)
    slow = [late.call(channel) for _ in range(AT_ONCE + 8)]
    client = Client(channel)
    assert [client.ask(question(id=str(n))).id for n in range(20)] == [str(n) for n in range(20)]
    ended = [one for one in slow if one.done()]
    assert {told(one) for one in ended} == {("RESOURCE_EXHAUSTED", CROWDED)}
    assert dict(ended[0].trailing_metadata()) == {"grpc-retry-pushback-ms": "1000"}
    assert f'rejections_total{{reason="queue_bytes"}} {len(ended)}.0' in running.plane.metrics.render().decode()
    late.over.set()
    assert sum(one.exception() is None for one in slow) >= 2, "those that came first had a place"


def test_who_sends_the_most_gives_way(connect: Connect, late: Late, tmp_path: Path) -> None:
    ring = Ring(tmp_path / "keys.json")
    greedy, other = ([("authorization", f"Bearer {ring.add(name, ['infer'])}")] for name in ("greedy", "other"))
    channel, _ = connect(TWO, ring)
    many = [late.call(channel, metadata=greedy) for _ in range(AT_ONCE)]
    time.sleep(0.1)
    assert not any(one.done() for one in many), "nobody else waits"
    one = late.call(channel, metadata=other)
    many += [late.call(channel, metadata=greedy) for _ in range(2 * AT_ONCE)]
    until(lambda: sum(one.done() for one in many) >= 2 * AT_ONCE)
    assert {told(one) for one in many if one.done()} == {("RESOURCE_EXHAUSTED", CROWDED)}
    late.over.set()
    assert one.result()


def test_who_is_slow_gives_way_to_who_is_not(connect: Connect, late: Late, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "SLOW", 20)
    channel, _ = connect(TWO)
    first = [late.call(channel) for _ in range(2)]
    rest = []
    while not all(one.done() for one in first):
        rest.append(late.call(channel))
        time.sleep(0.005)
        assert len(rest) < 2000
    assert {told(one) for one in first} == {("RESOURCE_EXHAUSTED", CROWDED)}


def test_streams_are_bounded(connect: Connect, late: Late) -> None:
    channel, running = connect(Settings(max_streams=1))
    stream, one = channel.stream_stream(f"/{SERVICE}/{STREAM}"), [question().SerializeToString()]
    assert len(list(stream(iter(one), timeout=WAIT))) == 1
    waiting = stream(late(), timeout=WAIT)
    with pytest.raises(grpc.RpcError) as caught:
        [list(stream(iter(one), timeout=WAIT)) for _ in range(1000)]
    said = "1 streams are open, the most this server takes (max_streams); try again later"
    assert told(caught.value) == ("RESOURCE_EXHAUSTED", said)
    assert 'rejections_total{reason="streams"} 1.0' in running.plane.metrics.render().decode()
    waiting.cancel()

    def answers() -> bool:
        with contextlib.suppress(grpc.RpcError):
            return bool(list(stream(iter(one), timeout=WAIT)))
        return False

    until(answers)


def test_a_refused_message_is_gone_before_anybody_looks_for_garbage(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error is in a cycle with the frames that it was raised in, which know the message."""

    def requests() -> int:
        return sum(type(one) is Request for one in gc.get_objects())

    channel, running = connect()
    monkeypatch.setattr(running.plane.limits, "max_requests", 0)
    ask, one = channel.unary_unary(f"/{SERVICE}/ModelInfer").future, question().SerializeToString()
    gc.collect()
    gc.disable()
    try:
        before = requests()
        assert {ask(one, timeout=WAIT).code().name for _ in range(8)} == {"RESOURCE_EXHAUSTED"}
        until(lambda: requests() == before, 5.0)
    finally:
        gc.enable()


def test_connections_without_a_word_are_bounded_and_let_go(fakes: SimpleNamespace) -> None:
    running = Running({"m": fakes.Fake()}, settings=Settings(max_connections=3, head_timeout=0.5))
    with running, contextlib.ExitStack() as stack:
        endpoint, port = listen(running)
        stack.callback(lambda: running.call(endpoint.stop(0.0)))
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port), WAIT)) for _ in range(3)]
        assert all(sock.recv(9) for sock in silent), "HTTP/2 begins with a word of the server"
        with socket.create_connection(("127.0.0.1", port), WAIT) as extra:
            assert extra.recv(9) == b""
        for sock in silent:
            while sock.recv(1000):
                pass
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert Client(channel).ask(question()).id == "r1"


@contextlib.contextmanager
def flooded(tricky: Callable[..., Model], queue: int = 16_000_000) -> Iterator[tuple[Any, str]]:
    """A server of model m in a process of its own, that takes 8 MB, and its address over gRPC."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"grpc_port": port, "max_body_bytes": 8_000_000, "max_queue_bytes": queue, "collect": False}
    with serving(tricky(), settings) as server:
        yield server, f"127.0.0.1:{port}"


LARGE = 1_990_000
"""Numbers of a message that is nearly as large as they may be."""


def test_a_stream_that_waits_keeps_neither_question_nor_answer(tricky: Callable[..., Model]) -> None:
    """Each would keep its last ones, be it for hours: as message, as what was read of it, and as answer."""
    message = question(*[1.0] * LARGE, raw=True)
    message.inputs[0].shape[:] = [LARGE, 1]
    large, over = message.SerializeToString(), threading.Event()

    def once() -> Iterator[bytes]:
        yield large
        over.wait(WAIT)

    any_size = [("grpc.max_receive_message_length", -1)]
    with flooded(tricky) as (server, at), grpc.insecure_channel(at, options=any_size) as channel:
        before, streams = 0, []
        try:
            for count in range(14):
                streams.append(channel.stream_stream(f"/{SERVICE}/{STREAM}")(once(), timeout=2 * WAIT))
                answer = next(streams[-1])
                assert len(answer) > 4 * LARGE, answer[:200]
                if count == 1:
                    before = server.memory()
            assert server.memory() - before < 6 * 8_000_000, "and not 24 MB for each of twelve"
        finally:
            over.set()


def test_a_stream_whose_client_does_not_read_keeps_few_answers(tricky: Callable[..., Model]) -> None:
    message, count = question(*[1.0] * (LARGE // 2), raw=True), 40
    message.inputs[0].shape[:] = [LARGE // 2, 1]
    messages = iter([message.SerializeToString()] * count)
    with flooded(tricky, 400_000_000) as (server, at), grpc.insecure_channel(at) as channel:
        before, peak = server.memory(), 0
        stream = channel.stream_stream(f"/{SERVICE}/{STREAM}")(messages, timeout=3 * WAIT)
        until = time.monotonic() + 3.0
        while time.monotonic() < until:
            peak = max(peak, server.memory())
            time.sleep(0.01)
        assert peak - before < 120_000_000, "and not 160 MB of answers, and what they were made of"
        assert sum(len(answer) > 2 * LARGE for answer in stream) == count


def test_many_large_messages_at_a_time_take_little_memory(tricky: Callable[..., Model]) -> None:
    """Sixty of 8 MB, where two fit: all would be read at a time, and be kept with the error that they met."""
    large = question(*[1.0] * LARGE, raw=True).SerializeToString()
    found: Counter[str] = Counter()

    def send() -> None:
        with grpc.insecure_channel(at, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            found[refused(channel, "ModelInfer", iter([large]))[0]] += 1

    with flooded(tricky) as (server, at):
        before, peak = server.memory(), 0
        senders = [threading.Thread(target=send) for _ in range(60)]
        for sender in senders:
            sender.start()
        while any(sender.is_alive() for sender in senders):
            peak = max(peak, server.memory())
            time.sleep(0.002)
    assert set(found) <= {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}, found
    assert found.total() == 60
    assert peak - before < 3 * (2 + AT_ONCE) * 8_000_000, "each as it came, as a message and as what gRPC has freed"


def test_a_large_question_keeps_nobody_waiting(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, gate, real = threading.Semaphore(0), threading.Event(), handlers.decode

    def decode(message: Any) -> Any:
        if message.id.startswith("large"):
            entered.release()
            assert gate.wait(WAIT)
        return real(message)

    monkeypatch.setattr(handlers, "decode", decode)
    channel, running = connect()
    large = question(*[1.0] * 100_000, raw=True, id="large").SerializeToString()
    try:
        asked = channel.unary_unary(f"/{SERVICE}/ModelInfer").future(large, timeout=WAIT)
        stream = channel.stream_stream(f"/{SERVICE}/{STREAM}")(iter([large]), timeout=WAIT)
        assert entered.acquire(timeout=WAIT)
        until(lambda: running.plane.limits.bytes == 2 * len(large))
        assert Client(channel).ask(question(id="small")).id == "small"
        assert not asked.done()
    finally:
        gate.set()
    assert MADE["ModelInferResponse"].FromString(asked.result()).id == "large"
    assert MADE["ModelStreamInferResponse"].FromString(next(stream)).infer_response.id == "large"
