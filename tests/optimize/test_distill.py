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


PROBABLE = '''
from torch import nn


class Probable(nn.Module):
    """The network of the tests, with softmax at its end."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, pixels):
        return self.head(self.hidden(pixels / 16).relu()).softmax(1)
'''


def test_a_teacher_that_gives_probabilities_teaches_as_well(trained: Any, digits: Any, tmp_path: Path) -> None:
    """Taken for logits, they would all be nearly the same."""
    trained("MLP")
    (tmp_path / "probable.py").write_text(PROBABLE + "\n\ndef small():\n    return nn.Linear(64, 10)\n")
    torch.save(trained("MLP").state_dict(), tmp_path / "probable.pt")
    teacher = formats.adopt(tmp_path / "probable.pt", tmp_path / "teacher", factory="probable:Probable", data=digits[0])
    step = Distill("probable:small", epochs=15, copies=0, rows=Dataset(digits[0].inputs, None, "no labels"))
    made, (report,) = step.run(teacher, tmp_path / "student")
    assert accuracy(made, digits[1]) > 0.85
    assert report.why.endswith("the model gives probabilities, the student logits")
    assert report.numbers["n"] == len(digits[0])
    assert report.numbers["agreement"] == pytest.approx(agreement(teacher, made, digits[0]))


def test_labels_may_be_names(nets: Path, trained: Any, digits: Any, tmp_path: Path) -> None:
    trained("MLP")
    names = tuple("abcdefghij")
    teacher = formats.adopt(nets / "MLP.pt", tmp_path / "named", factory="nets:MLP", data=digits[0], labels=names)
    few = digits[0].head(300)
    same = []
    for number, labels in enumerate((few.labels, np.array(names)[few.labels])):
        rows = Dataset(few.inputs, labels, "rows")
        made, _ = Distill("nets:MLP", {"hidden": 6}, epochs=2, alpha=0.5, rows=rows).run(
            teacher, tmp_path / str(number)
        )
        same.append((made.path / "weights.safetensors").read_bytes())
    assert same[0] == same[1]
    unknown = Dataset(few.inputs, np.array(["a", "z"] * 150), "odd.npz")
    with pytest.raises(BadData, match=r"the label 'z' of odd\.npz \(.* rows\) is none of the model's 10 classes"):
        Distill("nets:MLP", epochs=1, rows=unknown).run(teacher, tmp_path / "unknown")


def test_noise_makes_more_rows_and_none_makes_none(adopted: Any, digits: Any) -> None:
    few = digits[0].head(20)
    augmented = Distill("nets:MLP", copies=2, noise=0.1)._augmented(few)
    assert len(augmented) == 60
    assert augmented.labels is not None
    assert augmented.labels.tolist() == few.labels.tolist() * 3
    moved = augmented.inputs["pixels"][20:40] - few.inputs["pixels"]
    assert moved.std() == pytest.approx(0.1 * few.inputs["pixels"].std(), rel=0.1)
    assert augmented.inputs["pixels"].dtype == np.float32
    assert len(Distill("nets:MLP", noise=0.0)._augmented(few)) == 20
    words = Dataset({"ids": np.ones((5, 3), np.int64)}, None, "words")
    assert len(Distill("nets:MLP")._augmented(words)) == 5


def test_settings_outside_their_range_are_refused(adopted: Any, digits: Any, tmp_path: Path) -> None:
    from modelkeep.errors import BadSettings

    for wrong in ({"temperature": 0.0}, {"alpha": 2.0}, {"epochs": 0}):
        with pytest.raises(BadSettings, match=next(iter(wrong))):
            Distill("nets:MLP", rows=digits[0].head(40), **wrong).run(adopted("MLP"), tmp_path)
        assert not any(tmp_path.iterdir())
