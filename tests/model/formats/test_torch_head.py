"""The last Linear layer: found in networks of several kinds, and grown without touching what is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from modelkeep.errors import BadModel
from modelkeep.model.formats import torch_head


@pytest.mark.parametrize("name", ["MLP", "Conv", "Encoder"])
def test_old_logits_are_the_same_right_after_growing(name: str, trained: Any, digits: Any, nets_module: Any) -> None:
    module = getattr(nets_module, name)()
    module.load_state_dict(trained(name).state_dict())
    module.eval()
    pixels = torch.from_numpy(digits[1].inputs["pixels"][:50])
    with torch.no_grad():
        before = module(pixels)
        torch_head.resize(module, torch_head.find(module), 13)
        after = module(pixels)
    assert after.shape == (50, 13)
    torch.testing.assert_close(after[:, :10], before, rtol=0, atol=1e-5)
    assert before.abs().max() > 1


def test_the_kept_rows_of_the_weights_are_exactly_the_old_ones() -> None:
    module = nn.Sequential(nn.Linear(4, 3))
    old = module[0]
    torch_head.resize(module, "0", 5)
    assert torch.equal(module[0].weight[:3], old.weight)
    assert torch.equal(module[0].bias[:3], old.bias)
    assert module[0].out_features == 5
    assert module[0].weight.requires_grad


def test_new_rows_come_from_the_seed_and_leave_the_random_state() -> None:
    made = []
    template = nn.Linear(4, 2)
    state = torch.get_rng_state()
    for seed in (1, 1, 2):
        module = nn.Sequential(nn.Linear(4, 2))
        module.load_state_dict({"0.weight": template.weight.detach(), "0.bias": template.bias.detach()})
        torch.set_rng_state(state)
        torch_head.resize(module, "0", 4, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        made.append(module[0].weight.detach()[2:])
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert made[0].abs().min() > 0


@pytest.mark.parametrize(("bias", "dtype"), [(False, torch.float32), (True, torch.float64)])
def test_keeps_bias_and_precision(bias: bool, dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(4, 2, bias=bias, dtype=dtype)))
    torch_head.resize(module, "1.0", 3)
    grown: Any = module.get_submodule("1.0")
    assert grown.weight.dtype == dtype
    assert (grown.bias is not None) is bias
    assert module(torch.zeros(2, 4, dtype=dtype)).shape == (2, 3)


def test_finds_the_last_one_however_deep() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), nn.Softmax(-1))
    assert torch_head.find(module) == "1.1"
    assert [tuple(p.shape) for p in torch_head.parameters(module, "1.1")] == [(2, 4), (2,)]


def test_a_module_without_linear_is_refused() -> None:
    with pytest.raises(BadModel, match="has no Linear layer that could be grown for new classes"):
        torch_head.find(nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU()))


def test_another_layer_is_refused_by_its_name() -> None:
    with pytest.raises(BadModel, match="layer '1' is a ReLU and no Linear layer, so it cannot be grown"):
        torch_head.resize(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "1", 5)
