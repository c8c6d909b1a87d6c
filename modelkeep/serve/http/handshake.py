"""Connections over TLS, bounded from their first packet on: before the handshake nobody has shown who they are."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

GUESTS = 8
"""Clients at a time, beyond those that there is room for, who are told so; the others are cut off without a word."""
STAY = 1.0
"""Seconds that one of them has to read it: eight handshakes a second, 1.7 ms each (RSA 2048), take 1 % of the loop."""
AGAIN = 0.1
"""Seconds until the next try where the system has no file left for a connection."""


class Doorstep:
    """Accepts clients and shakes hands with them, in place of a server of asyncio's.

    That tells a protocol of its client after the handshake: who does not shake hands would be in no count, and many
    could hold all files that the system allows, which workers need too. ``room`` says whether one more may come, given
    how many shake hands; ``patience`` how many seconds that may take. A protocol of ``make`` tells who is one too many.
    """

    def __init__(
        self,
        sock: socket.socket,
        tls: ssl.SSLContext,
        make: Callable[[], asyncio.BaseProtocol],
        *,
        room: Callable[[int], bool],
        patience: Callable[[], float],
    ) -> None:
        self._tls, self._make, self._room, self._patience = tls, make, room, patience
        self._loop = asyncio.get_running_loop()
        self._shaking: set[asyncio.Task[Any]] = set()
        self._guests: set[asyncio.Task[Any]] = set()
        sock.setblocking(False)
        self._accepting = self._loop.create_task(self._accept(sock))

    def close(self) -> None:
        """No more come; who is here already may go on."""
        self._accepting.cancel()

    async def wait_closed(self) -> None:
        """Let go who has not shaken hands by now."""
        tasks = self._shaking | self._guests
        for task in tasks:
            task.cancel()
        await asyncio.gather(self._accepting, *tasks, return_exceptions=True)

    async def _accept(self, sock: socket.socket) -> None:
        while True:
            try:
                client, _ = await self._loop.sock_accept(sock)
            except OSError:
                await asyncio.sleep(AGAIN)
                continue
            if self._room(len(self._shaking)):
                self._begin(self._shake_hands(client), self._shaking)
            elif len(self._guests) < GUESTS:
                self._begin(self._turn_away(client), self._guests)
            else:
                client.close()

    def _begin(self, work: Coroutine[Any, Any, Any], among: set[asyncio.Task[Any]]) -> None:
        among.add(task := self._loop.create_task(work))
        task.add_done_callback(among.discard)

    async def _shake_hands(self, client: socket.socket) -> asyncio.Transport | None:
        with contextlib.suppress(OSError, TimeoutError):  # ssl.SSLError is one
            transport, _ = await self._loop.connect_accepted_socket(
                self._make, client, ssl=self._tls, ssl_handshake_timeout=self._patience()
            )
            return transport
        return None

    async def _turn_away(self, client: socket.socket) -> None:
        """Unless a place has become free by the time that hands are shaken."""
        transport = await self._shake_hands(client)
        if transport is not None and transport.is_closing():
            try:
                await asyncio.sleep(STAY)
            finally:
                transport.abort()
