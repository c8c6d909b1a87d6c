"""What do worker processes cost in memory, and what do they share?

    python benchmarks/serving/memory.py [--workers 2] [--engines onnxruntime torch]

A perceptron of 20 million parameters (80 MB) is loaded by one worker and by several. Prints, for each process, PSS
(what it has for itself, and its part of what it shares) and what is private to it, in MB (/proc/PID/smaps_rollup).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np

from modelkeep.data.dataset import Dataset
from modelkeep.model import formats
from modelkeep.serve.workers.pool import Pool
from modelkeep.types import Model, ServeConfig

SIZES = (784, 2048, 4096, 2048, 512, 10)
NET = f"""
from torch import nn
class Net(nn.Sequential):
    def __init__(self):
        layers = []
        for before, after in zip({SIZES[:-1]}, {SIZES[1:]}):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers[:-1])
"""


def adopted(engine: str, room: Path) -> Model:
    """The model in the first format of the engine."""
    rows = Dataset({"x": np.zeros((32, SIZES[0]), np.float32)}, None, "made")
    into = room / engine
    into.mkdir()
    if engine == "torch":
        import torch

        (room / "memory_net.py").write_text(NET, encoding="utf-8")
        namespace: dict[str, type[torch.nn.Module]] = {}
        exec(NET, namespace)
        torch.save(namespace["Net"]().state_dict(), room / "net.pt")
        os.chdir(room)
        return formats.adopt(room / "net.pt", into, data=rows, factory="memory_net:Net")
    return formats.adopt(onnx_file(room / "net.onnx"), into, data=rows)


def onnx_file(path: Path) -> Path:
    """The same as ONNX."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng, name, nodes, weights = np.random.default_rng(0), "x", [], []
    for number, (before, after) in enumerate(pairwise(SIZES)):
        weight = rng.standard_normal((before, after)).astype(np.float32) / 30
        weights.append(numpy_helper.from_array(weight, f"w{number}"))
        last = after == SIZES[-1]
        nodes.append(helper.make_node("MatMul", [name, f"w{number}"], ["y" if last else f"h{number}"]))
        nodes += [] if last else [helper.make_node("Relu", [f"h{number}"], [f"r{number}"])]
        name = f"r{number}"
    value = helper.make_tensor_value_info
    x, y = value("x", TensorProto.FLOAT, [None, SIZES[0]]), value("y", TensorProto.FLOAT, [None, SIZES[-1]])
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def memory(pid: int) -> str:
    """PSS and private memory of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kept = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    return f"PSS {kept['Pss']:.0f}, private {kept['Private_Dirty'] + kept['Private_Clean']:.0f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "torch"])
    given = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("this reads /proc, which only Linux has")
    with tempfile.TemporaryDirectory() as room:
        for engine in given.engines:
            model = adopted(engine, Path(room))
            for workers in (1, given.workers):
                pool, _ = Pool.open(model, ServeConfig(engine=engine, workers=workers, threads=1))
                told = "; ".join(memory(pid) for pid in pool.pids())
                print(f"{engine}, {workers} worker{'s' if workers > 1 else ''}, MB each: {told}", flush=True)
                pool.close()


if __name__ == "__main__":
    main()
