"""Clients over TLS that do not shake hands, or do and say more at once."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import trustme

from modelkeep.serve.http import connection, handshake
from modelkeep.serve.server import Running
from modelkeep.settings import Settings
from tests.waiting import until

ALIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture
def server(pem: tuple[str, str], fakes: SimpleNamespace) -> Iterator[Running]:
    settings = Settings(tls_cert=pem[0], tls_key=pem[1], max_connections=4, head_timeout=0.6)
    running = Running({"m": fakes.Fake()}, settings=settings)
    with running:
        yield running


def connect(server: Running) -> socket.socket:
    host, port = server.url.removeprefix("https://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(100) == b""
    except ConnectionResetError:
        return True


def test_silent_clients_are_counted_and_let_go(
    server: Running, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "GUESTS", 0)
    silent = [connect(server) for _ in range(4)]
    time.sleep(0.1)
    began = time.monotonic()
    with connect(server) as extra:
        assert closed(extra)
        assert time.monotonic() - began < 0.4
    for sock in silent:
        assert closed(sock)
        sock.close()
    # a moment passes before their places are free
    until(lambda: answered(server, authority).startswith(b"HTTP/1.1 200"))


def answered(server: Running, authority: trustme.CA) -> bytes:
    """The begin of an answer to a client that comes now; none where it is cut off."""
    with (
        contextlib.suppress(OSError),
        trusting(authority).wrap_socket(connect(server), server_hostname="127.0.0.1") as sock,
    ):
        sock.sendall(ALIVE)
        return sock.recv(1000)
    return b""


def test_one_too_many_is_told_so_and_takes_no_place(
    server: Running, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "GUESTS", 2)
    monkeypatch.setattr(handshake, "STAY", 20.0)
    with contextlib.ExitStack() as stack:
        kept = [trusting(authority).wrap_socket(connect(server), server_hostname="127.0.0.1") for _ in range(4)]
        for sock in kept:
            stack.enter_context(sock).sendall(ALIVE)
            assert sock.recv(1000).startswith(b"HTTP/1.1 200")
        for _ in range(2):
            told = answered(server, authority)
            assert told.startswith(b"HTTP/1.1 503")
            assert b"4 connections are open, the most this server takes (max_connections)" in told
        assert answered(server, authority) == b"", "no more are told at a time"
        kept[0].close()
        until(lambda: answered(server, authority).startswith(b"HTTP/1.1 200"))


def test_what_comes_with_the_last_words_of_the_handshake_is_answered(server: Running, authority: trustme.CA) -> None:
    received, said = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting(authority).wrap_bio(received, said, server_hostname="127.0.0.1")
    with connect(server) as sock:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(said.read())
                received.write(sock.recv(65536))
        tls.write(ALIVE)
        sock.sendall(said.read())
        while True:
            received.write(sock.recv(65536))
            try:
                assert tls.read(1000).startswith(b"HTTP/1.1 200")
                break
            except ssl.SSLWantReadError:  # session tickets come first
                pass


def test_a_server_ends_while_a_client_shakes_hands(server: Running) -> None:
    with connect(server) as sock:
        time.sleep(0.1)
        server.stop()
        assert closed(sock)


def test_a_server_ends_though_a_client_keeps_its_connection_and_does_not_read(
    server: Running, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "GOODBYE", 0.2)
    with connect(server) as plain, trusting(authority).wrap_socket(plain, server_hostname="127.0.0.1") as sock:
        sock.sendall(ALIVE)
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 15  # 30 without
