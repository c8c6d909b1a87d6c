"""The console on a port of its own, or below /console of a service."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

import uvicorn

from modelkeep.console.app import Console
from modelkeep.console.readings import Captured, Scraped, Served
from modelkeep.serve.http.connection import bounded
from modelkeep.serve.protocol.address import safely, url_of
from modelkeep.serve.protocol.keys import gate

if TYPE_CHECKING:
    import socket

    from modelkeep.keep import Keep
    from modelkeep.serve.http.door import Mount
    from modelkeep.settings import Settings

ROOT = "/console"
LAST_SECONDS = 3
"""For answers that are on their way when the console ends."""


def mounts(keep: Keep) -> Mapping[str, Mount]:
    """For Keep.serve: the console of this registry below ROOT, fed by the service's own metrics."""
    return {ROOT: lambda plane, keys: Console(keep, keys, Served(plane.metrics), root=ROOT)}


def serve(keep: Keep, *, service: str = "", key: str = "", on_ready: Callable[[str], None] | None = None) -> None:
    """Show the registry until SIGINT or SIGTERM, where ``keep.settings`` says, behind the same keys as a service.

    ``service`` is the address of a running one whose /metrics are read with ``key``; without it, what happens now is
    told from the captured traffic. Raises PortInUse, BadSettings, MissingExtra.
    """
    settings = keep.settings
    source = Scraped(service, key) if service else Captured(keep.traffic, keep.registry.names)
    console = Console(keep, gate(settings), source)
    with safely(settings, "--scope read (--scope admin beside it to change things)") as sock:
        if on_ready is not None:
            on_ready(url_of(sock, tls=bool(settings.tls_cert)))
        asyncio.run(Listener(console, settings).until_signalled(sock))


class Listener(uvicorn.Server):
    """uvicorn, whose end ends the console's streams first."""

    def __init__(self, console: Console, settings: Settings) -> None:
        self.console = console
        config: dict[str, Any] = {"ws": "none", "lifespan": "off", "log_config": None, "access_log": False}
        super().__init__(
            uvicorn.Config(
                console,
                http=bounded(settings, lambda reason: None),  # nothing counts what is no HTTP here
                ssl_certfile=settings.tls_cert or None,
                ssl_keyfile=settings.tls_key or None,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=LAST_SECONDS,
                **config,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """None: ``until_signalled`` has its own, and uvicorn would raise the signal again after a clean end."""
        yield

    async def until_signalled(self, sock: socket.socket) -> None:
        """Answer on ``sock`` until SIGINT, SIGTERM or ``end``."""
        with contextlib.suppress(NotImplementedError):  # Windows, where Ctrl-C raises KeyboardInterrupt
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, self.end)
        try:
            await self.serve(sockets=[sock])
        finally:
            self.console.stop()

    def end(self) -> None:
        """Answer nothing more. For the event loop's thread."""
        self.console.stop()
        self.should_exit = True
