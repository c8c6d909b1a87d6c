"""PyTorch weights with the factory that builds their module: weights.safetensors and code/<module>.py in a folder."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_model

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel, ModelkeepError, Untrusted
from modelkeep.model import signature as signatures
from modelkeep.model.formats import factories, torch_export, torch_head, torchscript
from modelkeep.types import Model, Signature

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

WEIGHTS = "weights.safetensors"


def _huggingface(model: Model) -> torch.nn.Module:
    from modelkeep.model.formats import huggingface

    return huggingface.module(model)


OTHERS: dict[str, Callable[[Model], torch.nn.Module]] = {
    "huggingface": _huggingface,
    "torch-export": torch_export.module,
    "torchscript": torchscript.module,
}
"""The formats beside this one that are modules too, and what opens them."""
WRAPPED = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the state_dict among other things."""


def adopt(
    source: Path, into: Path, *, factory: str | None, factory_args: Mapping[str, Any], data: Dataset | None, trust: bool
) -> Model:
    """See formats.adopt. Raises BadModel where --factory or --data is missing, or the weights do not fit the module."""
    state = read_weights(source, trust=trust)
    if isinstance(state, torch.nn.Module) and factory is None:
        return torch_export.from_module(state.eval(), into, needed(data, source))
    if isinstance(state, torch.nn.Module):
        state = state.state_dict()
    if factory is None:
        raise BadModel(
            f"{source} holds weights but no code; pass --factory module:Name, what builds the module they belong to"
        )
    code = factories.keep(factory, into, near=(Path.cwd(), source.parent))
    built = factories.build(factory, factory_args, into)
    _fill(built, state, source, factory)
    rows = needed(data, source)
    like = Model(into, "torch", Signature((), ()), (WEIGHTS, *code))
    return save(built, like, into, factory=factory, factory_args=factory_args, signature=observe(built, rows))


def module(model: Model) -> torch.nn.Module:
    """The module, in eval mode, on the CPU; for every format that engine "torch" runs."""
    if model.format in OTHERS:
        return OTHERS[model.format](model)
    built = factories.build(model.options["factory"], model.options.get("factory_args", {}), model.path)
    if head := model.options.get("head"):
        torch_head.resize(built, head["layer"], head["outputs"])
    try:
        load_model(built, model.main)
    except (RuntimeError, OSError, SafetensorError) as error:
        raise BadModel(f"{model.main} does not fit {model.options['factory']}: {reason(error)}") from error
    return built.eval()


def map_weights(module: torch.nn.Module, file: Path) -> None:
    """Have the parameters lie in the file's pages, of which the machine holds one copy for all processes."""
    state = load_file(file)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        found = state.get(name)
        if found is not None and (found.dtype, found.shape) == (parameter.dtype, parameter.shape):
            parameter.data = found


def save(
    module: torch.nn.Module,
    like: Model,
    into: Path,
    *,
    factory: str | None = None,
    factory_args: Mapping[str, Any] | None = None,
    labels: tuple[str, ...] | None = None,
    signature: Signature | None = None,
    head: Mapping[str, Any] | None = None,
) -> Model:
    """The module as a model folder at ``into`` (without model.json), everything not given being as in ``like``.

    ``head`` is a layer that was grown after the factory built it: {"layer": name, "outputs": count}.

    Of a "torch-export" model and with no ``factory``, the module is exported again; a "huggingface" one is a folder of
    that kind again.
    """
    signature = signature or like.signature
    names = like.labels if labels is None else tuple(labels)
    into.mkdir(parents=True, exist_ok=True)
    if factory is None and like.format == "huggingface":
        from modelkeep.model.formats import huggingface

        return huggingface.save(module, like, into, names, signature)
    if factory is None and like.format == "torch-export":
        rows = Dataset(signatures.example(signature, 2), None, "seeded inputs")
        made = torch_export.from_module(module, into, rows, like=signature)
        return Model(into, made.format, signature, made.files, names, made.options)
    target = factory or str(like.options["factory"])
    arguments = like.options.get("factory_args", {}) if factory_args is None else factory_args
    code = factories.keep(target, into, near=(like.path / factories.CODE, Path.cwd()))
    save_model(module, str(into / WEIGHTS))
    options: dict[str, Any] = {"factory": target, "factory_args": dict(arguments)}
    if head or (factory is None and like.options.get("head")):
        options["head"] = dict(head or like.options["head"])
    return Model(into, "torch", signature, (WEIGHTS, *code), names, options)


def forward(
    module: torch.nn.Module, signature: Signature, inputs: Arrays, device: torch.device | None = None
) -> dict[str, Array]:
    """One run without gradients: the inputs by position, in the signature's order; the outputs under its names."""
    # a copy, for torch takes no read-only array, and a module may write into what it is given
    tensors = [torch.from_numpy(np.array(inputs[t.name], order="C")) for t in signature.inputs]
    with torch.inference_mode():
        answers = named(module(*(t.to(device) if device else t for t in tensors)))
    found = {name: _array(tensor) for name, tensor in answers.items()}
    names = [t.name for t in signature.outputs] or list(found)
    return dict(zip(names, found.values(), strict=True))


def named(answer: Any) -> dict[str, torch.Tensor]:
    """A tensor is ``output``, several are ``output_0``, ``output_1``, …; those of a dict keep their names.

    Raises BadModel for anything else.
    """
    if isinstance(answer, torch.Tensor):
        return {"output": answer}
    if isinstance(answer, Mapping):
        found = {str(name): tensor for name, tensor in answer.items() if tensor is not None}
    elif isinstance(answer, (tuple, list)):
        found = {f"output_{number}": tensor for number, tensor in enumerate(answer)}
    else:
        found = {}
    if not found or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise BadModel(
            f"the module answers with a {type(answer).__name__} that is no tensor and holds other things than tensors; "
            "let its forward return a tensor, a tuple or a dict of tensors"
        )
    return found


def observe(module: torch.nn.Module, rows: Dataset) -> Signature:
    """The signature that running 1 and 3 of the rows shows: the batch is free, and so is what varies with it.

    Raises BadModel where the module does not run, or does not answer row by row.
    """
    module.eval()
    floating = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    inputs = _ordered(module, {name: _as(array, floating) for name, array in rows.inputs.items()})
    bare = Signature(signatures.from_arrays(inputs, {}).inputs, ())
    runs = {}
    for count in (1, 3):
        few = {name: array[np.arange(count) % len(array)] for name, array in inputs.items()}
        try:
            runs[count] = forward(module, bare, few)
        except ModelkeepError:
            raise
        except Exception as error:  # forward is a person's code, which may raise anything
            raise BadModel(
                f"the module cannot run {count} row{'s' if count > 1 else ''} of {rows.source}: {reason(error)}"
            ) from error
        for name, answer in runs[count].items():
            if answer.shape[:1] != (count,):
                raise BadModel(
                    f"the module answers {count} rows with '{name}' of shape {list(answer.shape)}; "
                    "the first dimension of an output must be the rows"
                )
    return Signature(bare.inputs, signatures.from_arrays({}, runs[3]).outputs)


def read_weights(source: Path, *, trust: bool) -> Mapping[str, torch.Tensor] | torch.nn.Module:
    """A state_dict, from .safetensors or with weights_only=True; a pickled module only with ``trust``."""
    try:
        if source.read_bytes()[8:9] == b"{":
            return load_file(source)
        return _state(torch.load(source, map_location="cpu", weights_only=True), source)
    except pickle.UnpicklingError as error:
        if not trust:
            raise Untrusted(
                f"{source} holds more than weights, and unpickling that can run any code; save the module's "
                "state_dict() instead, or pass --trust if you made the file yourself"
            ) from error
    except (RuntimeError, EOFError, OSError, SafetensorError, ValueError) as error:
        raise BadModel(f"{source} is damaged, or no PyTorch file: {reason(error)}") from error
    with factories.importable(Path.cwd(), source.parent):
        try:
            return _state(torch.load(source, map_location="cpu", weights_only=False), source)
        except (AttributeError, ImportError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise BadModel(
                f"{source} cannot be unpickled here: {reason(error)}; what defines its class must be importable under "
                "that name, so better save its state_dict(), and pass --factory module:Name"
            ) from error


def _state(found: Any, source: Path) -> Mapping[str, torch.Tensor] | torch.nn.Module:
    if isinstance(found, torch.nn.Module):
        return found
    if isinstance(found, Mapping):
        for key in WRAPPED:
            if isinstance(found.get(key), Mapping):
                found = found[key]
        if found and all(isinstance(value, torch.Tensor) for value in found.values()):
            return dict(found)
    what = f"the keys {', '.join(map(str, list(found)[:5]))}" if isinstance(found, Mapping) else type(found).__name__
    raise BadModel(f"{source} holds {what} and no state_dict; save module.state_dict() with torch.save")


def _fill(built: torch.nn.Module, state: Mapping[str, torch.Tensor], source: Path, factory: str) -> None:
    """Load the weights, with what DistributedDataParallel and torch.compile put before their names taken off."""
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    own = built.state_dict()
    wrong = [f"it lacks {name}" for name in own if name not in state]
    wrong += [f"it has {name}, which the module has not" for name in state if name not in own]
    wrong += [
        f"{name} is {list(tensor.shape)} where the module has {list(own[name].shape)}"
        for name, tensor in state.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise BadModel(f"the weights of {source} do not fit {factory}: {'; '.join(wrong[:3])}{more}")
    built.load_state_dict(state)


def needed(data: Dataset | None, source: Path) -> Dataset:
    """The rows that show what a module takes. Raises BadModel where there are none."""
    if data is None:
        raise BadModel(
            f"{source} does not say what it takes; pass --data FILE (.npz, .csv) with some rows, whose names, dtypes "
            "and shapes become the model's inputs"
        )
    return data


def _ordered(module: torch.nn.Module, inputs: dict[str, Array]) -> dict[str, Array]:
    """In the order of forward's own parameters where the names are the same; else as they come."""
    scripted = isinstance(module, torch.jit.ScriptModule)
    parameters = torchscript.parameters(module) if scripted else factories.parameters(module.forward)
    if set(inputs) <= set(parameters):
        return {name: inputs[name] for name in parameters if name in inputs}
    return inputs


def _as(array: Array, floating: torch.dtype) -> Array:
    """Floats in the precision of the weights: numpy's default of 64 bits is seldom meant."""
    if array.dtype.kind == "f" and floating in (torch.float32, torch.float64, torch.float16):
        return array.astype(str(floating).removeprefix("torch."))
    if array.dtype.kind in "OUS":
        raise BadModel("a PyTorch module takes numbers, and the rows hold text; give them as token numbers")
    return array


def _array(tensor: torch.Tensor) -> Array:
    """numpy has no bfloat16."""
    tensor = tensor.detach().cpu()
    found: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return found


def reason(error: Exception) -> str:
    """The error's words in one line: PyTorch puts the size mismatch or the missing key into the second."""
    return " ".join((str(error).strip() or repr(error)).split("\n")[:2]).replace("\t", "")
