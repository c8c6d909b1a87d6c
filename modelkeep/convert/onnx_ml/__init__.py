"""ONNX's operators for classic models (domain ai.onnx.ml), written in its standard ones for runtimes that lack them."""

from __future__ import annotations

from pathlib import Path

import onnx

from modelkeep import extras
from modelkeep.convert.onnx_ml.writer import Writer
from modelkeep.errors import Unsupported

DOMAIN = "ai.onnx.ml"
OPERATORS = {
    "TreeEnsembleClassifier": "modelkeep.convert.onnx_ml.trees:classifier",
    "TreeEnsembleRegressor": "modelkeep.convert.onnx_ml.trees:regressor",
    "LinearClassifier": "modelkeep.convert.onnx_ml.linear:classifier",
    "LinearRegressor": "modelkeep.convert.onnx_ml.linear:regressor",
    "Scaler": "modelkeep.convert.onnx_ml.columns:scaler",
    "Imputer": "modelkeep.convert.onnx_ml.columns:imputer",
    "Normalizer": "modelkeep.convert.onnx_ml.columns:normalizer",
    "ArrayFeatureExtractor": "modelkeep.convert.onnx_ml.columns:chosen",
    "OneHotEncoder": "modelkeep.convert.onnx_ml.columns:one_hot",
}
"""Each is called with a Writer and the node, and writes nodes that give the same outputs."""


def needed(file: Path) -> bool:
    """Whether the ONNX file has such operators."""
    graph = onnx.load(str(file), load_external_data=False).graph
    return any(node.domain == DOMAIN for node in graph.node)


def rewritten(file: Path) -> onnx.ModelProto:
    """The same model without them. Raises Unsupported, which names what cannot be written so."""
    model = onnx.load(str(file))
    nodes = []
    for number, node in enumerate(model.graph.node):
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        if node.op_type not in OPERATORS:
            raise Unsupported(f"{node.op_type} of {DOMAIN} cannot be written in ONNX's standard operators")
        writer = Writer(f"{node.op_type}_{number}")
        extras.load(OPERATORS[node.op_type])(writer, node)
        nodes += writer.nodes
        model.graph.initializer.extend(writer.constants)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    domains = {opset.domain: opset.version for opset in model.opset_import if opset.domain != DOMAIN}
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in domains.items())
    return model
