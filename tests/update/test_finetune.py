"""Fine-tuning on real digits whose scanner went askew, and everything that must be refused."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from modelkeep import update
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadModel, Regressed, Unsupported
from modelkeep.model import engines, folder, formats, score
from modelkeep.types import Model
from modelkeep.update import gate
from modelkeep.update.finetune import Finetune, mix


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def askew(rows: Dataset, seed: int = 1) -> Dataset:
    """Turned by 40 degrees, and noisy."""
    images = ndimage.rotate(rows.inputs["pixels"].reshape(-1, 8, 8), 40, axes=(1, 2), reshape=False, order=1)
    images = np.clip(images + np.random.default_rng(seed).normal(0, 1.0, images.shape), 0, 16)
    return Dataset({"pixels": images.reshape(-1, 64).astype(np.float32)}, rows.labels, "askew digits")


def accuracy(model: Model, rows: Dataset) -> float:
    with contextlib.closing(engines.load(model)) as runner:
        return float(score.correct(runner, rows, model.labels).mean())


def relabelled(rows: Dataset, labels: Any) -> Dataset:
    return Dataset(rows.inputs, labels, rows.source)


def nothing_at(into: Path) -> bool:
    return not (into / folder.MODEL_FILE).exists()


@pytest.fixture(scope="module")
def tuned(adopted: Any, digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    step = Finetune(epochs=40, lr=5e-3, max_forgetting=0.1, rows=askew(digits[0]))
    return step.run(adopted("MLP"), tmp_path_factory.mktemp("tuned"))


def test_regains_accuracy_on_rows_it_has_not_seen(tuned: Any, adopted: Any, digits: Any) -> None:
    new = askew(digits[1], seed=9)
    before, after = accuracy(adopted("MLP"), new), accuracy(tuned[0], new)
    assert before < 0.75
    assert after > 0.85
    assert after - before > 0.15


def test_still_knows_the_old_world(tuned: Any, adopted: Any, digits: Any) -> None:
    assert accuracy(tuned[0], digits[1]) > accuracy(adopted("MLP"), digits[1]) - 0.06


def test_reports_new_and_old_before_and_after_with_n(tuned: Any) -> None:
    reports = {report.kind: report for report in tuned[1]}
    new, old = reports["new rows"], reports["old rows"]
    assert new.ok is True
    assert old.ok is True
    assert new.numbers["after"] > new.numbers["before"] + 0.15
    assert new.numbers["low"] <= new.numbers["after"] <= new.numbers["high"]
    assert 290 <= new.numbers["n"] <= 310
    assert old.numbers["drop"] == pytest.approx(old.numbers["before"] - old.numbers["after"])
    assert "held-out new rows right" in new.why
    assert "rows right" in old.why


def test_reference_rows_are_of_both_worlds(tuned: Any, digits: Any) -> None:
    rows = folder.reference(tuned[0].path)
    assert rows is not None
    old = {row.tobytes() for row in digits[0].inputs["pixels"]}
    share = np.mean([row.tobytes() in old for row in rows.inputs["pixels"]])
    assert 0.1 < share < 0.25, "some of the old, mostly the new"


def test_wrong_labels_are_refused(adopted: Any, digits: Any, tmp_path: Path) -> None:
    rows = digits[0].head(400)
    shuffled = relabelled(rows, np.random.default_rng(0).permutation(rows.labels))
    with pytest.raises(Regressed, match=r"the update is not .*better: .* → .* held-out new rows right.*nothing was s"):
        Finetune(epochs=10, max_forgetting=1.0, rows=shuffled).run(adopted("MLP"), tmp_path)
    assert nothing_at(tmp_path)


def test_forgetting_is_refused(adopted: Any, digits: Any, tmp_path: Path) -> None:
    # one class only, and no replay: the model learns to say 3 to everything
    rows = askew(digits[0].take(np.flatnonzero(digits[0].labels == 3)))
    told = r"the update forgets: .* → .* old .*rows right.* over the 5\.0% allowed"
    with pytest.raises(Regressed, match=told):
        Finetune(epochs=60, lr=1e-2, replay=0.0, rows=rows).run(adopted("MLP"), tmp_path)
    assert nothing_at(tmp_path)


def test_a_class_that_it_does_not_know_is_named(adopted: Any, digits: Any, tmp_path: Path) -> None:
    rows = digits[0].head(40)
    labels = rows.labels.copy()
    labels[7:10] = 11
    with pytest.raises(BadData, match=r"the label .*11.* none of the model's .*classes.*--method transfer") as refused:
        Finetune(rows=relabelled(rows, labels)).run(adopted("MLP"), tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("slip", ["nonsense", "-1", "0.5"])
def test_one_slip_is_put_aside_and_the_others_teach(slip: str, adopted: Any, digits: Any, tmp_path: Path) -> None:
    rows = askew(digits[0])
    labels = rows.labels.astype(f"U{len(slip)}")
    labels[7] = slip
    model, reports = Finetune(epochs=15, lr=5e-3, max_forgetting=0.3, rows=relabelled(rows, labels)).run(
        adopted("MLP"), tmp_path
    )
    assert f"; put aside: the label '{slip}' of askew digits (1 of {len(rows):,} rows) is none" in reports[0].why
    kept = folder.reference(model.path)
    assert kept is not None
    assert kept.labels is not None
    assert set(kept.labels.tolist()) <= set(range(10))


def test_a_name_that_it_does_not_know_is_named(adopted: Any, digits: Any, tmp_path: Path) -> None:
    names = np.array(["cat"] * 40)
    with pytest.raises(BadData, match=r"the label 'cat'.* none of the model's .*--method transfer"):
        Finetune(rows=relabelled(digits[0].head(40), names)).run(adopted("MLP"), tmp_path)


def test_nineteen_rows_are_too_few(adopted: Any, digits: Any, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"19 labelled rows are too few .*; give 20 at least"):
        Finetune(rows=digits[0].head(19)).run(adopted("MLP"), tmp_path)


def test_rows_without_labels_are_refused(adopted: Any, digits: Any, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="an update learns from labelled rows"):
        Finetune(rows=relabelled(digits[0].head(40), None)).run(adopted("MLP"), tmp_path)


def test_no_rows_at_all_are_refused(adopted: Any, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="labelled rows"):
        Finetune().run(adopted("MLP"), tmp_path)


def test_another_format_is_refused(adopted: Any, digits: Any, tmp_path: Path) -> None:
    model = Model(adopted("MLP").path, "onnx", adopted("MLP").signature, adopted("MLP").files)
    with pytest.raises(Unsupported, match="only PyTorch models can be trained, and this is 'onnx'"):
        Finetune(rows=digits[0].head(40)).run(model, tmp_path)


def test_names_of_classes_are_taken_for_their_numbers(nets: Path, trained: Any, digits: Any, tmp_path: Path) -> None:
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    trained("MLP")
    model = formats.adopt(nets / "MLP.pt", tmp_path / "named", factory="nets:MLP", data=digits[0], labels=names)
    rows = askew(digits[0].head(500))
    rows = relabelled(rows, np.array(names)[rows.labels])
    made, _ = Finetune(epochs=20, lr=5e-3, max_forgetting=1.0, rows=rows).run(model, tmp_path / "made")
    assert made.labels == names
    assert accuracy(made, askew(digits[1])) > accuracy(model, askew(digits[1])) + 0.1


def test_an_exported_program_is_trained_too(trained: Any, digits: Any, tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(trained("MLP"), (torch.zeros(2, 64),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "digits.pt2")
    model = formats.adopt(tmp_path / "digits.pt2", tmp_path / "model", data=digits[0])
    made, _ = Finetune(epochs=20, lr=5e-3, max_forgetting=1.0, rows=askew(digits[0].head(500))).run(
        model, tmp_path / "made"
    )
    assert made.format == "torch-export"
    assert accuracy(made, askew(digits[1])) > accuracy(model, askew(digits[1])) + 0.1


def test_the_table_of_methods(digits: Any) -> None:
    assert update.step("finetune", epochs=3) == Finetune(epochs=3)
    with pytest.raises(Unsupported, match="no way to update called 'guess'; there are: finetune, transfer"):
        update.step("guess")


def test_replay_mixes_old_rows_in_and_takes_none_twice_while_there_are_enough(digits: Any) -> None:
    new, old = digits[0].head(10), digits[1].head(30)
    ours = {row.tobytes() for row in old.inputs["pixels"]}

    def replayed(replay: float) -> list[bytes]:
        pixels = np.asarray(mix(new, old, replay, seed=0).inputs["pixels"])
        assert np.array_equal(pixels[:10], new.inputs["pixels"])
        return [row.tobytes() for row in pixels[10:]]

    assert replayed(0) == []
    assert len(set(replayed(2.0))) == len(replayed(2.0)) == 20
    assert set(replayed(2.0)) < ours
    assert len(replayed(5.0)) == 50
    assert set(replayed(5.0)) == ours
    assert mix(new, None, 2.0, seed=0) is new


def test_pictures_are_held_out_and_mixed_without_copies() -> None:
    new, old = (Dataset({"x": np.zeros((40, 3, 224, 224), np.float32)}, np.arange(40) % 2, "made") for _ in range(2))
    tracemalloc.start()
    parts = gate.split(new, old, share=0.25, seed=0)
    mixed = mix(parts.train, parts.old_train, 2.0, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(parts.held_out), len(mixed)) == (10, 90)
    assert peak < 3e6  # the pictures are 48 MB


def test_rows_among_the_reference_rows_never_judge_forgetting(adopted: Any, digits: Any, tmp_path: Path) -> None:
    """All reference rows come again as new ones, and nothing is left to judge what was forgotten by."""
    model = adopted("MLP")
    rows = relabelled(digits[0], (digits[0].labels + 1) % 10)
    _, reports = Finetune(epochs=10, lr=5e-3, rows=rows).run(model, tmp_path)
    (old,) = [r for r in reports if r.kind == "old rows"]
    assert old.ok is None
    assert "what was forgotten is not known" in old.why
    (training,) = [r for r in reports if r.kind == "training"]
    assert training.numbers["replayed"] == 0


def test_more_replay_forgets_less(adopted: Any, digits: Any, tmp_path: Path) -> None:
    drops = []
    for replay in (0.0, 2.0):
        step = Finetune(epochs=30, lr=5e-3, replay=replay, max_forgetting=1.0, rows=askew(digits[1].head(200)))
        _, reports = step.run(adopted("MLP"), tmp_path / str(replay))
        drops.append(next(r.numbers["drop"] for r in reports if r.kind == "old rows"))
    assert drops[1] < drops[0]


def test_a_model_that_gives_no_score_for_each_class_is_refused(nets: Path, digits: Any, tmp_path: Path) -> None:
    code = (nets / "nets.py").read_text() + (
        "\n\nclass Chooses(MLP):\n    def forward(self, pixels):\n        return super().forward(pixels).argmax(1)\n"
    )
    (tmp_path / "chooses.py").write_text(code)
    torch.save(torch.load(nets / "MLP.pt", weights_only=True), tmp_path / "chooses.pt")
    model = formats.adopt(tmp_path / "chooses.pt", tmp_path / "model", factory="chooses:Chooses", data=digits[0])
    with pytest.raises(
        BadModel, match=r"one score for each class, float \[\?, classes\]; this one gives output int64 \[batch\]"
    ):
        Finetune(rows=digits[0].head(40)).run(model, tmp_path / "into")


def test_rows_that_do_not_fit_are_refused(adopted: Any, digits: Any, tmp_path: Path) -> None:
    rows = Dataset({"pixels": np.zeros((40, 9), np.float32)}, np.zeros(40, np.int64), "narrow.npz")
    with pytest.raises(BadData, match=r"of narrow\.npz has shape \[40, 9\]"):
        Finetune(rows=rows).run(adopted("MLP"), tmp_path)


def test_an_option_that_a_method_lacks_is_refused_with_those_there_are() -> None:
    with pytest.raises(Unsupported, match="'finetune' has no option 'labels'; there are: epochs, lr, replay"):
        update.step("finetune", labels=("a",))
