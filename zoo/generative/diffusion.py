"""The two networks that a text-to-image pipeline runs: the UNet that denoises, the decoder from latents to pictures.

Rombach and others, "High-resolution image synthesis with latent diffusion models", 2022, in diffusers.

This file is self-contained, since a version keeps the file of its factory and nothing else.
"""

from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn


class Denoiser(nn.Module):
    """UNet2DConditionModel of this ``config``."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(**config)

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """Noisy latents [rows, channels, height, width], steps [rows] and the prompt's hidden states
        [rows, length, width] to the noise, shaped as the latents.
        """
        return self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]


class Decoder(nn.Module):
    """The decoder's half of an AutoencoderKL of this ``config``."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        kept = AutoencoderKL(**config)
        self.before, self.decoder = kept.post_quant_conv, kept.decoder

    def forward(self, latents: Tensor) -> Tensor:
        """Latents [rows, channels, height, width] to pictures [rows, 3, 8 height, 8 width] (of four stages)."""
        return self.decoder(self.before(latents))
