"""The end of a server that answers over gRPC: what came is answered, and nobody is waited for who asks nothing."""

from __future__ import annotations

import collections
import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from modelkeep.serve.grpc.messages import SERVICE, STREAM
from modelkeep.serve.server import Running
from modelkeep.settings import Settings
from tests.serve.grpc.client import MADE, WAIT, Client, Serve, grpc, listen, question
from tests.waiting import until

STOPPING = "the server is stopping, and takes no more questions; ask again later"


class Both:
    """A server over HTTP and gRPC, and a channel to it."""

    def __init__(self, runner: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.running = Running({"m": runner}, settings=Settings(grpc_port=port, request_timeout=WAIT))
        self.at = f"127.0.0.1:{port}"

    def channel(self) -> Any:
        return grpc.insecure_channel(self.at, options=[("grpc.use_local_subchannel_pool", 1)])

    def ask(self, channel: Any) -> Any:
        return channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=MADE["ModelInferRequest"].SerializeToString,
            response_deserializer=MADE["ModelInferResponse"].FromString,
        )

    def stream(self, channel: Any, questions: Iterator[Any]) -> Any:
        return channel.stream_stream(
            f"/{SERVICE}/{STREAM}",
            request_serializer=MADE["ModelInferRequest"].SerializeToString,
            response_deserializer=MADE["ModelStreamInferResponse"].FromString,
        )(questions, timeout=2 * WAIT)


def test_stopping_answers_what_came(serve: Serve, fakes: SimpleNamespace) -> None:
    fake = fakes.Fake(gate=True)
    _, running = serve(m=fake)
    endpoint, port = listen(running)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        client = Client(channel)
        asked = client.ModelInfer.future(question(), timeout=WAIT)
        assert fake.entered.acquire(timeout=WAIT)
        stopping = threading.Thread(target=lambda: running.call(endpoint.stop(WAIT)))
        stopping.start()
        until(lambda: client.refused(question(), timeout=1.0)[0] == "UNAVAILABLE")
        fake.gate.set()
        assert asked.result().id == "r1"
        stopping.join(WAIT)
        assert not stopping.is_alive()


def test_a_stream_without_a_question_does_not_hold_up_the_end(fakes: SimpleNamespace) -> None:
    both, questions = Both(fakes.Fake()), queue.Queue[Any]()
    with both.running, both.channel() as channel:
        answers = both.stream(channel, iter(questions.get, None))
        questions.put(question(id="1"))
        assert next(answers).infer_response.id == "1"
        began = time.monotonic()
        both.running.stop()
        assert time.monotonic() - began < WAIT / 2
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        questions.put(None)
    assert (caught.value.code().name, caught.value.details()) == ("UNAVAILABLE", STOPPING)


def test_a_stream_whose_question_is_at_work_gets_its_answer_first(fakes: SimpleNamespace) -> None:
    fake = fakes.Fake(gate=True)
    both, questions = Both(fake), queue.Queue[Any]()
    with both.running as url, both.channel() as channel:
        answers = both.stream(channel, iter(questions.get, None))
        questions.put(question(id="1"))
        assert fake.entered.acquire(timeout=WAIT)
        with httpx.Client(base_url=url, timeout=WAIT) as kept:
            assert kept.get("/v2/health/ready").status_code == 200
            stopping = threading.Thread(target=both.running.stop)
            stopping.start()
            with contextlib.suppress(httpx.TransportError):  # over HTTP too, from the first moment on
                while (status := kept.get("/v2/health/ready").status_code) == 200:
                    time.sleep(0.005)
                assert status == 503
        fake.gate.set()
        assert next(answers).infer_response.id == "1"
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        assert caught.value.details() == STOPPING
        questions.put(None)
        stopping.join(WAIT)
        assert not stopping.is_alive()


def test_a_message_that_is_still_coming_in_is_not_awaited_for_long(
    fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelkeep.serve.grpc import endpoint

    monkeypatch.setattr(endpoint, "PATIENCE", 0.5)
    both, over, found = Both(fakes.Fake()), threading.Event(), []

    def messages() -> Iterator[bytes]:
        over.wait(2 * WAIT)
        yield from ()

    def call(channel: Any) -> None:
        try:
            channel.stream_unary(f"/{SERVICE}/ModelInfer")(messages(), timeout=2 * WAIT)
        except grpc.RpcError as error:
            found.append((error.code().name, error.details()))

    with both.running, both.channel() as channel:
        caller = threading.Thread(target=call, args=(channel,))
        caller.start()
        while not both.running.service._grpc._incoming._coming:  # type: ignore[union-attr]
            time.sleep(0.005)
        began = time.monotonic()
        both.running.stop()
        assert time.monotonic() - began < WAIT / 2
        over.set()
        caller.join(WAIT)
    assert found == [("UNAVAILABLE", STOPPING)]


def test_calls_that_come_too_late_are_told_to_try_again(fakes: SimpleNamespace) -> None:
    """gRPC's own stop gives most of them CANCELLED, which clients do not send again."""
    both, found = Both(fakes.Fake()), collections.Counter[tuple[str, str]]()
    answered = threading.Event()

    def hammer() -> None:
        with both.channel() as channel:
            ask = both.ask(channel)
            while True:
                try:
                    ask(question(), timeout=WAIT)
                    answered.set()
                except grpc.RpcError as error:
                    found[error.code().name, error.details()] += 1
                    return

    with both.running:
        threads = [threading.Thread(target=hammer) for _ in range(12)]
        for thread in threads:
            thread.start()
        assert answered.wait(WAIT)
        time.sleep(0.3)
        both.running.stop()
        for thread in threads:
            thread.join(WAIT)
    assert found == {("UNAVAILABLE", STOPPING): 12}
