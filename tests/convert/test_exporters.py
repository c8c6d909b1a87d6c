"""Modules that one of PyTorch's exporters cannot follow, and another can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch
from torch import nn

from modelkeep.convert.exporters import EXPORTERS, Flat, exportable, quiet
from modelkeep.errors import Unsupported
from modelkeep.model.formats.torch import named
from modelkeep.types import Signature, TensorSpec

ROWS = Signature(
    (TensorSpec("x", "float32", (None, None, 4), ("batch", "words", None)),),
    (TensorSpec("y", "float32", (None, None, 3), ("batch", "words", None)),),
)


def answers(graph: onnx_ir.Model, into: Path, *inputs: Any) -> Any:
    import onnxruntime

    onnx_ir.save(graph, into / "m.onnx")
    session = onnxruntime.InferenceSession(str(into / "m.onnx"))
    return session.run(None, {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)})[0]


def export(name: str, module: nn.Module, *example: torch.Tensor, signature: Signature = ROWS) -> onnx_ir.Model:
    with quiet(), exportable():
        return EXPORTERS[name](Flat(module, named).eval(), example, signature, None)


@pytest.mark.parametrize("name", EXPORTERS)
def test_each_keeps_names_and_free_sizes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 3)
    graph = export(name, module, torch.zeros(2, 5, 4))
    assert [value.name for value in (*graph.graph.inputs, *graph.graph.outputs)] == ["x", "y"]
    for shape in ((1, 1, 4), (3, 7, 4)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        want = module(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(answers(graph, tmp_path, x), want, atol=1e-5)


def test_nothing_of_pytorch_stays_changed() -> None:
    before = (torch.backends.mha.get_fastpath_enabled(), nn.modules.transformer._detect_is_causal_mask)
    with pytest.raises(RuntimeError), exportable():
        raise RuntimeError
    assert (torch.backends.mha.get_fastpath_enabled(), nn.modules.transformer._detect_is_causal_mask) == before


def test_torch_s_own_transformer_at_free_lengths(tmp_path: Path) -> None:
    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(20, 8)
            self.inner = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

        def forward(self, src: torch.Tensor, tgt: torch.Tensor) -> torch.Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(tgt.shape[1])
            pad = src == 0
            return self.inner(  # type: ignore[no-any-return]
                self.words(src), self.words(tgt), tgt_mask=mask, src_key_padding_mask=pad, memory_key_padding_mask=pad
            )

    signature = Signature(
        (
            TensorSpec("src", "int64", (None, None), ("batch", "source")),
            TensorSpec("tgt", "int64", (None, None), ("batch", "target")),
        ),
        (TensorSpec("y", "float32", (None, None, 8), ("batch", "target", None)),),
    )
    torch.manual_seed(0)
    module = Translator().eval()
    example = torch.randint(1, 20, (2, 6)), torch.randint(1, 20, (2, 5))
    graph = export("dynamo", module, *example, signature=signature)
    for source, target in ((3, 9), (11, 1), (1, 4)):
        src, tgt = torch.randint(1, 20, (3, source)), torch.randint(1, 20, (3, target))
        src[0, -1] = 0 if source > 1 else 5
        with torch.no_grad():
            want = module(src, tgt).numpy()
        np.testing.assert_allclose(answers(graph, tmp_path, src.numpy(), tgt.numpy()), want, atol=1e-5)


def test_code_that_asks_how_many_rows_there_are(tmp_path: Path) -> None:
    class Asks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.contiguous() if x.shape[0] >= 64 else x)[:, :, :3] * 2

    with pytest.raises(Exception, match="batch"):
        export("dynamo", Asks(), torch.zeros(2, 5, 4))
    graph = export("dynamo-any-batch", Asks(), torch.zeros(2, 5, 4))
    for rows in (1, 7, 65):
        x = np.random.default_rng(0).standard_normal((rows, 5, 4)).astype(np.float32)
        np.testing.assert_allclose(answers(graph, tmp_path, x), x[:, :, :3] * 2)


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x[:, :, :3]
        if bool(x.sum() > 100):
            y = y * 2
        return y


def test_a_branch_that_depends_on_values(tmp_path: Path) -> None:
    graph = export("torchscript-scripted", Branches(), torch.ones(2, 5, 4))
    for value, factor in ((1, 1), (50, 2)):
        x = np.full((1, 2, 4), value, np.float32)
        np.testing.assert_allclose(answers(graph, tmp_path, x), x[:, :, :3] * factor)


def test_a_failure_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    module, example = Flat(nn.Linear(4, 3).eval(), named), (torch.zeros(2, 5, 4),)
    with pytest.raises(Exception, match="Unsupported onnx_opset_version"), quiet(), exportable():
        EXPORTERS["torchscript"](module, example, ROWS, 99)
    assert capfd.readouterr() == ("", "")


def test_torchscript_goes_to_the_older_exporter_only(tmp_path: Path) -> None:
    scripted = torch.jit.script(nn.Linear(4, 3).eval())
    for name in ("dynamo", "dynamo-any-batch", "dynamo-strict", "dynamo-unoptimised", "torchscript-scripted"):
        with pytest.raises(Unsupported, match="TorchScript"):
            EXPORTERS[name](scripted, (torch.zeros(2, 5, 4),), ROWS, None)
    with quiet(), exportable():
        graph = EXPORTERS["torchscript"](scripted, (torch.zeros(2, 5, 4),), ROWS, None)
    x = np.ones((3, 6, 4), np.float32)
    np.testing.assert_allclose(answers(graph, tmp_path, x), scripted(torch.from_numpy(x)).detach().numpy(), atol=1e-5)
