"""Where it cannot listen."""

from __future__ import annotations

import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from modelkeep.errors import PortInUse
from tests.serve.grpc.client import Serve


def test_a_port_that_is_taken(serve: Serve, fakes: SimpleNamespace) -> None:
    from modelkeep.serve.grpc.endpoint import Endpoint

    _, running = serve(m=fakes.Fake())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        async def start() -> None:
            endpoint = Endpoint(running.plane)
            try:
                await endpoint.start("127.0.0.1", port)
            finally:
                await endpoint.stop(0)

        with pytest.raises(PortInUse, match=f"gRPC cannot listen on 127.0.0.1:{port}: something else does"):
            running.call(start())


def test_without_grpcio_the_extra_is_named() -> None:
    code = """
import sys
sys.modules["grpc"] = None
from modelkeep.errors import MissingExtra
from modelkeep.serve.grpc.endpoint import Endpoint
from modelkeep.settings import Settings
from modelkeep.serve.plane.plane import Plane
try:
    Endpoint(Plane(Settings()))
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("install it with: pip install 'modelkeep[grpc]'")
