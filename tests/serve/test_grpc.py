"""Over a socket: every method of the service, every status with its sentence, and the forms of a tensor."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelkeep import __version__
from modelkeep.errors import PortInUse
from modelkeep.serve.messages import METHODS, SERVICE, classes
from modelkeep.serve.router import STICKY
from modelkeep.serve.server import Running
from modelkeep.settings import Settings
from modelkeep.types import ServeConfig, Signature, TensorSpec

grpc: Any = pytest.importorskip("grpc")
MADE = classes()
WAIT = 20.0


class Client:
    """A stub of the service: ``client.ModelInfer(message)``."""

    def __init__(self, port: int) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        for name in METHODS:
            call = self.channel.unary_unary(
                f"/{SERVICE}/{name}",
                request_serializer=MADE[f"{name}Request"].SerializeToString,
                response_deserializer=MADE[f"{name}Response"].FromString,
            )
            setattr(self, name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def ask(self, message: Any, **options: Any) -> Any:
        return self.ModelInfer(message, timeout=WAIT, **options)

    def refused(self, message: Any, method: str = "ModelInfer", **options: Any) -> tuple[str, str]:
        """The name of the status, and the sentence."""
        with pytest.raises(grpc.RpcError) as caught:
            getattr(self, method)(message, **{"timeout": WAIT, **options})
        return caught.value.code().name, caught.value.details()


Serve = Callable[..., tuple[Client, Running]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server of these runners, over gRPC too, and a client."""
    from modelkeep.serve.grpc import Endpoint

    with contextlib.ExitStack() as stack:

        def begin(settings: Settings | None = None, **runners: Any) -> tuple[Client, Running]:
            running = Running(runners, settings=settings, configs={"m": ServeConfig(max_batch=8)})
            stack.enter_context(running)

            async def start() -> tuple[Endpoint, int]:
                endpoint = Endpoint(running.plane)
                return endpoint, await endpoint.start("127.0.0.1", 0)

            endpoint, port = running.call(start())
            stack.callback(lambda: running.call(endpoint.stop(5.0)))
            client = Client(port)
            stack.callback(client.channel.close)
            return client, running

        yield begin


@pytest.fixture
def client(serve: Serve, fakes: SimpleNamespace) -> Client:
    return serve(m=fakes.Fake(add=1.0))[0]


def question(*values: float, raw: bool = False, **fields: Any) -> Any:
    """A row of FP32 for model m."""
    data = list(values or (1.0, 2.0))
    message = MADE["ModelInferRequest"](**{"model_name": "m", "id": "r1", **fields})
    tensor = message.inputs.add(name="x", datatype="FP32", shape=[1, len(data)])
    if raw:
        message.raw_input_contents.append(np.array(data, "<f4").tobytes())
    else:
        tensor.contents.fp32_contents.extend(data)
    return message


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_numbers_are_answered_with_numbers(client: Client) -> None:
    answer = client.ask(question(1.0, 2.5))
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "1", "r1")
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP32", [1, 2])
    assert list(output.contents.fp32_contents) == [2.0, 3.5]
    assert not answer.raw_output_contents


def test_bytes_are_answered_with_bytes(client: Client) -> None:
    answer = client.ask(question(1.0, 2.5, raw=True))
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP32", [1, 2])
    assert not output.HasField("contents")
    assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [2.0, 3.5]


NUMBERS = [
    ("BOOL", "bool", "bool_contents", [True, False]),
    ("INT8", "int8", "int_contents", [-128, 127]),
    ("INT16", "int16", "int_contents", [-(2**15), 2**15 - 1]),
    ("INT32", "int32", "int_contents", [-(2**31), 2**31 - 1]),
    ("INT64", "int64", "int64_contents", [-(2**63), 2**63 - 1]),
    ("UINT8", "uint8", "uint_contents", [0, 255]),
    ("UINT16", "uint16", "uint_contents", [0, 2**16 - 1]),
    ("UINT32", "uint32", "uint_contents", [0, 2**32 - 1]),
    ("UINT64", "uint64", "uint64_contents", [0, 2**64 - 1]),
    ("FP32", "float32", "fp32_contents", [0.1, -1e30]),
    ("FP64", "float64", "fp64_contents", [0.1, -1e300]),
]


@pytest.mark.parametrize(("datatype", "dtype", "field", "values"), NUMBERS)
def test_every_kind_of_number_goes_there_and_back_in_both_forms(
    serve: Serve, fakes: SimpleNamespace, datatype: str, dtype: str, field: str, values: list[Any]
) -> None:
    fake = fakes.Fake(of=fakes.signature(dtype))
    client, _ = serve(m=fake)
    array = np.array([values], dtype)
    plain = MADE["ModelInferRequest"](model_name="m")
    getattr(plain.inputs.add(name="x", datatype=datatype, shape=[1, 2]).contents, field).extend(values)
    answer = client.ask(plain)
    assert answer.outputs[0].datatype == datatype
    assert np.array(getattr(answer.outputs[0].contents, field), dtype).tolist() == array[0].tolist()
    raw = MADE["ModelInferRequest"](model_name="m", raw_input_contents=[array.tobytes()])
    raw.inputs.add(name="x", datatype=datatype, shape=[1, 2])
    assert client.ask(raw).raw_output_contents[0] == array.tobytes()
    assert [seen.dtype.name for seen in fake.runs[-2:]] == [dtype, dtype]
    assert all(np.array_equal(seen, array) for seen in fake.runs[-2:])


@pytest.mark.parametrize("raw", [False, True])
def test_text(serve: Serve, fakes: SimpleNamespace, raw: bool) -> None:
    client, _ = serve(m=fakes.Fake(of=fakes.signature("str")))
    texts = ["grün", "", "\N{SNOWMAN}"]
    encoded = [text.encode() for text in texts]
    packed = b"".join(struct.pack("<I", len(text)) + text for text in encoded)
    message = MADE["ModelInferRequest"](model_name="m")
    tensor = message.inputs.add(name="x", datatype="BYTES", shape=[1, 3])
    if raw:
        message.raw_input_contents.append(packed)
        assert client.ask(message).raw_output_contents[0] == packed
    else:
        tensor.contents.bytes_contents.extend(encoded)
        assert list(client.ask(message).outputs[0].contents.bytes_contents) == encoded


def test_half_precision_travels_as_bytes_only(serve: Serve, fakes: SimpleNamespace) -> None:
    client, _ = serve(m=fakes.Fake(of=fakes.signature("float16")))
    message = MADE["ModelInferRequest"](model_name="m")
    message.inputs.add(name="x", datatype="FP16", shape=[1, 2])
    code, said = client.refused(message)
    assert (code, said) == ("INVALID_ARGUMENT", "input 'x' is FP16; send it in raw_input_contents")
    message.raw_input_contents.append(np.array([1.5, -2.0], "<f2").tobytes())
    assert np.frombuffer(client.ask(message).raw_output_contents[0], "<f2").tolist() == [1.5, -2.0]


def test_an_output_in_half_precision_makes_the_whole_answer_bytes(serve: Serve, fakes: SimpleNamespace) -> None:
    of = Signature(
        (TensorSpec("x", "float32", (None, None)),),
        (TensorSpec("half", "float16", (None, None)), TensorSpec("full", "float32", (None, None))),
    )
    client, _ = serve(m=fakes.Odd(lambda x: {"half": x.astype("f2"), "full": x}, of=of))
    answer = client.ask(question(1.0, 2.0))
    assert [o.datatype for o in answer.outputs] == ["FP16", "FP32"]
    assert [len(part) for part in answer.raw_output_contents] == [4, 8]


def test_only_the_outputs_that_were_asked_for(serve: Serve, fakes: SimpleNamespace) -> None:
    of = Signature(fakes.signature().inputs, tuple(TensorSpec(n, "float32", (None, None)) for n in "abc"))
    client, _ = serve(m=fakes.Odd(lambda x: {"a": x, "b": x + 1, "c": x + 2}, of=of))
    message = question(1.0)
    message.outputs.add(name="c")
    message.outputs.add(name="a")
    answer = client.ask(message)
    assert [(o.name, list(o.contents.fp32_contents)) for o in answer.outputs] == [("c", [3.0]), ("a", [1.0])]


def test_an_empty_dimension_is_kept(serve: Serve, fakes: SimpleNamespace) -> None:
    client, _ = serve(m=fakes.Fake())
    message = MADE["ModelInferRequest"](model_name="m")
    message.inputs.add(name="x", datatype="FP32", shape=[2, 0])
    assert list(client.ask(message).outputs[0].shape) == [2, 0]


def test_an_id_is_made_where_none_is_given(client: Client) -> None:
    first, second = client.ask(question(id="")).id, client.ask(question(id="")).id
    assert len(first) == 32
    assert first != second


def test_parameters_and_the_sticky_key_reach_the_plane(serve: Serve, fakes: SimpleNamespace, monkeypatch: Any) -> None:
    client, running = serve(m=fakes.Fake())
    seen: list[Any] = []
    infer = running.plane.infer

    async def spy(request: Any) -> Any:
        seen.append(request)
        return await infer(request)

    monkeypatch.setattr(running.plane, "infer", spy)
    message = question()
    message.parameters["b"].bool_param = True
    message.parameters["i"].int64_param = -(2**63)
    message.parameters["u"].uint64_param = 2**64 - 1
    message.parameters["s"].string_param = "text"
    message.parameters["d"].double_param = 0.5
    message.parameters["empty"].SetInParent()
    client.ask(message, metadata=((STICKY, "user-7"), ("other", "x")))
    assert seen[0].parameters == {"b": True, "i": -(2**63), "u": 2**64 - 1, "s": "text", "d": 0.5, STICKY: "user-7"}


# ── what is here ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_health_and_metadata(client: Client) -> None:
    assert client.ServerLive(MADE["ServerLiveRequest"](), timeout=WAIT).live
    assert client.ServerReady(MADE["ServerReadyRequest"](), timeout=WAIT).ready
    assert client.ModelReady(MADE["ModelReadyRequest"](name="m"), timeout=WAIT).ready
    assert client.ModelReady(MADE["ModelReadyRequest"](name="m", version="1"), timeout=WAIT).ready
    server = client.ServerMetadata(MADE["ServerMetadataRequest"](), timeout=WAIT)
    assert (server.name, server.version) == ("modelkeep", __version__)
    model = client.ModelMetadata(MADE["ModelMetadataRequest"](name="m"), timeout=WAIT)
    assert (model.name, list(model.versions)) == ("m", ["1"])
    assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [("x", "FP32", [-1, -1])]
    assert [(t.name, t.datatype, list(t.shape)) for t in model.outputs] == [("y", "FP32", [-1, -1])]
    assert model.platform == "onnxruntime"


def test_a_server_that_stops_is_live_and_not_ready(serve: Serve, fakes: SimpleNamespace) -> None:
    client, running = serve(m=fakes.Fake())
    running.plane.stopping = True
    assert client.ServerLive(MADE["ServerLiveRequest"](), timeout=WAIT).live
    assert not client.ServerReady(MADE["ServerReadyRequest"](), timeout=WAIT).ready
    assert not client.ModelReady(MADE["ModelReadyRequest"](name="m"), timeout=WAIT).ready


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata"])
def test_a_model_that_is_not_there_is_not_found(client: Client, method: str) -> None:
    code, said = client.refused(MADE[f"{method}Request"](name="other"), method)
    assert (code, said) == ("NOT_FOUND", "no model is called 'other' here; this server answers for m")
    code, said = client.refused(MADE[f"{method}Request"](name="m", version="9"), method)
    assert code == "NOT_FOUND"
    assert "m@9 is not served" in said


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    assert until(lambda: running.plane.limits.requests == 2)
    gone.cancel()
    assert until(lambda: running.plane.limits.requests == 1)
    fake.gate.set()
    assert running_one.result().id == "r1"


def test_a_message_that_is_too_large_is_refused(serve: Serve, fakes: SimpleNamespace) -> None:
    client, _ = serve(Settings(max_body_bytes=1000), m=fakes.Fake())
    assert client.ask(question(*range(200), raw=True)).outputs[0].shape == [1, 200]
    assert client.refused(question(*range(40_000), raw=True))[0] == "RESOURCE_EXHAUSTED"


def test_stopping_answers_what_came(serve: Serve, fakes: SimpleNamespace) -> None:
    from modelkeep.serve.grpc import Endpoint

    fake = fakes.Fake(gate=True)
    _, running = serve(m=fake)

    async def start() -> tuple[Endpoint, int]:
        endpoint = Endpoint(running.plane)
        return endpoint, await endpoint.start("127.0.0.1", 0)

    endpoint, port = running.call(start())
    client = Client(port)
    asked = client.ModelInfer.future(question(), timeout=WAIT)
    assert fake.entered.acquire(timeout=WAIT)
    stopping = threading.Thread(target=lambda: running.call(endpoint.stop(WAIT)))
    stopping.start()
    assert until(lambda: client.refused(question(), timeout=1.0)[0] == "UNAVAILABLE")
    fake.gate.set()
    assert asked.result().id == "r1"
    stopping.join(WAIT)
    assert not stopping.is_alive()
    client.channel.close()


def test_a_port_that_is_taken(serve: Serve, fakes: SimpleNamespace) -> None:
    from modelkeep.serve.grpc import Endpoint

    _, running = serve(m=fakes.Fake())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        async def start() -> None:
            endpoint = Endpoint(running.plane)
            try:
                await endpoint.start("127.0.0.1", port)
            finally:
                await endpoint.stop(0)

        with pytest.raises(PortInUse, match=f"gRPC cannot listen on 127.0.0.1:{port}: another program may"):
            running.call(start())


def test_without_grpcio_the_extra_is_named() -> None:
    code = """
import sys
sys.modules["grpc"] = None
from modelkeep.errors import MissingExtra
from modelkeep.serve.grpc import Endpoint
from modelkeep.settings import Settings
from modelkeep.serve.plane import Plane
try:
    Endpoint(Plane(Settings()))
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("install it with: pip install 'modelkeep[grpc]'")


def until(true: Callable[[], bool], seconds: float = WAIT) -> bool:
    """Whether it comes true in time; it is another thread's doing, which no event tells of."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.005)
    return False


def test_a_load_with_parameters_that_are_not_there_is_refused(client: Client) -> None:
    message = MADE["RepositoryModelLoadRequest"](model_name="m")
    message.parameters["colour"].string_param = "red"
    code, said = client.refused(message, "RepositoryModelLoad")
    assert (code, said) == ("INVALID_ARGUMENT", "'colour' is no parameter of load; there is: config")
