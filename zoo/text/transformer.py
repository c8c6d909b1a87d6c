"""An encoder-decoder of torch.nn.Transformer: Vaswani and others, "Attention is all you need", 2017."""

import math

import torch
from torch import Tensor, nn

PADDING = 0


class Translator(nn.Module):
    """Source ids [rows, source] and target ids [rows, target], 0 being padding, to logits [rows, target, vocabulary] of
    the next target token. ``width`` 512, 8 heads and 6 layers are the paper's.
    """

    def __init__(self, vocabulary: int = 1000, width: int = 512, heads: int = 8, layers: int = 6) -> None:
        super().__init__()
        self.width = width
        self.words = nn.Embedding(vocabulary, width)
        self.transformer = nn.Transformer(width, heads, layers, layers, 4 * width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        padding = source == PADDING
        ahead = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool, device=target.device).triu(1)
        made = self.transformer(
            self._embedded(source),
            self._embedded(target),
            tgt_mask=ahead,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return self.head(made)

    def _embedded(self, tokens: Tensor) -> Tensor:
        place = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(1)
        rate = torch.exp(torch.arange(0, self.width, 2, device=tokens.device) * (-math.log(10_000.0) / self.width))
        waves = torch.stack((torch.sin(place * rate), torch.cos(place * rate)), -1).flatten(1)
        return self.words(tokens) * math.sqrt(self.width) + waves
