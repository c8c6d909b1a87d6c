"""A decoder of transformers with its key-value cache as a plain tensor in and out: what a server of tokens needs.

This file is self-contained, since a version keeps the file of its factory and nothing else.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache


class Cached(nn.Module):
    """``kind`` is transformers' name of an architecture (gpt2, llama, qwen3), ``config`` what its config takes."""

    def __init__(self, kind: str, **config: Any) -> None:
        super().__init__()
        self.decoder = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config))

    def forward(self, input_ids: Tensor, past: Tensor) -> dict[str, Tensor]:
        """Token ids [rows, new] after ``past`` [rows, layers, 2 (keys, values), heads, old, width] →
        logits [rows, new, vocabulary] and present, the next ``past``: [rows, layers, 2, heads, old + new, width].
        """
        old, new = past.shape[4], input_ids.shape[1]
        layers = past.unbind(1)
        if len(layers) != self.decoder.config.num_hidden_layers:
            raise ValueError(f"the past is of {len(layers)} layers, which this decoder has not")
        cache = DynamicCache([(keys, values) for keys, values in (layer.unbind(1) for layer in layers)])
        places = torch.arange(old, old + new, device=past.device).unsqueeze(0)
        answer = self.decoder(input_ids, past_key_values=cache, position_ids=places, use_cache=True)
        present = [torch.stack((layer.keys, layer.values), 1) for layer in answer.past_key_values.layers]
        return {"logits": answer.logits, "present": torch.stack(present, 1)}
