"""PyTorch → ONNX: every dimension free that the model lets be free, names kept or given, and kept only with proof."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch

from modelkeep.convert import onnx_graph, proof
from modelkeep.convert.exporters import EXPORTERS, Exporter, Flat, exportable, quiet
from modelkeep.convert.rename import Names, keep_reference, renamed_signature
from modelkeep.data import dataset
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadInput, BadModel, Differs, ModelkeepError, Undecided, Unsupported, first_line
from modelkeep.model import folder, free_dimensions
from modelkeep.model import signature as signatures
from modelkeep.model.formats import onnx as onnx_format
from modelkeep.model.formats import torch as torch_format
from modelkeep.types import BATCH, Model, Report, Signature

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

OPSETS = (None, 18, 17)
"""The exporter's own, then older ones, for where the installed runtime does not take what it writes."""
IMAGE = re.compile(r"(\w+_)?(height|width)")
"""Free dimensions that are given up first, where no exporter keeps them."""
LONGEST_REASON = 300
"""Characters of an exporter's own words."""


@dataclass(frozen=True)
class TorchToOnnx:
    """Tries PyTorch's exporters in the order of EXPORTERS until one writes a model that answers alike.

    ``opset`` None leaves it to the exporter. ``dynamic`` (``ids:0,1`` or ``ids:0,1=sequence`` for each input) are the
    dimensions to be free, instead of all that the model lets be free; ``rename`` gives inputs and outputs other names.
    ``rows`` are what the answers are compared on; without them the model's reference rows, or else seeded random ones.
    ``example`` are rows to follow the model on, by default the first of ``rows``. ``progress`` is called with what is
    done, the total and a note.
    """

    opset: int | None = None
    atol: float | None = None
    rtol: float | None = None
    dynamic: tuple[str, ...] = ()
    rename: Names = field(default_factory=dict)
    rows: Dataset | None = field(default=None, repr=False, compare=False)
    example: Dataset | None = field(default=None, repr=False, compare=False)
    progress: proof.Progress | None = field(default=None, repr=False, compare=False)

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """See Step. Raises Differs with the output and layer that differ, Unsupported where no exporter can, BadInput
        for ``dynamic``, ``rename`` or ``opset`` that cannot be; each leaves nothing at ``into``.
        """
        newest = onnx.defs.onnx_opset_version()
        if self.opset and self.opset > newest:
            raise BadInput(f"there is no opset {self.opset}; the newest that is installed here is {newest}")
        rows = self.rows or folder.reference(model.path)
        rows = dataset.fit(rows, signatures.any_size(model.signature)) if rows else None
        into.mkdir(parents=True, exist_ok=True)
        try:
            made, report = self._freest(model, rows, into)
            keep_reference(model, self.rename, into)
            return folder.write(made), (report,)
        except BaseException:  # a half-made model must not be left, not even by Ctrl-C
            _clear(into)
            raise

    def _freest(self, model: Model, rows: Dataset | None, into: Path) -> tuple[Model, Report]:
        """All that may be free; without sizes of images, or the batch alone, where no exporter keeps more."""
        proof.noted(self.progress, "looking for free dimensions")
        example = self._example(model.signature, rows)
        wanted = self._signature(model, example)
        given_up: dict[str, str] = {}
        for signature in _less_and_less(wanted, example) if not self.dynamic else [wanted]:
            try:
                made, report = self._ladder(model, renamed_signature(signature, self.rename), example, rows, into)
                return made, _fixed(report, wanted, signature, given_up)
            except Undecided:
                raise
            except (Differs, Unsupported) as error:
                failed = error
                given_up.setdefault(", ".join(signature.free), str(error))
        raise failed

    def _ladder(
        self, model: Model, signature: Signature, example: Arrays, rows: Dataset | None, into: Path
    ) -> tuple[Model, Report]:
        failed: dict[str, ModelkeepError] = {}
        for name, exporter in EXPORTERS.items():
            _clear(into)
            proof.noted(self.progress, f"exporting with {name}")
            try:
                made, removed = self._export(exporter, model, signature, example, into)
                report = self._prove(model, made, example, rows)
                return made, _told(report, name, failed, removed, made)
            except Undecided:
                raise  # for another exporter it would be the same
            except ModelkeepError as error:
                failed[name] = error
        told = "; ".join(_reasons(failed))
        if any(isinstance(error, Differs) for error in failed.values()):
            raise Differs(f"the ONNX model does not answer as the PyTorch one does, so it is not kept; {told}")
        raise Unsupported(f"PyTorch cannot write this model as ONNX; {told}")

    def _prove(self, model: Model, made: Model, example: Arrays, rows: Dataset | None) -> Report:
        sizes = model.signature.sizes({name: array.shape for name, array in example.items()})
        return proof.prove(
            model,
            made,
            rows,
            atol=self.atol,
            rtol=self.rtol,
            rename=self.rename,
            example_rows=sizes.get(BATCH, proof.EXAMPLE_ROWS),
            progress=self.progress,
        )

    def _export(
        self, exporter: Exporter, model: Model, signature: Signature, example: Arrays, into: Path
    ) -> tuple[Model, dict[str, int]]:
        """One exporter's file, at the newest opset that the runtime takes, held against the wanted signature."""
        for opset in (self.opset,) if self.opset else OPSETS:
            try:
                file, removed = self._write(exporter, model, signature, example, into, opset)
                found = onnx_format.read_signature(file)
                break
            except BadModel as error:  # the file is there, and the runtime does not take it
                failed = error
        else:
            raise failed
        _same_signature(signature, found)
        files = onnx_graph.files(file)
        return replace(model, path=into, format="onnx", signature=signature, files=files, options={}), removed

    def _write(
        self,
        exporter: Exporter,
        model: Model,
        signature: Signature,
        example: Arrays,
        into: Path,
        opset: int | None,
    ) -> tuple[Path, dict[str, int]]:
        file = into / onnx_format.MAIN
        tensors = _tensors(model.signature, signature, example)
        module = torch_format.module(model)
        with quiet(), exportable():
            try:
                graph = exporter(_flat(module), tensors, signature, opset)
                removed = onnx_graph.tidy(graph, optimise=exporter in OLDER)
                onnx_graph.name_sizes(graph, signature)
                onnx_graph.write(graph, file)
                onnx.checker.check_model(str(file))
            except ModelkeepError:
                raise
            except Exception as error:  # the exporters share no error below Exception; the next one may manage
                raise Unsupported(f"it fails: {_reason(error)}") from error
        if opset and onnx_format.opset(file) != opset:
            raise Unsupported(f"it wrote opset {onnx_format.opset(file)} where {opset} was asked for")
        return file, removed

    def _example(self, signature: Signature, rows: Dataset | None) -> dict[str, Array]:
        """Rows to follow the model on, under the source's names; two or more where the batch is to be free."""
        given = dataset.fit(self.example, signatures.any_size(signature)) if self.example else rows
        if given is None:
            return signatures.example(signature, proof.EXAMPLE_ROWS)
        count = len(given) if self.example and self.dynamic else proof.EXAMPLE_ROWS
        found = {}
        for spec in signature.inputs:
            wanted = spec.shape[0] if spec.shape and spec.shape[0] is not None else count
            found[spec.name] = given.inputs[spec.name][np.arange(wanted) % len(given)]
        return found

    def _signature(self, model: Model, example: Arrays) -> Signature:
        """The model's signature with every dimension free that is asked for or, unless told, that can be."""
        only = _parsed(self.dynamic, model.signature) if self.dynamic else None
        if only and model.format == "torch-export":
            _left_free(only, model.signature)
        module = torch_format.module(model)
        if self.example:
            self._follows(module, model.signature, example)
        with quiet():
            return free_dimensions.discover(
                lambda arrays: torch_format.forward(module, model.signature, arrays), example, model.signature, only
            )

    def _follows(self, module: torch.nn.Module, signature: Signature, example: Arrays) -> None:
        """Raises BadData where the module cannot run its example: each exporter would fail on it, in its own words."""
        assert self.example is not None
        try:
            torch_format.forward(module, signature, example)
        except Exception as error:  # a module may raise anything
            told = torch_format.reason(error)
            raise BadData(f"the model cannot run the example, {self.example.source}: {told}") from error


OLDER = tuple(EXPORTERS[name] for name in ("torchscript", "torchscript-scripted"))
"""What they write has not been through onnxscript's optimiser."""


def _flat(module: torch.nn.Module) -> torch.nn.Module:
    """A scripted module stays as it is: it can be no part of another that is traced, and its exporter flattens."""
    return module if isinstance(module, torch.jit.ScriptModule) else Flat(module, torch_format.named).eval()


def _parsed(dynamic: tuple[str, ...], signature: Signature) -> dict[str, dict[int, str | None]]:
    """``ids:0,1=sequence`` → {"ids": {0: None, 1: "sequence"}}. BadInput where it is not that, or does not fit."""
    found: dict[str, dict[int, str | None]] = {}
    specs = {t.name: t for t in signature.inputs}
    for text in dynamic:
        name, colon, rest = text.rpartition(":")
        parts = re.findall(r"(\d+)(?:=([A-Za-z_]\w*))?(?:,|$)", rest)
        if not colon or ",".join(axis + (f"={word}" if word else "") for axis, word in parts) != rest or not parts:
            raise BadInput(f"'{text}' does not say which dimensions are free; write INPUT:0,1 or INPUT:0,1=sequence")
        if name not in specs:
            raise BadInput(f"no input is called '{name}'; the model takes {', '.join(specs)}")
        for axis, word in parts:
            if int(axis) >= len(specs[name].shape):
                raise BadInput(
                    f"input '{name}' has {len(specs[name].shape)} dimensions, so there is no dimension {axis}"
                )
            found.setdefault(name, {})[int(axis)] = word or None
    return found


def _left_free(only: Mapping[str, Mapping[int, str | None]], signature: Signature) -> None:
    """Unsupported where the program was exported with a fixed size that is to be free: it checks for that size."""
    fixed = [(t, axis) for t in signature.inputs for axis in sorted(only.get(t.name, {})) if t.shape[axis] is not None]
    if not fixed:
        return
    spec, axis = fixed[0]
    free = {
        t.name: ", ".join(f"{axis}: Dim.DYNAMIC" for axis in sorted(only.get(t.name, {}))) for t in signature.inputs
    }
    shapes = ", ".join(f"'{name}': {{{axes}}}" for name, axes in free.items())
    raise Unsupported(
        f"dimension {axis} of input '{spec.name}' cannot be free: torch.export has written {spec.shape[axis]} into the "
        ".pt2 for good; export the module again, from an example of two rows or more, with "
        f"dynamic_shapes={{{shapes}}} (from torch.export import Dim), and add that file"
    )


def _less_and_less(wanted: Signature, example: Arrays) -> Iterator[Signature]:
    """All that is wanted; the same without the sizes of images; the batch alone."""
    yield wanted
    images = {name for name in wanted.free if IMAGE.fullmatch(name)}
    others = {name for name in wanted.free if name != BATCH}
    for dropped in (images, others):
        if dropped and (dropped is others or dropped != others):
            yield _without(wanted, dropped, example)


def _without(signature: Signature, dropped: set[str], example: Arrays) -> Signature:
    """The same with these free dimensions fixed at the example's sizes."""
    usual = signature.sizes({name: array.shape for name, array in example.items()})
    return free_dimensions.fix(signature, {name: usual[name] for name in dropped})


def _tensors(source: Signature, signature: Signature, example: Arrays) -> tuple[torch.Tensor, ...]:
    """The example in the source's order, no two free sizes alike: an exporter would take them for one."""
    names = [t.name for t in source.inputs]
    arrays = dict(zip((t.name for t in signature.inputs), (example[name] for name in names), strict=True))
    sizes = signature.sizes({name: array.shape for name, array in arrays.items()})
    taken = {sizes.get(BATCH, 0)}
    for name in (name for name in signature.free if name != BATCH):
        limits = signature.bounds.get(name)
        step = limits.step if limits else 1
        size = next((s for s in range(sizes[name], sizes[name] + 9 * step, step) if s not in taken), sizes[name])
        sizes[name] = size if limits is None or limits.allows(size) else sizes[name]
        taken.add(sizes[name])
    arrays = signatures.resized(signature, arrays, sizes)
    return tuple(torch.from_numpy(np.array(arrays[t.name], order="C")) for t in signature.inputs)


def _same_signature(want: Signature, got: Signature) -> None:
    """Unsupported where the exported file does not take and give what the module does, at any size that is free."""
    if len(got.inputs) != len(want.inputs) or len(got.outputs) != len(want.outputs):
        names = ", ".join(t.name for t in (*got.inputs, *got.outputs))
        raise Unsupported(f"it wrote other inputs and outputs than the model has: {names}")
    for ours, theirs in zip((*want.inputs, *want.outputs), (*got.inputs, *got.outputs), strict=True):
        if (ours.name, ours.dtype, len(ours.shape)) != (theirs.name, theirs.dtype, len(theirs.shape)):
            raise Unsupported(f"it wrote {theirs.describe()} where the model has {ours.describe()}")
        for axis, (mine, size) in enumerate(zip(ours.shape, theirs.shape, strict=True)):
            if mine is None and size is not None:
                raise Unsupported(f"it baked in {ours.axes[axis]}: dimension {axis} of '{ours.name}' is always {size}")


def _told(
    report: Report, exporter: str, failed: Mapping[str, ModelkeepError], removed: Mapping[str, int], made: Model
) -> Report:
    """What the comparison found, and how the file came about."""
    opset = onnx_format.opset(made.main)
    numbers = {
        **report.numbers,
        "exporter": exporter,
        "opset": opset,
        "bytes": made.size,
        "failed": {name: proof.difference(error) for name, error in failed.items()},
        "removed": dict(removed),
    }
    gone = f"; removed: {', '.join(f'{n} {what}' for what, n in removed.items())}" if removed else ""
    after = "".join(f"; tried before: {reason}" for reason in _reasons(failed))
    return replace(report, why=f"{report.why} (exporter {exporter}, opset {opset}){gone}{after}", numbers=numbers)


def _reasons(failed: Mapping[str, ModelkeepError]) -> Iterator[str]:
    """Each reason once, after the names of the exporters that failed for it.

    Of those whose answers differ the first one's stands for all: the others differ alike, but for a digit somewhere.
    """
    first = next((proof.difference(error) for error in failed.values() if isinstance(error, Differs)), "")
    whys = {name: first if isinstance(error, Differs) else proof.difference(error) for name, error in failed.items()}
    for why in dict.fromkeys(whys.values()):
        *names, last = (name for name, other in whys.items() if other == why)
        yield f"exporters {', '.join(names)} and {last}: {why}" if names else f"exporter {last}: {why}"


def _fixed(report: Report, wanted: Signature, kept: Signature, why: Mapping[str, str]) -> Report:
    """What the model would let be free, and no exporter keeps."""
    lost = [name for name in wanted.free if name not in kept.free]
    reason = next(iter(why.values()), "")
    numbers = {**report.numbers, "fixed": dict.fromkeys(lost, reason)}
    told = f"; {' and '.join(lost)} could be free, but no exporter keeps that: {reason}" if lost else ""
    return replace(report, why=f"{report.why}{told}", numbers=numbers)


def _reason(error: BaseException) -> str:
    """The first line of what lies at the bottom of the exporter's error."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = first_line(error)
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}…"


def _clear(into: Path) -> None:
    for path in into.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
