"""Random weights whose answers differ from row to row, and are the same each time."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from zoo import inputs, weights


def deep() -> nn.Module:
    """Deep enough for its answers to vanish."""
    layers = [nn.Conv2d(3, 16, 3, padding=1)]
    for _ in range(8):
        layers += [nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


def test_the_same_seed_gives_the_same_weights() -> None:
    a, b = weights.seeded(deep), weights.seeded(deep)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not a.training


def test_answers_differ_by_the_spread_where_they_were_all_alike() -> None:
    rows = {"image": inputs.pictures(8, 16)}
    module = weights.seeded(deep)
    with torch.no_grad():
        before = module(torch.from_numpy(rows["image"])).std(0).mean()
        weights.spread(weights.calibrate(module, rows), module[-1], rows)  # type: ignore[index]
        after = module(torch.from_numpy(rows["image"])).std(0).mean()
    assert before < 0.05
    assert abs(float(after) - weights.SPREAD) < 1e-3


def test_each_batch_norm_has_seen_its_own_input() -> None:
    rows = {"image": inputs.pictures(8, 16)}
    module = weights.calibrate(weights.seeded(deep), rows)
    seen = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_hook(lambda layer, x, y, name=name: seen.__setitem__(name, y))
    with torch.no_grad():
        module(torch.from_numpy(inputs.with_extremes(rows["image"])))
    assert len(seen) == 8
    for answer in seen.values():
        assert float(answer.mean().abs()) < 1e-4
        assert 0.2 < float(answer.std()) < 1.2


def test_constant_pictures_are_not_blown_up() -> None:
    rows = {"image": inputs.pictures(8, 16)}
    module = weights.seeded(deep)
    weights.spread(weights.calibrate(module, rows), module[-1], rows)  # type: ignore[index]
    there = inputs.with_extremes(rows["image"])[8:]
    assert [float(picture.min()) for picture in there[:2]] == [0, 1]
    assert [float(picture.max()) for picture in there[2:]] == [rows["image"].min(), rows["image"].max()]
    with torch.no_grad():
        assert float(module(torch.from_numpy(there)).abs().max()) < 40 * weights.SPREAD


def test_a_transformer_becomes_lively() -> None:
    module = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64))
    nn.init.normal_(module[0].weight, std=0.02)
    weights.lively(module)
    assert abs(float(module[0].weight.detach().std()) - 0.125) < 0.01
    assert torch.equal(module[1].weight, torch.ones(64))


def test_inputs_are_seeded_and_of_their_kind() -> None:
    pictures = inputs.pictures(6, 20)
    assert pictures.shape == (6, 3, 20, 20)
    assert pictures.dtype == np.float32
    assert np.array_equal(pictures, inputs.pictures(6, 20))
    assert pictures.mean((1, 2, 3)).std() > 0.1
    words = inputs.tokens(4, 9, 30)
    assert words.dtype == np.int64
    assert 1 <= words.min() < words.max() < 30
