"""GoogLeNet: Szegedy and others, "Going deeper with convolutions", 2014, table 1.

The two auxiliary heads of the paper are there in training only, so a conversion must leave their weights out.
"""

import torch
from torch import Tensor, nn

STAGES = (
    # 1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, pool projection; a word is a pooling, or an auxiliary head
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    "pool",
    (192, 96, 208, 16, 48, 64),
    "auxiliary",
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    "auxiliary",
    (256, 160, 320, 32, 128, 128),
    "pool",
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)


class GoogLeNet(nn.Module):
    """Pictures [rows, 3, height, width] to ``classes`` logits; in training also those of the auxiliary heads."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _convolution(3, 64, 7, stride=2),
            nn.MaxPool2d(3, 2, padding=1),
            nn.LocalResponseNorm(5),
            _convolution(64, 64, 1),
            _convolution(64, 192, 3),
            nn.LocalResponseNorm(5),
            nn.MaxPool2d(3, 2, padding=1),
        )
        width = 192
        self.blocks, self.auxiliaries = nn.ModuleList(), nn.ModuleDict()
        for stage in STAGES:
            if stage == "auxiliary":
                self.auxiliaries[str(len(self.blocks))] = _auxiliary(width, classes)
            elif stage == "pool":
                self.blocks.append(nn.MaxPool2d(3, 2, padding=1))
            else:
                self.blocks.append(Inception(width, *stage))
                width = stage[0] + stage[2] + stage[4] + stage[5]
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4), nn.Linear(width, classes))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = self.stem(image)
        more = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if self.training and str(number + 1) in self.auxiliaries:
                more.append(self.auxiliaries[str(number + 1)](x))
        return (self.head(x), *more) if self.training else self.head(x)


class Inception(nn.Module):
    """Four branches side by side, figure 2b of the paper."""

    def __init__(self, width: int, one: int, less3: int, three: int, less5: int, five: int, pool: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            (
                _convolution(width, one, 1),
                nn.Sequential(_convolution(width, less3, 1), _convolution(less3, three, 3)),
                nn.Sequential(_convolution(width, less5, 1), _convolution(less5, five, 5)),
                nn.Sequential(nn.MaxPool2d(3, 1, padding=1), _convolution(width, pool, 1)),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def _convolution(width: int, out: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, out, size, stride, padding=size // 2), nn.ReLU())


def _auxiliary(width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.AvgPool2d(5, 3),
        _convolution(width, 128, 1),
        nn.Flatten(),
        nn.Linear(128 * 4 * 4, 1024),
        nn.ReLU(),
        nn.Dropout(0.7),
        nn.Linear(1024, classes),
    )
