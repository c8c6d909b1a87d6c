"""KServe's first protocol: rows in, predictions out, and what does not fit is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from modelkeep.errors import BadInput
from modelkeep.serve.http import v1
from modelkeep.serve.server import Running
from modelkeep.types import Reply, Signature, TensorSpec

ONE = Signature((TensorSpec("x", "float32", (None, 2)),), (TensorSpec("y", "float32", (None, 2)),))
TWO = Signature((TensorSpec("ids", "int64", (None, None)), TensorSpec("text", "str", (None,))), ONE.outputs)


def reply(**outputs: Any) -> Reply:
    return Reply("id", "m", 1, {name: np.asarray(array) for name, array in outputs.items()})


def test_rows_of_the_only_input() -> None:
    found = v1.inputs({"instances": [[1, 2], [3.5, 4]]}, ONE)
    assert found["x"].dtype == np.float32
    assert found["x"].tolist() == [[1.0, 2.0], [3.5, 4.0]]


def test_rows_by_name_and_columns_by_name() -> None:
    rows = [{"ids": [1, 2], "text": "a"}, {"ids": [3, 4], "text": "b"}]
    for head in ({"instances": rows}, {"inputs": {"ids": [[1, 2], [3, 4]], "text": ["a", "b"]}}):
        found = v1.inputs(head, TWO)
        assert found["ids"].dtype == np.int64
        assert found["ids"].tolist() == [[1, 2], [3, 4]]
        assert found["text"].tolist() == ["a", "b"]


def test_half_precision_is_rounded_and_what_it_does_not_reach_is_refused() -> None:
    half = Signature((TensorSpec("x", "float16", (None, 2)),), ONE.outputs)
    assert v1.inputs({"instances": [[3.14159, 65504]]}, half)["x"].tolist() == [[3.140625, 65504.0]]
    with pytest.raises(BadInput, match="input 'x' is float16, which ends at 65504, and some of its values are beyond"):
        v1.inputs({"instances": [[1e10, 2]]}, half)


def test_outputs_without_rows_are_told_by_name() -> None:
    found = v1.predictions(reply(total=6.0, y=[1.0, 2.0, 3.0]), batched=False)
    assert found == {"predictions": [{"total": [6.0], "y": [1.0, 2.0, 3.0]}]}


@pytest.mark.parametrize(
    ("head", "signature", "said"),
    [
        ({}, ONE, 'send {"instances"'),
        ({"instances": []}, ONE, 'send {"instances"'),
        ({"instances": "x"}, ONE, 'send {"instances"'),
        ({"instances": [[1, 2], [3]]}, ONE, "the rows of input 'x' are not of one shape"),
        ({"instances": [["a", "b"]]}, ONE, "the data of input 'x' is not FP32"),
        ({"instances": [[1.5]]}, TWO, "the model has 2 inputs; give each instance as"),
        ({"instances": [{"ids": [1]}, {"text": "a"}]}, TWO, "the instances differ in their names"),
        ({"instances": [{"ids": [1.5], "text": "a"}]}, TWO, "the data of input 'ids' is not INT64"),
        ({"instances": [{"no": 1}]}, TWO, "no input is called 'no'"),
    ],
)
def test_what_does_not_fit(head: Any, signature: Signature, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        v1.inputs(head, signature)


def test_predictions_of_one_output_and_of_several() -> None:
    assert v1.predictions(reply(y=[[1.0, 2.0]])) == {"predictions": [[1.0, 2.0]]}
    several = v1.predictions(reply(y=[1, 2], z=np.array(["a", b"b"], object)))
    assert several == {"predictions": [{"y": 1, "z": "a"}, {"y": 2, "z": "b"}]}


def test_bytes_that_are_no_text_go_as_base64() -> None:
    """As TensorFlow Serving writes them; in a table they ended in a 500."""
    table = np.array([[b"\xff\xfe", b"a"], ["b", ""]], object)
    assert v1.predictions(reply(y=table)) == {"predictions": [[{"b64": "//4="}, "a"], ["b", ""]]}
    assert v1.predictions(reply(y=np.empty((2, 0), object))) == {"predictions": [[], []]}


def test_json_has_no_nan() -> None:
    found = v1.predictions(reply(y=np.array([[np.nan, 1.0, np.inf]], np.float32)))
    assert json.loads(json.dumps(found)) == {"predictions": [[None, 1.0, None]]}


@pytest.fixture
def client(fakes: SimpleNamespace) -> Iterator[httpx.Client]:
    with Running({"m": fakes.Fake(add=1.0)}) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


def test_over_a_socket(client: httpx.Client) -> None:
    assert client.get("/v1/models").json() == {"models": ["m"]}
    assert client.get("/v1/models/m").json() == {"name": "m", "ready": True}
    assert client.get("/v1/models/nobody").status_code == 404
    answer = client.post("/v1/models/m:predict", json={"instances": [[1, 2], [3, 4]]})
    assert answer.json() == {"predictions": [[2.0, 3.0], [4.0, 5.0]]}
    assert answer.headers["x-modelkeep-version"] == "1"
    assert client.post("/v1/models/m:predict", json={"instances": [["a"]]}).status_code == 400
    assert client.post("/v1/models/nobody:predict", json={"instances": [[1]]}).status_code == 404


def test_a_model_without_rows_answers_too(fakes: SimpleNamespace) -> None:
    of = Signature(
        (TensorSpec("x", "float32", (3,)),), (TensorSpec("total", "float32", ()), TensorSpec("y", "float32", (3,)))
    )
    with Running({"m": fakes.Odd(lambda x: {"total": x.sum(), "y": x}, of=of)}) as url:
        answer = httpx.post(f"{url}/v1/models/m:predict", json={"instances": [1, 2, 3]}, timeout=20)
    assert (answer.status_code, answer.json()) == (200, {"predictions": [{"total": [6.0], "y": [1.0, 2.0, 3.0]}]})
