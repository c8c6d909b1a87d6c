"""The one place where a conversion is judged: both models answer the same rows, or the new one is not kept."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from modelkeep import extras
from modelkeep.convert.rename import Names, Renamed, renamed
from modelkeep.data import dataset
from modelkeep.data.dataset import Dataset
from modelkeep.errors import Differs, ModelkeepError, Undecided
from modelkeep.model import company, engines
from modelkeep.model.compare import Trial, judge, rule_for
from modelkeep.model.tally import TOLERANCES
from modelkeep.types import Model, Report, Runner, ServeConfig, Signature

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

Progress = Callable[[float, float, str], None]
EXAMPLE_ROWS = 2
"""Rows that exporters follow a model on; the proof tries one more, for a batch of that size may have been baked in."""
DIFFERS = "the {made} model does not answer as the {reference} one: "
MIXED = (
    "a row's answer depends on the other rows of its batch, in the reference as well ({what}), so requests must not "
    "share a run: serve it with --max-batch 1"
)
INT8 = (
    f"; the reference is quantized, so its outputs are held to a cosine of {TOLERANCES['int8'].cosine:g} and to the "
    f"same best class in {TOLERANCES['int8'].top1:.0%} of the rows, ties apart, and no single number to a bound"
)
PRECISE_BYTES = 500_000_000
"""Larger models are not held a second time in float64."""
LAYERS: dict[tuple[str, str], str] = {
    ("torch", "onnx"): "modelkeep.convert.first_difference:torch_onnx",
    ("torch-export", "onnx"): "modelkeep.convert.first_difference:torch_onnx",
    ("torchscript", "onnx"): "modelkeep.convert.first_difference:torch_onnx",
    ("huggingface", "onnx"): "modelkeep.convert.first_difference:torch_onnx",
}
"""(from, to) → a function (reference, made, inputs of both, rule) → which layer is the first that differs."""


def prove(
    reference: Model,
    made: Model,
    rows: Dataset | None,
    *,
    precision: str = "float32",
    atol: float | None = None,
    rtol: float | None = None,
    config: ServeConfig | None = None,
    rename: Names | None = None,
    example_rows: int = EXAMPLE_ROWS,
    progress: Progress | None = None,
) -> Report:
    """Report(kind="compare", ok=True) where ``made`` answers as ``reference`` does; raises Differs where it does not,
    or Undecided, which is one, where the reference has no answers to compare with.

    ``rows`` are real ones, under the names of either model; None stands for seeded rows made from the signature of
    ``made``, which says what is free: each of those dimensions is tried at several sizes. ``precision`` (float32,
    float16, bfloat16: what the weights of ``made`` were cast to) picks the tolerance, ``atol`` and ``rtol`` replace it.
    A reference that is quantized itself has that of int8, unless one of these is given.
    ``config`` says which engine runs ``made``, by default its format's own; ``rename`` are the inputs and outputs of
    ``reference`` that have other names in ``made``; ``example_rows`` is the batch that an exporter saw.
    """
    names = dict(rename or {})
    if atol is None and rtol is None and _quantized(reference):
        precision = "int8"
    fitted = dataset.fit(renamed(rows, names), made.signature) if rows else None
    with contextlib.closing(engines.load(reference)) as old, contextlib.closing(engines.load(made, config)) as new:
        report, failed = judge(
            Renamed(old, names) if names else old,
            new,
            fitted,
            batches=sorted({1, 2, 7, example_rows + 1}),
            rule=rule_for(precision, atol, rtol),
            precision=precision,
            signature=made.signature,
            precise=_precise(reference, names),
            progress=progress,
        )
        mixes = company.mixed(new, fitted) if report.ok else ""
    if report.ok:
        limits = {name: made.signature.bounds.get(name) for name in made.signature.free}
        free = {name: list(bounds) if bounds else None for name, bounds in limits.items()}
        apart = f"; {MIXED.format(what=mixes)}" if mixes else ""
        why = f"{report.why}; {_free(made.signature)}{_told(report)}{INT8 if precision == 'int8' else ''}{apart}"
        return replace(report, why=why, numbers={**report.numbers, "free": free, "mixed": mixes})
    if report.numbers["undecided"]:
        raise Undecided(f"nothing can be told of the {made.format} model: {report.why}")
    layer = _first_layer(reference, made, failed, names, rule_for(precision, atol, rtol)) if failed else ""
    why = f"{report.why}; {layer}" if layer else report.why
    raise Differs(DIFFERS.format(made=made.format, reference=reference.format) + why)


def noted(progress: Progress | None, what: str) -> None:
    """Say what is being done now, before there is anything to count."""
    if progress is not None:
        progress(0, 1, what)


def difference(error: ModelkeepError) -> str:
    """What an error of ``prove`` found to differ, without the words about the two models; all of any other error."""
    return re.sub(f"^{DIFFERS.format(made='.+?', reference='.+?')}", "", str(error))


class Precise:
    """A PyTorch reference in float64: what its float32 answers differ from these by is its own noise."""

    def __init__(self, model: Model) -> None:
        import torch

        from modelkeep.model.engines.torch import TorchRunner
        from modelkeep.model.formats import torch as torch_format

        self.signature = model.signature
        module = torch_format.module(model).double()
        self._runner = TorchRunner(model.signature, module, torch.device("cpu"), None)

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See Runner. Raises BadInput where the module's code holds on to float32."""
        wide = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in inputs.items()}
        return self._runner.run(wide)

    def close(self) -> None:
        """See Runner."""
        self._runner.close()


def _quantized(reference: Model) -> bool:
    if reference.format != "onnx":
        return False
    from modelkeep.convert import onnx_graph  # heavy, and of an ONNX reference alone

    return onnx_graph.rounds(reference.main)


def _precise(reference: Model, names: Names) -> Runner | None:
    if reference.format != "torch" or reference.size > PRECISE_BYTES:
        return None
    try:
        runner = Precise(reference)
    except Exception:  # noqa: BLE001 - a person's module may refuse float64 in any way; there is other noise to go by
        return None
    return Renamed(runner, names) if names else runner


def _first_layer(reference: Model, made: Model, failed: Trial, names: Names, rule: object) -> str:
    """Which layer is the first that differs, or nothing where that cannot be told."""
    find = LAYERS.get((reference.format, made.format))
    if find is None:
        return ""
    old = {new: old for old, new in names.items()}
    inputs = {old.get(name, name): array for name, array in failed.inputs.items()}
    try:
        return str(extras.load(find)(reference, made, inputs, failed.inputs, rule))
    except Exception:  # noqa: BLE001 - a model that differs may fail in any way when it is taken apart; that it differs is told
        return ""


def _told(report: Report) -> str:
    """The sizes of the free dimensions that were tried, and the edge rows that could not be."""
    parts = [f"{name} {', '.join(map(str, tried))}" for name, tried in report.numbers["sizes"].items() if tried]
    if report.numbers["batches"]:
        parts.insert(0, f"batch {', '.join(map(str, report.numbers['batches']))}")
    tried = f"; tried at {'; '.join(parts)}" if parts else ""
    skipped = "".join(f"; not compared: {what}" for what in report.numbers["skipped"])
    return f"{tried}{skipped}"


def _free(signature: Signature) -> str:
    """The names of the free dimensions, each with its bounds."""
    limits = {name: signature.bounds.get(name) for name in signature.free}
    told = (f"{name} ({bounds.describe()})" if bounds else name for name, bounds in limits.items())
    return f"free: {', '.join(told)}" if limits else "nothing is free"
