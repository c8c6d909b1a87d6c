"""gRPC beside HTTP: the same server, started and stopped with it."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.errors import PortInUse
from modelkeep.serve.messages import SERVICE, classes
from modelkeep.serve.server import Running
from modelkeep.settings import Settings

grpc: Any = pytest.importorskip("grpc")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_both_give_the_same_answer(adopted: Any, tmp_path: Path) -> None:
    made, port = classes(), free_port()
    pixels = np.arange(64, dtype=np.float32) % 17
    with Running({"digits": adopted("MLP")}, settings=Settings(home=tmp_path, grpc_port=port)) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": pixels.tolist()}
        connection.request("POST", "/v2/models/digits/infer", json.dumps({"inputs": [tensor]}))
        over_http = json.loads(connection.getresponse().read())["outputs"][0]["data"]
        connection.close()
        question = made["ModelInferRequest"](model_name="digits")
        question.inputs.add(name="pixels", datatype="FP32", shape=[1, 64])
        question.raw_input_contents.append(pixels.tobytes())
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask = channel.unary_unary(
                f"/{SERVICE}/ModelInfer",
                request_serializer=made["ModelInferRequest"].SerializeToString,
                response_deserializer=made["ModelInferResponse"].FromString,
            )
            answer = ask(question, timeout=20)
        over_grpc = np.frombuffer(answer.raw_output_contents[0], np.float32)
        np.testing.assert_allclose(over_grpc, over_http, rtol=1e-5)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "it is gone with the server"


def test_a_busy_port_is_told_before_anything_is_loaded(adopted: Any, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = Settings(home=tmp_path, grpc_port=taken.getsockname()[1])
        with pytest.raises(PortInUse, match="gRPC cannot listen on"), Running({"m": adopted("MLP")}, settings=busy):
            pass
