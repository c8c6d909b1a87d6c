"""A real model of digits, its reference rows, and traffic to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset
from modelkeep.data.profiles import Chunk, ProfileLog
from modelkeep.data.traffic import Exchange, TrafficLog
from modelkeep.model import baseline, folder
from modelkeep.types import Model, Signature, TensorSpec, Version

SIGNATURE = Signature((TensorSpec("pixels", "float32", (None, 64)),), (TensorSpec("logits", "float32", (None, 10)),))


class Hook(BaseHTTPRequestHandler):
    """Keeps what it was sent; answers with ``server.status``, and to where it moved."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.headers["Content-Type"], json.loads(body)))  # type: ignore[attr-defined]
        self.server.paths.append(self.path)  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        if self.server.location:  # type: ignore[attr-defined]
            self.send_header("Location", self.server.location)  # type: ignore[attr-defined]
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), Hook)
    server.got, server.paths, server.status, server.location = [], [], 200, ""
    server.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def weights(digits: tuple[Dataset, Dataset]) -> tuple[Any, Any]:
    """Of a linear model of digits, fitted in closed form: [64, 10] and [10]."""
    rows = digits[0]
    x = np.c_[rows.inputs["pixels"] / 16, np.ones(len(rows))]
    y = np.eye(10)[rows.labels]
    fitted = 10 * np.linalg.solve(x.T @ x + np.eye(65), x.T @ y)
    return (fitted[:64] / 16).astype(np.float32), fitted[64].astype(np.float32)


@pytest.fixture(scope="session")
def make_model(weights: tuple[Any, Any], digits: tuple[Dataset, Dataset]) -> Callable[..., Model]:
    """A model folder of that model as ONNX, with reference rows or without."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def make(into: Path, *, reference: Dataset | None = digits[0], labels: tuple[str, ...] = ()) -> Model:
        into.mkdir(parents=True, exist_ok=True)
        graph = helper.make_graph(
            [helper.make_node("Gemm", ["pixels", "w", "b"], ["logits"])],
            "digits",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
            [numpy_helper.from_array(weights[0], "w"), numpy_helper.from_array(weights[1], "b")],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(made, into / "model.onnx")
        model = folder.write(Model(into, "onnx", SIGNATURE, ("model.onnx",), labels))
        if reference is not None:
            folder.keep_reference(into, reference)
        return model

    return make


@pytest.fixture
def model(make_model: Callable[..., Model], tmp_path: Path) -> Model:
    return make_model(tmp_path / "model")


@pytest.fixture
def version(model: Model, tmp_path: Path) -> Version:
    """digits@1; its digest differs from test to test."""
    return Version("digits", 1, str(tmp_path), model, None, "add('digits.onnx')", 0.0)


@pytest.fixture
def changed() -> Callable[..., Any]:
    """The scanner is mounted askew, and is noisy."""
    from scipy import ndimage

    def change(pixels: Any, seed: int = 0) -> Any:
        noise = np.random.default_rng(seed).normal(0, 1, (len(pixels), 8, 8))
        turned = ndimage.rotate(pixels.reshape(-1, 8, 8), 30, axes=(1, 2), reshape=False, order=1)
        return np.clip(turned + noise, 0, 16).reshape(-1, 64).astype(np.float32)

    return change


@pytest.fixture
def send(weights: tuple[Any, Any], tmp_path: Path) -> Callable[..., list[str]]:
    """Capture requests with these pixels, one a row, 100 a second; returns their ids."""
    sent: list[str] = []

    def give(pixels: Any, **other: Any) -> list[str]:
        log = TrafficLog(tmp_path / "traffic.db")
        ids = []
        for row in pixels:
            plain: dict[str, Any] = {"model": "digits", "version": 1, "track": "live", "outcome": "ok", "seconds": 0.01}
            arrays = {"inputs": {"pixels": row[None]}, "outputs": {"logits": (row @ weights[0] + weights[1])[None]}}
            ids.append(f"r{len(sent)}")
            log.offer(Exchange(**{"id": ids[-1], "at": 1e6 + len(sent) / 100, **plain, **arrays, **other}))
            sent.append(ids[-1])
        log.close()
        assert log.dropped == 0
        return ids

    return give


@pytest.fixture
def profile(model: Model, weights: tuple[Any, Any], tmp_path: Path) -> Callable[..., None]:
    """Count requests with these pixels as a server does, 16 to a chunk, and keep none of them."""
    known = baseline.build(model)
    assert known is not None
    assert known.answers is not None
    sent = 0

    def give(pixels: Any, **other: Any) -> None:
        nonlocal sent
        log = ProfileLog(tmp_path / "profiles.db")
        outputs = pixels @ weights[0] + weights[1]
        for at in range(0, len(pixels), 16):
            for name, arrays in (("inputs", {"pixels": pixels}), ("answers", {"logits": outputs})):
                subject = known.subject(name)
                assert subject is not None
                rows = subject.columns.read({key: array[at : at + 16] for key, array in arrays.items()})
                counts = subject.bins.tally(subject.bins.place(rows), np.ones(len(rows)))
                when = {"at": 1e6 + sent / 100, "until": 1e6 + (sent + 15) / 100}
                whose = {"model": "digits", "version": 1, "track": "live"} | other
                log.offer([Chunk(**when, **whose, subject=name, form=subject.bins.form, n=len(rows), counts=counts)])
            sent += len(pixels[at : at + 16])
        log.close()
        assert log.dropped == 0

    return give
