"""What the tests of several rooms share: scikit-learn's digits, three kinds of network, and a Keep that holds one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

NETS = '''
"""Networks on digits: [rows, 64] pixels from 0 to 16, ten logits."""
import torch
from torch import nn


class MLP(nn.Module):
    def __init__(self, hidden=32, classes=10):
        super().__init__()
        self.hidden, self.head = nn.Linear(64, hidden), nn.Linear(hidden, classes)

    def forward(self, pixels):
        return self.head(self.hidden(pixels / 16).relu())


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(8 * 16, 10)

    def forward(self, pixels):
        image = (pixels / 16).reshape(-1, 1, 8, 8)
        image = nn.functional.max_pool2d(self.norm(self.conv(image)).relu(), 2)
        return self.head(self.drop(image.flatten(1)))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Linear(8, 16), nn.Parameter(torch.randn(8, 16) * 0.1)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, norm_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, pixels):
        rows = (pixels / 16).reshape(-1, 8, 8)
        return self.head(self.block(self.embed(rows) + self.place).mean(1))
'''


@pytest.fixture(scope="session")
def digits() -> tuple[Any, Any]:
    """Real scanned digits as two Datasets: 1,200 rows to train on, 597 others."""
    from sklearn.datasets import load_digits

    from modelkeep.data.dataset import Dataset

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    pixels, labels = pixels[order].astype(np.float32), labels[order].astype(np.int64)
    return (
        Dataset({"pixels": pixels[:1200]}, labels[:1200], "digits to train on"),
        Dataset({"pixels": pixels[1200:]}, labels[1200:], "digits to test on"),
    )


@pytest.fixture(scope="session")
def turned(digits: tuple[Any, Any]) -> tuple[Any, Any]:
    """The digits upside down: a world that the models have never seen."""
    first, second = (replace(d, inputs={"pixels": np.ascontiguousarray(d.inputs["pixels"][:, ::-1])}) for d in digits)
    return first, second


@pytest.fixture(scope="session")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nets.py, as a person would have it."""
    folder = tmp_path_factory.mktemp("nets")
    (folder / "nets.py").write_text(NETS, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def nets_module(nets: Path) -> ModuleType:
    """That file, imported."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("nets_of_the_tests", nets / "nets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def trained(nets: Path, nets_module: ModuleType, digits: tuple[Any, Any]) -> Callable[[str], Any]:
    """``trained("MLP")``: that network after a second or two of training, in eval mode, and its state_dict in a file
    of that name and .pt beside nets.py.
    """
    import torch

    made: dict[str, Any] = {}

    def train(name: str) -> Any:
        if name not in made:
            torch.set_num_threads(1)
            torch.manual_seed(0)
            network = getattr(nets_module, name)()
            optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
            pixels, labels = torch.from_numpy(digits[0].inputs["pixels"]), torch.from_numpy(digits[0].labels)
            for _ in range(12):
                for rows in torch.randperm(len(pixels)).split(64):
                    optimiser.zero_grad()
                    torch.nn.functional.cross_entropy(network(pixels[rows]), labels[rows]).backward()
                    optimiser.step()
            made[name] = network.eval()
            torch.save(network.state_dict(), nets / f"{name}.pt")
        return made[name]

    return train


@pytest.fixture(scope="session")
def adopted(nets: Path, trained: Callable[[str], Any], digits: tuple[Any, Any], tmp_path_factory: Any) -> Any:
    """``adopted("MLP")``: the trained network as a model folder of format "torch", with reference rows."""
    from modelkeep.model import formats

    made: dict[str, Any] = {}

    def adopt(name: str) -> Any:
        if name not in made:
            trained(name)
            into = tmp_path_factory.mktemp(f"adopted-{name}")
            made[name] = formats.adopt(nets / f"{name}.pt", into, factory=f"nets:{name}", data=digits[0])
        return made[name]

    return adopt


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], None]:
    """Pretends to be in a container that may run on so many cores, with such a quota (cpu.max)."""

    def enter(cores: int, quota: str) -> None:
        found = {"/proc/self/cgroup": "0::/keep\n", "/sys/fs/cgroup/keep/cpu.max": quota}
        real = Path.read_text
        monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: found.get(str(self)) or real(self, *a, **k))
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)

    return enter


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of a registry that is not there yet."""
    return tmp_path / "home"


@pytest.fixture
def keep(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A Keep on it, under the name of tester."""
    from modelkeep import Keep
    from modelkeep.settings import Settings

    monkeypatch.chdir(tmp_path)
    with Keep(Settings(home=home), who="tester") as opened:
        yield opened


@pytest.fixture
def added(keep: Any, nets: Path, trained: Callable[[str], Any], digits: tuple[Any, Any]) -> str:
    """digits@1 in it: the trained MLP, a PyTorch version with reference rows."""
    trained("MLP")
    return str(keep.add(nets / "MLP.pt", "digits", factory="nets:MLP", data=digits[0]).ref)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """``-m "not tensorflow"`` leaves out what is known to need the TensorFlow environment."""
    for item in items:
        if "tensorflow_python" in getattr(item, "fixturenames", ()):
            item.add_marker("tensorflow")


@pytest.fixture(scope="session")
def tensorflow_python() -> Path:
    """The TensorFlow environment's Python. The first test that wants it makes it, once for this machine."""
    from modelkeep import environments, settings

    if os.environ.get("MODELKEEP_TEST_TENSORFLOW") == "0":
        pytest.skip("MODELKEEP_TEST_TENSORFLOW=0 leaves out what needs the TensorFlow environment")
    return environments.ensure("tensorflow", settings.Settings().environments)


@pytest.fixture(scope="session")
def write_tensorflow_files(tensorflow_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``write_tensorflow_files(*weights)``: the folder that tests/tensorflow_files.py filled, once for each call."""
    script, made = Path(__file__).with_name("tensorflow_files.py"), dict[Any, Path]()

    def write(*weights: Any) -> Path:
        key = tuple(w.tobytes() for w in weights)
        if key not in made:
            into = tmp_path_factory.mktemp("tensorflow")
            given = [str(into)]
            if weights:
                np.savez(into / "weights.npz", *weights)
                given.append(str(into / "weights.npz"))
            quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_HOME": str(into / "keras")}
            done = subprocess.run(
                [tensorflow_python, script, *given], env={**os.environ, **quiet}, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            made[key] = into
        return made[key]

    return write


@pytest.fixture(scope="session")
def tensorflow_files(write_tensorflow_files: Callable[..., Path]) -> Path:
    """The folder with one file of each kind."""
    return write_tensorflow_files()
