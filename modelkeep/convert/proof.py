"""The one place where a conversion is judged: both models answer the same rows, or the new one is not kept."""

from __future__ import annotations

import contextlib

from modelkeep.data import dataset
from modelkeep.data.dataset import Dataset
from modelkeep.errors import Differs
from modelkeep.model import engines
from modelkeep.model.compare import TOLERANCES, compare
from modelkeep.types import Model, Report, ServeConfig


def prove(
    reference: Model,
    made: Model,
    rows: Dataset | None,
    *,
    precision: str = "float32",
    atol: float | None = None,
    rtol: float | None = None,
    config: ServeConfig | None = None,
) -> Report:
    """Report(kind="compare", ok=True) where ``made`` answers as ``reference`` does; raises Differs where it does not.

    ``rows`` are real ones; None stands for seeded rows made from the signature. ``precision`` (float32, float16,
    bfloat16: what the weights of ``made`` were cast to) picks the tolerance, ``atol`` and ``rtol`` replace it.
    ``config`` says which engine runs ``made``; by default its format's own.
    """
    usual = TOLERANCES[precision]
    fitted = dataset.fit(rows, reference.signature) if rows else None
    with contextlib.closing(engines.load(reference)) as a, contextlib.closing(engines.load(made, config)) as b:
        report = compare(
            a,
            b,
            fitted,
            atol=usual.atol if atol is None else atol,
            rtol=usual.rtol if rtol is None else rtol,
        )
    if not report.ok:
        raise Differs(f"the {made.format} model does not answer as the {reference.format} one: {report.why}")
    return report
