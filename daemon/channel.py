"""The daemon's end of one worker's socket: whole lines in, whole lines out, both bounded. Decides nothing.

A worker that sends faster than the protocol allows is read slower, and so waits in its own write: it costs
neither memory here nor time of the other workers.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from daemon import messages
from daemon.plaintext import one_line

CHUNK_BYTES: Final = 1 << 16
# Read at once, and the next after a pause. A worker in order sends 20 a second; one that floods must not keep the
# handover of another waiting, and a line costs 15 to 30 µs.
BURST_LINES: Final = 50
PAUSE_S: Final = 0.0125
LAST_WORDS_LIMIT_BYTES: Final = (
    4 << 20
)  # of what is read after an exit: a socket holds less, unless somebody still writes
QUOTE_CHARACTERS: Final = 80
FAULT_LIMIT_CHARACTERS: Final = 500  # what is wrong with a line may quote all of it


class ProtocolError(Exception):
    """A worker sent what no worker may send."""


class Channel:
    """`take` is called with each message, in order; `fault` once, with what was wrong, and nothing follows.

    `ended` is called at the end of file. All from the event loop, never from within a call of this class,
    but for `finish`.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        take: Callable[[messages.FromWorker], None],
        fault: Callable[[str], None],
        ended: Callable[[], None],
    ) -> None:
        """Take over the connected socket, and begin to read."""
        sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._socket = sock
        self._take = take
        self._fault = fault
        self._ended = ended
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._reading = True  # false at the end of file or after a fault: no message will be taken any more
        self._loop.add_reader(sock, self._readable)

    def send(self, message: messages.ToWorker) -> None:
        """Write the line now, within this call, unless an earlier one still waits. Lost when the worker is gone."""
        self._outgoing += messages.encode(message)
        if self._socket.fileno() >= 0:
            self._flush()

    def finish(self) -> None:
        """Take what the worker sent before it ended, then close."""
        budget = LAST_WORDS_LIMIT_BYTES
        while self._reading:
            while self._lines():
                continue
            chunk = self._receive() if self._reading and budget > 0 else None
            if not chunk:
                break
            budget -= len(chunk)
        self.close()

    def close(self) -> None:
        """Let go of the socket. May be called twice."""
        if self._socket.fileno() < 0:
            return
        self._reading = False
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        # Whom they tell holds this channel: in a circle, each worker that ended would wait for the collector.
        self._take = self._fault = self._ended = _nothing

    # Out

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:  # the worker is gone, its exit says so
            self._outgoing.clear()
            self._loop.remove_writer(self._socket)
            return
        del self._outgoing[:sent]
        if self._outgoing:
            self._loop.add_writer(self._socket, self._flush)
        else:
            self._loop.remove_writer(self._socket)

    # In

    def _receive(self) -> bytes | None:
        """One chunk into the buffer; empty at the end of file, None where nothing is there now."""
        try:
            chunk = self._socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return None
        except OSError:  # reset: the same as an end
            return b""
        self._incoming += chunk
        return chunk

    def _readable(self) -> None:
        chunk = self._receive()
        if chunk is None:
            return
        more = self._lines()
        if not self._reading:
            return
        if more:
            self._loop.remove_reader(self._socket)
            self._pause = self._loop.call_later(PAUSE_S, self._resume)
        elif not chunk:
            self._reading = False
            self._loop.remove_reader(self._socket)
            self._ended()

    def _resume(self) -> None:
        if self._lines():
            self._pause = self._loop.call_later(PAUSE_S, self._resume)
        elif self._reading:
            self._loop.add_reader(self._socket, self._readable)

    def _lines(self) -> bool:
        """Take up to a burst of whole lines; True if it was full, and more may wait."""
        for _ in range(BURST_LINES):
            if not self._reading:
                return False
            end = self._incoming.find(b"\n")
            if end < 0 and len(self._incoming) <= messages.LINE_LIMIT_BYTES:
                return False
            if end < 0 or end > messages.LINE_LIMIT_BYTES:
                self._stop(f"a line of more than {messages.LINE_LIMIT_BYTES >> 20} MiB")
                return False
            line = bytes(self._incoming[:end])
            del self._incoming[: end + 1]
            self._one(line)
        return self._reading

    def _one(self, line: bytes) -> None:
        try:
            message = messages.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._stop(f"the line {_quoted(line)}: {error}")
            return
        try:
            self._take(message)
        except ProtocolError as error:
            self._stop(str(error))

    def _stop(self, what: str) -> None:
        self._reading = False
        self._incoming.clear()
        with suppress(ValueError, OSError):
            self._loop.remove_reader(self._socket)
        self._fault(one_line(what, FAULT_LIMIT_CHARACTERS))


def _nothing(*_: object) -> None:
    pass


def _quoted(line: bytes) -> str:
    text = line[:QUOTE_CHARACTERS].decode("utf-8", "backslashreplace")
    return repr(text + ("…" if len(line) > QUOTE_CHARACTERS else ""))
