"""Writes the rows of text-to-image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zoo import inputs, weights
from zoo.generative import diffusion
from zoo.row import Source
from zoo.saved import saved

ROWS = 4


def unet(folder: Path, *, size: int, **config: Any) -> Source:
    """A UNet2DConditionModel: latents of ``size``, prompts of 7 tokens, each row at a step of its own."""
    made = weights.seeded(diffusion.Denoiser, **config)
    rows = {
        "sample": inputs.normal(ROWS, config["in_channels"], size, size),
        "timestep": np.linspace(1, 999, ROWS).astype(np.int64),
        "encoder_hidden_states": inputs.normal(ROWS, 7, config["cross_attention_dim"], seed=1),
    }
    return saved(folder, made, Path(diffusion.__file__), "Denoiser", config, rows)


def decoder(folder: Path, *, size: int, **config: Any) -> Source:
    """The decoder of an AutoencoderKL: latents of ``size`` to pictures."""
    made = weights.seeded(diffusion.Decoder, **config)
    rows = {"latents": inputs.normal(ROWS, config["latent_channels"], size, size)}
    return saved(folder, made, Path(diffusion.__file__), "Decoder", config, rows)
