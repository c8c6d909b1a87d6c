"""Writes the rows of text: folders as transformers saves them, and state_dicts with their factories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zoo import inputs, weights
from zoo.row import Source
from zoo.saved import saved
from zoo.text import cached, transformer

HERE = Path(__file__).parent
ROWS, LENGTH, OLD = 8, 11, 6


def folder(folder: Path, *, model: str, kind: str, **config: Any) -> Source:
    """A folder of config.json and model.safetensors: transformers' class ``model``, with the config of ``kind``."""
    import transformers

    settings = transformers.AutoConfig.for_model(kind, **config)
    made = weights.seeded(getattr(transformers, model), settings)
    weights.lively(made)
    made.save_pretrained(folder)
    return Source(folder, _rows(kind, settings))


def decoder(folder: Path, *, kind: str, **config: Any) -> Source:
    """A decoder that takes its key-value cache and gives the next one."""
    made = weights.lively(weights.seeded(cached.Cached, kind, **config))
    settings = made.decoder.config
    heads = getattr(settings, "num_key_value_heads", None) or settings.num_attention_heads
    width = getattr(settings, "head_dim", None) or settings.hidden_size // settings.num_attention_heads
    rows = {
        "input_ids": inputs.tokens(ROWS, LENGTH, settings.vocab_size),
        "past": inputs.normal(ROWS, settings.num_hidden_layers, 2, heads, OLD, width),
    }
    return saved(folder, made, HERE / "cached.py", "Cached", {"kind": kind, **config}, rows)


def translator(folder: Path, **options: Any) -> Source:
    """torch.nn.Transformer, its source and its target of different lengths, some of the source being padding."""
    made = weights.seeded(transformer.Translator, **options)
    source, target = (inputs.tokens(ROWS, n, made.words.num_embeddings, seed=n) for n in (LENGTH, LENGTH - 4))
    source[: ROWS // 2, -3:] = transformer.PADDING
    rows = {"source": source, "target": target}
    return saved(folder, made, HERE / "transformer.py", "Translator", options, rows)


def _rows(kind: str, settings: Any) -> dict[str, np.ndarray[Any, Any]]:
    if kind == "vit":
        return {"pixel_values": inputs.pictures(ROWS, settings.image_size)}
    text = getattr(settings, "text_config", settings)
    mask = np.ones((ROWS, LENGTH), np.int64)
    mask[: ROWS // 2, -3:] = 0
    rows = {"input_ids": inputs.tokens(ROWS, LENGTH, text.vocab_size), "attention_mask": mask}
    if kind == "bert":
        rows["token_type_ids"] = np.repeat([[0, 1]], ROWS, 0).repeat([4, LENGTH - 4], 1)
    if kind == "clip":
        rows["pixel_values"] = inputs.pictures(ROWS, settings.vision_config.image_size)
    return rows
