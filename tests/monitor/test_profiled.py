"""Answers that lack an output count for no drift, and it is said how many do, whether a server counts or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data.bins import Bins
from modelkeep.data.features import Columns
from modelkeep.data.profiles import Chunk, ProfileLog
from modelkeep.data.traffic import Exchange, TrafficLog
from modelkeep.model.baseline import Baseline, Subject
from modelkeep.monitor import profiled
from modelkeep.monitor.judged import Judged
from modelkeep.monitor.limits import Limits
from modelkeep.monitor.look import Run
from modelkeep.types import Model, Signature, TensorSpec

ROWS = {name: np.random.default_rng(0).normal(size=(160, 1)).astype("float32") for name in ("x", "price", "days")}
SPECS = {name: TensorSpec(name, "float32", (None, 1)) for name in ROWS}
SUBJECTS = {"inputs": ("x",), "answers": ("price", "days")}


def subject(name: str) -> Subject:
    columns = Columns.of([SPECS[one] for one in SUBJECTS[name]], ROWS, answers=name == "answers")
    return Subject(columns, Bins.of(columns.read(ROWS), columns.edges))


@pytest.fixture
def known() -> Baseline:
    return Baseline(subject("inputs"), subject("answers"))


def run(home: Path, known: Baseline, *, outputs: tuple[str, ...] = SUBJECTS["answers"], most: int | None = None) -> Run:
    signature = Signature((SPECS["x"],), tuple(SPECS[name] for name in outputs))
    model = Model(home, "onnx", signature, ("model.onnx",))
    return Run(Judged("house", 1, model, home, Limits(), known, most))


def count(home: Path, known: Baseline, **numbers: int) -> None:
    """So many requests, as a server counts them."""
    log = ProfileLog(home / "profiles.db")
    for name, n in numbers.items():
        one = known.subject(name)
        assert one is not None
        counts = one.bins.tally(one.bins.place(one.columns.read(ROWS)), np.full(160, n / 160))
        log.offer([Chunk(1e6, 1e6 + 1, "house", 1, "live", name, one.bins.form, n, counts)])
    log.close()


def test_a_busy_model_pushes_no_counts_out(tmp_path: Path, known: Baseline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiled, "RUN", 10)
    count(tmp_path, known, inputs=100, answers=100)
    log = ProfileLog(tmp_path / "profiles.db")
    log.offer([Chunk(1e6, 1e6 + 1, "busy", 1, "live", "inputs", "f", 16, np.ones((1, 2)))] * 50)
    log.close()
    assert run(tmp_path, known).look().n == 100


def test_what_a_server_did_not_count_is_said(tmp_path: Path, known: Baseline) -> None:
    count(tmp_path, known, inputs=100, answers=60)
    note = "the answers to 40 requests looked at count for no drift: their clients asked for some of the outputs only"
    assert run(tmp_path, known).look().notes == (note,)
    count(tmp_path, known, inputs=100, answers=100)
    assert run(tmp_path, known).look().notes == (note,)


def test_nothing_is_said_while_not_all_is_read(tmp_path: Path, known: Baseline) -> None:
    """Of a request's inputs and answers the one may be read and the other not."""
    count(tmp_path, known, inputs=100, answers=100)
    beside = run(tmp_path, known, most=1)
    assert [beside.look().notes for _ in range(3)] == [(), (), ()]


def test_nor_where_there_is_one_output(tmp_path: Path, known: Baseline) -> None:
    count(tmp_path, known, inputs=100)
    assert run(tmp_path, known, outputs=("price",)).look().notes == ()


def test_what_was_captured_without_an_output_is_said(tmp_path: Path, known: Baseline) -> None:
    log = TrafficLog(tmp_path / "traffic.db")
    for at in range(40):
        outputs: dict[str, Any] = {"price": ROWS["price"][[at]], "days": ROWS["days"][[at]]}
        if at < 8:
            del outputs["days"]
        arrays: dict[str, Any] = {"inputs": {"x": ROWS["x"][[at]]}, "outputs": outputs}
        log.offer(Exchange(f"r{at}", 1e6 + at, "house", 1, "live", "ok", 0.01, **arrays))
    log.close()
    looked = run(tmp_path, known).look()
    assert looked.numbers["inputs"]["n"] == looked.numbers["answers"]["n"] == 32
    assert looked.notes == (
        "the answers to 8 requests captured count for no drift: their clients asked for some of the outputs only",
    )
