"""Lines on their way out: a bounded buffer, and the thread that empties it. Whoever puts a line there never waits.

Where nobody takes them fast enough, or the place they go to is gone for a while, lines are dropped and counted, and
the count is told as soon as there is room. Knows no event, and not what a line is made of.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

BUFFER_BYTES: Final = 4 << 20
WRITE_BYTES: Final = 1 << 16  # so much is handed over at once
CLOSE_WAIT_S: Final = 2.0  # how long the last lines may take to get out
RETRY_S: Final = 1.0  # between attempts, while the disk is full or the journal is not there


class Outlet(Protocol):
    """Where lines go. Used by one thread."""

    def write(self, lines: deque[bytes]) -> None:
        """Write them in their order, however long it takes; what is written is taken out. Raises OSError."""

    def passes(self, error: OSError) -> bool:
        """Whether what went wrong may pass by itself."""


class Descriptor:
    """A file, pipe or terminal that is open."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, lines: deque[bytes]) -> None:
        left = memoryview(b"".join(lines))
        lines.clear()
        try:
            while left:
                try:
                    left = left[os.write(self._fd, left) :]
                except BlockingIOError:  # whoever gave us this file set it so
                    poll = select.poll()
                    poll.register(self._fd, select.POLLOUT)
                    poll.poll()
        finally:
            if left:
                lines.append(bytes(left))

    def passes(self, error: OSError) -> bool:
        """Not where the reader, the file or the terminal is gone; a full disk, mostly, may have room again."""
        return error.errno not in (errno.EPIPE, errno.EBADF, errno.EIO, errno.ENXIO)


class Backlog:
    """Writes lines in their order from a thread of its own; `put` never waits."""

    def __init__(self, outlet: Outlet, limit_bytes: int, dropped_line: Callable[[int], bytes]) -> None:
        """dropped_line: the line that tells how many are lost before it."""
        self._outlet = outlet
        self._limit = limit_bytes
        self._dropped_line = dropped_line
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._taken: deque[bytes] = deque()  # of them the ones that are being written
        self._size = 0  # bytes in _lines
        self._dropped = 0  # lines that the reader has not been told of
        self._closing = False
        self._gone = False  # nobody will ever read on
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, text: bytes) -> None:
        with self._changed:
            if self._gone:
                self._dropped += 1
                return
            # Once lines were lost, half of the buffer gets free before more are taken: one long hole, not many.
            room = self._limit // 2 if self._dropped else self._limit
            if self._size + len(text) > room:
                self._dropped += 1
                return
            if self._dropped:
                self._append(self._dropped_line(self._dropped))
                self._dropped = 0
            self._append(text)
            self._changed.notify()

    def close(self, wait_s: float) -> bool:
        """Write what is left, for at most `wait_s`; False where some of it could not be written."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(wait_s)
        return not (self._thread.is_alive() or self._gone)

    @property
    def unwritten(self) -> int:
        """The lines that were put, and that nobody has got; once it is closed, nobody will."""
        with self._changed:
            return len(self._taken) + len(self._lines) + self._dropped

    def _append(self, text: bytes) -> None:
        self._lines.append(text)
        self._size += len(text)

    def _run(self) -> None:
        while lines := self._take():
            try:
                self._write(lines)
            except OSError:  # of a kind that does not pass: there is no place left to say so
                with self._changed:
                    self._gone = True
                    self._dropped += len(self._taken) + len(self._lines)
                    self._taken.clear()
                    self._lines.clear()
                return

    def _take(self) -> deque[bytes]:
        """The next lines to write, as soon as there are any; nothing when all is written and the log is closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._dropped or self._closing)
            if not self._lines and self._dropped:
                self._append(self._dropped_line(self._dropped))
                self._dropped = 0
            self._taken = taken = deque[bytes]()
            size = 0
            while self._lines and (not taken or size + len(self._lines[0]) <= WRITE_BYTES):
                taken.append(self._lines.popleft())
                size += len(taken[-1])
            self._size -= size
            return taken

    def _write(self, lines: deque[bytes]) -> None:
        while lines:
            try:
                self._outlet.write(lines)
            except OSError as error:
                if not self._outlet.passes(error):
                    raise
                with self._changed:
                    if self._closing or self._changed.wait_for(lambda: self._closing, RETRY_S):
                        raise
