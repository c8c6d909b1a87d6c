"""Connections over TLS, bounded from their first packet on: before the handshake nobody has shown who they are."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

AGAIN = 0.1
"""Seconds until the next try where the system has no file left for a connection."""


class Doorstep:
    """Accepts clients and shakes hands with them, in place of a server of asyncio's.

    That tells a protocol of its client after the handshake: who does not shake hands would be in no count, and many
    could hold all files that the system allows, which workers need too. ``room`` says whether one more may come, given
    how many shake hands; ``patience`` how many seconds that may take.
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
        self._shaking: set[asyncio.Task[None]] = set()
        sock.setblocking(False)
        self._accepting = self._loop.create_task(self._accept(sock))

    def close(self) -> None:
        """No more come; who is here already may go on."""
        self._accepting.cancel()

    async def wait_closed(self) -> None:
        """Let go who has not shaken hands by now."""
        for task in self._shaking:
            task.cancel()
        await asyncio.gather(self._accepting, *self._shaking, return_exceptions=True)

    async def _accept(self, sock: socket.socket) -> None:
        while True:
            try:
                client, _ = await self._loop.sock_accept(sock)
            except OSError:
                await asyncio.sleep(AGAIN)
                continue
            if not self._room(len(self._shaking)):
                client.close()
                continue
            self._shaking.add(task := self._loop.create_task(self._shake_hands(client)))
            task.add_done_callback(self._shaking.discard)

    async def _shake_hands(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, TimeoutError):  # ssl.SSLError is one
            await self._loop.connect_accepted_socket(
                self._make, client, ssl=self._tls, ssl_handshake_timeout=self._patience()
            )
