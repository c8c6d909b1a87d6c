"""What a machine's instruction sets, cores and memory mean for serving: for a person who asks which machine to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelkeep.tune.figures import rate

Row = Mapping[str, Any]
MEANING = {
    "AMX BF16": "AMX BF16: whole tiles of bfloat16 are multiplied at once; convolutions and large matrices gain most, "
    "several times over float32 (engine openvino, or torch, in bfloat16)",
    "AMX int8": "AMX int8: the same for quantized models (modelkeep optimize)",
    "AMX FP16": "AMX FP16: the same for float16 (engine openvino)",
    "AVX-512 BF16": "AVX-512 BF16: twice as many products of bfloat16 as of float32 in one instruction; large models "
    "gain up to 2× (engine openvino, or torch, in bfloat16)",
    "AVX-512 FP16": "AVX-512 FP16: twice as many operations in float16 as in float32 (engine openvino)",
    "AVX-512 VNNI (int8)": "AVX-512 VNNI: four times as many products of int8 as of float32 in one instruction; a "
    "quantized model can be faster here, not only smaller (modelkeep optimize)",
    "AVX VNNI (int8)": "AVX VNNI: int8 products as above, in half the width",
    "NEON dot product (int8)": "NEON dot product: a quantized model can be faster here (modelkeep optimize)",
    "NEON BF16": "NEON BF16: bfloat16 gains on large matrices (engine torch)",
}
NONE = (
    "no instructions for bfloat16 or int8: float32 is the fastest here, and quantizing saves memory but may cost time"
)
MUCH = 0.5
"""Share of the memory above which a model has too little room beside its own updates."""


def on_instructions(sets: Sequence[str]) -> list[str]:
    """What each instruction set that matters brings."""
    return [MEANING[name] for name in MEANING if name in sets] or [NONE]


def on_machine(sets: Sequence[str], cores: int, memory: int) -> list[str]:
    """What to make of the hardware, before anything was measured. ``memory`` in bytes."""
    lines = on_instructions(sets)
    if not any(name.startswith("AMX") for name in sets):
        lines.append(
            "no AMX: where a convolutional net or a transformer is what you serve, a machine that has it is worth a try"
        )
    one = cores == 1
    lines.append(
        f"{cores} core{'' if one else 's'}: "
        + (
            "every run shares it with the server itself"
            if one
            else "as threads of one run (lower latency) or as workers (more runs at a time); tune measures both"
        )
    )
    if memory:
        lines.append(
            f"{memory / 2**30:.1f} GiB of memory: a new version is loaded while the old one still answers, "
            "so that twice what one needs must fit"
        )
    return lines


def on_report(report: Mapping[str, Any], cores: int, memory: int) -> list[str]:
    """What the numbers of a tune report mean for the choice of a machine."""
    rows = [row for row in report["candidates"] if not row["of"]]
    lines = [*_precisions(rows), *_cores(rows, cores)]
    needs = [row["memory"] for row in rows if row["verdict"] == "chosen" and row["memory"]]
    if needs and memory:
        room = "" if needs[0] * 2 < MUCH * memory else "; that is tight"
        lines.append(f"the chosen setting took {needs[0] / 2**20:.1f} MiB of {memory / 2**20:.0f} MiB{room}")
    if report.get("price"):
        price = report["price"]
        lines.append(
            f"at {price['per_hour']:g} an hour, a million predictions cost {price['winner_per_million']:.3g} with the "
            f"chosen setting and {price['naive_per_million']:.3g} with the naive one; another machine is cheaper "
            f"where it answers more than {rate(report['throughput'] / price['per_hour'])} requests/s for each 1 an hour"
        )
    return lines


def _precisions(rows: Sequence[Row]) -> list[str]:
    """The most that each precision gains over the model's own, all else being equal."""
    best: dict[str, float] = {}
    for row in rows:
        if precision := row["config"]["precision"]:
            gain = max(
                (row["throughput"] / own["throughput"] for own in _beside(row, rows, precision=None)), default=0.0
            )
            best[precision] = max(best.get(precision, 0.0), gain)
    return [
        f"{name} gives {gain:.2f}× the model's own precision, all else being equal"
        for name, gain in best.items()
        if gain
    ]


def _cores(rows: Sequence[Row], cores: int) -> list[str]:
    """The most that all cores gain over one, all else being equal."""
    if cores < 2:
        return []
    layouts = ({"threads": threads, "workers": cores // threads} for threads in (1, cores))
    wide = [(row, other) for row in rows for layout in layouts for other in _beside(row, rows, **layout)]
    alone = {"threads": 1, "workers": 1}
    gains = [o["throughput"] / r["throughput"] for r, o in wide if alone.items() <= r["config"].items()]
    if not gains:
        return []
    scale = max(gains)
    few = "more cores would help little: look for faster ones, or take fewer"
    return [f"{cores} cores give {scale:.2f}× one core: {'more cores should help' if scale > 0.7 * cores else few}"]


def _beside(row: Row, rows: Sequence[Row], **changed: object) -> list[Row]:
    """The rows whose setting differs in this only."""
    return [other for other in rows if other["config"] == {**row["config"], **changed}]
