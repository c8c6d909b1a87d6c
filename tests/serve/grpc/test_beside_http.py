"""gRPC beside HTTP: the same server, started and stopped with it."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trustme

from modelkeep.errors import PortInUse
from modelkeep.serve.grpc.messages import SERVICE, classes
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


def test_a_new_certificate_is_for_new_connections(fakes: SimpleNamespace, tmp_path: Path) -> None:
    file, port = tmp_path / "server.pem", free_port()

    def renew() -> None:
        trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(file)

    def seen() -> str:
        """What a client is shown: gRPC goes on with HTTP/2 only, which Python's own look at it does not offer."""
        context = ssl._create_unverified_context()
        context.set_alpn_protocols(["h2"])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock, context.wrap_socket(sock) as tls:
            return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"")

    renew()
    settings = Settings(home=tmp_path, grpc_port=port, tls_cert=str(file))
    running = Running({"m": fakes.Fake()}, settings=settings)
    with running:
        running.service.reread = lambda: settings
        before = seen()
        renew()
        assert seen() == before, "nobody has said that there is another"
        running.call(running.service.again())
        after = seen()
        assert after != before
        assert after in file.read_text()
        file.write_text("no certificate")
        running.call(running.service.again())
        assert seen() == after


def test_smaller_messages_are_asked_for_at_once(
    fakes: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made, port = classes(), free_port()
    settings = Settings(home=tmp_path, grpc_port=port, max_body_bytes=1_000_000)
    running = Running({"m": fakes.Fake()}, settings=settings)
    question = made["ModelInferRequest"](model_name="m")
    question.inputs.add(name="x", datatype="FP32", shape=[1, 50_000])
    question.raw_input_contents.append(bytes(200_000))
    with running, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=made["ModelInferRequest"].SerializeToString,
            response_deserializer=made["ModelInferResponse"].FromString,
        )
        assert len(ask(question, timeout=20).raw_output_contents[0]) == 200_000
        running.service.reread = lambda: replace(settings, max_body_bytes=100_000)
        running.call(running.service.again())
        with pytest.raises(grpc.RpcError) as refused:
            ask(question, timeout=20)
        assert "the message is larger than 100000 bytes (max_body_bytes)" in refused.value.details()
        running.service.reread = lambda: replace(settings, max_body_bytes=2_000_000)
        running.call(running.service.again())
        assert len(ask(question, timeout=20).raw_output_contents[0]) == 200_000
    assert caplog.messages == [
        "messages over gRPC that are larger than at the start take effect at a start only: max_body_bytes"
    ]
