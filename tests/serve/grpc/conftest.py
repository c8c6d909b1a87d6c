"""A server of model m over gRPC too, and who asks it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from modelkeep.serve.server import Running
from modelkeep.settings import Settings
from modelkeep.types import ServeConfig

if TYPE_CHECKING:
    from modelkeep.serve.protocol.keys import Ring
    from tests.serve.grpc.client import Client, Connect, Serve


@pytest.fixture
def connect(fakes: SimpleNamespace) -> Iterator[Connect]:
    """A channel to a server of these runners, or of a Fake, with the keys of a ring if one is given; and the server."""
    grpc = pytest.importorskip("grpc")
    from tests.serve.grpc.client import listen

    with contextlib.ExitStack() as stack:

        def begin(settings: Settings | None = None, ring: Ring | None = None, **runners: Any) -> tuple[Any, Running]:
            served = runners or {"m": fakes.Fake()}
            running = Running(served, settings=settings, configs={"m": ServeConfig(max_batch=8)})
            stack.enter_context(running)
            endpoint, port = listen(running, ring)
            stack.callback(lambda: running.call(endpoint.stop(5.0)))
            return stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}")), running

        yield begin


@pytest.fixture
def serve(connect: Connect) -> Serve:
    """The same with a Client in place of the channel."""
    from tests.serve.grpc.client import Client

    def begin(*given: Any, **runners: Any) -> tuple[Client, Running]:
        channel, running = connect(*given, **runners)
        return Client(channel), running

    return begin


@pytest.fixture
def client(serve: Serve, fakes: SimpleNamespace) -> Client:
    return serve(m=fakes.Fake(add=1.0))[0]
