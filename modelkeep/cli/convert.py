"""modelkeep convert"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelkeep.cli.output import FILE, as_json, dump, open_keep, say, say_reports, version_json


@click.command(epilog="Example: modelkeep convert digits@1 --to onnx --data test.npz")
@click.argument("ref")
@click.option("--to", required=True, metavar="FORMAT", help="The format to convert to: onnx, openvino or torch.")
@click.option("--data", type=FILE, help="Real rows to compare on; by default the version's reference rows.")
@click.option("--atol", type=click.FloatRange(min=0), help="Absolute tolerance of an output (default 1e-4).")
@click.option("--rtol", type=click.FloatRange(min=0), help="Relative tolerance of an output (default 1e-3).")
@click.option("--opset", type=click.IntRange(min=13), help="ONNX opset; by default the exporter's.")
@click.option("--precision", help="Of the weights of OpenVINO's own format: float32 (default) or float16.")
@as_json
def convert(ref: str, to: str, data: Path | None, json_: bool, **options: Any) -> None:
    """Convert REF, compare the answers at several batch sizes, and keep the result only if they agree.

    Exit code 1, with the output that differs, when they do not; nothing is stored then.
    """
    given = {key: value for key, value in options.items() if value is not None}
    with open_keep() as keep:
        rows = keep.read_data(data, ref) if data else None
        version = keep.convert(ref, to, rows=rows, **given)
    if json_:
        return dump(version_json(version))
    say(f"{version.ref}  {version.model.format}  from {version.name}@{version.parent}")
    say_reports(version.reports)
    return None
