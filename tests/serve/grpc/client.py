"""A client of the service, the questions that it asks, and a server to ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from modelkeep.serve.grpc.endpoint import Endpoint
from modelkeep.serve.grpc.messages import METHODS, SERVICE, classes
from modelkeep.serve.protocol.keys import Gate, Ring
from modelkeep.serve.server import Running

grpc: Any = pytest.importorskip("grpc")
MADE = classes()
WAIT = 20.0


class Client:
    """A stub of the service: ``client.ModelInfer(message)``."""

    def __init__(self, channel: Any) -> None:
        for name in METHODS:
            call = channel.unary_unary(
                f"/{SERVICE}/{name}",
                request_serializer=MADE[f"{name}Request"].SerializeToString,
                response_deserializer=MADE[f"{name}Response"].FromString,
            )
            setattr(self, name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def ask(self, message: Any, **options: Any) -> Any:
        return self.ModelInfer(message, timeout=WAIT, **options)

    def refused(self, message: Any, method: str = "ModelInfer", **options: Any) -> tuple[str, str]:
        """The name of the status, and the sentence."""
        with pytest.raises(grpc.RpcError) as caught:
            getattr(self, method)(message, **{"timeout": WAIT, **options})
        return caught.value.code().name, caught.value.details()


Connect = Callable[..., tuple[Any, Running]]
Serve = Callable[..., tuple[Client, Running]]
"""The fixtures ``connect`` and ``serve`` of conftest.py."""


def question(*values: float, raw: bool = False, **fields: Any) -> Any:
    """A row of FP32 for model m."""
    data = list(values or (1.0, 2.0))
    message = MADE["ModelInferRequest"](**{"model_name": "m", "id": "r1", **fields})
    tensor = message.inputs.add(name="x", datatype="FP32", shape=[1, len(data)])
    if raw:
        message.raw_input_contents.append(np.array(data, "<f4").tobytes())
    else:
        tensor.contents.fp32_contents.extend(data)
    return message


def listen(running: Running, ring: Ring | None = None) -> tuple[Endpoint, int]:
    """What answers over gRPC for a server that runs, with the keys of a ring if one is given; and its port."""

    async def start() -> tuple[Endpoint, int]:
        endpoint = Endpoint(running.plane, Gate(ring))
        return endpoint, await endpoint.start("127.0.0.1", 0)

    return running.call(start())
