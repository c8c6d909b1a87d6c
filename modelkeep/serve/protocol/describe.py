"""What a server and its models are, in the words of the protocol and of Triton."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelkeep.serve.plane.loaded import Loaded
from modelkeep.serve.protocol import codec
from modelkeep.types import TensorSpec

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics")
TYPES = {"BYTES": "TYPE_STRING"}
"""Triton's configuration calls text a string, and everything else TYPE_ and the datatype's name."""


def metadata(name: str, found: Loaded, versions: Sequence[int]) -> dict[str, Any]:
    """A model's metadata; a free dimension is -1."""
    return {
        "name": name,
        "versions": [str(v) for v in versions],
        "platform": found.format or found.config.engine,
        "inputs": [_spec(t) for t in found.signature.inputs],
        "outputs": [_spec(t) for t in found.signature.outputs],
    }


def config(name: str, found: Loaded) -> dict[str, Any]:
    """Triton's configuration of a model, as far as it has a meaning here (extension_model_configuration.md).

    Where the batch is free, ``dims`` leave it out and ``max_batch_size`` says how many rows share a run.
    """
    batched = found.signature.batched
    return {
        "name": name,
        "platform": found.format,
        "backend": found.config.engine,
        "max_batch_size": found.config.max_batch if batched else 0,
        "input": [_configured(t, batched) for t in found.signature.inputs],
        "output": [_configured(t, batched) for t in found.signature.outputs],
        "instance_group": [{"name": name, "kind": "KIND_CPU", "count": found.config.workers}],
        "dynamic_batching": {"max_queue_delay_microseconds": round(found.config.max_wait * 1e6)},
    }


def shape(spec: TensorSpec) -> list[int]:
    """A free dimension is -1."""
    return [-1 if size is None else size for size in spec.shape]


def datatype(spec: TensorSpec) -> str:
    """The protocol's name of it."""
    return codec.NAMES.get(spec.dtype, spec.dtype)


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": datatype(spec), "shape": shape(spec)}


def _configured(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    kind = datatype(spec)
    return {"name": spec.name, "data_type": TYPES.get(kind, f"TYPE_{kind}"), "dims": shape(spec)[1 if batched else 0 :]}
