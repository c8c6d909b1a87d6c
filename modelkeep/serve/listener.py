"""The socket, and uvicorn with an end that loses no request."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Generator
from typing import Any

import uvicorn

from modelkeep.errors import BadSettings, PortInUse
from modelkeep.serve.plane import Plane

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than clients keep theirs, so that they close first."""
LAME_DUCK = 0.3
"""Seconds between the last connection accepted and idle ones closed: replies say 'close' meanwhile."""
BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. Raises PortInUse, BadSettings."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise BadSettings(f"'{host}' is no address to listen on ({error}); give another with --host") from None
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)  # two may bind the same port; listening is what the second cannot
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} of {host} is in use by another program; give another with --port (0: any free one)"
            ) from None
        raise BadSettings(
            f"cannot listen on port {port} of {host} ({error.strerror}); give others with --host and --port"
        ) from None
    return sock


def url_of(sock: socket.socket) -> str:
    """What a person on this machine types."""
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Listener(uvicorn.Server):
    """uvicorn, with signals left to us, and an end in which a client with a kept connection loses nothing."""

    def __init__(self, plane: Plane, app: Any) -> None:
        self.plane = plane
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=int(plane.settings.request_timeout) + 5,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """None: the service has its own handlers, and uvicorn would raise the signal again after a clean end."""
        yield

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
