"""Every status with its sentence."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelkeep.serve.protocol.keys import Ring
from modelkeep.settings import Settings
from tests.serve.grpc.client import MADE, WAIT, Client, Connect, Serve, grpc, question


def wrong(**changes: Any) -> Any:
    """A question with one thing wrong with its tensor."""
    message = question()
    for name, value in changes.items():
        if name == "shape":
            del message.inputs[0].shape[:]
            message.inputs[0].shape.extend(value)
        elif name == "int_contents":
            message.inputs[0].contents.int_contents.extend(value)
        elif name == "raw":
            message.raw_input_contents.extend(value)
        else:
            setattr(message.inputs[0], name, value)
    return message


def shared() -> Any:
    """As tritonclient asks for a region: with no numbers."""
    message = question()
    message.inputs[0].ClearField("contents")
    message.inputs[0].parameters["shared_memory_region"].string_param = "r"
    return message


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (wrong(name="z"), "no input is called 'z'; the model takes x float32 [batch, ?]"),
        (wrong(datatype="FP31"), "input 'x' has datatype 'FP31'; there are BOOL, UINT8"),
        (wrong(datatype="INT32"), "input 'x' is INT32; give int_contents, not fp32_contents"),
        (wrong(int_contents=[1]), "input 'x' is FP32; give fp32_contents, not int_contents"),
        (wrong(shape=[1, 3]), "input 'x' has shape [1, 3] and 2 values; make them agree"),
        (wrong(shape=[-1, -2]), "input 'x' has shape [-1, -2]; give a list of whole numbers, 0 or more"),
        (wrong(shape=[2]), "input 'x' has shape [2]; the model takes x float32 [batch, ?]"),
        (wrong(raw=[b"12345678"]), "input 'x' has contents, and raw_input_contents is given too; send one of them"),
        (wrong(raw=[b"", b""]), "raw_input_contents has 2 parts and there are 1 inputs"),
        (question(model_version="x"), "version 'x' is no whole number; leave it out for the live one"),
        (question(model_version="9" * 5000), "is no whole number; leave it out for the live one"),
        (question(model_version="\u0663"), "version '\u0663' is no whole number; leave it out for the live one"),
        (shared(), "'x' asks for shared_memory_region, an extension that this server does not have"),
        (MADE["ModelInferRequest"](model_name="m"), "the request has no inputs"),
    ],
)
def test_what_is_wrong_is_said(client: Client, message: Any, said: str) -> None:
    code, sentence = client.refused(message)
    assert code == "INVALID_ARGUMENT"
    assert said in sentence
    assert client.ask(question()).model_name == "m"  # and the server goes on


def test_a_shape_that_no_array_can_have(client: Client) -> None:
    message = question(raw=True)
    message.inputs[0].shape[:] = [0, 2**62, 2**62]
    message.raw_input_contents[0] = b""
    assert client.refused(message)[0] == "INVALID_ARGUMENT"


def test_a_sentence_is_no_longer_than_clients_take(client: Client) -> None:
    """It travels as a header: with 20,000 characters a client would see another error in its place."""
    code, said = client.refused(question(model_name="a" * 20_000))
    assert code == "NOT_FOUND"
    assert len(said) == 4096


def test_raw_bytes_of_another_length_are_refused(client: Client) -> None:
    message = question(1.0, 2.0, raw=True)
    message.raw_input_contents[0] = b"123"
    code, said = client.refused(message)
    assert code == "INVALID_ARGUMENT"
    assert "input 'x' is FP32 [1, 2]: 8 bytes, and 3 were sent" in said


@pytest.mark.parametrize(
    ("datatype", "field", "value"), [("INT8", "int_contents", 128), ("UINT16", "uint_contents", 2**16)]
)
def test_a_number_out_of_range_is_refused_not_wrapped(
    serve: Serve, fakes: SimpleNamespace, datatype: str, field: str, value: int
) -> None:
    client, _ = serve(m=fakes.Fake(of=fakes.signature(datatype.lower())))
    message = MADE["ModelInferRequest"](model_name="m")
    getattr(message.inputs.add(name="x", datatype=datatype, shape=[1, 1]).contents, field).append(value)
    code, said = client.refused(message)
    assert (code, said) == ("INVALID_ARGUMENT", f"input 'x' is {datatype}, and some of its values are out of its range")


def test_a_model_or_version_that_is_not_there(client: Client) -> None:
    assert client.refused(question(model_name="other"))[0] == "NOT_FOUND"
    assert client.refused(question(model_version="9"))[0] == "NOT_FOUND"


def test_a_model_that_fails_is_an_internal_error_in_one_line(client: Client, fakes: SimpleNamespace) -> None:
    assert client.refused(question(fakes.POISON)) == (
        "INTERNAL",
        "m@1 failed on this request: ValueError: poison in the batch",
    )


def test_a_defect_is_logged_and_not_shown(
    serve: Serve, fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client, running = serve(m=fakes.Fake())

    async def broken(request: Any) -> Any:
        raise KeyError("secret")

    monkeypatch.setattr(running.plane, "infer", broken)
    with caplog.at_level(logging.ERROR):
        said = client.refused(question())
    assert said == ("INTERNAL", "the server failed on this request; its log says why")
    assert "KeyError: 'secret'" in caplog.text


def test_a_full_queue_says_when_to_come_back(serve: Serve, fakes: SimpleNamespace) -> None:
    fake = fakes.Fake(gate=True)
    client, _ = serve(Settings(max_queue_requests=1), m=fake)
    first = client.ModelInfer.future(question(), timeout=WAIT)
    assert fake.entered.acquire(timeout=WAIT)
    with pytest.raises(grpc.RpcError) as caught:
        client.ask(question())
    fake.gate.set()
    assert first.result().id == "r1"
    assert caught.value.code().name == "RESOURCE_EXHAUSTED"
    assert int(dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0


def test_a_model_that_is_not_loaded_is_unavailable(serve: Serve, fakes: SimpleNamespace) -> None:
    client, running = serve(m=fakes.Fake())
    running.plane.expect("later")
    code, said = client.refused(question(model_name="later"))
    assert code == "UNAVAILABLE"
    assert "no version of 'later' is loaded" in said


def test_a_message_that_is_too_large_is_refused(serve: Serve, fakes: SimpleNamespace) -> None:
    client, _ = serve(Settings(max_body_bytes=1000), m=fakes.Fake())
    assert client.ask(question(*range(200), raw=True)).outputs[0].shape == [1, 200]
    assert client.refused(question(*range(40_000), raw=True))[0] == "RESOURCE_EXHAUSTED"


def test_a_load_with_parameters_that_are_not_there_is_refused(client: Client) -> None:
    message = MADE["RepositoryModelLoadRequest"](model_name="m")
    message.parameters["colour"].string_param = "red"
    code, said = client.refused(message, "RepositoryModelLoad")
    assert (code, said) == ("INVALID_ARGUMENT", "'colour' is no parameter of load; there is: config")


def test_who_asks_above_its_rate_again_and_again_is_told_in_turn(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = Ring(tmp_path / "keys.json")
    key = [("authorization", f"Bearer {ring.add('slow', ['infer'], rate=1)}")]
    channel, running = connect(ring=ring)
    monkeypatch.setattr(running.plane.refusals, "pause", lambda size: 0.3)
    client = Client(channel)
    client.ask(question(), metadata=key)
    began = time.monotonic()
    status, said = client.refused(question(), metadata=key)
    assert time.monotonic() - began >= 0.3
    assert status == "RESOURCE_EXHAUSTED"
    assert "may send 1 requests a second" in said
