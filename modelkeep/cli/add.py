"""modelkeep add"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelkeep.cli.output import FILE, as_json, dump, open_keep, say, version_json
from modelkeep.quantities import size

if TYPE_CHECKING:
    from modelkeep.types import Model

SEEN = ("torch", "torchscript")
"""Formats whose inputs are learnt from rows."""


@click.command(epilog="Example: modelkeep add digits digits.pt --factory digits_mlp:MLP --data train.npz")
@click.argument("name")
@click.argument("source", type=FILE)
@click.option("--factory", metavar="MODULE:NAME", help="What builds the module that a state_dict belongs to.")
@click.option("--factory-args", metavar="JSON", help="Keyword arguments for the factory, a JSON object.")
@click.option(
    "--data", type=FILE, help="Rows the model was made for (.npz, .csv): its reference, up to 1,024 are kept."
)
@click.option("--labels", metavar="A,B,…", help="Names of the classes, in the order of the output.")
@click.option(
    "--task", metavar="TASK", help="The head of a Hugging Face model (text-classification, …), if not its own."
)
@click.option("--with-past", is_flag=True, help="The key-value cache of a Hugging Face decoder as inputs and outputs.")
@click.option("--trust", is_flag=True, help="Open what can run code (a pickle, say): only for files you made.")
@as_json
def add(
    name: str,
    source: Path,
    factory: str | None,
    factory_args: str | None,
    data: Path | None,
    labels: str | None,
    task: str | None,
    with_past: bool,
    trust: bool,
    json_: bool,
) -> None:
    """Register a trained model: SOURCE becomes a new version of NAME.

    \b
    SOURCE is                                       and needs
      ONNX (.onnx, its external data beside it)     nothing more
      OpenVINO IR (.xml, its .bin beside it)        nothing more
      PyTorch weights (.pt, .pth, .safetensors)     --factory and --data
      torch.export program (.pt2)                   nothing more
      TorchScript archive                           --data
      Hugging Face folder (config, safetensors)     nothing more
      scikit-learn (.skops)                         --data where it picks columns by name
      pickle of scikit-learn (.joblib, .pkl)        --trust
      XGBoost (.json, .ubj), LightGBM (.txt)        nothing more
      SavedModel, Keras (.keras, .h5), LiteRT       nothing more
    """
    from modelkeep.data import dataset

    with open_keep() as keep:
        version = keep.add(
            source,
            name,
            factory=factory,
            factory_args=_arguments(factory_args),
            data=dataset.read(data) if data else None,
            labels=tuple(labels.split(",")) if labels else (),
            trust=trust,
            task=task,
            with_past=with_past,
        )
    if json_:
        return dump(version_json(version))
    signature = version.model.signature
    say(f"{version.ref}  {version.model.format}  {size(version.model.size)}  sha256 {version.digest[:12]}")
    say(f"  takes {'; '.join(t.describe() for t in signature.inputs)}")
    say(f"  gives {'; '.join(t.describe() for t in signature.outputs)}")
    if told := _fixed(version.model):
        say(f"  {told}: modelkeep convert {version.ref} --to onnx finds which of them may be free, and frees them")
    return None


def _fixed(model: Model) -> str:
    """The lengths and sizes of pictures that were only seen at one size; what is computed from one alike is no such."""
    names = [
        t.name
        for t in model.signature.inputs
        if any(t.shape[1:]) and (len(t.shape) > 2 or (len(t.shape) == 2 and t.dtype.startswith("int")))
    ]
    return f"sizes of {', '.join(names)} are those of --data" if names and model.format in SEEN else ""


def _arguments(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"--factory-args is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise click.BadParameter('--factory-args must be a JSON object, such as {"hidden": 128}')
    return value
