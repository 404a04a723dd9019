"""One client's end of the control socket: bytes out, lines in. Judges nothing.

A bare socket, not asyncio's streams: those lose what is still to be read as soon as something cannot be sent.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

from tests.fuzz.lab import Broken

TIMEOUT_S = 20.0


class Peer:
    """A connection."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.setblocking(False)
        self._buffer = bytearray()

    async def line(self) -> bytes | None:
        """The next; None at the end."""
        seen = 0
        while (end := self._buffer.find(b"\n", seen)) < 0:
            seen = len(self._buffer)
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    chunk = await self._loop.sock_recv(self._socket, 1 << 16)
            except ConnectionError:
                return None
            except TimeoutError:
                raise Broken("an answer is owed, and none came") from None
            if not chunk:
                return None
            self._buffer += chunk
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line

    async def send(self, data: bytes) -> None:
        """Send; whoever was hung up on learns it by reading."""
        with suppress(ConnectionError):
            await self._loop.sock_sendall(self._socket, data)

    def push(self, data: bytes) -> int | None:
        """Send what fits, without waiting; None when it was hung up on."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except ConnectionError:
            return None

    def end(self) -> None:
        """Send nothing more."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def drop(self) -> None:
        """Hang up, whatever is under way."""
        self._socket.close()
