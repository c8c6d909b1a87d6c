"""Where a server listens: a socket that strangers may reach only on purpose, and its TLS certificate."""

from __future__ import annotations

import errno
import ipaddress
import shlex
import socket
import ssl
from pathlib import Path

from modelkeep.errors import BadSettings, PortInUse
from modelkeep.settings import Settings

BACKLOG = 2048
"""Connections that wait to be accepted."""
OF_A_SERVICE = "--scope infer, or pass --anonymous to let everybody in"


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


def safely(settings: Settings, wanted: str = OF_A_SERVICE) -> socket.socket:
    """``listen`` where settings say, unless that would let strangers in. ``wanted`` are the words that make such a key.

    Raises BadSettings for an address beyond this machine where there are no keys, for a file of keys that is not there,
    and for TLS files that do not work.
    """
    if settings.keys and not settings.keys_file.exists():
        raise BadSettings(
            f"there is no file {settings.keys}, so no key would be let in; make the first with: MODELKEEP_KEYS="
            f"{shlex.quote(settings.keys)} modelkeep keys --add NAME --scope infer, or give another file with --keys"
        )
    if settings.tls_cert or settings.tls_key:
        certificate(settings)
    sock = listen(settings.host, settings.port)
    beyond = not ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback
    if beyond and not settings.anonymous and not (settings.keys or settings.keys_file.exists()):
        sock.close()
        raise BadSettings(
            f"{settings.host} can be reached from other machines and there is no API key; make one with: modelkeep "
            f"keys --add NAME {wanted}"
        )
    return sock


def certificate(settings: Settings) -> tuple[bytes, bytes]:
    """The chain and its key, as PEM. Raises BadSettings where they do not work together."""
    if not settings.tls_cert:
        raise BadSettings(
            f"the key '{settings.tls_key}' needs its certificate; give both, with --tls-cert and --tls-key"
        )
    for file in filter(None, (settings.tls_cert, settings.tls_key)):
        if not Path(file).is_file():
            raise BadSettings(
                f"there is no file {file}; give PEM files that belong together with --tls-cert and --tls-key"
            )
    try:
        show_certificate(settings, ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
        with open(settings.tls_cert, "rb") as cert, open(settings.tls_key or settings.tls_cert, "rb") as key:
            return cert.read(), key.read()
    except (OSError, ValueError) as error:
        raise BadSettings(
            f"TLS cannot use certificate '{settings.tls_cert}' with the key in "
            f"'{settings.tls_key or settings.tls_cert}': {error}; give PEM files that belong together with --tls-cert "
            "and --tls-key"
        ) from error


def show_certificate(settings: Settings, context: ssl.SSLContext) -> None:
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
