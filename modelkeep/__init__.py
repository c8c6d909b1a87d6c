"""modelkeep keeps a model working as a service. ``Keep`` is the one door: every verb is a method of it.

``Client`` and ``AsyncClient`` ask a server.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelkeep.client import AsyncClient as AsyncClient
    from modelkeep.client import Client as Client
    from modelkeep.keep import Keep as Keep

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "Keep", "__version__"]

# ONNX Runtime sends events to its maker unless this is set before it is imported; who wants that sets it to 0
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import modelkeep`` costs the standard library only."""
    if name == "Keep":
        from modelkeep.keep import Keep

        return Keep
    if name in ("Client", "AsyncClient"):
        from modelkeep import extras

        extras.need("httpx", extra="client")
        from modelkeep import client

        return getattr(client, name)
    raise AttributeError(f"module 'modelkeep' has no attribute '{name}'")
