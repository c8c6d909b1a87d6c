"""KServe's first protocol, for old clients: ``{"instances": […]}`` in, ``{"predictions": […]}`` out.

kserve.github.io/website, 'V1 Inference Protocol'. It has no datatypes: the numbers take those of the signature.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.errors import BadInput
from modelkeep.serve.protocol import codec
from modelkeep.types import Reply, Signature

if TYPE_CHECKING:
    from modelkeep.types import Array


def inputs(head: Mapping[str, Any], signature: Signature) -> dict[str, Array]:
    """The rows of ``instances``: values of the only input, or an object by input name each; or ``inputs`` by column.

    Raises BadInput.
    """
    rows = head.get("instances")
    if isinstance(head.get("inputs"), Mapping) and rows is None:
        return {name: _array(name, data, signature) for name, data in head["inputs"].items()}
    if not isinstance(rows, list) or not rows:
        raise BadInput('send {"instances": [row, row, …]}')
    if not all(isinstance(row, Mapping) for row in rows):
        if len(signature.inputs) != 1:
            names = ", ".join(f'"{t.name}": …' for t in signature.inputs)
            raise BadInput(f"the model has {len(signature.inputs)} inputs; give each instance as {{{names}}}")
        name = signature.inputs[0].name
        return {name: _array(name, rows, signature)}
    if any(set(row) != set(rows[0]) for row in rows):
        raise BadInput("the instances differ in their names; give each the same inputs")
    return {name: _array(name, [row[name] for row in rows], signature) for name in rows[0]}


def predictions(reply: Reply, *, batched: bool = True) -> dict[str, Any]:
    """A list with a row each, of several outputs an object by output name; of a model without rows one such object."""
    outputs = {name: _plain(array) for name, array in reply.outputs.items()}
    if len(outputs) == 1:
        return {"predictions": next(iter(outputs.values()))}
    if not batched:
        return {"predictions": [outputs]}
    columns = outputs.values()
    return {"predictions": [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]}


def _array(name: str, data: Any, signature: Signature) -> Array:
    spec = next((t for t in signature.inputs if t.name == name), None)
    if spec is None:
        there = ", ".join(t.describe() for t in signature.inputs)
        raise BadInput(f"no input is called '{name}'; the model takes {there}")
    rows = np.array(data, dtype=object)
    if any(isinstance(x, list) for x in rows.ravel()):
        raise BadInput(f"the rows of input '{name}' are not of one shape")
    half = spec.dtype == "float16"  # JSON's numbers are wider, and rounding is what this protocol means
    array = codec.from_json(name, "FP32" if half else codec.NAMES[spec.dtype], list(rows.shape), data)
    if not half:
        return array
    try:
        with np.errstate(over="raise"):
            return array.astype(spec.dtype)
    except FloatingPointError:
        raise BadInput(f"input '{name}' is float16, which ends at 65504, and some of its values are beyond") from None


def _text(x: Any) -> Any:
    try:
        return x.decode() if isinstance(x, bytes) else x
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(x).decode()}


def _plain(array: Array) -> list[Any]:
    """JSON has no NaN, no infinity and no bytes: what is no text becomes {"b64": …}, as with TensorFlow Serving."""
    if array.dtype.kind in "OUS":
        array = np.vectorize(_text, otypes=[object])(array)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        finite, array = np.isfinite(array), array.astype(object)
        array[~finite] = None
    found: list[Any] = np.atleast_1d(array).tolist()
    return found
