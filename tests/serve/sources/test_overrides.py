"""What Triton's load may carry: a configuration of which some is taken, and the rest is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelkeep.errors import BadInput, Unsupported
from modelkeep.serve.sources.overrides import fields, loading, unloading

NOW = {
    "name": "m",
    "platform": "onnx",
    "backend": "onnxruntime",
    "max_batch_size": 32,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}],
    "instance_group": [{"name": "m", "kind": "KIND_CPU", "count": 1}],
    "dynamic_batching": {"max_queue_delay_microseconds": 0},
}


def with_(**config: Any) -> dict[str, Any]:
    return {"parameters": {"config": json.dumps(config)}}


@pytest.mark.parametrize("given", [{}, {"parameters": None}, {"parameters": {}}])
def test_nothing_is_asked_for(given: dict[str, Any]) -> None:
    assert loading(given) is None
    unloading(given)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({}, {}),
        (NOW, {}),
        ({"max_batch_size": 8}, {"max_batch": 8}),
        ({"max_batch_size": 0}, {"max_batch": 1}),
        ({"instance_group": [{"count": 2, "kind": "KIND_AUTO"}]}, {"workers": 2}),
        ({"dynamic_batching": {"max_queue_delay_microseconds": 5000}}, {"max_wait": 0.005}),
        ({"backend": "openvino", "name": "m"}, {"engine": "openvino"}),
    ],
)
def test_what_is_taken(config: dict[str, Any], found: dict[str, Any]) -> None:
    given = loading(with_(**config))
    assert given is not None
    assert fields(given, NOW) == found


def test_an_object_in_place_of_its_text() -> None:
    assert loading({"parameters": {"config": {"max_batch_size": 8}}}) == {"max_batch_size": 8}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"config": {}}, "'config' is not known here; send"),
        ({"parameters": [1]}, r"the parameters are \[1\]; give an object"),
        ({"parameters": {"colour": 1}}, "'colour' is no parameter of load; there is: config"),
        ({"parameters": {"config": "{"}}, "the parameter 'config' is not JSON"),
        ({"parameters": {"config": "[1]"}}, "a model's configuration as JSON, an object"),
        ({"parameters": {"config": 7}}, "a model's configuration as JSON, an object"),
        (
            with_(version_policy={}),
            "'version_policy' of a configuration has no meaning here; these can be set: backend",
        ),
        (with_(max_batch_size=-1), "'max_batch_size' is -1; give a whole number"),
        (with_(max_batch_size="8"), "'max_batch_size' is '8'"),
        (with_(instance_group=[]), r"'instance_group' is \[\]; give one group"),
        (with_(instance_group=[{"kind": "KIND_GPU", "gpus": [0]}]), "give one group with its count"),
        (with_(dynamic_batching={"preferred_batch_size": [4]}), "'dynamic_batching' is"),
        (with_(dynamic_batching={"max_queue_delay_microseconds": -1}), "'dynamic_batching' is"),
    ],
)
def test_what_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        loading(given)


def test_what_a_model_is_stays() -> None:
    given = loading(with_(platform="onnx", name="other"))
    assert given is not None
    with pytest.raises(BadInput, match="'name' of a configuration cannot be changed by a load; it is \"m\""):
        fields(given, NOW)


def test_a_file_cannot_be_brought() -> None:
    with pytest.raises(Unsupported, match="models come from the registry only; first: modelkeep add"):
        loading({"parameters": {"file:1/model.onnx": b"bytes"}})


def test_unload_takes_one_parameter() -> None:
    unloading({"parameters": {"unload_dependents": True}})
    for given in ({"unload_dependents": 1}, {"colour": True}):
        with pytest.raises(BadInput, match="is no parameter of unload; there is: unload_dependents, true or false"):
            unloading({"parameters": given})


@pytest.mark.parametrize("deep", ["[" * 100_000, json.loads("[" * 900 + "]" * 900)], ids=["text", "value"])
def test_a_configuration_that_is_nested_without_end(deep: Any) -> None:
    with pytest.raises(BadInput, match="the parameter 'config' is"):
        loading({"parameters": {"config": deep}})


def test_a_delay_that_no_clock_can_tell() -> None:
    with pytest.raises(BadInput, match="'dynamic_batching' is"):
        loading({"parameters": {"config": '{"dynamic_batching": {"max_queue_delay_microseconds": %s}}' % ("9" * 4000)}})
