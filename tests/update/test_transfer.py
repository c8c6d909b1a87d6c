"""A model that has never seen an 8 or a 9 learns both, and keeps what it knew."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadModel, ModelkeepError, Regressed, Unsupported
from modelkeep.model import engines, folder, formats, score
from modelkeep.model.formats import torch as torch_format
from modelkeep.model.formats import torch_head
from modelkeep.train import loop
from modelkeep.types import Model
from modelkeep.update import gate
from modelkeep.update.finetune import Finetune
from modelkeep.update.transfer import Transfer

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits" / "digits_mlp.py"
TEN = tuple("0123456789")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def below(rows: Dataset, classes: int) -> Dataset:
    return rows.take(np.flatnonzero(rows.labels < classes))  # type: ignore[operator]


def accuracy(model: Model, rows: Dataset) -> float:
    with contextlib.closing(engines.load(model)) as runner:
        return float(score.correct(runner, rows, model.labels).mean())


@pytest.fixture(scope="module")
def eight(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """examples/digits, trained on 0 to 7 only."""
    torch.set_num_threads(1)
    room = tmp_path_factory.mktemp("eight")
    (room / "digits_mlp.py").write_text(EXAMPLE.read_text())
    scope: dict[str, Any] = {"__name__": "digits_mlp"}
    exec(compile(EXAMPLE.read_text(), str(EXAMPLE), "exec"), scope)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = scope["EightClasses"]()
    known = below(digits[0], 8)
    loop.fit(module, known, epochs=15, lr=3e-3)
    torch.save(module.state_dict(), room / "eight.pt")
    factory = {"factory": "digits_mlp:EightClasses", "data": known, "labels": TEN[:8]}
    return formats.adopt(room / "eight.pt", room / "model", **factory)


@pytest.fixture(scope="module")
def grown(eight: Model, digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return Transfer(TEN, epochs=40, rows=digits[0]).run(eight, tmp_path_factory.mktemp("grown"))


def test_it_tells_how_far_both_phases_are(eight: Model, digits: Any, tmp_path: Path) -> None:
    told: list[tuple[float, float, str]] = []
    Transfer(TEN, epochs=12, floor=0.0, max_forgetting=1.0, rows=digits[0], progress=lambda *on: told.append(on)).run(
        eight, tmp_path
    )
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert {total for _, total, _ in told} == {12}
    assert told[0][2] == "the head alone: epoch 1 of 3"
    assert next(note for done, _, note in told if done == 3) == "everything: epoch 1 of 9"


def test_old_logits_are_the_same_right_after_growing(eight: Model, digits: Any) -> None:
    module = torch_format.module(eight)
    pixels = torch.from_numpy(digits[1].inputs["pixels"])
    with torch.no_grad():
        before = module(pixels)
        torch_head.resize(module, torch_head.find(module), 10)
        after = module(pixels)
    torch.testing.assert_close(after[:, :8], before, rtol=0, atol=1e-5)


def test_knows_all_ten(grown: Any, eight: Model, digits: Any) -> None:
    test = digits[1]
    before, after, known = accuracy(eight, test), accuracy(grown[0], test), accuracy(grown[0], below(test, 8))
    new = test.take(np.flatnonzero(test.labels >= 8))
    assert before < 0.82
    assert after > 0.93
    assert known > accuracy(eight, below(test, 8)) - 0.04
    assert accuracy(grown[0], new) > 0.85


def test_says_so(grown: Any) -> None:
    model, reports = grown
    assert model.labels == TEN
    assert model.signature.outputs[0].shape == (None, 10)
    by_kind = {report.kind: report for report in reports}
    assert by_kind["new classes"].ok is True
    assert by_kind["new classes"].numbers["accuracy"] > 0.85
    assert by_kind["old rows"].ok is True
    assert any("grown from 8 to 10 classes" in report.why for report in reports)


def test_what_it_made_is_read_back_and_grows_and_learns_again(grown: Any, digits: Any, tmp_path: Path) -> None:
    read = folder.read(grown[0].path)
    assert torch_format.module(read)(torch.zeros(3, 64)).shape == (3, 10)
    upside_down = Dataset({"pixels": digits[0].inputs["pixels"][:, ::-1].copy()}, digits[0].labels, "upside down")
    tuned, _ = Finetune(epochs=15, lr=5e-3, max_forgetting=1.0, rows=upside_down).run(read, tmp_path)
    again = folder.read(tuned.path)
    assert again.options["head"]["outputs"] == 10
    assert accuracy(again, upside_down) > accuracy(read, upside_down) + 0.3


@pytest.mark.parametrize("labels", [tuple("1023456789"), (*"89", *"01234567"), (*"0123456", "8", "7", "9")])
def test_another_order_of_the_known_classes_is_refused(
    labels: tuple[str, ...], eight: Model, digits: Any, tmp_path: Path
) -> None:
    with pytest.raises(BadData, match=r"known must come first and keep their order: 0,1,2,3,4,5,6,7,…"):
        Transfer(labels, rows=digits[0]).run(eight, tmp_path)
    assert not (tmp_path / folder.MODEL_FILE).exists()


@pytest.mark.parametrize("count", [7, 8])
def test_no_more_classes_than_it_has_are_refused(count: int, eight: Model, digits: Any, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=f"the model has 8 classes and --classes names {count}; name more than it has"):
        Transfer(TEN[:count], rows=digits[0]).run(eight, tmp_path)


def test_a_label_that_is_not_among_the_classes_is_refused(eight: Model, digits: Any, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"the label .*9.* is none of"):
        Transfer(TEN[:9], rows=digits[0]).run(eight, tmp_path)


def test_rows_without_new_classes_are_refused(eight: Model, digits: Any, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="new classes"):
        Transfer(TEN, rows=below(digits[0], 8)).run(eight, tmp_path)


def test_rows_of_new_classes_alone_never_pass_for_the_old_ones(eight: Model, digits: Any, tmp_path: Path) -> None:
    """Either the old rows that the model keeps are enough, or the update is refused; it never forgets silently."""
    new = digits[0].take(np.flatnonzero(digits[0].labels >= 8))
    try:
        made, _ = Transfer(TEN, epochs=20, rows=new).run(eight, tmp_path)
    except ModelkeepError as refused:
        assert "forget" in str(refused)  # noqa: PT017  (either answer is right)
    else:
        assert accuracy(made, below(digits[1], 8)) > accuracy(eight, below(digits[1], 8)) - 0.06


@pytest.mark.parametrize("rows", ["unlabelled", "few", None])
def test_rows_that_cannot_teach_are_refused(rows: str | None, eight: Model, digits: Any, tmp_path: Path) -> None:
    few = digits[0].take(np.flatnonzero(digits[0].labels >= 8)[:19])
    given = {"unlabelled": Dataset(digits[0].inputs, None, "rows"), "few": few, None: None}[rows]
    with pytest.raises(BadData, match="labelled rows"):
        Transfer(TEN, rows=given).run(eight, tmp_path)


def test_classes_that_are_not_learned_are_refused(eight: Model, digits: Any, tmp_path: Path) -> None:
    """8 and 9 mixed up by chance cannot both be right."""
    labels = digits[0].labels.copy()
    new = labels >= 8
    labels[new] = np.random.default_rng(0).integers(8, 10, new.sum())
    with pytest.raises(Regressed, match=r"the new classes were not learned: .*%.* and 90% were asked for"):
        Transfer(TEN, epochs=8, floor=0.9, rows=Dataset(digits[0].inputs, labels, "mixed up")).run(eight, tmp_path)
    assert not (tmp_path / folder.MODEL_FILE).exists()


def test_another_format_is_refused(eight: Model, digits: Any, tmp_path: Path) -> None:
    model = Model(eight.path, "onnx", eight.signature, eight.files)
    with pytest.raises(Unsupported, match="only PyTorch models can be trained, and this is 'onnx'"):
        Transfer(TEN, rows=digits[0]).run(model, tmp_path)


def test_a_module_without_linear_is_refused(digits: Any, tmp_path: Path) -> None:
    (tmp_path / "convs.py").write_text(
        "from torch import nn\n\n\ndef build():\n"
        "    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 8), nn.Flatten())\n"
    )
    module = torch.nn.Sequential(torch.nn.Unflatten(1, (1, 8, 8)), torch.nn.Conv2d(1, 8, 8), torch.nn.Flatten())
    torch.save(module.state_dict(), tmp_path / "convs.pt")
    model = formats.adopt(tmp_path / "convs.pt", tmp_path / "model", factory="convs:build", data=digits[0])
    with pytest.raises(BadModel, match=r"has no Linear layer.* that could be grown for new classes"):
        Transfer(TEN, rows=digits[0]).run(model, tmp_path / "into")


def test_new_classes_alone_are_enough_where_old_rows_are_kept(eight: Model, digits: Any, tmp_path: Path) -> None:
    new = digits[0].take(np.flatnonzero(digits[0].labels >= 8))
    made, reports = Transfer(TEN, rows=new).run(eight, tmp_path)
    assert accuracy(made, below(digits[1], 8)) > accuracy(eight, below(digits[1], 8)) - 0.06
    assert accuracy(made, digits[1]) > 0.9
    training = next(r for r in reports if r.kind == "training")
    assert training.numbers["replayed"] > 0
    rows = folder.reference(made.path)
    assert rows is not None
    assert set(np.unique(rows.labels)) == set(range(10)), "monitor and the next update see all ten"  # type: ignore[arg-type]


def test_known_classes_are_filled_up_until_they_are_as_frequent(digits: Any) -> None:
    rows = digits[1].take(np.flatnonzero(digits[1].labels >= 7)[:60])
    parts = gate.Split(rows, rows, digits[0].take(np.flatnonzero(digits[0].labels < 8)[:40]), None)
    counts = np.bincount(Transfer(TEN, rows=rows)._filled(parts, 8).labels, minlength=10)
    before = np.bincount(rows.labels, minlength=10)
    assert counts[8:].tolist() == before[8:].tolist()
    assert counts[:8].tolist() == [max(round(before[8:].mean()), n) for n in before[:8]]


def test_the_report_says_by_how_much_growing_moved_the_old_logits(grown: Any) -> None:
    report = next(r for r in grown[1] if r.kind == "new classes")
    assert report.numbers["logits_moved"] < 1e-4
    assert set(report.numbers["each"]) == {"8", "9"}


def bare(model: Model, into: Path) -> Model:
    """Without reference rows."""
    shutil.copytree(model.path, into)
    (into / folder.REFERENCE).unlink()
    return model.moved(into)


def test_where_nothing_shows_what_is_forgotten_it_is_refused(eight: Model, digits: Any, tmp_path: Path) -> None:
    new = digits[0].take(np.flatnonzero(digits[0].labels >= 8))
    with pytest.raises(BadData, match="labelled rows of the known classes, so what would be forgotten cannot be seen"):
        Transfer(TEN, rows=new).run(bare(eight, tmp_path / "bare"), tmp_path / "into")
    made, _ = Transfer(TEN, rows=digits[0]).run(bare(eight, tmp_path / "again"), tmp_path / "made")
    assert accuracy(made, digits[1]) > 0.9


def test_forgetting_is_refused(eight: Model, digits: Any, tmp_path: Path) -> None:
    labels = digits[1].labels.copy()
    known = labels < 8
    labels[known] = np.random.default_rng(0).permutation(labels[known])
    rows = Dataset(digits[1].inputs, labels, "known digits mixed up")
    with pytest.raises(Regressed, match=r"the update forgets: .* old rows right .* over the 10\.0% allowed"):
        Transfer(TEN, rows=rows).run(eight, tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_new_class_with_few_rows_is_named(eight: Model, digits: Any, tmp_path: Path) -> None:
    nines = np.flatnonzero(digits[0].labels == 9)
    rows = digits[0].take(np.setdiff1d(np.arange(len(digits[0])), nines[4:]))
    with pytest.raises(BadData, match=r"too few rows of the new classes 9 \(4\); give 5 of each at least"):
        Transfer(TEN, rows=rows).run(eight, tmp_path)


def test_a_class_named_twice_is_refused(eight: Model, digits: Any, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="the classes 0,1,2,3,4,5,6,7,8,8 name one of them twice"):
        Transfer((*TEN[:8], "8", "8"), rows=digits[0]).run(eight, tmp_path)


def test_an_exported_program_is_refused_with_the_way_out(eight: Model, digits: Any, tmp_path: Path) -> None:
    model = Model(eight.path, "torch-export", eight.signature, eight.files)
    with pytest.raises(Unsupported, match=r"could be grown; add the model as weights, with --factory"):
        Transfer(TEN, rows=digits[0]).run(model, tmp_path)


TWISTED = """
from torch import nn


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.scale = nn.Linear(64, 8), nn.BatchNorm1d(8)

    def forward(self, pixels):
        return self.scale(self.head(pixels))


class Inside(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.last = nn.Linear(64, 8), nn.Conv1d(1, 8, 64)

    def forward(self, pixels):
        return self.last(pixels[:, None])[:, :, 0] + self.inside(pixels).mean()
"""


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Scaled", "layer 'head' was grown, but what follows it takes 8 values only"),
        ("Inside", "growing layer 'inside' does not grow the answers: it is not the module's last"),
    ],
)
def test_a_layer_that_is_not_the_last_is_not_grown(name: str, sentence: str, digits: Any, tmp_path: Path) -> None:
    (tmp_path / "twisted.py").write_text(TWISTED)
    scope: dict[str, Any] = {"__name__": "twisted"}
    exec(compile(TWISTED, "twisted", "exec"), scope)
    torch.save(scope[name]().state_dict(), tmp_path / "twisted.pt")
    known = below(digits[0], 8)
    model = formats.adopt(tmp_path / "twisted.pt", tmp_path / "model", factory=f"twisted:{name}", data=known)
    with pytest.raises(BadModel, match=sentence):
        Transfer(TEN, rows=digits[0]).run(model, tmp_path / "into")
    assert not (tmp_path / "into").exists()
