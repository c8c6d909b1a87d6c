"""uvicorn with an end that loses no request, and with bounds that may change while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import uvicorn

from modelkeep.serve.http.connection import Connection, bounded
from modelkeep.serve.http.direct import Direct
from modelkeep.serve.http.handshake import Doorstep
from modelkeep.serve.http.open_files import connections
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.protocol.address import BACKLOG, certificate, show_certificate
from modelkeep.serve.protocol.patience import KEEP_ALIVE, LAME_DUCK, PATIENCE
from modelkeep.settings import Settings


def within(settings: Settings) -> Settings:
    """No more connections, of HTTP and of gRPC, than the system has files for."""
    protocols = 2 if settings.grpc_port else 1
    return replace(settings, max_connections=connections(protocols * settings.max_connections) // protocols)


def _grace(settings: Settings) -> int:
    """Seconds that a server which ends waits for the answers to what it has accepted."""
    return int(settings.request_timeout) + 5


class Listener(uvicorn.Server):
    """uvicorn, with signals left to us, and an end in which a client with a kept connection loses nothing."""

    def __init__(self, plane: Plane, app: Any, direct: Direct | None = None) -> None:
        self.plane, settings = plane, plane.settings
        self._protocol = bounded(settings, plane.metrics.rejected, direct)
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if settings.tls_cert else None
        if self._tls is not None:
            show_certificate(settings, self._tls)
        super().__init__(
            uvicorn.Config(
                app,
                http=self._protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=_grace(settings),
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn, which is told of no TLS: it would know of a client only after the handshake."""
        if self._tls is None:
            await super().startup(sockets)
            return
        kind, state = self._protocol, self.server_state

        def make() -> asyncio.BaseProtocol:
            return kind(config=self.config, server_state=state, app_state={})

        def room(shaking: int) -> bool:
            return len(state.connections) + shaking < kind.settings.max_connections

        self.servers: list[Any] = [
            Doorstep(sock, self._tls, make, room=room, patience=lambda: kind.settings.head_timeout)
            for sock in sockets or ()
        ]
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """None: the service has its own handlers, and uvicorn would raise the signal again after a clean end."""
        yield

    def adjust(self, settings: Settings) -> None:
        """From now on these bounds hold, for open connections too; new ones get the certificate that lies there now.

        Raises BadSettings for a certificate that does not work; the old one stays then.
        """
        if self._tls is not None:
            certificate(settings)
            show_certificate(settings, self._tls)
        self._protocol.settings = within(settings)
        self.config.timeout_graceful_shutdown = _grace(settings)

    async def drain(self) -> None:
        """Accept no more; let every reply say 'close'; then have idle connections closed."""
        self.plane.stopping = True
        loop = asyncio.get_running_loop()
        until = loop.time() + LAME_DUCK
        for server in self.servers if self.started else ():
            server.close()
        while self.server_state.connections and loop.time() < until:
            await asyncio.sleep(0.01)
        self.should_exit = True
        loop.call_later(PATIENCE, self._turn_away)

    def _turn_away(self) -> None:
        """Wait no longer for requests that are still coming in."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.turn_away()
