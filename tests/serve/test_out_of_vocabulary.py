"""A number beyond a model's vocabulary, in a batch with others: whoever sent it is told so, and all others answered."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from modelkeep.data.dataset import Dataset
from modelkeep.model import formats
from modelkeep.serve.server import Running
from modelkeep.types import Model, ServeConfig

onnx = pytest.importorskip("onnx")
TABLE = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
WORDS = """
import torch


class Words(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(20, 4)

    def forward(self, ids):
        return self.table(ids)
"""
URL = "/v2/models/m/infer"


def in_onnx(folder: Path) -> Model:
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"])],
        "words",
        [helper.make_tensor_value_info("ids", kinds.INT64, ["batch", 3])],
        [helper.make_tensor_value_info("y", kinds.FLOAT, ["batch", 3, 4])],
        [onnx.numpy_helper.from_array(TABLE, "table")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made.ir_version = 9
    onnx.save(made, folder / "words.onnx")
    return formats.adopt(folder / "words.onnx", folder / "model")


def in_torch(folder: Path) -> Model:
    torch = pytest.importorskip("torch")
    (folder / "words_of_the_tests.py").write_text(WORDS, encoding="utf-8")
    torch.save({"table.weight": torch.from_numpy(TABLE)}, folder / "words.pt")
    rows = Dataset({"ids": np.arange(12).reshape(4, 3)}, None, "ids")
    return formats.adopt(folder / "words.pt", folder / "model", factory="words_of_the_tests:Words", data=rows)


def question(*ids: int) -> dict[str, Any]:
    return {"inputs": [{"name": "ids", "shape": [1, 3], "datatype": "INT64", "data": list(ids)}]}


def asked_at_once(server: Running, url: str, questions: list[dict[str, Any]]) -> list[httpx.Response]:
    """The answers to questions that waited together, while the only worker stood still with another one."""
    (worker,) = server.plane.find("m").batcher.crew.pids()  # type: ignore[attr-defined]

    async def main() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, timeout=30, limits=httpx.Limits(max_connections=None)) as client:
            os.kill(worker, signal.SIGSTOP)
            try:
                first = asyncio.ensure_future(client.post(URL, json=question(0, 0, 0)))
                while server.plane.limits.requests < 1:
                    await asyncio.sleep(0.005)
                waiting = [asyncio.ensure_future(client.post(URL, json=q)) for q in questions]
                while server.plane.limits.requests < 1 + len(questions):
                    await asyncio.sleep(0.005)
            finally:
                os.kill(worker, signal.SIGCONT)
            await first
            return await asyncio.gather(*waiting)

    return asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize(
    ("make", "engine", "said"),
    [
        (in_onnx, "onnxruntime", "input 'ids' holds 99, and the model takes 0 to 19 there"),
        (in_onnx, "openvino", "input 'ids' holds 99, and the model takes 0 to 19 there"),
        (in_torch, "torch", "the model cannot run these inputs: index out of range in self"),
    ],
)
def test_who_sent_it_gets_400_and_the_neighbours_their_answers(
    tmp_path: Path, make: Any, engine: str, said: str
) -> None:
    pytest.importorskip(engine)
    ids = [(n, n + 1, n + 2) for n in range(16)]
    ids[5] = (1, 99, 2)
    server = Running({"m": make(tmp_path)}, configs={"m": ServeConfig(engine=engine, max_batch=32, run_timeout=60.0)})
    with server as url:
        answers = asked_at_once(server, url, [question(*row) for row in ids])
        (stats,) = httpx.get(f"{url}/v2/models/m/stats", timeout=20).json()["model_stats"]
    guilty = answers.pop(5)
    assert (guilty.status_code, guilty.json()) == (400, {"error": said})
    assert [answer.status_code for answer in answers] == [200] * 15
    for answer, row in zip(answers, ids[:5] + ids[6:], strict=True):
        np.testing.assert_allclose(answer.json()["outputs"][0]["data"], TABLE[list(row)].ravel(), rtol=1e-6)
    assert 8 in {batch["batch_size"] for batch in stats["batch_stats"]}, "they did not share a run"
