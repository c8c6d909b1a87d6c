"""Trained networks of three kinds, and one that was made slightly wrong."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from modelkeep.model import engines
from modelkeep.model.compare import compare
from modelkeep.model.engines.torch import TorchRunner
from modelkeep.types import Runner, Signature


@contextlib.contextmanager
def runner(signature: Signature, module: torch.nn.Module) -> Iterator[Runner]:
    with contextlib.closing(TorchRunner(signature, module, torch.device("cpu"), None)) as made:
        yield made


@pytest.mark.parametrize("name", ["MLP", "Conv", "Encoder"])
def test_a_faithful_copy_passes(name: str, adopted: Any, trained: Any, digits: Any) -> None:
    model = adopted(name)
    with contextlib.closing(engines.load(model)) as a, runner(model.signature, copy.deepcopy(trained(name))) as b:
        report = compare(a, b, digits[1])
    assert report.ok is True, report.why
    assert report.numbers["max_abs"] < 1e-5


@pytest.mark.parametrize("name", ["MLP", "Conv", "Encoder"])
def test_every_layer_changed_by_one_percent_is_caught(name: str, adopted: Any, trained: Any, digits: Any) -> None:
    model = adopted(name)
    state = trained(name).state_dict()
    for key in [k for k, v in state.items() if k.endswith("weight") and v.ndim > 1]:
        wrong = copy.deepcopy(trained(name))
        with torch.no_grad():
            wrong.get_parameter(key).mul_(1.01)
        with contextlib.closing(engines.load(model)) as a, runner(model.signature, wrong) as b:
            assert compare(a, b, digits[1].head(64)).ok is False, key


@pytest.mark.parametrize("name", ["MLP", "Conv", "Encoder"])
def test_one_spoilt_weight_is_caught(name: str, adopted: Any, trained: Any, digits: Any) -> None:
    model = adopted(name)
    wrong = copy.deepcopy(trained(name))
    with torch.no_grad():
        wrong.head.weight[3, 2] = torch.nan
    with contextlib.closing(engines.load(model)) as a, runner(model.signature, wrong) as b:
        report = compare(a, b, digits[1])
    assert report.ok is False
    assert "is NaN" in report.why


def test_dropout_left_on_is_caught(adopted: Any, trained: Any, digits: Any) -> None:
    model = adopted("Conv")
    left_on = copy.deepcopy(trained("Conv")).train()
    with contextlib.closing(engines.load(model)) as a, runner(model.signature, left_on) as b:
        assert compare(a, b, digits[1].head(64)).ok is False
        assert "different answers to the same rows" in compare(b, a, digits[1].head(64)).why
