"""Every operator that is written, held against all of ONNX's own cases for it (onnx.backend.test, kind "node").

Each case runs twice: with all of its inputs given to the module, and with all but the first as constants of the graph,
as weights are. What is left out is listed with its reason, and must be refused or be impossible in PyTorch itself.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from modelkeep.convert.onnx_source import graph, operators, write
from modelkeep.convert.onnx_to_torch import tensor
from modelkeep.errors import Unsupported

IMPOSSIBLE = {
    r"_uint(16|32|64)(_expanded)?$|bitwise_not_3d": "PyTorch computes little with unsigned integers of over 8 bits",
    r"reduce_m(ax|in)_empty_set": "PyTorch has no largest of nothing",
    r"(?i)bfloat16|bf16": "numpy, which the answers would be compared in, has no bfloat16",
    r"(?i)float8|float4|int4|int2|f8e|e8m0": "PyTorch has no tensors of these that it computes with",
    r"resize_downsample_(scales|sizes)_(linear|cubic)_(align_corners|pytorch_half_pixel)": (
        "PyTorch rounds the new size before it places the corners, and has no special case for a new size of 1"
    ),
    r"attention_4d_causal_fp16": "rounded in another order, in 16 bits",
}
"""Cases that are left out, by a part of their name, and why."""
REFUSED = {
    r"^test_(gru|rnn|lstm|simple_rnn)": "weights that are no constants; GRU with linear_before_reset=0; layout",
    r"resize_.*(antialias|tf_crop|axes_3_2|not_larger|not_smaller|cubic_A|half_pixel_symmetric|cubic_asymmetric)": (
        "interpolation that torch.nn.functional.interpolate has not"
    ),
    r"averagepool.*dilations": "dilated averages",
    r"batchnorm_.*training_mode|training_dropout|dropout.*(mask|old|ratio)": "training, or what only training reads",
    r"maxpool.*argmax": "places of the largest",
    r"expanded": "written out with Scan, Loop or If, or with a loss",
    r"not_2d|not_3d|not_4d": "of opset 1, where broadcasting was an attribute",
    r"range_.*expanded|affine_grid|linear_attention|sce_|nllloss|bernoulli": "control flow, chance, or losses",
}
"""Cases that must raise Unsupported, all or some."""


@functools.cache
def cases() -> dict[str, list[Any]]:
    """ONNX's cases by operator, those of functions that are written out in others by themselves."""
    from onnx.backend.test.loader import load_model_tests

    found: dict[str, list[Any]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, about the overflow that some cases are about
        every = load_model_tests(kind="node")
    for case in every:
        used = [node.op_type for node in case.model.graph.node]
        known = operators.KNOWN.intersection(used) if len(used) > 1 else operators.KNOWN.intersection(used[:1])
        if known and not any(re.search(pattern, case.name) for pattern in IMPOSSIBLE):
            found.setdefault(used[0] if len(used) == 1 else "functions", []).append(case)
    return found


def answers(model: onnx.ModelProto, given: list[np.ndarray], folder: Path) -> list[np.ndarray]:
    """What the written module answers."""
    onnx.save(model, folder / "m.onnx")
    source = write.write(graph.read(folder / "m.onnx", operators.KNOWN))
    names: dict[str, Any] = {}
    exec(compile(source.text, "network.py", "exec"), names)
    network = names["Network"]()
    network.load_state_dict({name: tensor(value) for name, value in source.state.items()})
    with torch.no_grad():
        found = network.eval()(*map(tensor, given))
    return [t.numpy() for t in ([found] if isinstance(found, torch.Tensor) else found.values())]


def array(value: Any) -> np.ndarray | None:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, (np.ndarray, np.generic)) else None


def variants(case: Any) -> Iterator[tuple[onnx.ModelProto, list[np.ndarray], list[np.ndarray]]]:
    """(model, inputs, answers): as it is, and with constants in place of all inputs but one."""
    for given, want in case.data_sets:
        given, want = [array(one) for one in given], [array(one) for one in want]
        if any(
            one is None or not isinstance(getattr(torch, one.dtype.name, None), torch.dtype) for one in given + want
        ):
            continue  # sequences, optional values and text are no tensors, and PyTorch has not all types
        if case.model.graph.node[0].op_type == "LayerNormalization":
            del case.model.graph.output[1:]  # the mean and the deviation, which only training reads
        yield case.model, given, want
        kept = 1 if case.model.graph.node[0].op_type == "Gather" else 0
        if len(given) > 1:
            model = onnx.ModelProto()
            model.CopyFrom(case.model)
            names = [i.name for i in model.graph.input]
            for at in reversed([at for at in range(len(given)) if at != kept]):
                del model.graph.input[at]
                model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(given[at]), names[at]))
            yield model, [given[kept]], want


@pytest.mark.parametrize("operator", [*sorted(operators.KNOWN - {"Constant", "Size"}), "Constant", "Size", "functions"])
def test_it_answers_as_onnx_says(operator: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    passed = 0
    for case in cases().get(operator, []):
        may_refuse = any(re.search(pattern, case.name) for pattern in REFUSED)
        for model, given, want in variants(case):
            try:
                found = answers(model, given, tmp_path)
            except Unsupported:
                assert may_refuse, case.name
                continue
            passed += 1
            for got, expected in zip(found, want, strict=False):
                assert (got.shape, got.dtype) == (expected.shape, expected.dtype), case.name
                bounds = {"rtol": max(case.rtol, 1e-3), "atol": max(case.atol, 1e-5)}
                np.testing.assert_allclose(got, expected, **bounds, err_msg=case.name)
    assert passed or operator in ("GRU", "LSTM", "Not", "RNN"), "no case of it can be tried"


def test_what_was_left_out_is_there_at_all() -> None:
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = [case.name for case in load_model_tests(kind="node")]
    for pattern in (*IMPOSSIBLE, *REFUSED):
        assert any(re.search(pattern, name) for name in names), pattern
