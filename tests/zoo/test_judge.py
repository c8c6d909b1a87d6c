"""A row is judged through add and convert; the small rows of the zoo pass, and what is baked in or wrong does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from modelkeep.data.dataset import Dataset
from modelkeep.errors import Differs
from modelkeep.model import formats
from modelkeep.types import Signature, TensorSpec
from zoo import catalogue, inputs, judge, trained
from zoo.outcome import Outcome
from zoo.row import Row, Source
from zoo.saved import saved

BAKES = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 3)
    def forward(self, tokens):
        return self.head(tokens.flatten(1))
"""


@pytest.mark.parametrize("row", catalogue.chosen(small=True), ids=lambda row: row.name)
def test_a_small_row_passes(row: Row, tmp_path: Path) -> None:
    row = replace(row, targets=tuple(t for t in row.targets if t != "tensorflow"))  # which takes minutes to set up
    found = judge.judge(row, tmp_path)
    assert found.failures() == {}
    assert found.ok
    assert set(found.cells) == set(row.targets)
    assert found.cells["onnx"].numbers["max_abs"] < 1e-3
    assert found.weights > 0
    assert found.peak > 10_000_000
    assert found.takes[0].endswith("]")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``made(code, inputs)``: a row that writes the module Net of this code."""

    def make(code: str, rows: dict[str, Any], **row: Any) -> Row:
        file = tmp_path / "bakes.py"
        file.write_text(code, encoding="utf-8")
        namespace: dict[str, Any] = {}
        exec(code, namespace)

        def source(self: Row, folder: Path) -> Source:
            return saved(folder, namespace["Net"](), file, "Net", {}, rows)

        monkeypatch.setattr(Row, "source", source)
        (tmp_path / "work").mkdir()
        return Row("made", "vision", "made", "zoo.x:y", **row)

    return make


def test_a_dimension_that_was_promised_and_is_baked_in_fails_the_row(made: Any, tmp_path: Path) -> None:
    row = made(BAKES, {"tokens": inputs.normal(6, 4, 3)}, free={"tokens": (1,)}, targets=("onnx",))
    found = judge.judge(row, tmp_path / "work")
    assert not found.ok
    assert found.cells["onnx"].why.startswith("dimension 1 of tokens float32 [batch, 4, 3] is baked in")


def test_a_dimension_that_was_tried_at_one_size_only_fails_the_row() -> None:
    words = TensorSpec("ids", "int64", (None, None), ("batch", "sequence"))
    version: Any = SimpleNamespace(model=SimpleNamespace(signature=Signature((words,), ())))
    assert judge.untried(version, {"sizes": {"sequence": [1, 7]}}) == ""
    assert judge.untried(version, {"sizes": {"sequence": []}}) == "sequence was tried at no other size"
    assert judge.untried(version, {}) == "sequence was tried at no other size"


def test_a_row_that_cannot_be_added_says_why(made: Any, tmp_path: Path) -> None:
    found = judge.judge(made(BAKES, {"tokens": inputs.normal(6, 5, 3)}), tmp_path / "work")
    assert "the module cannot run" in found.why
    assert found.failures().keys() == {""}
    assert isinstance(found, Outcome)


def test_what_begins_with_a_failed_target_is_not_tried(made: Any, tmp_path: Path) -> None:
    code = BAKES.replace("return self.head(tokens.flatten(1))", "return 0 * self.head(tokens.flatten(1))")
    found = judge.judge(made(code, {"tokens": inputs.normal(6, 4, 3)}), tmp_path / "work")
    assert not found.cells["onnx"].ok
    assert found.cells["openvino"].why == "not tried: it begins with onnx, which failed"


class TestTrained:
    def adopt(self, code: str, tmp_path: Path) -> Any:
        (into := tmp_path / "saved").mkdir()
        (tmp_path / "net.py").write_text(code, encoding="utf-8")
        namespace: dict[str, Any] = {}
        exec(code, namespace)
        torch.manual_seed(0)
        rows = {"tokens": np.ones((4, 4, 3), np.float32)}
        source = saved(into, namespace["Net"](), tmp_path / "net.py", "Net", {}, rows)
        data = Dataset(rows, None, "rows")
        return formats.adopt(source.path, tmp_path / "model", factory=source.factory, data=data)

    def test_a_step_changes_the_answers(self, tmp_path: Path) -> None:
        found = trained.one_step(self.adopt(BAKES, tmp_path))
        assert found["learned"] > 0
        assert found["moved"] == 12 * 3 + 3

    def test_a_model_that_cannot_learn_is_told(self, tmp_path: Path) -> None:
        frozen = BAKES.replace("return self.head(", "return 0 * self.head.bias.sum() + (")
        with pytest.raises(Differs, match="moves 0 weights and changes no answer"):
            trained.one_step(self.adopt(frozen, tmp_path))

    def test_a_step_that_explodes_is_told(self, tmp_path: Path) -> None:
        wild = BAKES.replace("return self.head(", "return (0 * self.head.bias[0]).sqrt() + self.head(")
        with pytest.raises(Differs, match="makes an answer NaN or infinite"):
            trained.one_step(self.adopt(wild, tmp_path))
