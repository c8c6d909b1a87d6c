"""AlexNet and GoogLeNet are as large as their papers say, and GoogLeNet's auxiliary heads speak in training only."""

from __future__ import annotations

import torch
from torch import nn

from zoo.vision.alexnet import AlexNet
from zoo.vision.googlenet import GoogLeNet


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_alexnet_has_60_million_weights_in_eight_layers() -> None:
    with torch.device("meta"):
        module = AlexNet()
    assert 60.9e6 < size(module) < 61.0e6
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in module.modules()) == 8


def test_a_narrow_alexnet_answers_with_its_classes() -> None:
    module = AlexNet(classes=7, width=0.05).eval()
    assert module(torch.zeros(2, 3, 227, 227)).shape == (2, 7)


def test_googlenet_has_the_papers_weights_and_22_layers_deep_modules() -> None:
    with torch.device("meta"):
        module = GoogLeNet()
    deployed = size(module) - size(module.auxiliaries)
    assert 6.9e6 < deployed < 7.1e6  # table 1: 6.8 million without biases and the head's last bits
    assert sum(type(m).__name__ == "Inception" for m in module.modules()) == 9


def test_the_auxiliary_heads_are_there_in_training_only() -> None:
    module = GoogLeNet(classes=5)
    pictures = torch.zeros(2, 3, 224, 224)
    assert [tuple(answer.shape) for answer in module.train()(pictures)] == [(2, 5)] * 3
    assert module.eval()(pictures).shape == (2, 5)
