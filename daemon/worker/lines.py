"""One end of a stream socket, as lines of JSON: whole ones in, whole ones out. Never waits but where it is told to.

Both ends of a shim are such: the daemon's and its program's. Knows no message.
"""

from __future__ import annotations

import json
import select
import socket
from typing import Any, Final

import baton

CHUNK_BYTES: Final = 1 << 16


class Wire:
    """A lost other end is an end of file, never an error: `open` is false then, and what is sent is dropped."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.open = True
        self._incoming = b""
        self._outgoing = bytearray()

    @property
    def owed_bytes(self) -> int:
        """What the other end has not taken yet."""
        return len(self._outgoing)

    @property
    def interest(self) -> int:
        """What to poll for."""
        return select.POLLIN | (select.POLLOUT if self._outgoing else 0)

    # In

    def lines(self) -> list[bytes]:
        """What one read gives; nothing where nothing is there now. Sets `open` to false at the end of file."""
        try:
            chunk = self.sock.recv(CHUNK_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError:
            chunk = b""
        if not chunk:
            self.open = False
        *whole, self._incoming = (self._incoming + chunk).split(b"\n")
        if len(self._incoming) > baton.LINE_LIMIT_BYTES:  # the daemon is to judge it, not this process to hold it
            whole, self._incoming = [*whole, self._incoming], b""
        return whole

    def readable(self) -> bool:
        """Whether a line, a part of one or the end of file is there now."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def first(self) -> dict[str, Any] | None:
        """The first line, waited for; None where there is none."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        while self.open:
            poll.poll()
            found = self.lines()
            if found:
                self._incoming = b"\n".join([*found[1:], self._incoming])
                return parsed(found[0])
        return None

    def waiting(self) -> list[bytes]:
        """Lines that came together with the first."""
        *whole, self._incoming = self._incoming.split(b"\n")
        return whole

    # Out

    def pass_on(self, line: bytes) -> None:
        """Send a line as it stands, now or as soon as the other end takes it: `flush` then sends on."""
        self._outgoing += line + b"\n"
        self.flush()

    def say(self, type_: str, /, **fields: Any) -> None:
        """Send a message."""
        self.pass_on(json.dumps({**fields, "type": type_}, separators=(",", ":")).encode())

    def flush(self) -> None:
        """Send of what is owed as much as the other end takes now."""
        while self._outgoing:
            try:
                sent = self.sock.send(self._outgoing, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:  # it is gone: reading shows the same end
                self._outgoing.clear()
                return
            del self._outgoing[:sent]

    def finish(self) -> None:
        """Wait until the other end has taken all that is owed, or is gone."""
        poll = select.poll()
        poll.register(self.sock, select.POLLOUT)
        while self._outgoing:
            poll.poll()
            self.flush()

    def rejoin(self, path: str) -> bool:
        """Connect anew, to whoever listens at `path` by now; False where there is nobody."""
        try:
            sock = socket.socket(socket.AF_UNIX)
        except OSError:  # no descriptor left
            return False
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            return False
        self.sock.close()
        self.sock, self.open, self._incoming = sock, True, b""
        self._outgoing.clear()
        return True


def parsed(line: bytes) -> dict[str, Any] | None:
    """The object in a line; None where there is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None
