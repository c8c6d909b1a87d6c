"""The protocol in JSON and in bytes: what goes in comes out, and what does not fit is said."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelkeep.errors import BadInput
from modelkeep.serve.protocol import codec
from modelkeep.types import Reply, Signature, TensorSpec

Array = Any
NUMBERS = [d for d in codec.DATATYPES if d not in ("BYTES", "BF16")]


def pack(inputs: dict[str, tuple[str, Array]], *, binary: bool, **head: Any) -> tuple[bytes, int | None]:
    """A request as a client would write it."""
    tensors, blobs = [], []
    for name, (datatype, array) in inputs.items():
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        if binary:
            blobs.append(as_bytes(array, datatype))
            tensor["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            tensor["data"] = array.tolist()
        tensors.append(tensor)
    text = json.dumps({"inputs": tensors, **head}).encode()
    return text + b"".join(blobs), len(text) if binary else None


def as_bytes(array: Array, datatype: str) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(x.encode())) + x.encode() for x in array.ravel())
    return np.ascontiguousarray(array).tobytes()


def unpack(body: bytes, length: int | None) -> dict[str, Array]:
    """A reply as a client would read it."""
    head, tail = json.loads(body[:length]), body[length or len(body) :]
    found = {}
    for tensor in head["outputs"]:
        dtype = codec.DATATYPES[tensor["datatype"]]
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            flat = np.array(tensor["data"], dtype=object if dtype == "str" else dtype)
        elif dtype == "str":
            flat, raw = [], tail[:size]
            while raw:
                (n,) = struct.unpack("<I", raw[:4])
                flat.append(raw[4 : 4 + n].decode())
                raw = raw[4 + n :]
            flat = np.array(flat, dtype=object)
        else:
            flat = np.frombuffer(tail[:size], dtype)
        tail = tail[size or 0 :]
        found[tensor["name"]] = flat.reshape(tensor["shape"])
    assert tail == b""
    return found


def arrays(datatype: str) -> Any:
    shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)
    if datatype == "BYTES":
        text = st.text(st.characters(codec="utf-8"), max_size=5)
        return hnp.arrays(object, shapes, elements=text, fill=st.nothing())
    elements = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else None
    dtype = np.dtype(codec.DATATYPES[datatype])
    return hnp.arrays(dtype, shapes, elements=hnp.from_dtype(dtype, **(elements or {})))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_datatype_goes_both_ways(data: st.DataObject) -> None:
    """Decoded inputs, encoded as outputs: the same values, dtype and shape, in JSON and in bytes."""
    datatype = data.draw(st.sampled_from([*NUMBERS, "BYTES"]))
    binary = datatype == "FP16" or data.draw(st.booleans())
    a, b = data.draw(arrays(datatype)), data.draw(arrays(datatype))
    body, length = pack({"a": (datatype, a), "b": (datatype, b)}, binary=binary)
    asked = codec.decode(body, length)
    for name, sent in (("a", a), ("b", b)):
        assert asked.inputs[name].dtype == sent.dtype
        np.testing.assert_array_equal(asked.inputs[name], sent)
    reply = Reply("id", "m", 3, asked.inputs)
    back = unpack(*codec.encode(reply, {"": binary}))
    for name, sent in (("a", a), ("b", b)):
        assert back[name].shape == sent.shape
        np.testing.assert_array_equal(back[name], sent)


def test_the_reply_names_model_version_and_id() -> None:
    body, length = codec.encode(Reply("id-1", "digits", 12, {"y": np.array([[1.5, 2.0]], np.float32)}))
    assert length is None
    assert json.loads(body) == {
        "model_name": "digits",
        "model_version": "12",
        "id": "id-1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.0]}],
    }


def test_binary_is_chosen_for_each_output_or_for_all() -> None:
    reply = Reply("i", "m", 1, {"a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)})
    for binary, wanted in (({"": True, "a": False}, ["b"]), ({"": False, "a": True}, ["a"]), ({"": True}, ["a", "b"])):
        body, length = codec.encode(reply, binary)
        head = json.loads(body[:length])
        assert [o["name"] for o in head["outputs"] if "parameters" in o] == wanted
        assert len(body) - (length or 0) == 4 * len(wanted)


def test_not_finite_is_null_in_json_and_itself_in_bytes() -> None:
    reply = Reply("i", "m", 1, {"y": np.array([np.nan, np.inf, 1.0], np.float32)})
    body, _ = codec.encode(reply)
    assert json.loads(body)["outputs"][0]["data"] == [None, None, 1.0]
    np.testing.assert_array_equal(unpack(*codec.encode(reply, {"": True}))["y"], reply.outputs["y"])


def test_half_precision_needs_bytes() -> None:
    reply = Reply("i", "m", 1, {"y": np.ones(2, np.float16)})
    with pytest.raises(BadInput, match="output 'y' is FP16, which JSON cannot carry; ask for it with binary_data"):
        codec.encode(reply)
    with pytest.raises(BadInput, match="input 'a' is FP16, which JSON cannot carry; send it as a binary tensor"):
        codec.decode(*pack({"a": ("FP16", np.ones(2, np.float16))}, binary=False))


def test_bfloat16_comes_in_without_loss() -> None:
    values = np.array([1.0, -2.5, 3.140625, 1e30], np.float32)
    half = (values.view("<u4") >> 16).astype("<u2")
    values = (half.astype("<u4") << 16).view("<f4")
    asked = codec.decode(*pack({"a": ("BF16", half)}, binary=True))
    assert asked.inputs["a"].dtype == np.float32
    np.testing.assert_array_equal(asked.inputs["a"], values)


def test_bytes_that_are_no_text_stay_bytes() -> None:
    raw = struct.pack("<I", 2) + b"\xff\xfe" + struct.pack("<I", 1) + b"a"
    head = {"inputs": [{"name": "a", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(raw)}}]}
    text = json.dumps(head).encode()
    asked = codec.decode(text + raw, len(text))
    assert asked.inputs["a"].tolist() == [b"\xff\xfe", "a"]
    body, length = codec.encode(Reply("i", "m", 1, asked.inputs), {"": True})
    assert body[length:] == raw
    with pytest.raises(BadInput, match="output 'a' holds bytes that are no UTF-8, which JSON cannot carry; ask for it"):
        codec.encode(Reply("i", "m", 1, asked.inputs))  # others were put in their place


def test_arrays_are_the_models_own() -> None:
    asked = codec.decode(*pack({"u": ("UINT8", np.ones(3, np.uint8)), "a": ("FP64", np.ones(2))}, binary=True))
    assert all(a.flags.writeable and a.flags.aligned for a in asked.inputs.values())


def test_what_else_a_request_may_say() -> None:
    body, _ = pack(
        {"a": ("FP32", np.ones((1, 2), np.float32))},
        binary=False,
        id="mine",
        parameters={"timeout": 2_500_000, "binary_data_output": True, "headers": 1, "temperature": 0.5},
        outputs=[{"name": "y", "parameters": {"binary_data": False}}, {"name": "z"}],
    )
    asked = codec.decode(body)
    assert (asked.id, asked.timeout, asked.parameters) == ("mine", 2.5, {"temperature": 0.5})
    assert asked.outputs == ("y", "z")
    assert asked.binary == {"": True, "y": False}


def test_whole_numbers_on_both_sides_of_two_to_the_63() -> None:
    big = {"inputs": [{"name": "a", "datatype": "UINT64", "shape": [2], "data": [2**64 - 1, 0]}]}
    assert codec.decode(json.dumps(big).encode()).inputs["a"].tolist() == [2**64 - 1, 0]


def test_nested_data_and_flat_data_are_the_same() -> None:
    flat = {"name": "a", "datatype": "INT64", "shape": [2, 2], "data": [1, 2, 3, 4]}
    nested = flat | {"data": [[1, 2], [3, 4]]}
    for tensor in (flat, nested):
        assert codec.decode(json.dumps({"inputs": [tensor]}).encode()).inputs["a"].tolist() == [[1, 2], [3, 4]]


def tensor(**changes: Any) -> dict[str, Any]:
    made = {"name": "a", "datatype": "FP32", "shape": [2], "data": [1, 2]} | changes
    return {"inputs": [{k: v for k, v in made.items() if v is not None}]}


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ([], "the body is a JSON list; send an object"),
        ({}, 'the request has no inputs; send {"inputs"'),
        ({"inputs": []}, "the request has no inputs"),
        ({"inputs": ["a"]}, "'a' is no input; give"),
        (tensor(name=7), "is no input; give"),
        (tensor(datatype="FP8"), "input 'a' has datatype 'FP8'; there are BOOL, UINT8"),
        (tensor(datatype=["FP32"]), "input 'a' has datatype"),
        (tensor(shape=[-1]), r"input 'a' has shape \[-1\]; give a list of whole numbers"),
        (tensor(shape=[True, True]), "give a list of whole numbers"),
        (tensor(shape=2), "input 'a' has shape 2"),
        (tensor(data=None), "input 'a' has neither data nor binary_data_size"),
        (tensor(data="12"), "the data of input 'a' is '12'; give a list"),
        (tensor(data=[1, 2, 3]), r"input 'a' has shape \[2\] and data of shape \[3\]; make them agree"),
        (tensor(data=[[1, 2, 3], [4, 5, 6]], shape=[3, 2]), r"has shape \[3, 2\] and data of shape \[2, 3\]"),
        (tensor(data=[[1], [2, 3]], shape=[3]), "the data of input 'a' is not FP32"),
        (tensor(data=["1", "2"]), r"the data of input 'a' is not FP32 of shape \[2\] throughout"),
        (tensor(data=[1, None]), "the data of input 'a' is not FP32"),
        (tensor(data=[1e39, 0]), "the data of input 'a' is not FP32"),
        (tensor(datatype="INT64", data=[1, 1.5]), "the data of input 'a' is not INT64"),
        (tensor(datatype="UINT8", data=[1, 256]), "the data of input 'a' is not UINT8"),
        (tensor(datatype="UINT8", data=[-1, 2]), "the data of input 'a' is not UINT8"),
        (tensor(datatype="INT64", data=[2**63, 2]), "the data of input 'a' is not INT64"),
        (tensor(datatype="UINT64", data=[2**63, -1]), "the data of input 'a' is not UINT64"),
        (tensor(datatype="UINT64", data=[2**64, 0]), "the data of input 'a' is not UINT64"),
        (tensor(datatype="UINT64", data=[1, 0.5]), "the data of input 'a' is not UINT64"),
        (tensor(datatype="BOOL"), "the data of input 'a' is not BOOL"),
        (tensor(datatype="FP32", data=[True, False]), "the data of input 'a' is not FP32"),
        (tensor(datatype="BYTES"), "the data of input 'a' is not BYTES"),
        (tensor(parameters=3), "parameters of input 'a' is 3; give an object"),
        (tensor(parameters={"shared_memory_region": "x"}), "'a' asks for shared_memory_region, an extension"),
        (
            tensor(data=None, parameters={"binary_data_size": 8}),
            "input 'a' has binary_data_size 8 and 0 bytes of the body",
        ),
        (tensor(data=None, parameters={"binary_data_size": -8}), "input 'a' has binary_data_size -8; give a whole"),
        (tensor(data=None, parameters={"binary_data_size": "8"}), "input 'a' has binary_data_size '8'; give a whole"),
        (tensor(parameters={"binary_data_size": 0}), "input 'a' has data, and binary_data_size is given too; send one"),
        ({"inputs": tensor()["inputs"] * 2}, "input 'a' is given twice"),
        (None, "the body is a JSON null; send an object"),
        (
            tensor() | {"parameters": {"binary_data_output": "false"}},
            "^binary_data_output is 'false'; give true or false$",
        ),
        (
            tensor() | {"outputs": [{"name": "y", "parameters": {"binary_data": 0}}]},
            "^binary_data of output 'y' is 0; give true or false$",
        ),
        (tensor() | {"id": 7}, "the request's id is 7; give a text"),
        (tensor() | {"parameters": []}, r"parameters of the request is \[\]; give an object"),
        (tensor() | {"parameters": {"timeout": 0}}, "parameter timeout is 0; give microseconds above 0"),
        (tensor() | {"parameters": {"timeout": "1"}}, "parameter timeout is '1'"),
        (tensor() | {"parameters": {"t": [None, True]}}, r"parameter 't' is \[null, true\]; give a text"),
        (
            tensor() | {"parameters": {"text": "x" * codec.LONGEST_PARAMETERS}},
            "the request's parameters have 16388 characters; give 16384 at most",
        ),
        (tensor() | {"parameters": {f"{n:08d}": n for n in range(1025)}}, "the request's parameters have 16400"),
        (tensor() | {"id": {"a": None}}, "the request's id is {'a': null}; give a text"),
        (tensor() | {"outputs": "y"}, "outputs is 'y'; give a list"),
        (tensor() | {"outputs": [{}]}, "{} is no output; give"),
        (
            tensor() | {"outputs": [{"name": "y", "parameters": {"classification": 0}}]},
            "of output 'y' is 0; give",
        ),
        (tensor() | {"outputs": [{"name": "y", "parameters": {"classification": "2"}}]}, "give a whole number above 0"),
        (
            tensor() | {"outputs": [{"name": "y", "parameters": {"shared_memory_region": "x"}}]},
            "'y' asks for shared",
        ),
    ],
)
def test_what_does_not_fit_is_said(head: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        codec.decode(json.dumps(head).encode())


@pytest.mark.parametrize(
    ("body", "length", "said"),
    [
        (b"{", None, "the body is not JSON: "),
        (b"\xff", None, "the body is not JSON: "),
        (b'{"inputs": [{"data": [NaN]}]}', None, "the body is not JSON: "),
        (b"{}", 3, "Inference-Header-Content-Length is 3 and the body has 2 bytes"),
    ],
)
def test_bodies_that_cannot_be_read(body: bytes, length: int | None, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        codec.decode(body, length)


def test_bytes_must_add_up() -> None:
    body, length = pack({"a": ("FP32", np.ones(2, np.float32))}, binary=True)
    with pytest.raises(BadInput, match="3 bytes follow the last tensor"):
        codec.decode(body + b"abc", length)
    with pytest.raises(BadInput, match="binary_data_size 8 and 7 bytes of the body are left"):
        codec.decode(body[:-1], length)
    odd = body.replace(b"[2]", b"[3]")
    with pytest.raises(BadInput, match=r"input 'a' is FP32 \[3\]: 12 bytes, and 8 were sent"):
        codec.decode(odd, length)
    body, length = pack({"a": ("BYTES", np.array(["ab", "c"], object))}, binary=True)
    with pytest.raises(BadInput, match="input 'a' should hold 3 texts, each after its length in 4 bytes"):
        codec.decode(body.replace(b"[2]", b"[3]"), length)


def spec(dtype: str, *shape: int | None) -> Signature:
    return Signature((TensorSpec("x", dtype, shape),), ())


def test_a_raw_body_is_one_row_of_the_only_input() -> None:
    raw = np.arange(6, dtype=np.float32).tobytes()
    for signature, shape in (
        (spec("float32", None, 6), (1, 6)),
        (spec("float32", None, 2, 3), (1, 2, 3)),
        (spec("float32", None, None, 3), (1, 2, 3)),
        (spec("float32", 6), (6,)),
    ):
        asked = codec.decode_raw(raw, signature)
        assert asked.inputs["x"].shape == shape
        assert asked.binary == {"": True}
    assert codec.decode_raw(struct.pack("<I", 2) + b"hi", spec("str", None, 1)).inputs["x"].tolist() == [["hi"]]


def test_a_raw_body_of_a_model_without_rows_is_all_of_its_input() -> None:
    total = Signature(spec("float32", None).inputs, (TensorSpec("sum", "float32", ()),))
    assert codec.decode_raw(np.arange(6, dtype=np.float32).tobytes(), total).inputs["x"].tolist() == [0, 1, 2, 3, 4, 5]


def test_raw_bodies_that_say_too_little() -> None:
    with pytest.raises(BadInput, match=r"a raw binary request cannot tell the shape of x float32 \[batch, \?, \?\]"):
        codec.decode_raw(b"1234", spec("float32", None, None, None))
    with pytest.raises(BadInput, match=r"input 'x' is FP32 \[1, 2\]: 8 bytes, and 4 were sent"):
        codec.decode_raw(b"1234", spec("float32", None, 2))
    two = Signature(spec("float32", None).inputs * 2, ())
    with pytest.raises(BadInput, match="a raw binary request needs a model of one input"):
        codec.decode_raw(b"1234", two)


KEYS = st.sampled_from(
    ["inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "id", "binary_data_size"]
)
PLAIN = st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.sampled_from(["FP32", "a", ""])
JUNK = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@settings(max_examples=200, deadline=None)
@given(JUNK, st.dictionaries(KEYS, JUNK), st.none() | st.integers(-1, 40))
def test_junk_is_refused_with_a_sentence(junk: Any, parts: dict[str, Any], length: int | None) -> None:
    full = {"name": "a", "datatype": "FP32", "shape": [1], "data": [1]} | parts
    for head in (junk, parts, {"inputs": [full]}, {"inputs": [full], **parts}):
        with contextlib.suppress(BadInput):  # and nothing else
            assert codec.decode(json.dumps(head).encode(), length).inputs


def test_a_head_that_is_remembered_is_nobodys_to_change() -> None:
    """Two requests have the same head: what becomes of one says nothing of the other."""
    head = {
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}},
            {"name": "b", "datatype": "FP32", "shape": [2], "data": [3, 4]},
            {"name": "c", "datatype": "BYTES", "shape": [1], "data": ["x"]},
        ],
        "parameters": {"k": 1},
    }
    text = json.dumps(head).encode()
    first, second = (codec.decode(text + np.float32(value).tobytes(), len(text)) for value in (1, 2))
    first.parameters["sticky"] = "mine"
    first.inputs["b"][0], first.inputs["c"][0] = 9, "y"
    del first.inputs["a"]
    assert second.inputs["a"].tolist() == [2]
    assert second.inputs["b"].tolist() == [3, 4]
    assert second.inputs["c"].tolist() == ["x"]
    assert second.parameters == codec.decode(text + bytes(4), len(text)).parameters == {"k": 1}


def test_a_head_that_is_wrong_is_wrong_each_time() -> None:
    text = json.dumps({"inputs": [{"name": "a", "datatype": "FP31", "shape": [1]}]}).encode()
    for _ in range(2):
        with pytest.raises(BadInput, match="datatype 'FP31'"):
            codec.decode(text + bytes(4), len(text))


def test_json_that_is_lists_and_little_else_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MOST_LISTS", 1000)
    row = {"name": "a", "datatype": "FP32", "shape": [1200, 1]}
    with pytest.raises(BadInput, match=r"1,205 lists and objects, and 1,000 are read at most .* one flat list"):
        codec.decode(json.dumps({"inputs": [row | {"data": [[]] * 1200}]}).encode())
    read = codec.decode(json.dumps({"inputs": [row | {"data": [[0.123456]] * 1200}]}).encode())
    assert read.inputs["a"].shape == (1200, 1)
    text = {"name": "a", "datatype": "BYTES", "shape": [1], "data": ["[" * 1200 + " " * 9000]}
    assert codec.decode(json.dumps({"inputs": [text]}).encode()).inputs["a"].shape == (1,)
