"""The classification extension: of an output's scores, the best few classes as text.

docs/protocol/extension_classification.md of triton-inference-server/server: ``value:index`` or ``value:index:label``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.errors import BadInput
from modelkeep.serve.protocol.codec import datatype_of
from modelkeep.types import Reply

CLASS = 100

if TYPE_CHECKING:
    from modelkeep.serve.plane.loaded import Loaded
    from modelkeep.types import Array


def classified(reply: Reply, wanted: Mapping[str, int], answered: Loaded | None) -> Reply:
    """The reply with each output in ``wanted`` as its best classes, the best first: text [rows, count], or [count].

    ``answered`` is the version that gave it, where it is still in memory: it knows the labels. Raises BadInput for an
    output that holds no numbers.
    """
    labels, batched = (answered.labels, answered.signature.batched) if answered else ((), True)
    outputs = {
        name: _best(name, array, wanted[name], labels, batched) if name in wanted else array
        for name, array in reply.outputs.items()
    }
    return replace(reply, outputs=outputs)


def weight(reply: Reply, wanted: Mapping[str, int]) -> int:
    """About how much there is to write, in bytes; a class takes as long as a hundred."""
    size = 0
    for name, array in reply.outputs.items():
        size += array.nbytes
        if name in wanted and array.ndim:
            size += CLASS * min(array.size, wanted[name] * len(array))
    return size


def _best(name: str, array: Array, count: int, labels: Sequence[str], batched: bool) -> Array:
    if array.dtype.kind not in "iuf":
        raise BadInput(f"output '{name}' is {datatype_of(array)}; classification needs scores")
    rows = array.reshape(len(array) if batched else 1, -1)
    whole = rows.dtype.kind != "f"
    # ~ turns the order of whole numbers round; minus does not for UINT8, and floats have not all of them above 2**53
    order = np.argsort(~rows if whole else -rows, axis=1, kind="stable")[:, :count]
    found = np.empty(order.shape, dtype=object)
    for (row, place), index in np.ndenumerate(order):
        label = f":{labels[int(index)]}" if index < len(labels) else ""
        value = f"{rows[row, index]}" if whole else f"{rows[row, index]:f}"
        found[row, place] = f"{value}:{index}{label}"
    return found if batched else found[0]
