"""The table of messages says the same bytes as the protocol's own .proto does."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from modelkeep.serve.grpc import messages

REQUEST = (
    "0a016d1201321a02723122100a0161120b10fdffffffffffffffff012a230a01781204465033321a02010222080a017012031a01712a0a"
    "32080000c03f000000c0320c0a017912070a0162120208013a020102"
)
"""What tritonclient 2.73, whose code protoc wrote, sends for ``request`` below."""
RESPONSE = (
    "0a016d1201321a027231220e0a0164120921000000000000d03f2a3c0a01791204494e54381a01032a2e0a0101120affffffffffffffffff01"
    "1a0afeffffffffffffffff012201032a01043a08000000000000e03f42017a320103"
)
METADATA = (
    "0a016d1201311201321a046f6e6e7822160a01781204465033321a0bffffffffffffffffff01042a160a0179120542595445531a0affff"
    "ffffffffffffff01"
)


def request(made: dict[str, Any]) -> Any:
    message = made["ModelInferRequest"](model_name="m", model_version="2", id="r1", raw_input_contents=[b"\1\2"])
    message.parameters["a"].int64_param = -3
    tensor = message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend([1.5, -2.0])
    tensor.parameters["p"].string_param = "q"
    message.outputs.add(name="y").parameters["b"].bool_param = True
    return message


def response(made: dict[str, Any]) -> Any:
    message = made["ModelInferResponse"](model_name="m", model_version="2", id="r1", raw_output_contents=[b"\3"])
    message.parameters["d"].double_param = 0.25
    tensor = message.outputs.add(name="y", datatype="INT8", shape=[3])
    values: dict[str, list[Any]] = {
        "bool": [True],
        "int": [-1],
        "int64": [-2],
        "uint": [3],
        "uint64": [4],
        "fp64": [0.5],
        "bytes": [b"z"],
    }
    for kind, given in values.items():
        getattr(tensor.contents, f"{kind}_contents").extend(given)
    return message


def metadata(made: dict[str, Any]) -> Any:
    message = made["ModelMetadataResponse"](name="m", versions=["1", "2"], platform="onnx")
    message.inputs.add(name="x", datatype="FP32", shape=[-1, 4])
    message.outputs.add(name="y", datatype="BYTES", shape=[-1])
    return message


@pytest.mark.parametrize(("make", "wire"), [(request, REQUEST), (response, RESPONSE), (metadata, METADATA)])
def test_a_message_has_the_bytes_of_the_protocol(make: Any, wire: str) -> None:
    made = messages.classes()
    message = make(made)
    assert message.SerializeToString(deterministic=True).hex() == wire
    assert type(message).FromString(bytes.fromhex(wire)) == message


@pytest.mark.parametrize(
    ("name", "fields", "wire"),
    [
        ("ServerLiveResponse", {"live": True}, "0801"),
        ("ServerReadyResponse", {"ready": True}, "0801"),
        ("ModelReadyResponse", {"ready": True}, "0801"),
        ("ModelReadyRequest", {"name": "m", "version": "1"}, "0a016d120131"),
        ("ModelMetadataRequest", {"name": "m", "version": "1"}, "0a016d120131"),
        ("ServerMetadataResponse", {"name": "m", "version": "1", "extensions": ["e"]}, "0a016d1201311a0165"),
        ("ServerLiveRequest", {}, ""),
    ],
)
def test_the_small_ones_too(name: str, fields: dict[str, Any], wire: str) -> None:
    assert messages.classes()[name](**fields).SerializeToString().hex() == wire


def test_a_parameter_is_one_of_its_kinds() -> None:
    parameter = messages.classes()["InferParameter"](bool_param=True)
    parameter.uint64_param = 7
    assert parameter.WhichOneof(messages.CHOICE) == "uint64_param"
    assert parameter.SerializeToString().hex() == "2807"
    assert not parameter.bool_param


def test_the_classes_are_made_once() -> None:
    assert messages.classes() is messages.classes()


def test_every_method_has_its_two_messages() -> None:
    for method in messages.METHODS:
        assert {f"{method}Request", f"{method}Response"} <= messages.MESSAGES.keys()


def test_without_protobuf_the_extra_is_named() -> None:
    code = """
import sys
sys.modules["google.protobuf"] = None
from modelkeep.errors import MissingExtra
from modelkeep.serve.grpc import messages
try:
    messages.classes()
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("install it with: pip install 'modelkeep[grpc]'")
