"""The matrix: one line a row, one column a target, for a terminal and for docs/zoo.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from modelkeep.quantities import size
from zoo import outcome
from zoo.outcome import Cell, Outcome
from zoo.row import Row

TARGETS = {"onnx": "ONNX", "openvino": "OpenVINO", "tensorflow": "SavedModel", "torch": "back to PyTorch"}
COLUMNS = ("row", "weights", "takes", *TARGETS.values(), "seconds", "peak memory")
Found = Mapping[str, Outcome]
PAGE = """# The zoo

    make zoo [ONLY="resnet-18 bert"]

Every kind of model that `convert` promises, taken through the doors that you take: `add`, then `convert` to each
target, each conversion proven on rows and at sizes other than the example's ([convert](convert.md)). `make zoo` sets up
what the rows need (timm, transformers, diffusers, Keras), runs each row in a process of its own, goes on where it was
stopped, and writes this page; its exit code is 1 if any row fails. `make test` runs the small rows. Weights are random
and seeded, and scaled so that answers differ from row to row, since a comparison of constant answers proves nothing
(`zoo/weights.py`).

A cell says the largest difference of any answer from the source's, the exporter that won and the opset; *learns* is
how much one step of gradient descent changes the answers of the PyTorch model that came back out of ONNX. What stands
in the brackets of *takes* without a number is free.
"""


def lines(rows: Sequence[Row], found: Found) -> list[tuple[str, ...]]:
    """The cells of the table, one tuple a row, as COLUMNS."""
    return [_line(row, found.get(row.name)) for row in rows]


def _line(row: Row, found: Outcome | None) -> tuple[str, ...]:
    if found is None:
        return (row.name, *("",) * (len(COLUMNS) - 1))
    cells = (cell(found.cells.get(target)) if target in row.targets else "" for target in TARGETS)
    if found.why:
        cells = ("FAILS" if target in row.targets else "" for target in TARGETS)
    takes = ", ".join(found.takes)
    return (row.name, size(found.weights), takes, *cells, f"{found.seconds:.0f}", size(found.peak))


def cell(found: Cell | None) -> str:
    """``3.1e-06 dynamo 20``: the largest difference, the exporter that won, the opset."""
    if found is None or not found.ok:
        return "FAILS"
    told = [f"{found.numbers['max_abs']:.1e}"] if "max_abs" in found.numbers else ["ok"]
    told += [str(found.numbers[key]) for key in ("exporter", "opset") if key in found.numbers]
    if "learned" in found.numbers:
        told.append(f"learns {found.numbers['learned']:.1e}")
    return " ".join(told)


def page(rows: Sequence[Row], found: Found, now: datetime | None = None, commit: str = "") -> str:
    """docs/zoo.md. ``commit`` is the one that is checked out."""
    passed = sum(outcome.ok for outcome in found.values())
    told = (now or datetime.now(UTC)).strftime("%Y-%m-%d")
    libraries = ", ".join(f"{name} {version}" for name, version in outcome.versions().items())
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}"
    parts = [
        PAGE,
        f"**{passed} of {len(rows)} rows pass**, on {told}{_state(found, commit)}: {libraries}; {machine}. "
        "Seconds are of the whole row.\n",
        _markdown(COLUMNS, lines(rows, found)),
        "## What each row is\n",
        _markdown(("row", "is", "tried at"), ((r.name, r.about, tried(found.get(r.name))) for r in rows)),
    ]
    if second := list(fallbacks(rows, found)):
        parts += ["## Where the first exporter did not win\n", *(f"- **{name}**: {why}" for name, why in second), ""]
    if failed := [(r.name, t, why) for r in rows if r.name in found for t, why in found[r.name].failures().items()]:
        parts += ["## What fails\n", *(f"- **{name}** {TARGETS.get(t, t)}: {why}" for name, t, why in failed), ""]
    return "\n".join(parts)


def _state(found: Found, commit: str) -> str:
    """Whether all rows were run with the same code, and the commit where it is known."""
    states = len({outcome.code for outcome in found.values()})
    if states > 1:
        return f", with {states} states of the code"
    return f", all with the code of commit {commit}" if commit else ""


def tried(found: Outcome | None) -> str:
    """The rows a run and the sizes of free dimensions that the ONNX proof used."""
    numbers = found.cells["onnx"].numbers if found and "onnx" in found.cells else {}
    sizes = numbers.get("sizes") or {"batch": numbers.get("batches", [])}
    return "; ".join(f"{name} {', '.join(map(str, tried))}" for name, tried in sizes.items() if tried)


def fallbacks(rows: Sequence[Row], found: Found) -> Iterator[tuple[str, str]]:
    """Which exporters failed before one won, and why."""
    for row in rows:
        numbers = found[row.name].cells["onnx"].numbers if row.name in found and "onnx" in found[row.name].cells else {}
        for exporter, why in numbers.get("failed", {}).items():
            yield row.name, f"{exporter}: {why}"


def _markdown(columns: Sequence[str], table: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> str:
    drawn = (columns, ("---",) * len(columns), *table)
    return "\n".join(f"| {' | '.join(text.replace('|', '∣') for text in line)} |" for line in drawn) + "\n"
