"""What PyTorch is told, and how its errors read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_model, save_model

from modelkeep.errors import BadInput, NotReady, Unsupported
from modelkeep.model import engines
from modelkeep.model.formats import torch as torch_format
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


@pytest.mark.parametrize("precision", ["int4", "float16"])
def test_a_precision_that_it_does_not_have(model: Any, precision: str) -> None:
    with pytest.raises(Unsupported, match=f"no precision '{precision}' on device 'cpu'; there are: float32, bfloat16"):
        engines.load(model, ServeConfig(engine="torch", precision=precision))


@pytest.mark.parametrize("engine", ["torch", "torch-compile"])
def test_bfloat16_is_computed_in_and_float32_given_back(model: Any, engine: str) -> None:
    pixels = np.random.default_rng(0).random((16, 64)).astype(np.float32)
    exact = engines.load(model).run({"pixels": pixels})["output"]
    found = engines.load(model, ServeConfig(engine=engine, precision="bfloat16")).run({"pixels": pixels})["output"]
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


def test_compiled_it_takes_any_number_of_rows_without_compiling_for_each(model: Any) -> None:
    from torch._dynamo.utils import counters

    runner = engines.load(model, ServeConfig(engine="torch-compile"))
    before = counters["stats"]["unique_graphs"]
    for rows in (1, 2, 3, 17, 64):
        assert runner.run({"pixels": np.ones((rows, 64), np.float32)})["output"].shape == (rows, 10)
    assert counters["stats"]["unique_graphs"] == before


def test_no_compiler_is_said_with_the_mend(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder, exc

    def none() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(Unsupported, match=r"engine 'torch-compile' needs a C\+\+ compiler.*apt install g\+\+"):
        engines.load(model, ServeConfig(engine="torch-compile"))


def test_a_module_that_cannot_be_compiled_is_left_to_the_plain_engine(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(module: Any, **options: Any) -> Any:
        def run(*given: Any) -> Any:
            raise torch._dynamo.exc.Unsupported("no such operator")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(Unsupported, match=r"cannot compile this module, engine 'torch' runs it: .*no such operator"):
        engines.load(model, ServeConfig(engine="torch-compile"))


def test_once_closed_it_says_so(model: Any) -> None:
    runner = engines.load(model)
    runner.close()
    with pytest.raises(NotReady, match="this model has been closed"):
        runner.run({"pixels": np.ones((1, 64), np.float32)})


def test_weights_lie_in_the_files_pages_tied_ones_too(model: Any, tmp_path: Path) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.other = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
            self.other.weight = self.first.weight

    module, saved = Tied(), Tied()
    save_model(saved, str(tmp_path / "w.safetensors"))
    load_model(module, str(tmp_path / "w.safetensors"))
    before = [p.data_ptr() for p in module.parameters()]
    torch_format.map_weights(module, tmp_path / "w.safetensors")
    assert module.other.weight is module.first.weight
    for ours, theirs, old in zip(module.parameters(), saved.parameters(), before, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != old
    maps = Path("/proc/self/maps")
    engines.load(model)
    if maps.exists():
        assert str(tmp_path / "w.safetensors") in maps.read_text()
