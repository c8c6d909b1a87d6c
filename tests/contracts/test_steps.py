"""What every Step keeps: one suite, and a table that lists each of them."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import ndimage

from modelkeep import provenance
from modelkeep.convert.onnx_to_litert import OnnxToLitert
from modelkeep.convert.onnx_to_openvino import OnnxToOpenVino
from modelkeep.convert.onnx_to_tensorflow import OnnxToTensorflow
from modelkeep.convert.onnx_to_torch import OnnxToTorch
from modelkeep.convert.sklearn_to_onnx import SklearnToOnnx
from modelkeep.convert.tensorflow_to_onnx import TensorflowToOnnx
from modelkeep.convert.torch_to_onnx import TorchToOnnx
from modelkeep.data.dataset import Dataset
from modelkeep.errors import ModelkeepError
from modelkeep.model import engines, folder, formats
from modelkeep.optimize.distill import Distill
from modelkeep.optimize.quantize import Quantize
from modelkeep.types import Model, Report, Step
from modelkeep.update.finetune import Finetune
from modelkeep.update.transfer import Transfer

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Case(NamedTuple):
    """A Step on a source; ``wrong`` is the same kind of Step on the same source, which must fail."""

    source: str
    step: Callable[[Any], Step]
    wrong: Callable[[Any], Step]
    format: str


def unlabelled(rows: Dataset) -> Dataset:
    return Dataset(rows.inputs, None, "unlabelled")


CASES: dict[str, Case] = {
    "TorchToOnnx": Case("torch", lambda w: TorchToOnnx(rows=w.rows), lambda w: TorchToOnnx(opset=1), "onnx"),
    "OnnxToTorch": Case(
        "onnx",
        lambda w: OnnxToTorch(rows=w.rows),
        lambda w: OnnxToTorch(rows=w.misfit),
        "torch",
    ),
    "OnnxToOpenVino": Case(
        "onnx",
        lambda w: OnnxToOpenVino(rows=w.rows),
        lambda w: OnnxToOpenVino(precision="float8"),
        "openvino",
    ),
    "OnnxToOpenVino, half": Case(
        "onnx",
        lambda w: OnnxToOpenVino(precision="float16", rows=w.rows),
        lambda w: OnnxToOpenVino(precision="float16", atol=1e-9, rtol=0.0, rows=w.rows),
        "openvino",
    ),
    "SklearnToOnnx": Case(
        "sklearn", lambda w: SklearnToOnnx(rows=w.rows), lambda w: SklearnToOnnx(rows=w.misfit), "onnx"
    ),
    "OnnxToTensorflow": Case(
        "onnx", lambda w: OnnxToTensorflow(rows=w.rows), lambda w: OnnxToTensorflow(rows=w.misfit), "tensorflow"
    ),
    "OnnxToLitert": Case("onnx", lambda w: OnnxToLitert(rows=w.rows), lambda w: OnnxToLitert(rows=w.misfit), "litert"),
    "TensorflowToOnnx": Case(
        "tensorflow", lambda w: TensorflowToOnnx(rows=w.rows), lambda w: TensorflowToOnnx(rows=w.misfit), "onnx"
    ),
    "Distill": Case(
        "onnx",
        lambda w: Distill("nets:MLP", {"hidden": 8}, epochs=4, copies=1, rows=w.rows),
        lambda w: Distill("nets:MLP", {"hidden": 8, "classes": 3}, epochs=1, rows=w.rows),
        "torch",
    ),
    "Quantize": Case("onnx", lambda w: Quantize(samples=40, rows=w.rows), lambda w: Quantize(rows=w.misfit), "onnx"),
    "Quantize, dynamic": Case(
        "onnx", lambda w: Quantize(dynamic=True), lambda w: Quantize(dynamic=True, rows=w.misfit), "onnx"
    ),
    "Finetune": Case(
        "torch", lambda w: Finetune(epochs=20, rows=w.changed), lambda w: Finetune(rows=unlabelled(w.changed)), "torch"
    ),
    "Finetune, exported": Case(
        "torch-export",
        lambda w: Finetune(epochs=20, rows=w.changed),
        lambda w: Finetune(epochs=1, lr=1e-9, rows=w.changed),
        "torch-export",
    ),
    "Transfer": Case(
        "torch, eight classes",
        lambda w: Transfer(NAMES, epochs=20, rows=w.rows),
        lambda w: Transfer(NAMES[:8], rows=w.rows),
        "torch",
    ),
}


WITHOUT_TENSORFLOW = os.environ.get("MODELKEEP_TEST_TENSORFLOW") == "0"
LISTED = [
    pytest.param(
        name, marks=pytest.mark.skipif(WITHOUT_TENSORFLOW and of, reason="MODELKEEP_TEST_TENSORFLOW=0") if of else ()
    )
    for name, of in ((name, name in ("OnnxToTensorflow", "OnnxToLitert", "TensorflowToOnnx")) for name in CASES)
]


class World(NamedTuple):
    """Sources by name, and rows for the steps; ``misfit`` fits no model."""

    sources: dict[str, Model]
    rows: Dataset
    changed: Dataset
    misfit: Dataset


@pytest.fixture(scope="module")
def world(adopted: Any, digits: Any, nets: Path, trained: Any, tmp_path_factory: Any) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(nets)
        yield made_world(adopted("MLP"), trained("MLP"), digits[0], tmp_path_factory.mktemp("sources"))


def made_world(torch_model: Model, module: Any, train: Dataset, rooms: Path) -> World:
    import torch

    torch.set_num_threads(1)
    onnx, _ = TorchToOnnx().run(torch_model, rooms / "onnx")
    batch = torch.export.Dim("batch")
    torch.export.save(
        torch.export.export(module, (torch.zeros(2, 64),), dynamic_shapes=({0: batch},)), rooms / "net.pt2"
    )
    sources = {
        "torch": torch_model,
        "sklearn": forest(train, rooms),
        "onnx": onnx,
        "torch-export": formats.adopt(rooms / "net.pt2", rooms / "exported", data=train),
        "torch, eight classes": eight_classes(module, train, rooms),
    }
    if not WITHOUT_TENSORFLOW:
        sources["tensorflow"], _ = OnnxToTensorflow().run(onnx, rooms / "tensorflow")
    images = ndimage.rotate(train.inputs["pixels"].reshape(-1, 8, 8), 30, axes=(1, 2), reshape=False, order=1)
    tilted = Dataset({"pixels": images.reshape(-1, 64)}, train.labels, "tilted digits").head(400)
    misfit = Dataset({"pixels": np.zeros((30, 7), np.float32)}, np.zeros(30, np.int64), "misfit")
    return World(sources, train.head(300), tilted, misfit)


def forest(rows: Dataset, rooms: Path) -> Model:
    import skops.io
    from sklearn.ensemble import RandomForestClassifier

    trees = RandomForestClassifier(5, random_state=0).fit(rows.inputs["pixels"], rows.labels)
    skops.io.dump(trees, rooms / "forest.skops")
    return formats.adopt(rooms / "forest.skops", rooms / "forest", data=rows)


def eight_classes(module: Any, rows: Dataset, rooms: Path) -> Model:
    """The trained network without the head's last two rows."""
    import torch

    state = {k: v[:8].clone() if k.startswith("head") else v for k, v in module.state_dict().items()}
    torch.save(state, rooms / "eight.pt")
    return formats.adopt(
        rooms / "eight.pt",
        rooms / "eight",
        factory="nets:MLP",
        factory_args={"classes": 8},
        data=rows.take(rows.labels < 8),  # type: ignore[operator]
        labels=NAMES[:8],
    )


class Done(NamedTuple):
    case: Case
    step: Any
    source: Model
    made: Model
    reports: tuple[Report, ...]
    before: dict[str, str]


@pytest.fixture(scope="module", params=LISTED)
def done(request: pytest.FixtureRequest, world: World, tmp_path_factory: Any) -> Done:
    """The step, run once."""
    case = CASES[request.param]
    step, source = case.step(world), world.sources[case.source]
    before = digests(source.path)
    made, reports = step.run(source, tmp_path_factory.mktemp("made"))
    return Done(case, step, source, made, reports, before)


def digests(path: Path) -> dict[str, str]:
    files = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def answers(model: Model, rows: Dataset) -> dict[str, Any]:
    runner = engines.load(model)
    try:
        return runner.run(rows.inputs)
    finally:
        runner.close()


def test_every_step_of_the_tables_is_listed_here() -> None:
    assert set(provenance.steps()) == {name.partition(",")[0] for name in CASES}


def test_it_writes_a_folder_that_can_be_read_and_run(done: Done, world: World) -> None:
    assert folder.read(done.made.path) == done.made
    assert done.made.format == done.case.format
    assert [t.name for t in done.made.signature.inputs] == [t.name for t in done.source.signature.inputs]
    assert [t.name for t in done.made.signature.outputs] == [t.name for t in done.source.signature.outputs]
    for count in (1, 2, 7):
        found = answers(done.made, world.rows.head(count))
        for spec in done.made.signature.outputs:
            assert spec.accepts(found[spec.name].shape)
            assert len(found[spec.name]) == count
            assert np.isfinite(found[spec.name]).all()


def test_the_folder_needs_nothing_outside_itself(done: Done, world: World, tmp_path: Path, monkeypatch: Any) -> None:
    import shutil

    want = answers(done.made, world.rows)
    shutil.copytree(done.made.path, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    found = answers(folder.read(tmp_path / "elsewhere"), world.rows)
    assert all(np.array_equal(found[name], want[name]) for name in want)


def test_it_names_every_file_of_the_folder(done: Done) -> None:
    assert set(digests(done.made.path)) == {*done.made.files, folder.MODEL_FILE, folder.REFERENCE}


def test_the_source_is_untouched(done: Done) -> None:
    assert digests(done.source.path) == done.before


def test_its_repr_is_its_whole_provenance(done: Done) -> None:
    name, settings = provenance.parse(repr(done.step))
    assert name == type(done.step).__name__
    recorded = {f.name for f in dataclasses.fields(done.step) if f.repr}
    assert set(settings) == recorded
    assert provenance.rebuild(repr(done.step), rows=done.step.rows) == done.step


def test_it_is_a_frozen_dataclass(done: Done) -> None:
    assert isinstance(done.step, Step)
    with pytest.raises(dataclasses.FrozenInstanceError):
        done.step.rows = None


def test_the_same_seed_makes_the_same_model(done: Done, world: World, tmp_path: Path) -> None:
    import torch

    torch.rand(7)  # what others draw must not matter
    again, _ = done.case.step(world).run(done.source, tmp_path / "again")
    assert set(digests(again.path)) == set(digests(done.made.path))
    one, two = answers(done.made, world.rows), answers(again, world.rows)
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_another_seed_makes_another_model(done: Done, world: World, tmp_path: Path) -> None:
    if "seed" not in {f.name for f in dataclasses.fields(done.step)} or getattr(done.step, "dynamic", False):
        pytest.skip("nothing in it is left to chance")
    other, _ = dataclasses.replace(done.step, seed=6).run(done.source, tmp_path / "other")
    one, two = answers(done.made, world.rows), answers(other, world.rows)
    assert any(not np.array_equal(one[name], two[name]) for name in one)


def test_it_keeps_reference_rows_that_fit(done: Done) -> None:
    rows = folder.reference(done.made.path)
    assert rows is not None
    assert rows.labels is not None
    done.made.signature.check(rows.inputs)


def test_its_reports_say_something_and_can_be_stored(done: Done) -> None:
    assert done.reports
    for report in done.reports:
        assert Report(**json.loads(json.dumps(report.to_json()))).why == report.why != ""
        assert report.ok is not False
        assert "n" in report.numbers


@pytest.mark.parametrize("name", LISTED)
def test_a_refusal_is_one_sentence_and_leaves_nothing(name: str, world: World, tmp_path: Path) -> None:
    case = CASES[name]
    source = world.sources[case.source]
    before = digests(source.path)
    with pytest.raises(ModelkeepError) as caught:
        case.wrong(world).run(source, tmp_path / "into")
    assert "\n" not in str(caught.value)
    assert digests(tmp_path) == {}
    assert digests(source.path) == before


@pytest.mark.parametrize("name", LISTED)
def test_a_format_that_it_does_not_take_is_refused(name: str, world: World, tmp_path: Path) -> None:
    case = CASES[name]
    source = dataclasses.replace(world.sources[case.source], format="stone-tablet")
    with pytest.raises(ModelkeepError, match="'stone-tablet'"):
        case.step(world).run(source, tmp_path / "into")
    assert digests(tmp_path) == {}


@pytest.mark.parametrize("name", LISTED)
def test_a_full_disk_at_the_very_end_leaves_nothing(
    name: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[dict[str, str]] = []

    def full(model: Model) -> Model:
        written.append(digests(model.path))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder, "write", full)
    case = CASES[name]
    with pytest.raises(OSError, match="No space left"):
        case.step(world).run(world.sources[case.source], tmp_path / "into")
    assert written[0], "the model was there, all but model.json"
    assert digests(tmp_path) == {}
