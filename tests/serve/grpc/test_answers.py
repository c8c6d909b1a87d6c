"""The forms of a tensor, over a socket: what is asked in numbers or bytes, and how it is answered."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelkeep.serve.plane.router import STICKY
from modelkeep.types import Signature, TensorSpec
from tests.serve.grpc.client import MADE, Client, Serve, question


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
