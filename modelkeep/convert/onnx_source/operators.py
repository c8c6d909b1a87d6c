"""ONNX's operators: how each is written in PyTorch, over tensors and over sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelkeep.convert.onnx_source import elementwise, neural, shaping, sizes
from modelkeep.convert.onnx_source.graph import Graph, Node

Written = str | Callable[..., Any]
"""A template with the inputs ({0}, {1}, …), or a function that is copied and called with inputs and attributes."""

SAME_NAME = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "IsNaN"),
    *("Log", "Neg", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Sqrt", "Tan", "Tanh"),
)
"""Operators that are functions of torch under the same name."""

TENSORS: dict[str, Written] = {
    **{name: f"torch.{name.lower()}({{0}})" for name in SAME_NAME},
    "Not": "~{0}",
    "BitwiseNot": "~{0}",
    "Identity": "{0}",
    "Dropout": "{0}",
    "Softplus": "F.softplus({0})",
    "Softsign": "F.softsign({0})",
    "HardSwish": "F.hardswish({0})",
    "Mish": "F.mish({0})",
    "Add": "{0} + {1}",
    "Sub": "{0} - {1}",
    "Mul": "{0} * {1}",
    "Div": elementwise.divide,
    "Pow": elementwise.power,
    "Mod": elementwise.modulo,
    "And": "{0} & {1}",
    "Or": "{0} | {1}",
    "Xor": "{0} ^ {1}",
    "BitwiseAnd": "{0} & {1}",
    "BitwiseOr": "{0} | {1}",
    "BitwiseXor": "{0} ^ {1}",
    "BitShift": elementwise.shifted,
    "Equal": "{0} == {1}",
    "Greater": "{0} > {1}",
    "GreaterOrEqual": "{0} >= {1}",
    "Less": "{0} < {1}",
    "LessOrEqual": "{0} <= {1}",
    "Where": "torch.where({0}, {1}, {2})",
    "Clip": elementwise.clip,
    "Elu": elementwise.elu,
    "Selu": elementwise.selu,
    "Celu": elementwise.celu,
    "LeakyRelu": elementwise.leaky_relu,
    "PRelu": elementwise.prelu,
    "HardSigmoid": elementwise.hard_sigmoid,
    "Gelu": elementwise.gelu,
    "Swish": elementwise.swish,
    "ThresholdedRelu": elementwise.thresholded_relu,
    "Shrink": elementwise.shrink,
    "IsInf": elementwise.is_infinite,
    "Cast": elementwise.cast,
    "CastLike": elementwise.cast_like,
    "Sum": elementwise.sum_of,
    "Mean": elementwise.mean_of,
    "Max": elementwise.max_of,
    "Min": elementwise.min_of,
    "ReduceSum": elementwise.reduce_sum,
    "ReduceMean": elementwise.reduce_mean,
    "ReduceMax": elementwise.reduce_max,
    "ReduceMin": elementwise.reduce_min,
    "ReduceProd": elementwise.reduce_prod,
    "ReduceL1": elementwise.reduce_l1,
    "ReduceL2": elementwise.reduce_l2,
    "ReduceSumSquare": elementwise.reduce_sum_square,
    "ReduceLogSum": elementwise.reduce_log_sum,
    "ReduceLogSumExp": elementwise.reduce_log_sum_exp,
    "ArgMax": elementwise.arg_max,
    "ArgMin": elementwise.arg_min,
    "CumSum": elementwise.cumulative_sum,
    "TopK": elementwise.top_k,
    "Softmax": elementwise.softmax,
    "LogSoftmax": elementwise.log_softmax,
    "Reshape": shaping.reshape,
    "Transpose": shaping.transpose,
    "Flatten": shaping.flatten,
    "Squeeze": shaping.squeeze,
    "Unsqueeze": shaping.unsqueeze,
    "Expand": shaping.expand,
    "Tile": shaping.tile,
    "Concat": shaping.concat,
    "Slice": shaping.cut_out,
    "Split": shaping.split,
    "Gather": shaping.gather,
    "GatherElements": shaping.gather_elements,
    "GatherND": shaping.gather_nd,
    "ScatterElements": shaping.scatter_elements,
    "ScatterND": shaping.scatter_nd,
    "Pad": shaping.pad,
    "Range": shaping.size_range,
    "ConstantOfShape": shaping.constant_of_shape,
    "NonZero": shaping.non_zero,
    "OneHot": shaping.one_hot,
    "EyeLike": shaping.eye_like,
    "Trilu": shaping.triangle,
    "DepthToSpace": shaping.depth_to_space,
    "SpaceToDepth": shaping.space_to_depth,
    "MatMul": "torch.matmul({0}, {1})",
    "Einsum": neural.einsum,
    "Gemm": neural.gemm,
    "Conv": neural.conv,
    "ConvTranspose": neural.conv_transpose,
    "MaxPool": neural.max_pool,
    "AveragePool": neural.average_pool,
    "GlobalAveragePool": neural.global_average_pool,
    "GlobalMaxPool": neural.global_max_pool,
    "BatchNormalization": neural.batch_norm,
    "LayerNormalization": neural.layer_norm,
    "RMSNormalization": neural.rms_norm,
    "InstanceNormalization": neural.instance_norm,
    "LRN": neural.local_response_norm,
    "LpNormalization": neural.lp_norm,
    "Resize": neural.resize,
}

FLAT: dict[str, Written] = {"Softmax": elementwise.flat_softmax, "LogSoftmax": elementwise.flat_log_softmax}
"""What these were before opset 13."""

MEASURES: dict[str, Written] = {"Shape": sizes.shape, "Size": sizes.size}
"""From a tensor to sizes."""

SIZES: dict[str, Written] = {
    "Identity": sizes.same,
    "Cast": sizes.same,
    "Gather": sizes.pick,
    "Slice": sizes.cut,
    "Concat": sizes.join,
    "Split": sizes.parted,
    "Unsqueeze": sizes.listed,
    "Squeeze": sizes.alone,
    "Reshape": sizes.reshaped,
    "ReduceProd": sizes.product,
    "ReduceSum": sizes.total,
    "Add": sizes.added,
    "Sub": sizes.subtracted,
    "Mul": sizes.multiplied,
    "Div": sizes.divided,
    "Mod": sizes.remainder,
    "Neg": sizes.negated,
    "Min": sizes.smallest,
    "Max": sizes.largest,
    "Equal": sizes.equal,
    "Greater": sizes.greater,
    "Less": sizes.less,
    "Not": sizes.inverted,
    "Where": sizes.chosen,
}
"""From sizes to sizes."""


def _resize(node: Node, graph: Graph) -> str:
    """What of a Resize torch.nn.functional.interpolate has not."""
    a, rank = node.attributes, graph.ranks.get(node.inputs[0], 0)
    mode, how = a.get("mode", "nearest"), a.get("coordinate_transformation_mode", "half_pixel")
    if rank not in (3, 4, 5) or (mode == "cubic" and rank != 4):
        return f"mode={mode!r} for {rank} dimensions"
    if a.get("axes", list(range(rank))) not in (list(range(2, rank)), list(range(rank))):
        return f"axes={a['axes']}"
    allowed = {"half_pixel", "pytorch_half_pixel", "align_corners", *(["asymmetric"] if mode == "nearest" else [])}
    if how not in allowed:
        return f"coordinate_transformation_mode={how!r} with mode={mode!r}"
    scales = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
    if scales is not None and len(scales) == rank and (scales[:2] != 1).any():
        return "scales for the rows and channels"
    return "cubic_coeff_a" if a.get("cubic_coeff_a", -0.75) != -0.75 else ""


REFUSED: dict[str, Callable[[Node, Graph], str]] = {"Resize": _resize}
"""What of an operator cannot be written, or ""."""
RECURRENT = ("LSTM", "GRU", "RNN")
KNOWN = frozenset({*TENSORS, *MEASURES, *RECURRENT, "Constant"})
