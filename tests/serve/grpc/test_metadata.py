"""What a server says of itself and of its models."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from modelkeep import __version__
from tests.serve.grpc.client import MADE, WAIT, Client, Serve


def test_health_and_metadata(client: Client) -> None:
    assert client.ServerLive(MADE["ServerLiveRequest"](), timeout=WAIT).live
    assert client.ServerReady(MADE["ServerReadyRequest"](), timeout=WAIT).ready
    assert client.ModelReady(MADE["ModelReadyRequest"](name="m"), timeout=WAIT).ready
    assert client.ModelReady(MADE["ModelReadyRequest"](name="m", version="1"), timeout=WAIT).ready
    server = client.ServerMetadata(MADE["ServerMetadataRequest"](), timeout=WAIT)
    assert (server.name, server.version) == ("modelkeep", __version__)
    model = client.ModelMetadata(MADE["ModelMetadataRequest"](name="m"), timeout=WAIT)
    assert (model.name, list(model.versions)) == ("m", ["1"])
    assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [("x", "FP32", [-1, -1])]
    assert [(t.name, t.datatype, list(t.shape)) for t in model.outputs] == [("y", "FP32", [-1, -1])]
    assert model.platform == "onnxruntime"


def test_a_server_that_stops_is_live_and_not_ready(serve: Serve, fakes: SimpleNamespace) -> None:
    client, running = serve(m=fakes.Fake())
    running.plane.stopping = True
    assert client.ServerLive(MADE["ServerLiveRequest"](), timeout=WAIT).live
    assert not client.ServerReady(MADE["ServerReadyRequest"](), timeout=WAIT).ready
    assert not client.ModelReady(MADE["ModelReadyRequest"](name="m"), timeout=WAIT).ready


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata"])
def test_a_model_that_is_not_there_is_not_found(client: Client, method: str) -> None:
    code, said = client.refused(MADE[f"{method}Request"](name="other"), method)
    assert (code, said) == ("NOT_FOUND", "no model is called 'other' here; this server answers for m")
    code, said = client.refused(MADE[f"{method}Request"](name="m", version="9"), method)
    assert code == "NOT_FOUND"
    assert "m@9 is not served" in said
