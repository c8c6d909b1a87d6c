"""What an update takes of a version's ancestors, or says where none can be trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelkeep import Keep
from modelkeep.data.dataset import Dataset
from modelkeep.errors import Regressed, Unsupported


def test_a_version_without_a_pytorch_ancestor_says_so(
    keep: Keep, added: str, digits: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    file = keep.model(keep.convert(added, "onnx")).main
    alone = keep.add(file, "alone")
    with pytest.raises(Unsupported, match=r"no PyTorch ancestor to train.*modelkeep convert alone@1 --to torch"):
        keep.update(alone, digits[0])
    with pytest.raises(Unsupported, match=r"no PyTorch ancestor to train"):
        keep.trainable(alone)


def test_what_scikit_learn_fitted_is_to_be_fitted_again(keep: Keep, tmp_path: Path) -> None:
    skops, linear = pytest.importorskip("skops.io"), pytest.importorskip("sklearn.linear_model")
    x = np.random.default_rng(0).normal(size=(64, 3))
    rows = Dataset({"X": x}, (x[:, 0] > 0).astype(np.int64), "made")
    skops.dump(linear.LogisticRegression().fit(x, rows.labels), tmp_path / "fit.skops")
    onnx = keep.convert(keep.add(tmp_path / "fit.skops", "fit", data=rows), "onnx")
    with pytest.raises(Unsupported, match=r"fit the estimator again .*\(modelkeep add fit FILE\)"):
        keep.update(onnx, rows)


def test_what_optimize_promised_is_held_to_after_an_update(
    keep: Keep,
    added: str,
    digits: tuple[Dataset, Dataset],
    turned: tuple[Dataset, Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [(_, cheaper, _)] = keep.optimize(keep.convert(added, "onnx"), digits[1], max_drop=0.03)
    assert cheaper is not None
    learn = {"epochs": 20, "lr": 5e-3, "max_forgetting": 0.5}
    made = keep.update(cheaper, turned[0], **learn)
    assert made.made_by.startswith("Quantize(")
    [kept] = [report for report in made.reports if report.kind == "optimize"]
    assert kept.ok
    assert kept.numbers["max_drop"] == 0.03
    assert kept.why.endswith("of the 3.0% that were promised")
    before = len(keep.registry.versions("digits"))
    lost = np.ones(100, dtype=bool), np.arange(100) < 90
    monkeypatch.setattr("modelkeep.optimize.budget._right", lambda *_: lost)
    with pytest.raises(Regressed, match=r"the cheaper weights lose what was learned: accuracy 100.0% → 90.0%.*3.0%"):
        keep.update(made, turned[0], **learn | {"max_forgetting": 1.0, "seed": 1})
    assert len(keep.registry.versions("digits")) == before


def test_a_model_of_which_only_the_onnx_file_is_left_learns_again(
    keep: Keep, added: str, digits: tuple[Dataset, Dataset], turned: tuple[Dataset, Dataset]
) -> None:
    alone = keep.add(keep.model(keep.convert(added, "onnx")).main, "alone", data=digits[0])
    trainable = keep.convert(alone, "torch")
    served = keep.convert(trainable, "onnx")
    made = keep.update(served, turned[0].head(400), epochs=30, lr=3e-3, max_forgetting=1.0)
    assert [v.model.format for v in keep.lineage(made)] == ["onnx", "torch", "torch", "onnx"]
    new = turned[1]
    assert keep.score(made, new).numbers["accuracy"] > keep.score(alone, new).numbers["accuracy"] + 0.2
