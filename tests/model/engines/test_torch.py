"""What PyTorch is told, and how its errors read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from modelkeep.errors import BadInput, NotReady, Unsupported
from modelkeep.model import engines
from modelkeep.types import ServeConfig


@pytest.fixture
def model(adopted: Any) -> Any:
    return adopted("MLP")


def test_no_gradients_are_kept_and_inputs_may_be_read_only(model: Any) -> None:
    pixels = np.ones((2, 64), np.float32)
    pixels.flags.writeable = False
    found = engines.load(model).run({"pixels": pixels})["output"]
    assert found.shape == (2, 10)
    assert found.dtype == np.float32


def test_threads_are_the_process_own(model: Any) -> None:
    before = torch.get_num_threads()
    try:
        engines.load(model, ServeConfig(engine="torch", threads=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_inputs_that_fail_are_the_callers_fault_in_one_line(model: Any) -> None:
    with pytest.raises(BadInput, match="the model cannot run these inputs: mat1 and mat2 shapes") as error:
        engines.load(model).run({"pixels": np.ones((2, 7), np.float32)})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("device", ["cuda", "abacus"])
def test_a_device_that_is_not_there(model: Any, device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one here")
    with pytest.raises(Unsupported, match=f"engine 'torch' as installed here cannot run on device '{device}'"):
        engines.load(model, ServeConfig(engine="torch", device=device))


def test_a_precision_that_it_does_not_have(model: Any) -> None:
    with pytest.raises(Unsupported, match="precision 'int4' cannot be set"):
        engines.load(model, ServeConfig(engine="torch", precision="int4"))


def test_once_closed_it_says_so(model: Any) -> None:
    runner = engines.load(model)
    runner.close()
    with pytest.raises(NotReady, match="this model has been closed"):
        runner.run({"pixels": np.ones((1, 64), np.float32)})
