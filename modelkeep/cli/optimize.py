"""modelkeep optimize"""

from __future__ import annotations

from pathlib import Path

import click

from modelkeep.cli.output import FILE, SHARE, Whole, as_json, dump, open_keep, plain, progress, say


@click.command(epilog="Example: modelkeep optimize digits@2 --data test.npz --max-drop 2pp --student digits_mlp:Small")
@click.argument("ref")
@click.option("--data", type=FILE, required=True, help="Labelled rows that judge the accuracy; not used to train.")
@click.option("--max-drop", type=SHARE, default="1pp", show_default=True, help="Accuracy that may be lost, at 95 %.")
@click.option("--student", metavar="MODULE:NAME", help="Distil into what this factory builds.")
@click.option("--train-data", type=FILE, help="Rows to distil and calibrate on; by default the reference rows.")
@click.option("--epochs", type=Whole(min=1), help="Of distillation (default 60).")
@click.option("--quantize/--no-quantize", default=True, help="Try int8.")
@as_json
def optimize(
    ref: str,
    data: Path,
    max_drop: float,
    student: str | None,
    train_data: Path | None,
    epochs: int | None,
    quantize: bool,
    json_: bool,
) -> int:
    """Make cheaper versions of REF and keep those that stay within the accuracy budget.

    Exit code 1 when none did; nothing is stored then.
    """
    from modelkeep.optimize.choose import best

    if epochs and not student:
        raise click.UsageError("--epochs is of distillation; give it with --student MODULE:NAME")
    distil = {"epochs": epochs} if epochs else {}
    with open_keep() as keep, progress("optimizing", quiet=json_, lines=True) as advance:
        train_rows = keep.read_data(train_data, ref) if train_data else None
        found = keep.optimize(
            ref,
            keep.read_data(data, ref),
            max_drop=max_drop,
            student=student,
            quantize=quantize,
            train_rows=train_rows,
            on_step=advance,
            **distil,
        )
    chosen = best({what: report for what, _, report in found}).name
    if json_:
        dump([{"what": w, "ref": v and v.ref, "best": w == chosen, "report": plain(r)} for w, v, r in found])
    else:
        for what, version, report in found:
            kept = f"kept as {version.ref}{', the best' if what == chosen else ''}" if version else "refused"
            say(f"{what}: {kept}; {report.why}")
    return int(not any(version for _, version, _ in found))
