"""Growing a head: its old weights stay to the bit, and with them the old logits, to the last digit of a float."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modelkeep.errors import BadModel
from modelkeep.model.formats import torch_head


def body(bias: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Sequential(nn.Linear(5, 3, bias=bias)))


@pytest.mark.parametrize("bias", [True, False])
def test_old_logits_are_equal_and_new_ones_small(bias: bool) -> None:
    module, rows = body(bias), torch.randn(50, 6)
    before, weight = module(rows), module[2][0].weight  # type: ignore[index]
    torch_head.resize(module, "2.0", 7)
    after = module(rows)
    assert after.shape == (50, 7)
    assert torch.equal(module[2][0].weight[:3], weight)  # type: ignore[index]
    assert torch.allclose(after[:, :3], before, rtol=1e-6, atol=1e-6)  # a wider product is summed in another order
    assert 0 < float(after[:, 3:].detach().abs().max()) < 1
    assert after.requires_grad
    assert [name for name, _ in module.named_parameters()] == [name for name, _ in body(bias).named_parameters()]


def test_the_seed_decides_and_the_process_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    heads = []
    for seed in (1, 1, 2):
        module = nn.Sequential(nn.Linear(4, 2))
        with torch.no_grad():
            module[0].weight.fill_(1.0)
        state = torch.random.get_rng_state()
        torch_head.resize(module, "0", 3, seed=seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        heads.append(module[0].weight[2].tolist())
    assert heads[0] == heads[1] != heads[2]
    torch.random.set_rng_state(before)


def test_precision_mode_and_size_are_kept() -> None:
    module = body().double().eval()
    torch_head.resize(module, "2.0", 4)
    grown = module[2][0]  # type: ignore[index]
    assert grown.weight.dtype == grown.bias.dtype == torch.float64
    assert (grown.in_features, grown.out_features, grown.training) == (5, 4, False)


def test_the_last_linear_layer_is_found_by_its_outputs() -> None:
    assert torch_head.find(body()) == "2.0"
    assert torch_head.find(body(), 5) == "0"
    assert [p.shape for p in torch_head.parameters(body(), "2.0")] == [(3, 5), (3,)]


@pytest.mark.parametrize(
    ("module", "outputs", "sentence"),
    [
        (nn.Sequential(nn.ReLU()), None, "the module has no Linear layer that could be grown for new classes"),
        (body(), 8, "no Linear layer with 8 outputs that could be grown for new classes; 0 has 5, 2.0 has 3"),
    ],
)
def test_without_a_layer_to_grow(module: nn.Module, outputs: int | None, sentence: str) -> None:
    with pytest.raises(BadModel) as caught:
        torch_head.find(module, outputs)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "sentence"), [("1", "layer '1' is a ReLU and no Linear layer"), ("9", "the module has no layer '9'")]
)
def test_what_is_no_linear_layer_is_not_grown(layer: str, sentence: str) -> None:
    with pytest.raises(BadModel, match=sentence):
        torch_head.resize(body(), layer, 4)
