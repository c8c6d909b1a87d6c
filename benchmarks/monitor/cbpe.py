"""Is the quality that modelkeep estimates without labels (CBPE) the real one, and does it say when it is not?

    python benchmarks/monitor/cbpe.py [--rows 2000] [--chunks 10] [--json FILE]

MODELKEEP_DATA names the folder of the data. Two perceptrons read MNIST under growing noise, one trained on clean
pictures, one on noisy ones; both are calibrated on 10,000 held-out clean rows. At each level, --chunks times --rows
live rows are answered: the estimated accuracy, F1 and AUC beside the real ones, their mean absolute difference (MAE) in
points, and after how many labels the assumption is found broken.

Then NannyML's synthetic_car_loan (50,000 + 50,000 rows, ten chunks), from its package, in the environment of others.py:
the estimates beside NannyML's own, and both against the real accuracy and AUC.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import mnist
import numpy as np
import others
from mnist import Array
from sklearn.metrics import f1_score, roc_auc_score

from modelkeep.monitor.estimated import Calibrated, Calibration, expected

NOISE = (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)
METRICS = ("accuracy", "f1", "auc")
MOST = 1.5
"""Points by which an estimate may be off, on average, while calibration holds."""
CHUNKS = 10
NANNYML = {
    "accuracy": (0.941792, 0.943321, 0.945492, 0.944816, 0.944645, 0.910714, 0.911149, 0.911193, 0.914389, 0.911731),
    "auc": (0.970744, 0.971011, 0.971407, 0.971091, 0.971123, 0.961090, 0.961825, 0.961073, 0.962533, 0.961316),
}
"""What NannyML estimates, chunk by chunk, by its documentation of binary classification."""
NANNYML_REAL = (0.9422, 0.9422, 0.9502, 0.9436, 0.941, 0.9146, 0.9156, 0.9144, 0.9224, 0.9122)
"""The real accuracy there, of the answers in the data: they take the second class from 0.65 on, ours from 0.5."""


@dataclass
class Level:
    """One level of noise: estimated and real, chunk by chunk, by metric; labels until calibration was found broken."""

    sigma: float
    estimated: dict[str, list[float]] = field(default_factory=dict)
    real: dict[str, list[float]] = field(default_factory=dict)
    broken_after: int | None = None
    labels: int = 0

    def error(self, metric: str) -> float:
        """Mean absolute difference, in points."""
        return 100 * mean_error(self.estimated[metric], self.real[metric])


def mean_error(one: Sequence[float], other: Sequence[float]) -> float:
    """Mean absolute difference."""
    return float(np.abs(np.array(one) - np.array(other)).mean())


def chances(scores: Array) -> Array:
    """[rows, classes] of logits → of probabilities."""
    values = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    shares: Array = values / values.sum(axis=1, keepdims=True)
    return shares


def real(scores: Array, truth: Array) -> dict[str, float]:
    """Accuracy, F1 (macro) and AUC as they are."""
    answers, binary = scores.argmax(axis=1), scores.shape[1] == 2
    area = roc_auc_score(truth, scores[:, 1] if binary else scores, **({} if binary else {"multi_class": "ovr"}))
    return {
        "accuracy": float((answers == truth).mean()),
        "f1": float(f1_score(truth, answers, average="macro")),
        "auc": float(area),
    }


def level(calibration: Calibration, sigma: float, chunks: Sequence[tuple[Array, Array]]) -> Level:
    """Estimate each chunk; then take its labels."""
    found, labels = Level(sigma), Calibrated(calibration, 1e6)
    for scores, truth in chunks:
        guess, so = expected(calibration, scores), real(scores, truth)
        for metric in METRICS:
            found.estimated.setdefault(metric, []).append(guess[metric].value)
            found.real.setdefault(metric, []).append(so[metric])
        right = scores.argmax(axis=1) == truth
        for row in range(len(truth)):
            labels.add(scores[row : row + 1], float(right[row]), float(row))
            found.labels += 1
            if found.broken_after is None and not labels.holds:
                found.broken_after = found.labels
    return found


def under_noise(learnt: mnist.Digits, known: mnist.Digits, live: mnist.Digits, rows: int, chunks: int) -> list[Level]:
    """One model, level by level."""
    found = []
    with tempfile.TemporaryDirectory() as room:
        model = mnist.made(mnist.trained(learnt), known, Path(room))
        with mnist.loaded(model) as ask:
            before = chances(ask(known.images))
            calibration = Calibration(before.max(axis=1), before.argmax(axis=1) == known.labels)
            rng = np.random.default_rng(0)
            for sigma in NOISE:
                given = []
                for chunk in range(chunks):
                    some = live.take(rng.choice(len(live.images), rows, replace=False))
                    some = mnist.noisy(sigma, chunk)(some) if sigma else some
                    given.append((chances(ask(some.images)), some.labels))
                found.append(level(calibration, sigma, given))
    return found


def tell(name: str, levels: Sequence[Level]) -> bool:
    """A table for a person; whether the estimates were good while calibration held."""
    print(
        f"\n{name}\n\n| noise σ | accuracy: estimated | real | MAE, points: accuracy | F1 | AUC | found broken after |"
    )
    print("|---|---|---|---|---|---|---|")
    for one in levels:
        estimated, so = (np.mean(side["accuracy"]) for side in (one.estimated, one.real))
        cells = " | ".join(f"{one.error(metric):.2f}" for metric in METRICS)
        broken = f"{one.broken_after:,} labels" if one.broken_after else f"not in {one.labels:,}"
        print(f"| {one.sigma:g} | {estimated:.1%} | {so:.1%} | {cells} | {broken} |")
    holding = [one for one in levels if one.broken_after is None]
    errors = {metric: float(np.mean([one.error(metric) for one in holding])) for metric in METRICS}
    told = ", ".join(f"{metric} {error:.2f}" for metric, error in errors.items())
    print(f"\nwhile calibration holds ({len(holding)} levels), MAE in points: {told}")
    return errors["accuracy"] <= MOST


def car_loan(estimate: Callable[[Calibration, Array], dict[str, float]]) -> dict[str, dict[str, list[float]]]:
    """By metric: ours, NannyML's and the real one, chunk by chunk."""
    folder = others.data()

    def column(name: str, *columns: str) -> list[Array]:
        with (folder / f"synthetic_car_loan_{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [np.array([float(row[one]) for row in rows]) for one in columns]

    before, truth = column("reference", "y_pred_proba", "repaid")
    (later,), (so,) = column("analysis", "y_pred_proba"), column("analysis_target", "repaid")
    scores = np.stack([1 - before, before], 1)
    calibration = Calibration(scores.max(axis=1), scores.argmax(axis=1) == truth)
    found: dict[str, dict[str, list[float]]] = {
        m: {"ours": [], "NannyML": list(NANNYML[m]), "real": []} for m in NANNYML
    }
    for few, right in zip(np.split(later, CHUNKS), np.split(so, CHUNKS), strict=True):
        scores = np.stack([1 - few, few], 1)
        guess, is_so = estimate(calibration, scores), real(scores, right)
        for metric in NANNYML:
            found[metric]["ours"].append(guess[metric])
            found[metric]["real"].append(is_so[metric])
    return found


def tell_car_loan(found: dict[str, dict[str, list[float]]]) -> bool:
    """A table for a person; whether ours are as close to the real ones as NannyML's."""
    print(
        "\nsynthetic_car_loan, chunks of 5,000\n\n| metric | whose | "
        + " | ".join(map(str, range(CHUNKS)))
        + " | MAE, points |"
    )
    print("|---" * (CHUNKS + 3) + "|")
    good = True
    for metric, by in found.items():
        errors = {whose: 100 * mean_error(values, by["real"]) for whose, values in by.items()}
        if metric == "accuracy":
            errors["NannyML"] = 100 * mean_error(by["NannyML"], NANNYML_REAL)
        good &= errors["ours"] <= errors["NannyML"] + 0.1
        for whose, values in by.items():
            print(f"| {metric} | {whose} | {' | '.join(f'{v:.4f}' for v in values)} | {errors[whose]:.2f} |")
    return good


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--chunks", type=int, default=10)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    learnt, known, live = mnist.load()
    both = {"trained on clean pictures": learnt, "trained on noisy pictures (σ 0.3)": mnist.noisy(0.3, 1)(learnt)}
    levels = {name: under_noise(rows, known, live, given.rows, given.chunks) for name, rows in both.items()}
    good = min([tell(name, found) for name, found in levels.items()])
    loans = car_loan(lambda calibration, scores: {m: one.value for m, one in expected(calibration, scores).items()})
    good &= tell_car_loan(loans)
    if given.json:
        numbers = {"mnist": {name: [asdict(one) for one in found] for name, found in levels.items()}, "car_loan": loans}
        given.json.write_text(json.dumps(numbers), encoding="utf-8")
    said = f"MAE of accuracy at most {MOST:g} points while calibration holds, and as close as NannyML's"
    print(f"\n{'ok' if good else 'NO'}  {said}")
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
