"""The same weights in another format, kept only when the answers agree."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, cast

from modelkeep import extras
from modelkeep.convert.rename import renamed
from modelkeep.errors import Unsupported
from modelkeep.types import Model, Report, Step

if TYPE_CHECKING:
    from modelkeep.data.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class Route:
    """``target`` is the Step, as "module:Name"; it imports the ``libraries``, which the ``extra`` brings.

    A step without them needs nothing more, or works in an environment of its own, made on first use.
    """

    target: str
    extra: str = ""
    libraries: tuple[str, ...] = ()


_EXPORT = Route("modelkeep.convert.torch_to_onnx:TorchToOnnx", "torch", ("torch", "onnx", "onnxscript"))

_FROM_TENSORFLOW = Route("modelkeep.convert.tensorflow_to_onnx:TensorflowToOnnx")

ROUTES: dict[tuple[str, str], Route] = {
    ("torch", "onnx"): _EXPORT,
    ("torch-export", "onnx"): _EXPORT,
    ("torchscript", "onnx"): _EXPORT,
    ("huggingface", "onnx"): _EXPORT,
    ("onnx", "torch"): Route("modelkeep.convert.onnx_to_torch:OnnxToTorch", "torch", ("torch", "onnx")),
    ("onnx", "openvino"): Route("modelkeep.convert.onnx_to_openvino:OnnxToOpenVino", "openvino", ("openvino", "onnx")),
    ("sklearn", "onnx"): Route(
        "modelkeep.convert.sklearn_to_onnx:SklearnToOnnx", "sklearn", ("sklearn", "skl2onnx", "onnxmltools", "onnx")
    ),
    ("tensorflow", "onnx"): _FROM_TENSORFLOW,
    ("keras", "onnx"): _FROM_TENSORFLOW,
    ("onnx", "tensorflow"): Route("modelkeep.convert.onnx_to_tensorflow:OnnxToTensorflow"),
    ("onnx", "litert"): Route("modelkeep.convert.onnx_to_litert:OnnxToLitert"),
}
"""(from, to) → the one step that does it. Longer ways are found over these."""


def path(source: str, target: str) -> list[tuple[str, str]]:
    """The fewest steps from one format to the other; among equals, the one whose steps stand first in ROUTES.

    Raises Unsupported, which names the formats that can be reached.
    """
    ways: dict[str, list[tuple[str, str]]] = {source: []}
    for here in (waiting := [source]):
        for pair in ROUTES:
            if pair[0] == here and pair[1] not in ways:
                ways[pair[1]] = [*ways[here], pair]
                waiting.append(pair[1])
    if source == target:
        raise Unsupported(f"the model is {source} already, so there is nothing to convert")
    if target not in ways:
        there = ", ".join(to for to in ways if to != source)
        reached = f"from {source} these can be reached: {there}" if there else f"nothing converts {source}"
        raise Unsupported(f"no conversion leads from {source} to {target}; {reached}")
    return ways[target]


def steps(source: str, target: str, **options: Any) -> list[Step]:
    """The steps from one format to the other, each with those of the options that it has.

    ``rename`` is for the first of them, and the others get the ``rows`` under the new names. Raises what ``path`` does,
    Unsupported for an option that no step has, and MissingExtra for a library.
    """
    kinds = [_kind(ROUTES[pair]) for pair in path(source, target)]
    known = {f.name: None for kind in kinds for f in dataclasses.fields(kind)}
    for name in options:
        if name not in known and name != "progress":
            there = ", ".join(option for option in known if option not in ("rows", "progress"))
            raise Unsupported(f"turning {source} into {target} has no option '{name}'; there are: {there}")
    later = _after_renaming(options)
    return [cast(Step, kind(**_own(kind, later if number else options))) for number, kind in enumerate(kinds)]


def step(source: str, target: str, **options: Any) -> Step:
    """The Step of one row of the table. Raises what ``steps`` does, and Unsupported where it takes more than one."""
    found = steps(source, target, **options)
    if len(found) > 1:
        raise Unsupported(f"turning {source} into {target} takes {len(found)} steps")
    return found[0]


def prove_end(first: Model, last: Model, rows: Dataset | None, **options: Any) -> Report:
    """The last model of several steps held against the first: small differences of the steps may add up.

    ``options`` are those that ``steps`` was given. Raises Differs.
    """
    from modelkeep.convert.proof import prove

    held = {
        name: options[name]
        for name in ("precision", "atol", "rtol", "rename", "progress")
        if options.get(name) is not None
    }
    report = prove(first, last, rows, **held)
    return dataclasses.replace(report, why=f"from {first.format} to {last.format}: {report.why}")


def _kind(route: Route) -> Any:
    for library in route.libraries:
        if not extras.has(library):
            extras.need(library, extra=route.extra)  # raises, with the command that installs it
    return extras.load(route.target)


def _after_renaming(options: dict[str, Any]) -> dict[str, Any]:
    """What the steps after the first are told: inputs and outputs have their new names by then."""
    names, rows = options.get("rename"), options.get("rows")
    if not names:
        return options
    later = {**options, "rows": renamed(rows, names) if rows else None}
    del later["rename"]
    return later


def _own(kind: Any, options: dict[str, Any]) -> dict[str, Any]:
    fields = {f.name for f in dataclasses.fields(kind)}
    return {name: value for name, value in options.items() if name in fields}
