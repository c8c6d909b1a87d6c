"""The wire format is read as protobuf.dev describes it, and anything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkeep.model import protobuf


def test_the_examples_of_the_specification() -> None:
    assert list(protobuf.fields(memoryview(b"\x08\x96\x01"))) == [(1, 150)]
    (number, value), *rest = protobuf.fields(memoryview(b"\x12\x07testing"))
    assert (number, bytes(value), rest) == (2, b"testing", [])  # type: ignore[arg-type]


def test_an_onnx_file_is_read_as_the_onnx_package_reads_it() -> None:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "a name",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, producer_name="test")
    found = dict(protobuf.fields(memoryview(model.SerializeToString())))
    assert found[1] == model.ir_version
    assert bytes(found[2]) == b"test"  # type: ignore[arg-type]
    assert bytes(found[7]) == graph.SerializeToString()  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [b"\x08", b"\x12\x07test", b"\x0b", b"\x08" + b"\xff" * 12, b"\x0d\x01", b"\x00\x01"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"wire type|beyond its message|without an end|without a number"):
        list(protobuf.fields(memoryview(data)))


@given(st.binary(max_size=200))
def test_random_bytes_end_or_are_refused(data: bytes) -> None:
    try:
        found = list(protobuf.fields(memoryview(data)))
    except ValueError:
        return
    assert len(found) <= len(data) // 2
