"""Answers that come too late for the server, the request or the client."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace

import pytest

from modelkeep.settings import Settings
from tests.serve.grpc.client import WAIT, Serve, question
from tests.waiting import until


@pytest.mark.parametrize("by", ["the parameter timeout", "request_timeout"])
def test_too_late(serve: Serve, fakes: SimpleNamespace, by: str) -> None:
    fake = fakes.Fake(gate=True)
    client, _ = serve(Settings(request_timeout=0.1 if by == "request_timeout" else 30.0), m=fake)
    message = question()
    if by != "request_timeout":
        message.parameters["timeout"].int64_param = 100_000  # µs
    began = time.monotonic()
    code, said = client.refused(message)
    fake.gate.set()
    assert time.monotonic() - began < WAIT / 2
    assert code == "DEADLINE_EXCEEDED"
    assert re.fullmatch(r"m@1 had no answer within 0\.\d+ s, the time allowed", said)


def test_the_clients_own_deadline_and_its_leaving_empty_the_queue(serve: Serve, fakes: SimpleNamespace) -> None:
    fake = fakes.Fake(gate=True)
    client, running = serve(m=fake)
    running_one = client.ModelInfer.future(question(), timeout=WAIT)
    assert fake.entered.acquire(timeout=WAIT)
    assert client.refused(question(), timeout=0.2)[0] == "DEADLINE_EXCEEDED"
    gone = client.ModelInfer.future(question(), timeout=WAIT)
    until(lambda: running.plane.limits.requests == 2)
    gone.cancel()
    until(lambda: running.plane.limits.requests == 1)
    fake.gate.set()
    assert running_one.result().id == "r1"
