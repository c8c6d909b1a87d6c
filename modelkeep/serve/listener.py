"""The socket, and uvicorn with an end that loses no request."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import ssl
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import uvicorn

from modelkeep.errors import BadSettings, PortInUse
from modelkeep.serve.connection import Connection, bounded
from modelkeep.serve.direct import Direct
from modelkeep.serve.handshake import Doorstep
from modelkeep.serve.keys import Gate, Ring
from modelkeep.serve.open_files import connections
from modelkeep.serve.plane import Plane
from modelkeep.settings import Settings

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than clients keep theirs, so that they close first."""
LAME_DUCK = 0.3
"""Seconds between the last connection accepted and idle ones closed: replies say 'close' meanwhile."""
PATIENCE = 5.0
"""Seconds that a request which is still coming in has at the end; whoever runs the server may kill it after 30."""
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


def safely(settings: Settings) -> socket.socket:
    """``listen`` where settings say, unless that would let strangers in.

    Raises BadSettings for an address beyond this machine where there are no keys, and for TLS files that do not work.
    """
    if settings.tls_cert or settings.tls_key:
        certificate(settings)
    sock = listen(settings.host, settings.port)
    beyond = not ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback
    if beyond and not settings.anonymous and not (settings.keys or settings.keys_file.exists()):
        sock.close()
        raise BadSettings(
            f"{settings.host} can be reached from other machines and there is no API key; make one with: modelkeep "
            "keys --add NAME --scope infer, or pass --anonymous to let everybody in"
        )
    return sock


def gate(settings: Settings) -> Gate:
    """Open until there is a file of keys; never where settings name one. Raises BadSettings for one that is damaged."""
    return Gate(Ring(settings.keys_file), until_there=not settings.keys)


def certificate(settings: Settings) -> tuple[bytes, bytes]:
    """The chain and its key, as PEM. Raises BadSettings where they do not work together."""
    try:
        _show(settings, ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
        with open(settings.tls_cert, "rb") as cert, open(settings.tls_key or settings.tls_cert, "rb") as key:
            return cert.read(), key.read()
    except (OSError, ValueError) as error:
        raise BadSettings(
            f"TLS cannot use certificate '{settings.tls_cert}' with key '{settings.tls_key}': {error}; give PEM files "
            "that belong together with --tls-cert and --tls-key"
        ) from error


def _show(settings: Settings, context: ssl.SSLContext) -> None:
    """Have new connections get the certificate that lies there now. Raises BadSettings, OSError, ValueError."""

    def password() -> str:
        key = settings.tls_key or settings.tls_cert
        raise BadSettings(
            f"the key in '{key}' is encrypted, and a server cannot ask for its password; give one that is not: openssl "
            f"pkey -in {key} -out plain.pem"
        )

    context.load_cert_chain(settings.tls_cert, settings.tls_key or None, password)


def url_of(sock: socket.socket, *, tls: bool = False) -> str:
    """What a person on this machine types."""
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _within(settings: Settings) -> Settings:
    """No more connections than the system has files for."""
    return replace(settings, max_connections=connections(settings.max_connections))


class Listener(uvicorn.Server):
    """uvicorn, with signals left to us, and an end in which a client with a kept connection loses nothing."""

    def __init__(self, plane: Plane, app: Any, direct: Direct | None = None) -> None:
        self.plane, settings = plane, _within(plane.settings)
        self._protocol = bounded(settings, plane.metrics.rejected, direct)
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if settings.tls_cert else None
        if self._tls is not None:
            _show(settings, self._tls)
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
                timeout_graceful_shutdown=int(settings.request_timeout) + 5,
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
            _show(settings, self._tls)
        self._protocol.settings = _within(settings)

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
