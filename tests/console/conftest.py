"""A registry with two models on disk, served on a thread, and a client that a browser could be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelkeep.console.server import mounts
from modelkeep.data.dataset import Dataset
from modelkeep.keep import Keep
from modelkeep.serve.protocol.keys import Ring
from modelkeep.serve.server import Running
from modelkeep.serve.sources.follow import Follower
from modelkeep.settings import Settings
from modelkeep.types import ServeConfig

PIXELS, CLASSES = 6, 4
WEIGHTS = np.random.default_rng(0).normal(size=(PIXELS, CLASSES)).astype(np.float32)


def onnx_file(path: Path, weights: np.ndarray) -> Path:
    """logits [rows, 4] = pixels [rows, 6] @ weights."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["pixels", "weights"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", PIXELS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def rows(n: int, *, shift: float = 0.0, seed: int = 1) -> Dataset:
    pixels = np.random.default_rng(seed).normal(size=(n, PIXELS)).astype(np.float32)
    pixels[:, 0] += shift
    return Dataset({"pixels": pixels}, (pixels @ WEIGHTS).argmax(axis=1), "made up")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """``digits`` has @1 and @2, of which the first is live, and ``<b>`` is no markup; ``other`` is not live."""
    with Keep(Settings(home=tmp_path / "home")) as keep:
        for number in (1, 2):
            noise = np.random.default_rng(number).normal(size=WEIGHTS.shape).astype(np.float32)
            keep.add(onnx_file(tmp_path / f"v{number}.onnx", WEIGHTS + 0.01 * noise), "digits", data=rows(200))
        version = keep.get("digits@2")
        keep.registry.add_report(version, keep.score(version, rows(100, seed=2)))
        keep.add(tmp_path / "v1.onnx", "other")
        keep.promote("digits@1", why="the first <b>one</b>")
    return tmp_path / "home"


@pytest.fixture
def keep(home: Path) -> Iterator[Keep]:
    with Keep(Settings(home=home), who="console") as opened:
        yield opened


@pytest.fixture
def tokens(home: Path) -> dict[str, str]:
    """Keys by what they may."""
    ring = Ring(home / "keys.json")
    return {
        "look": ring.add("looker", ["read"]),
        "change": ring.add("changer", ["read", "admin"]),
        "ask": ring.add("asker", ["infer"]),
    }


@dataclass
class Served:
    """A service with its console."""

    url: str
    running: Running

    def ask(self, n: int = 1, *, shift: float = 0.0, key: str = "", seed: int = 1) -> None:
        """So many requests of one row."""
        pixels = rows(n, shift=shift, seed=seed).inputs["pixels"]
        head = {"authorization": f"Bearer {key}"} if key else {}
        with httpx.Client(base_url=self.url, headers=head, timeout=20) as client:
            for row in pixels:
                given = {"name": "pixels", "shape": [1, PIXELS], "datatype": "FP32", "data": row.tolist()}
                client.post("/v2/models/digits/infer", json={"inputs": [given]}).raise_for_status()


@pytest.fixture
def serve(keep: Keep) -> Iterator[Callable[[], Served]]:
    """``serve()``: the registry served on a thread, its console below /console; keys hold where there are any."""
    started: list[Running] = []

    def start() -> Served:
        config = {"digits": ServeConfig(in_process=True)}
        source = Follower(keep.registry, ["digits"], machine="test", configs=config)
        running = Running(source, settings=keep.settings, traffic=keep.traffic, mounts=mounts(keep))
        started.append(running)
        return Served(running.__enter__(), running)

    yield start
    for running in started:
        running.stop()


@dataclass
class Browser:
    """What a browser does with the console's forms: it keeps cookies, and sends the fields that the page has."""

    client: httpx.Client

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def fields(self, path: str) -> dict[str, str]:
        """The hidden and proposed values of the page's form."""
        page = self.get(path).text
        form = page[page.index('<form method="post"') if '<form method="post"' in page else page.rindex("<form") :]
        found = re.findall(r'<input[^>]*name="(\w+)"[^>]*value="([^"]*)"', form)
        return {name: value for name, value in found if name != "needs_labels"}

    def submit(self, path: str, **changes: str | None) -> httpx.Response:
        """Send the form of a page, changed; None leaves a field out."""
        fields = {**self.fields(path), **changes}
        return self.client.post(path, data={k: v for k, v in fields.items() if v is not None})

    def log_in(self, key: str) -> httpx.Response:
        return self.submit("/login", key=key)


@pytest.fixture
def browse() -> Iterator[Callable[[str], Browser]]:
    """``browse(url)``: a browser at the console of that service."""
    opened: list[httpx.Client] = []

    def start(url: str) -> Browser:
        opened.append(httpx.Client(base_url=url, timeout=20))
        return Browser(opened[-1])

    yield start
    for client in opened:
        client.close()
