"""Advice for a person who chooses a machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from modelkeep.tune import advice, machine
from modelkeep.types import ServeConfig

GIB = 2**30


def row(throughput: float, verdict: str = "", memory: int | None = None, of: str = "", **config: Any) -> dict[str, Any]:
    return {
        "of": of,
        "config": asdict(ServeConfig(**config)),
        "throughput": throughput,
        "memory": memory,
        "verdict": verdict,
    }


def test_every_instruction_set_that_is_looked_for_has_a_meaning_or_is_plain() -> None:
    assert set(advice.MEANING) <= set(machine.INSTRUCTION_SETS.values())


@pytest.mark.parametrize(
    ("sets", "word"),
    [
        (["AVX2", "AMX BF16"], "several times over float32"),
        (["AVX-512", "AVX-512 BF16"], "up to 2×"),
        (["AVX-512 VNNI (int8)"], "modelkeep optimize"),
        (["AVX2"], "float32 is the fastest here"),
    ],
)
def test_what_the_instructions_bring(sets: list[str], word: str) -> None:
    assert any(word in line for line in advice.on_instructions(sets))


def test_a_machine_before_anything_was_measured() -> None:
    told = advice.on_machine(["AVX2"], 1, 8 * GIB)
    assert any("no AMX" in line for line in told)
    assert "1 core: every run shares it with the server itself" in told
    assert any(line.startswith("8.0 GiB of memory") for line in told)
    assert not any("no AMX" in line for line in advice.on_machine(["AMX BF16"], 4, 0))


def test_what_was_measured_speaks_for_itself() -> None:
    rows = [
        row(100, threads=1, max_batch=8),
        row(190, threads=2, max_batch=8),
        row(180, threads=1, workers=2, max_batch=8),
        row(150, threads=1, max_batch=8, precision="bfloat16"),
        row(400, verdict="chosen", memory=300 * 2**20, threads=2, max_batch=16, precision="bfloat16"),
        row(9000, of="m@3", threads=2, max_batch=8),
    ]
    price = {"per_hour": 2.0, "winner_per_million": 1.39, "naive_per_million": 9.0}
    told = advice.on_report({"candidates": rows, "price": price, "throughput": 400.0}, 2, GIB)
    assert told[0] == "bfloat16 gives 1.50× the model's own precision, all else being equal"
    assert told[1] == "2 cores give 1.90× one core: more cores should help"
    assert told[2] == "the chosen setting took 300.0 MiB of 1024 MiB; that is tight"
    assert "1.39 with the chosen setting and 9 with the naive one" in told[3]
    assert "more than 200 requests/s for each 1 an hour" in told[3]


def test_cores_that_do_not_help() -> None:
    rows = [row(100, threads=1), row(110, threads=8), row(90, threads=1, workers=8)]
    told = advice.on_report({"candidates": rows, "price": None, "throughput": 110.0}, 8, 0)
    assert told == ["8 cores give 1.10× one core: more cores would help little: look for faster ones, or take fewer"]


def test_nothing_to_compare_is_nothing_to_say() -> None:
    assert advice.on_report({"candidates": [row(1)], "price": None, "throughput": 1.0}, 2, 0) == []
    assert advice.on_report({"candidates": [row(1)], "price": None, "throughput": 1.0}, 1, 0) == []
