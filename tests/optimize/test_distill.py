"""A student a quarter the size that answers nearly as its teacher does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadModel
from modelkeep.model import engines, folder, formats, score
from modelkeep.optimize.distill import Distill
from modelkeep.types import Model

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def accuracy(model: Model, rows: Dataset) -> float:
    with contextlib.closing(engines.load(model)) as runner:
        return float(score.correct(runner, rows, model.labels).mean())


def agreement(a: Model, b: Model, rows: Dataset) -> float:
    with contextlib.closing(engines.load(a)) as one, contextlib.closing(engines.load(b)) as two:
        found = [score.predictions(r.run(rows.inputs), r.signature) for r in (one, two)]
    return float((found[0] == found[1]).mean())


@pytest.fixture(scope="module")
def teacher(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """examples/digits with its 128 hidden units."""
    torch.set_num_threads(1)
    room = tmp_path_factory.mktemp("teacher")
    (room / "digits_mlp.py").write_text((EXAMPLE / "digits_mlp.py").read_text())
    from modelkeep.model.formats import factories
    from modelkeep.train import loop

    factories.keep("digits_mlp:MLP", room, (room,))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = factories.build("digits_mlp:MLP", {}, room)
    loop.fit(module, digits[0], epochs=15, lr=3e-3)
    torch.save(module.state_dict(), room / "digits.pt")
    return formats.adopt(room / "digits.pt", room / "model", factory="digits_mlp:MLP", data=digits[0])


@pytest.fixture(scope="module")
def student(teacher: Model, digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    step = Distill("digits_mlp:Small", epochs=15, copies=1, rows=digits[0])
    return step.run(teacher, tmp_path_factory.mktemp("student"))


def test_is_nearly_as_good_at_a_third_of_the_size(student: Any, teacher: Model, digits: Any) -> None:
    before, after = accuracy(teacher, digits[1]), accuracy(student[0], digits[1])
    assert before > 0.93
    assert after > before - 0.03
    assert student[0].size < teacher.size / 2


def test_agrees_with_its_teacher(student: Any, teacher: Model, digits: Any) -> None:
    assert agreement(teacher, student[0], digits[1]) > 0.94


def test_keeps_signature_factory_and_rows(student: Any, teacher: Model) -> None:
    model = folder.read(student[0].path)
    assert model.signature == teacher.signature
    assert model.options["factory"] == "digits_mlp:Small"
    assert (model.path / "code" / "digits_mlp.py").is_file()
    assert (model.path / folder.REFERENCE).read_bytes() == (teacher.path / folder.REFERENCE).read_bytes()


def test_reports_the_size_and_the_loss(student: Any, teacher: Model) -> None:
    model, (report,) = student
    assert report.kind == "distill"
    assert report.numbers["size_ratio"] == pytest.approx(model.size / teacher.size)
    assert report.numbers["loss_last"] < report.numbers["loss_first"]
    assert f"{model.size:,} bytes instead of {teacher.size:,}" in report.why


def test_learns_from_the_teacher_where_the_labels_are_wrong(teacher: Model, digits: Any, tmp_path: Path) -> None:
    """alpha = 1 takes no notice of labels at all."""
    wrong = np.random.default_rng(0).permutation(digits[0].labels)
    rows = Dataset(digits[0].inputs, wrong, "wrong labels")
    made, _ = Distill("digits_mlp:Small", epochs=8, copies=0, alpha=1.0, rows=rows).run(teacher, tmp_path)
    assert accuracy(made, digits[1]) > 0.85


def test_needs_no_labels(teacher: Model, digits: Any, tmp_path: Path) -> None:
    rows = Dataset(digits[0].inputs, None, "no labels")
    made, _ = Distill("digits_mlp:Small", epochs=8, copies=0, rows=rows).run(teacher, tmp_path)
    assert accuracy(made, digits[1]) > 0.85


def test_takes_the_reference_rows_where_none_are_given(teacher: Model, tmp_path: Path) -> None:
    _, (report,) = Distill("digits_mlp:Small", epochs=1, copies=0).run(teacher, tmp_path)
    assert report.data == "reference rows"


def test_arguments_of_the_student_are_kept(adopted: Any, digits: Any, tmp_path: Path) -> None:
    step = Distill("nets:MLP", student_args={"hidden": 5}, epochs=1, rows=digits[0].head(50))
    made, _ = step.run(adopted("MLP"), tmp_path)
    assert made.options["factory_args"] == {"hidden": 5}
    assert accuracy(folder.read(made.path), digits[1]) >= 0


def test_without_any_rows_is_refused(teacher: Model, tmp_path: Path) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(teacher.path, bare)
    (bare / folder.REFERENCE).unlink()
    with pytest.raises(BadData, match="there are no rows to distil on; pass some, or add the model with --data"):
        Distill("digits_mlp:Small").run(teacher.moved(bare), tmp_path / "into")


def test_a_student_with_other_classes_is_refused(adopted: Any, digits: Any, tmp_path: Path) -> None:
    step = Distill("nets:MLP", student_args={"classes": 7}, epochs=1, rows=digits[0].head(50))
    with pytest.raises(BadModel, match=r"nets:MLP answers with .*\[7\].*10\].*give both the same classes"):
        step.run(adopted("MLP"), tmp_path)
    assert not (tmp_path / folder.MODEL_FILE).exists()


def test_a_student_that_takes_other_inputs_is_refused(
    adopted: Any, digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "narrow.py").write_text("from torch import nn\n\n\ndef build():\n    return nn.Linear(63, 10)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadModel, match=r"the student.* does not take the model's inputs.*: ") as refused:
        Distill("narrow:build", epochs=1, rows=digits[0].head(50)).run(adopted("MLP"), tmp_path / "into")
    assert "\n" not in str(refused.value)


def test_a_student_that_is_nowhere_is_refused(adopted: Any, digits: Any, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="module 'nowhere_to_be_found' of the factory"):
        Distill("nowhere_to_be_found:Small", epochs=1, rows=digits[0].head(50)).run(adopted("MLP"), tmp_path)
