"""Where it cannot listen."""

from __future__ import annotations

import os
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


def test_of_a_port_that_is_taken_grpcio_itself_says_nothing() -> None:
    code = """
import asyncio, socket
from modelkeep.errors import PortInUse
from modelkeep.serve.grpc.endpoint import Endpoint
from modelkeep.settings import Settings
from modelkeep.serve.plane.plane import Plane
async def main(port):
    endpoint = Endpoint(Plane(Settings()))
    try:
        await endpoint.start("127.0.0.1", port)
    except PortInUse:
        print("in use")
with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    asyncio.run(main(taken.getsockname()[1]))
"""
    environ = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    assert (done.stdout, done.stderr) == ("in use\n", "")
