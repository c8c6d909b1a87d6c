"""The best few classes of an output as text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelkeep.errors import BadInput
from modelkeep.serve.protocol.classify import classified
from modelkeep.types import Reply


def answered(*labels: str, batched: bool = True) -> Any:
    return SimpleNamespace(labels=labels, signature=SimpleNamespace(batched=batched))


def reply(**outputs: Any) -> Reply:
    return Reply("id", "m", 1, {name: np.asarray(array) for name, array in outputs.items()})


def test_the_best_come_first_with_value_index_and_label() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [3.0, -1.0, 2.5]], np.float32)
    found = classified(reply(y=scores, z=scores), {"y": 2}, answered("cat", "dog", "cow")).outputs
    assert found["y"].tolist() == [["0.700000:1:dog", "0.200000:2:cow"], ["3.000000:0:cat", "2.500000:2:cow"]]
    assert found["z"] is not found["y"]
    assert found["z"].dtype == np.float32


def test_without_labels_or_with_too_few_the_index_says_it() -> None:
    scores = np.array([[1, 5, 3]])
    assert classified(reply(y=scores), {"y": 1}, None).outputs["y"].tolist() == [["5:1"]]
    assert classified(reply(y=scores), {"y": 2}, answered("a")).outputs["y"].tolist() == [["5:1", "3:2"]]


@pytest.mark.parametrize(
    ("dtype", "scores", "best"),
    [
        ("int64", [2**62 + 1, 2**62 + 3, -(2**63)], [f"{2**62 + 3}:1", f"{2**62 + 1}:0", f"{-(2**63)}:2"]),
        ("uint64", [2**64 - 2, 0, 2**64 - 1], [f"{2**64 - 1}:2", f"{2**64 - 2}:0", "0:1"]),
        ("uint8", [0, 255, 7], ["255:1", "7:2", "0:0"]),
        ("float16", [0.5, 2.0, -1.0], ["2.000000:1", "0.500000:0", "-1.000000:2"]),
    ],
)
def test_whole_numbers_stay_what_they_are(dtype: str, scores: list[float], best: list[str]) -> None:
    """As Triton writes them."""
    assert classified(reply(y=np.array([scores], dtype)), {"y": 3}, None).outputs["y"].tolist() == [best]


def test_more_than_there_are_gives_all_and_equal_scores_keep_their_order() -> None:
    found = classified(reply(y=[[2.0, 2.0]]), {"y": 9}, answered()).outputs["y"]
    assert found.tolist() == [["2.000000:0", "2.000000:1"]]


def test_a_model_without_a_batch_has_one_row() -> None:
    found = classified(reply(y=np.array([0.5, 0.9])), {"y": 1}, answered(batched=False)).outputs["y"]
    assert found.tolist() == ["0.900000:1"]


def test_text_has_no_scores() -> None:
    with pytest.raises(BadInput, match="output 'y' is BYTES; classification needs scores"):
        classified(reply(y=np.array([["a"]], object)), {"y": 1}, None)
