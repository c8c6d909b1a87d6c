"""What the search sends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from modelkeep.tune import search
from modelkeep.types import Model, Signature, TensorSpec


def test_requests_have_as_many_rows_as_a_model_was_baked_for(tiny: Model, elsewhere: Model) -> None:
    baked = Signature((TensorSpec("x", "float32", (3, 4)),), (TensorSpec("y", "float32", (3, 3)),))
    assert {r["x"].shape for r in search.requests(tiny)} == {(1, 4)}
    for model in (tiny, elsewhere):
        found = search.requests(replace(model, signature=baked), count=30)
        assert {r["x"].shape for r in found} == {(3, 4)}
        assert not np.array_equal(found[0]["x"], found[1]["x"])
