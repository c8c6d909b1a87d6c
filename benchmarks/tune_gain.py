"""What does tune gain over the naive setting, and does its short search find what an exhaustive one finds?

    python benchmarks/tune_gain.py [--models mlp,resnet18,bert-small] [--windows 2] [--quick] [--json FILE]

Each model tells 8×8 scanned digits apart (scikit-learn's; ResNet-18 sees them at 224×224, BERT-small reads them as 64
tokens), with random weights below a last layer that is solved for, so that accuracy means something: settings whose
accuracy drops by more than 2 points (paired, one-sided 95 %) take no part, in neither search.

1. `tune` searches within its budget. Its measurements are counted.
2. Exhaustive: every setting of the same space is measured --windows times, in rounds, each as long as tune's.
3. Naive setting (ONNX Runtime's defaults, one row at a time), tune's winner and the exhaustive best, in nine rounds of
   all three, measured anew: the ratios of winner to naive and of winner to best, with the sign test's interval (96 %).

--quick takes the perceptron and a few settings only, to see that it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import MLP, BertSmall, ResNet18
from sklearn.datasets import load_digits
from torch import Tensor, nn

from modelkeep.data.dataset import Dataset
from modelkeep.model import folder, formats
from modelkeep.tune import machine, space
from modelkeep.tune.admit import Admission, admitted
from modelkeep.tune.halving import Promise, Race
from modelkeep.tune.results import label
from modelkeep.tune.rounds import Entrant, Rounds
from modelkeep.tune.search import PAIRS, Tune, requests
from modelkeep.types import Model

MAX_DROP, JUDGED, REFERENCE, CONCURRENCY = 0.02, 300, 32, 16
ENOUGH, FEW_ENOUGH = 0.95, 0.10
"""What the search must reach of the best setting, with what share of the exhaustive search's measurements."""
FEW = 6
"""Settings of a --quick run."""
Net = MLP | ResNet18 | BertSmall


@dataclass(frozen=True)
class Case:
    """One model, the promise (seconds) and the budget of tune's search (seconds)."""

    build: Callable[[], Net]
    inputs: Callable[[np.ndarray], np.ndarray]
    train: int
    p99: float
    budget: float


def pixels(x: np.ndarray) -> np.ndarray:
    """[rows, 64] → [rows, 784]: 28×28, as MNIST has them."""
    return _resized(x, 28).reshape(len(x), 784)


def images(x: np.ndarray) -> np.ndarray:
    """[rows, 64] → [rows, 3, 224, 224]."""
    return np.repeat(_resized(x, 224), 3, axis=1)


def tokens(x: np.ndarray) -> np.ndarray:
    """[rows, 64] → [rows, 64]: place and grey value in one number."""
    numbers: np.ndarray = np.arange(64) * 17 + x
    return numbers.astype(np.int64)


def _resized(x: np.ndarray, size: int) -> np.ndarray:
    grey = torch.from_numpy(x).float().reshape(-1, 1, 8, 8) / 16
    return nn.functional.interpolate(grey, size=(size, size), mode="bilinear").numpy()


CASES = {
    "mlp": Case(MLP, pixels, 1000, 0.05, 20.0),
    "resnet18": Case(lambda: ResNet18(10), images, 300, 2.0, 100.0),
    "bert-small": Case(lambda: BertSmall(10), tokens, 600, 2.0, 60.0),
}


# ── a model that knows something ─────────────────────────────────────────────────────────────────────────────────────


def made(case: Case, into: Path) -> tuple[Model, Dataset]:
    """The model in ONNX with reference rows, and the rows that accuracy is judged on."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = case.inputs(x[order][: case.train + JUDGED]), y[order][: case.train + JUDGED]
    torch.manual_seed(0)
    module = case.build().eval()
    solve(module, torch.from_numpy(x[: case.train]), torch.from_numpy(y[: case.train]))
    rows = Dataset({"x": x}, y, "digits")
    few = rows.take(slice(0, REFERENCE))
    example = torch.from_numpy(x[:2])
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.onnx.export(
        module, (example,), dynamo=True, dynamic_shapes=shapes, input_names=["x"], verbose=False
    )
    assert program is not None
    (into / "made").mkdir(parents=True)
    program.save(into / "made" / "model.onnx", external_data=False)
    model = formats.adopt(into / "made" / "model.onnx", into / "model", data=few)
    return folder.read(model.path), rows.take(slice(case.train, case.train + JUDGED))


def solve(module: Net, x: Tensor, y: Tensor) -> None:
    """The last layer by ridge regression on what comes out of the layers below."""
    with torch.inference_mode():
        seen = torch.cat([module.read(x[at : at + 32]) for at in range(0, len(x), 32)]).double()
    middle, spread = seen.mean(0), seen.std(0) + 1e-9
    seen = torch.cat([(seen - middle) / spread, torch.ones(len(seen), 1)], 1)
    inner = seen.T @ seen + 0.1 * len(seen) * torch.eye(seen.shape[1])
    weights = torch.linalg.solve(inner, seen.T @ nn.functional.one_hot(y, 10).double())
    module.head.weight.data = (weights[:-1] / spread[:, None]).T.float().contiguous()
    module.head.bias.data = (weights[-1] - (middle / spread) @ weights[:-1]).float()


# ── the searches ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def exhaustive(
    model: Model, found: Any, arms: Sequence[Entrant], case: Case, windows: int, quick: bool
) -> dict[str, Any]:
    """Measure every setting, then the three that matter, against each other."""
    searched = space.space(model, p99=case.p99, concurrency=CONCURRENCY)
    engines = {(e.config.engine, e.config.precision, e.config.threads, e.config.workers) for e in arms}
    every = [Entrant(c) for c in searched.settings() if (c.engine, c.precision, c.threads, c.workers) in engines]
    naive, winner = Entrant(space.naive(model)), Entrant(found.config)
    if quick:
        every = every[:FEW]
    seconds = found.report.numbers["measurements"]["seconds"]
    done = 0

    def tell(entrant: Entrant) -> None:
        nonlocal done
        done += 1
        if sys.stderr.isatty() or not done % 50:
            print(f"  {done} measured, now {label(entrant.config)}", file=sys.stderr)

    rounds = Rounds({"": model}, requests(model), concurrency=CONCURRENCY, end=math.inf, seed=1, tell=tell)
    race = Race(rounds, Promise(case.p99), seconds)
    try:
        for _ in range(windows):
            await rounds.measure([naive, *(e for e in every if e != naive)], seconds)
        spent = rounds.made
        best = race.ranked()[0]
        fresh = Rounds({"": model}, requests(model), concurrency=CONCURRENCY, end=math.inf, seed=2)
        try:
            for _ in range(PAIRS):
                await fresh.measure(list(dict.fromkeys((naive, winner, best))), 2 * seconds)
        finally:
            await fresh.close()
    finally:
        await rounds.close()
    return {
        "measurements": spent,
        "settings": len(every) + 1,
        "best": label(best.config),
        "gain": interval(fresh.ratios(winner, naive)),
        "of_the_best": interval(fresh.ratios(winner, best)),
        "naive_throughput": fresh.measured(naive).throughput,
        "winner_throughput": fresh.measured(winner).throughput,
    }


def interval(ratios: Sequence[float]) -> dict[str, float]:
    """Median, and the second smallest and second largest of nine."""
    ordered = sorted(ratios)
    spare = int(len(ordered) >= PAIRS)
    return {"ratio": float(np.median(ordered)), "low": ordered[spare], "high": ordered[-1 - spare]}


def measure(name: str, case: Case, windows: int, quick: bool) -> dict[str, Any]:
    """All of one model's numbers."""
    with tempfile.TemporaryDirectory() as room:
        model, judged = made(case, Path(room))
        began = time.monotonic()
        budget = 6.0 if quick else case.budget
        search = Tune(case.p99, budget, CONCURRENCY, max_drop=MAX_DROP, rows=judged)
        found = search.run(model)
        took = time.monotonic() - began
        refused: dict[Entrant, str] = {}
        arms = [Entrant(c) for c in space.space(model, p99=case.p99, concurrency=CONCURRENCY).arms]
        arms = asyncio.run(admitted(Admission({"": model}, judged, MAX_DROP), arms, refused))
        began = time.monotonic()
        numbers = asyncio.run(exhaustive(model, found, arms, case, windows, quick))
    counted = found.report.numbers["measurements"]
    return {
        "model": name,
        "winner": label(found.config),
        "why": found.report.why,
        "search_measurements": counted["made"] - counted["proof"],
        "proof_measurements": counted["proof"],
        "search_seconds": took,
        "exhaustive_seconds": time.monotonic() - began,
        "refused": sorted({f"{e.config.engine} {e.config.precision or ''}: {why}" for e, why in refused.items()}),
        **numbers,
    }


def show(found: dict[str, Any]) -> None:
    """One model's lines."""
    gain, share = found["gain"], found["of_the_best"]
    spent = found["search_measurements"] / found["measurements"]
    print(f"{found['model']}: {found['winner']}")
    print(
        f"  {gain['ratio']:.2f}× the naive setting ({gain['low']:.2f} to {gain['high']:.2f}): "
        f"{found['winner_throughput']:.4g} requests/s instead of {found['naive_throughput']:.4g}"
    )
    print(
        f"  {share['ratio']:.1%} ({share['low']:.1%} to {share['high']:.1%}) of the best that an exhaustive search "
        f"finds, {found['best']}"
    )
    print(
        f"  with {found['search_measurements']} of its {found['measurements']} measurements ({spent:.1%}), and "
        f"{found['proof_measurements']} more for the proof; {found['search_seconds']:.0f} s instead of "
        f"{found['exhaustive_seconds']:.0f} s"
    )
    for why in found["refused"]:
        print(f"  left out: {why}")
    ok = "ok" if share["ratio"] >= ENOUGH and spent <= FEW_ENOUGH else "NO"
    print(f"  {ok}  at least {ENOUGH:.0%} of the best, with at most {FEW_ENOUGH:.0%} of the measurements")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--windows", type=int, default=2, help="of each setting in the exhaustive search")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    here = machine.describe()
    print(f"{here['processor']}, {here['cores']} cores, {', '.join(here['instruction_sets'])}")
    results = []
    for name in ["mlp"] if given.quick else given.models.split(","):
        results.append(measure(name, CASES[name], 1 if given.quick else given.windows, given.quick))
        show(results[-1])
    if given.json:
        given.json.write_text(json.dumps({"machine": here, "models": results}, indent=2))


if __name__ == "__main__":
    main()
