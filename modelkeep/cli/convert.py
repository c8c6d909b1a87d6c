"""modelkeep convert"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from modelkeep.cli.output import (
    FILE,
    Finite,
    Whole,
    as_json,
    dump,
    open_keep,
    progress,
    say,
    say_reports,
    table,
    version_json,
)
from modelkeep.quantities import counted


@click.command(epilog="Example: modelkeep convert digits@1 --to onnx --data test.npz")
@click.argument("ref")
@click.option("--to", required=True, metavar="FORMAT", help="onnx, openvino, torch, tensorflow or litert.")
@click.option("--data", type=FILE, help="Real rows to compare on; by default the version's reference rows.")
@click.option("--atol", type=Finite(min=0), help="Absolute tolerance of an output (default 1e-4).")
@click.option("--rtol", type=Finite(min=0), help="Relative tolerance of an output (default 1e-3).")
@click.option("--opset", type=Whole(min=13), help="ONNX opset; by default the exporter's.")
@click.option(
    "--dynamic",
    multiple=True,
    metavar="INPUT:0,1",
    help="Dimensions of an input to be free (0 is the batch), instead of all that the model lets be free; repeatable.",
)
@click.option("--example", type=FILE, help="Rows (.npz) to follow the model on; by default the first of the data.")
@click.option("--rename", multiple=True, metavar="OLD=NEW", help="Another name for an input or output; repeatable.")
@click.option("--precision", help="Of the weights of OpenVINO's own format: float32 (default) or float16.")
@as_json
def convert(
    ref: str, to: str, data: Path | None, example: Path | None, rename: tuple[str, ...], json_: bool, **options: Any
) -> None:
    """Convert REF, compare the answers at several sizes of every free dimension, and keep it only if they agree.

    Exit code 1, with the output and the layer that differ, when they do not; nothing is stored then.
    """
    from modelkeep.data import dataset
    from modelkeep.model.signature import any_size

    given = {key: value for key, value in options.items() if value not in (None, ())}
    if rename:
        given["rename"] = dict(map(_renaming, rename))
    with open_keep() as keep, progress("converting", quiet=json_) as advance:
        signature = keep.get(ref).model.signature
        rows = dataset.read(data, any_size(signature) if example else signature) if data else None
        if example:
            given["example"] = dataset.read(example, any_size(signature))
        version = keep.convert(ref, to, rows=rows, progress=advance, **given)
    if json_:
        return dump(version_json(version))
    say(f"{version.ref}  {version.model.format}  from {version.name}@{version.parent}")
    say_reports(version.reports)
    _differences(version.reports[-1].numbers)
    return None


def _differences(numbers: Mapping[str, Any]) -> None:
    """By output, how far the answers of the two models are apart."""

    def told(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    table(
        f"differences, {counted(numbers['n'], 'row')}",
        ("output", "values", "max abs", "max relative", "cosine", "same best class"),
        [
            (
                name,
                f"{one['n']:,}",
                told(one["max_abs"], ".2g"),
                told(one["max_rel"], ".2g"),
                told(one["cosine"], ".8f"),
                told(one["top1_agreement"], ".2%"),
            )
            for name, one in numbers["outputs"].items()
        ],
    )


def _renaming(text: str) -> tuple[str, str]:
    old, _, new = text.partition("=")
    if not (old and new):
        raise click.BadParameter(
            f"'{text}' is no renaming; write OLD=NEW, such as output=logits", param_hint="--rename"
        )
    return old, new
