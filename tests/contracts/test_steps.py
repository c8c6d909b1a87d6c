"""What every Step promises. A new one is put through all of it by a line in STEPS."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelkeep import provenance
from modelkeep.convert.torch_to_onnx import TorchToOnnx
from modelkeep.data.dataset import Dataset
from modelkeep.errors import ModelkeepError
from modelkeep.model import engines, folder, formats
from modelkeep.model.formats import torch as torch_format
from modelkeep.optimize.distill import Distill
from modelkeep.optimize.quantize import Quantize
from modelkeep.types import Model, Report, Step
from modelkeep.update.finetune import Finetune
from modelkeep.update.transfer import Transfer

TEN = tuple("0123456789")


@dataclass(frozen=True)
class Case:
    """``source`` and ``wrong`` name models of the fixture ``sources``; ``make`` gives the step its rows."""

    make: Callable[[Dataset], Step]
    source: str
    gives: str
    wrong: str
    seeded: bool = True


STEPS = {
    "TorchToOnnx": Case(lambda rows: TorchToOnnx(rows=rows), "torch", "onnx", "onnx", seeded=False),
    "Distill": Case(
        lambda rows: Distill("nets:MLP", student_args={"hidden": 8}, epochs=2, copies=0, seed=5, rows=rows),
        "torch",
        "torch",
        "no scores",
    ),
    "Quantize": Case(lambda rows: Quantize(samples=64, seed=5, rows=rows), "onnx", "onnx", "torch"),
    "Finetune": Case(
        lambda rows: Finetune(epochs=15, lr=5e-3, max_forgetting=1.0, seed=5, rows=askew(rows)),
        "torch",
        "torch",
        "onnx",
    ),
    "Transfer": Case(
        lambda rows: Transfer(TEN, epochs=12, max_forgetting=1.0, seed=5, rows=rows), "eight", "torch", "onnx"
    ),
}


def askew(rows: Dataset) -> Dataset:
    """The world turned upside down, so that there is something to learn."""
    return Dataset({"pixels": rows.inputs["pixels"][:, ::-1].copy()}, rows.labels, "upside down")


def files(path: Path) -> dict[str, str]:
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in path.rglob("*") if p.is_file()
    }


def answers(model: Model, rows: Dataset) -> dict[str, Any]:
    with contextlib.closing(engines.load(model)) as runner:
        return runner.run(rows.inputs)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sources(adopted: Any, nets: Path, digits: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """Models to begin from: ten classes in two formats, eight classes, and one that gives no scores."""
    room = tmp_path_factory.mktemp("sources")
    known = digits[0].take(np.flatnonzero(digits[0].labels < 8))
    (room / "fewer.py").write_text((nets / "nets.py").read_text() + ROUNDED)
    module = torch_format.module(adopted("MLP"))
    state = {name: t[:8] if name.startswith("head") else t for name, t in module.state_dict().items()}
    torch.save(state, room / "eight.pt")
    torch.save(module.state_dict(), room / "rounded.pt")
    (room / "onnx").mkdir()
    eight = {"factory": "fewer:MLP", "factory_args": {"classes": 8}, "data": known, "labels": TEN[:8]}
    return {
        "torch": adopted("MLP"),
        "onnx": TorchToOnnx(rows=digits[0].head(50)).run(adopted("MLP"), room / "onnx")[0],
        "eight": formats.adopt(room / "eight.pt", room / "eight", **eight),
        "no scores": formats.adopt(room / "rounded.pt", room / "rounded", factory="fewer:Rounded", data=digits[0]),
    }


ROUNDED = """

class Rounded(MLP):
    def forward(self, pixels):
        return super().forward(pixels).argmax(1)
"""


@dataclass(frozen=True)
class Ran:
    step: Step
    source: Model
    before: dict[str, str]
    model: Model
    reports: tuple[Report, ...]


@pytest.fixture(scope="module", params=list(STEPS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def ran(name: str, sources: dict[str, Model], digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The step, once done."""
    case = STEPS[name]
    step, source = case.make(digits[0].head(400)), sources[case.source]
    before = files(source.path)
    model, reports = step.run(source, tmp_path_factory.mktemp(name))
    return Ran(step, source, before, model, reports)


def test_every_known_step_is_listed_here() -> None:
    assert set(STEPS) == set(provenance.steps())


def test_is_a_frozen_dataclass_and_a_step(name: str, digits: Any) -> None:
    step = STEPS[name].make(digits[0].head(40))
    assert isinstance(step, Step)
    field = dataclasses.fields(step)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(step, field, None)


def test_writes_a_whole_folder_that_an_engine_loads(name: str, ran: Ran, digits: Any) -> None:
    read = folder.read(ran.model.path)
    assert read == ran.model
    assert read.format == STEPS[name].gives
    found = answers(read, digits[1].head(5))
    assert [array.shape for array in found.values()] == [(5, 10)]
    assert read.signature.inputs == ran.source.signature.inputs


def test_leaves_the_source_as_it_was(ran: Ran) -> None:
    assert files(ran.source.path) == ran.before


def test_names_every_file_of_the_folder(ran: Ran) -> None:
    assert set(files(ran.model.path)) == {*ran.model.files, folder.MODEL_FILE, folder.REFERENCE}


def test_keeps_reference_rows(ran: Ran) -> None:
    rows = folder.reference(ran.model.path)
    assert rows is not None
    assert rows.labels is not None
    assert len(rows) >= 400


def test_says_what_it_found(ran: Ran) -> None:
    assert ran.reports
    for report in ran.reports:
        assert report.why
        assert report.numbers
        assert report.ok is not False


def test_its_repr_holds_no_rows_and_is_read_back(name: str, ran: Ran) -> None:
    told = repr(ran.step)
    assert told.startswith(f"{name}(")
    assert "array" not in told
    assert "Dataset" not in told
    assert len(told) < 400
    rebuilt = provenance.rebuild(told)
    assert rebuilt == ran.step
    assert repr(rebuilt) == told


def test_gives_the_same_answers_for_the_same_seed(name: str, ran: Ran, digits: Any, tmp_path: Path) -> None:
    torch.rand(7)  # what others draw must not matter
    again, _ = STEPS[name].make(digits[0].head(400)).run(ran.source, tmp_path)
    first, second = answers(ran.model, digits[1]), answers(again, digits[1])
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_gives_another_model_for_another_seed(name: str, ran: Ran, digits: Any, tmp_path: Path) -> None:
    if not STEPS[name].seeded:
        pytest.skip("nothing in it is left to chance")
    step: Any = dataclasses.replace(STEPS[name].make(digits[0].head(400)), seed=6)  # type: ignore[type-var]
    other, _ = step.run(ran.source, tmp_path)
    first, second = answers(ran.model, digits[1]), answers(other, digits[1])
    assert any(not np.array_equal(first[key], second[key]) for key in first)


def test_refuses_what_it_cannot_take(name: str, sources: dict[str, Model], digits: Any, tmp_path: Path) -> None:
    case = STEPS[name]
    source = sources[case.wrong]
    before = files(source.path)
    with pytest.raises(ModelkeepError) as refused:
        case.make(digits[0].head(40)).run(source, tmp_path)
    assert len(str(refused.value)) > 20
    assert "\n" not in str(refused.value)
    assert files(source.path) == before
    assert not (tmp_path / folder.MODEL_FILE).exists()
