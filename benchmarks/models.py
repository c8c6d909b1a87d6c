"""The models that benchmarks measure, with random weights: a small net, ResNet-18 (He et al. 2016), a small BERT.

Each is a ``head``, its last layer, on what ``read`` gives.
Plain PyTorch, so that a benchmark needs no model library. BERT-small is 4 layers, 512 wide, 8 heads (Turc et al. 2019,
arXiv:1908.08962), without the pooler.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """784 → 256 → 256 → 10, as for MNIST."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, 784] → [rows, 10]."""
        scores: Tensor = self.head(self.read(x))
        return scores

    def read(self, x: Tensor) -> Tensor:
        """[rows, 784] → [rows, 256]."""
        seen: Tensor = self.layers(x)
        return seen


class Block(nn.Module):
    """Two 3×3 convolutions and a way around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        same = stride == 1 and before == after
        self.around = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        )

    def forward(self, x: Tensor) -> Tensor:
        """[rows, before, h, w] → [rows, after, h / stride, w / stride]."""
        return torch.relu(self.convolutions(x) + self.around(x))


class ResNet18(nn.Module):
    """11.7 million weights."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        ]
        before = 64
        for width in (64, 128, 256, 512):
            layers += [Block(before, width, 1 if width == 64 else 2), Block(width, width, 1)]
            before = width
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, 3, 224, 224] → [rows, classes]."""
        scores: Tensor = self.head(self.read(x))
        return scores

    def read(self, x: Tensor) -> Tensor:
        """[rows, 3, 224, 224] → [rows, 512]."""
        seen: Tensor = self.layers(x)
        return seen


class BertSmall(nn.Module):
    """Token numbers in, scores of classes out, from the mean of the tokens.

    With ``mask``, int64 [rows, length], only the tokens count where it is 1: sequences of different lengths may share a
    run.
    """

    def __init__(self, classes: int = 6, tokens: int = 30522, longest: int = 512) -> None:
        super().__init__()
        self.words = nn.Embedding(tokens, 512)
        self.places = nn.Parameter(torch.randn(longest, 512) * 0.02)
        self.norm = nn.LayerNorm(512)
        self.layers = nn.ModuleList(Layer() for _ in range(4))
        self.head = nn.Linear(512, classes)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """int64 [rows, length] → [rows, classes]."""
        scores: Tensor = self.head(self.read(ids, mask))
        return scores

    def read(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """int64 [rows, length] → [rows, 512], the mean over the tokens."""
        seen = None if mask is None else mask[:, None, None, :].to(torch.bool)
        x: Tensor = self.norm(self.words(ids) + self.places[: ids.shape[1]])
        for layer in self.layers:
            x = layer(x, seen)
        if mask is None:
            return x.mean(1)
        weights = mask[:, :, None].to(x.dtype)
        return (x * weights).sum(1) / weights.sum(1)


class Layer(nn.Module):
    """Attention with 8 heads, then a wide layer; normed after each, as BERT does."""

    def __init__(self, width: int = 512, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[rows, length, width] → the same; ``mask`` [rows, 1, 1, length] says what is attended to."""
        rows, length, width = x.shape
        q, k, v = self.qkv(x).reshape(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norms[0](x + self.out(seen.transpose(1, 2).reshape(rows, length, width)))
        read: Tensor = self.norms[1](x + self.narrow(nn.functional.gelu(self.wide(x))))
        return read
