"""Every engine, by being listed in ENGINES, is run through one suite for every format that it claims."""

from __future__ import annotations

import asyncio
import shutil
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep import extras
from modelkeep.errors import BadInput, BadModel, NotReady
from modelkeep.model import engines, folder, formats
from modelkeep.model.engines import ENGINES
from modelkeep.serve.plane.batcher import Batcher
from modelkeep.serve.workers.pool import Pool
from modelkeep.types import Model, Runner, ServeConfig

RNG = np.random.default_rng(0)
W, V = RNG.standard_normal((8, 16)).astype(np.float32), RNG.standard_normal((16, 3)).astype(np.float32)
NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.v = nn.Linear(8, 16, bias=False), nn.Linear(16, 3, bias=False)
    def forward(self, x):
        return self.v(self.w(x).relu())
"""


def truth(x: np.ndarray) -> np.ndarray:
    """The network in numpy, in 64 bits."""
    return np.maximum(x.astype(np.float64) @ W, 0) @ V


def onnx_file(folder: Path) -> tuple[Path, dict[str, Any]]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(W, "w"), numpy_helper.from_array(V, "v")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx", {}


def _network() -> Any:
    import torch

    torch.set_num_threads(1)
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    network = namespace["Net"]()
    network.load_state_dict({"w.weight": torch.from_numpy(W.T.copy()), "v.weight": torch.from_numpy(V.T.copy())})
    return network.eval()


def torch_file(folder: Path) -> tuple[Path, dict[str, Any]]:
    import torch

    (folder / "contract_net.py").write_text(NET, encoding="utf-8")
    torch.save(_network().state_dict(), folder / "net.pt")
    return folder / "net.pt", {"factory": "contract_net:Net"}


def torch_export_file(folder: Path) -> tuple[Path, dict[str, Any]]:
    import torch

    shapes = ({0: torch.export.Dim("batch", min=1)},)
    torch.export.save(torch.export.export(_network(), (torch.zeros(2, 8),), dynamic_shapes=shapes), folder / "net.pt2")
    return folder / "net.pt2", {}


def torchscript_file(at: Path) -> tuple[Path, dict[str, Any]]:
    import torch

    warnings.simplefilter("ignore")  # that TorchScript is deprecated; pytest puts the filters back
    torch.jit.trace(_network(), torch.zeros(2, 8)).save(str(at / "net.ts"))
    return at / "net.ts", {}


def openvino_file(folder: Path) -> tuple[Path, dict[str, Any]]:
    openvino = extras.need("openvino", extra="openvino")
    openvino.save_model(openvino.Core().read_model(onnx_file(folder)[0]), folder / "net.xml", compress_to_fp16=False)
    return folder / "net.xml", {}


def sklearn_file(folder: Path) -> tuple[Path, dict[str, Any]]:
    import skops.io
    from sklearn.neural_network import MLPRegressor

    network = MLPRegressor(hidden_layer_sizes=(16,), max_iter=1, tol=1e9, n_iter_no_change=1)
    network.partial_fit(np.zeros((2, 8), np.float32), np.zeros((2, 3), np.float32))
    network.coefs_, network.intercepts_ = [W, V], [np.zeros(16, np.float32), np.zeros(3, np.float32)]
    skops.io.dump(network, folder / "net.skops")
    return folder / "net.skops", {}


FILES: dict[str, Callable[[Path], tuple[Path, dict[str, Any]]]] = {
    "onnx": onnx_file,
    "openvino": openvino_file,
    "torch": torch_file,
    "torch-export": torch_export_file,
    "sklearn": sklearn_file,
    "torchscript": torchscript_file,
}
"""How a person would have made the same network as a file of each format. A new format needs its line here."""
OF_TENSORFLOW = {"tensorflow": "saved/saved_model.pb", "keras": "net.keras", "litert": "net.tflite"}
"""Formats whose files the TensorFlow environment makes, and where."""


ARCHITECTURES = {"huggingface"}
"""Formats that hold certain architectures only, of which this network is none; their own tests run them."""
PAIRS = [(name, kind) for name, engine in ENGINES.items() for kind in engine.formats if kind not in ARCHITECTURES]


@pytest.fixture(params=PAIRS, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Model, ServeConfig]:
    """One model folder and the config that names the engine."""
    from modelkeep.data.dataset import Dataset

    name, kind = request.param
    if not extras.has(ENGINES[name].library):
        pytest.skip(f"{ENGINES[name].library} is not installed")
    if kind in OF_TENSORFLOW:
        made = request.getfixturevalue("write_tensorflow_files")(W, V)
        file, options = shutil.copytree(made, tmp_path / "made") / OF_TENSORFLOW[kind], {}
    else:
        file, options = FILES[kind](tmp_path)
    rows = Dataset({"x": RNG.standard_normal((5, 8)).astype(np.float32)}, None, "made rows")
    model = formats.adopt(file, tmp_path / "into", data=rows, **options)
    return folder.read(model.path), ServeConfig(engine=name, threads=1)


@pytest.fixture
def runner(case: tuple[Model, ServeConfig]) -> Runner:
    return engines.load(*case)


def only(found: dict[str, Any]) -> Any:
    """The one output, whatever its format calls it."""
    (answers,) = found.values()
    return answers


def test_it_is_a_runner_with_the_models_signature(runner: Runner, case: tuple[Model, ServeConfig]) -> None:
    assert isinstance(runner, Runner)
    assert runner.signature == case[0].signature


def test_the_answers_are_those_of_numpy_at_any_batch_size(runner: Runner) -> None:
    for count in (1, 2, 7, 33, 1):
        x = np.random.default_rng(count).standard_normal((count, 8)).astype(np.float32)
        found = runner.run({"x": x})
        assert list(found) == [t.name for t in runner.signature.outputs]
        (answers,) = found.values()
        assert answers.dtype == np.float32
        assert answers.shape == (count, 3)
        np.testing.assert_allclose(answers, truth(x), atol=1e-4, rtol=1e-4)


def test_inputs_are_left_alone_and_may_be_read_only_or_strided(runner: Runner) -> None:
    whole = np.random.default_rng(3).standard_normal((8, 16)).astype(np.float32)
    x = whole.T[::2][:, ::1]
    x.flags.writeable = False
    before = x.copy()
    np.testing.assert_allclose(only(runner.run({"x": x})), truth(x), atol=1e-4, rtol=1e-4)
    assert np.array_equal(x, before)


def test_answers_are_the_callers_to_keep(runner: Runner) -> None:
    x = np.random.default_rng(4).standard_normal((2, 8)).astype(np.float32)
    first = only(runner.run({"x": x}))
    kept = first.copy()
    runner.run({"x": -x})
    assert np.array_equal(first, kept)


def test_several_threads_may_run_it_at_once(runner: Runner) -> None:
    start = threading.Barrier(4)

    def ask(seed: int) -> float:
        rng = np.random.default_rng(seed)
        start.wait(timeout=30)
        worst = 0.0
        for _ in range(50):
            x = rng.standard_normal((int(rng.integers(1, 9)), 8)).astype(np.float32)
            worst = max(worst, float(np.abs(only(runner.run({"x": x})) - truth(x)).max()))
        return worst

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(ask, range(4))) < 1e-3


def test_not_a_number_comes_through(runner: Runner) -> None:
    x = np.ones((3, 8), np.float32)
    x[1] = np.nan
    try:
        found = only(runner.run({"x": x}))
    except BadInput:  # scikit-learn's way, which says so in its own test
        return
    assert np.isfinite(found[[0, 2]]).all()


def test_inputs_of_another_width_are_refused_and_the_next_run_is_fine(runner: Runner) -> None:
    with pytest.raises(BadInput) as error:
        runner.run({"x": np.ones((2, 5), np.float32)})
    assert "\n" not in str(error.value)
    x = np.ones((2, 8), np.float32)
    np.testing.assert_allclose(only(runner.run({"x": x})), truth(x), atol=1e-4, rtol=1e-4)


def test_closing_twice_is_harmless_and_running_afterwards_is_refused(runner: Runner) -> None:
    runner.close()
    runner.close()
    with pytest.raises(NotReady, match="this model has been closed"):
        runner.run({"x": np.ones((1, 8), np.float32)})


@pytest.mark.parametrize("content", [b"", b"nothing that it knows", bytes(range(256)) * 4])
def test_a_file_of_something_else_is_a_bad_model(case: tuple[Model, ServeConfig], content: bytes) -> None:
    model, config = case
    model.main.write_bytes(content)
    with pytest.raises(BadModel) as error:
        engines.load(model, config)
    assert model.main.name in str(error.value)
    assert "Traceback" not in str(error.value)


def test_a_worker_process_answers_as_a_runner_does(case: tuple[Model, ServeConfig]) -> None:
    """A fresh interpreter imports what the engine needs; large requests are joined in memory that both share."""
    model, config = case
    if config.engine == "torch-compile" or model.format != ENGINES[config.engine].formats[0]:
        pytest.skip("engine torch in another way, or one that was tried: each takes seconds to import")
    x = np.random.default_rng(5).standard_normal((2_000, 8)).astype(np.float32)
    wanted = only(engines.load(model, config).run({"x": x}))

    async def main() -> None:
        pool, paces = await asyncio.to_thread(Pool.open, model, config)
        batcher = Batcher(pool, replace(config, max_batch=5_000), name="m@1")
        assert [rows for rows, _ in paces] == [1, 32]
        answers = await asyncio.gather(*(batcher.submit({"x": part}, {}, None).answer for part in np.split(x, 2)))
        for answer, part in zip(answers, np.split(wanted, 2), strict=True):
            np.testing.assert_allclose(only(answer.outputs), part, atol=1e-5, rtol=1e-5)
        await batcher.close()
        await asyncio.to_thread(pool.close)

    asyncio.run(asyncio.wait_for(main(), 120))
