"""The signature of a transformers model: inputs from its forward and config, outputs from runs at several sizes."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelkeep.data.lengths import MASK
from modelkeep.errors import BadModel, first_line
from modelkeep.model import signature as signatures
from modelkeep.types import BATCH, Bounds, Signature, TensorSpec

KNOWN = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "pixel_values",
    "input_values",
    "input_features",
    "decoder_input_ids",
)
"""What a model is given that answers one question; the rest of a forward is for training or tuning."""
OFFSET = ("camembert", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl")
"""Models that count positions from the padding token's number on, so that the first ones are lost."""


def takes(built: Any, name: str) -> bool:
    """Whether the model's forward has a parameter of this name."""
    return name in inspect.signature(built.forward).parameters


def inputs(built: Any, *, given: Collection[str] | None = None) -> tuple[str, ...]:
    """The names of the inputs, in forward's order; without token_type_ids where it is not among those ``given``, for
    the model then takes them to be zeros, as they are for one text.
    """
    parameters = list(inspect.signature(built.forward).parameters)
    wanted = [name for name in KNOWN if name in parameters]
    if "input_ids" not in wanted and "input_values" not in wanted:
        wanted = [name for name in wanted if name != "attention_mask"]
    if getattr(built.config, "type_vocab_size", 0) < 2 or (given is not None and "token_type_ids" not in given):
        wanted = [name for name in wanted if name != "token_type_ids"]
    return tuple(sorted(wanted, key=parameters.index))


def layers_of(built: Any, source: Path) -> int:
    """How many layers keep keys and values. Raises BadModel for what is no decoder."""
    config = built.config.get_text_config(decoder=True)
    if not hasattr(built, "generate") or not built.can_generate() or getattr(config, "is_encoder_decoder", False):
        raise BadModel(
            f"{source} is a {type(built).__name__}, which has no cache that could be an input; leave --with-past"
        )
    return int(config.num_hidden_layers)


def read(module: Any, source: Path) -> Signature:
    """The signature of a huggingface.Named. Raises BadModel where the model does not run on what it is said to take."""
    built = module.inner
    two = {"input_ids", "pixel_values"} <= set(module.names)
    specs = [_input(built, name, past=bool(module.past), two=two) for name in module.names]
    bounds = _bounds(built.config, past=bool(module.past))
    if module.past:
        specs += _cache(built.config, module.past)
    bare = Signature(tuple(specs), (), bounds)
    runs = [_run(module, bare, shift, source) for shift in range(4)]
    outputs = tuple(_output(name, runs) for name in runs[0][1])
    return Signature(bare.inputs, outputs, bounds)


def _input(built: Any, name: str, *, past: bool, two: bool) -> TensorSpec:
    config = built.config
    rows = ("images" if name == "pixel_values" else "texts") if two else BATCH
    if name == "pixel_values":
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", None) or 224
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return TensorSpec(name, "float32", (None, vision.num_channels, height, width), (rows, None, None, None))
    if name == "input_values":
        return TensorSpec(name, "float32", (None, None), (rows, "samples"))
    if name == "input_features":
        length = 2 * config.max_source_positions
        return TensorSpec(name, "float32", (None, config.num_mel_bins, length), (rows, None, None))
    length = "decoder_sequence" if name.startswith("decoder_") else "sequence"
    if name == "attention_mask":
        length = "samples" if takes(built, "input_values") else "past+sequence" if past else "sequence"
    return TensorSpec(name, "int64", (None, None), (rows, length))


def _bounds(config: Any, *, past: bool) -> dict[str, Bounds]:
    text = config.get_text_config()
    high = getattr(text, "max_position_embeddings", None)
    if high and config.model_type in OFFSET:
        high -= config.pad_token_id + 1
    found = {"sequence": Bounds(1, high)} if high else {}
    if getattr(config, "is_encoder_decoder", False) and high:
        found["decoder_sequence"] = Bounds(1, high)
    # together they may not be longer than the model's positions either, which bounds of one dimension cannot say
    return {"sequence": Bounds(1, high), "past": Bounds(0, high - 1)} if past and high else found


def _cache(config: Any, layers: int) -> list[TensorSpec]:
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return [
        TensorSpec(
            f"past_key_values.{number}.{part}", "float32", (None, heads, None, width), (BATCH, None, "past", None)
        )
        for number in range(layers)
        for part in ("key", "value")
    ]


Run = tuple[dict[str, int], dict[str, torch.Tensor]]


def _run(module: Any, bare: Signature, shift: int, source: Path) -> Run:
    """One run at sizes that no two free dimensions share: 2, 3, …, each time others."""
    sizes = {name: _size(bare, name, 2 + number + shift * (1 + number)) for number, name in enumerate(bare.free)}
    given = signatures.example(bare, seed=shift, sizes=sizes)
    arrays = [_ones(given[t.name]) if MASK in t.name else given[t.name] for t in bare.inputs]
    try:
        with torch.inference_mode():
            return sizes, module(*(torch.from_numpy(array) for array in arrays))
    except Exception as error:  # a model's forward may raise anything
        took = ", ".join(t.describe() for t in bare.inputs)
        raise BadModel(f"{source} does not run on {took}: {first_line(error)}") from error


def _size(bare: Signature, name: str, size: int) -> int:
    limits = bare.bounds.get(name, Bounds())
    return 400 * size if name == "samples" else min(size, limits.high or size)


def _ones(array: Any) -> Any:
    return np.ones_like(array)


def _output(name: str, runs: Sequence[Run]) -> TensorSpec:
    shapes = [found[name].shape for _, found in runs]
    axes = [
        _axis(name, at, [shape[at] for shape in shapes], [sizes for sizes, _ in runs]) for at in range(len(shapes[0]))
    ]
    dtype = str(runs[0][1][name].dtype).removeprefix("torch.")
    shape = tuple(None if axis else size for axis, size in zip(axes, shapes[0], strict=True))
    return TensorSpec(name, "float32" if dtype == "bfloat16" else dtype, shape, tuple(axes))


def _axis(output: str, at: int, seen: Sequence[int], sizes: Sequence[Mapping[str, int]]) -> str | None:
    """The name of the inputs' dimension, or the sum of two, that an output's follows; None where it is fixed."""
    if len(set(seen)) == 1:
        return None
    names = list(sizes[0])
    for parts in (*((name,) for name in names), *itertools.combinations(sorted(names), 2)):
        if [sum(each[part] for part in parts) for each in sizes] == list(seen):
            return "+".join(parts)
    return f"{output}.{at}"
