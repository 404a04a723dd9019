"""systemd's journal by its native protocol: an entry with fields is one datagram. Knows no event; waits for nobody.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL. What is too long for a datagram goes as a sealed file in memory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

SOCKET: Final = "/run/systemd/journal/socket"
PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3}  # syslog's
IDENTIFIER: Final = "batond"
PREFIX: Final = "BATON_"
HEAD: Final = frozenset({"ts", "level"})  # the journal has its own of these
FIELD_BYTES: Final = 1000  # what is longer nobody asks for by its value: it is in the message
SEND_BUFFER_BYTES: Final = 8 << 20  # as systemd's own clients ask for: the kernel gives what it allows
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class UnusableJournalError(Exception):
    """No journal can be written to; its text says why, and what to do."""


def reads(fd: int, environ: Mapping[str, str]) -> bool:
    """Whether the journal reads what is written to `fd`: then it takes entries, too.

    systemd names its stream by device and inode in JOURNAL_STREAM: that of standard error, where both go there.
    """
    given = environ.get("JOURNAL_STREAM", "")
    try:
        own = os.fstat(fd)
        if _name(own) == given:
            return True
        return stat.S_ISSOCK(own.st_mode) and _name(os.fstat(2)) == given
    except OSError:
        return False


def _name(found: os.stat_result) -> str:
    return f"{found.st_dev}:{found.st_ino}"


def entry(message: bytes, level: str, told: Mapping[str, Any]) -> bytes:
    """An entry of the journal: the whole line as its message, and each plain value of the line as a field.

    `told` is the line; its keys become BATON_ and the key in capitals. What has no value is left out, and so are
    lists and long texts.
    """
    parts = [b"MESSAGE=" + message, b"PRIORITY=%d" % PRIORITIES[level], b"SYSLOG_IDENTIFIER=" + IDENTIFIER.encode()]
    for key, value in told.items():
        if key in HEAD or value is None or not isinstance(value, str | int | float):
            continue
        text = str(value).lower() if isinstance(value, bool) else str(value)
        encoded = text.encode("utf-8", "backslashreplace")
        if len(encoded) > FIELD_BYTES:
            continue
        name = (PREFIX + key.upper()).encode()
        if b"\n" in encoded:
            parts.append(name + b"\n" + len(encoded).to_bytes(8, "little") + encoded)
        else:
            parts.append(name + b"=" + encoded)
    return b"\n".join(parts) + b"\n"


class Journal:
    """Where entries go. Used by one thread; raises `UnusableJournalError` where no journal listens at its start."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(path)
            except OSError as error:
                raise UnusableJournalError(
                    f'cannot log to the journal: {path}: {error.strerror}; set log.format to "json"'
                ) from error
        # Never connected: a journal that is restarted has another socket at the same place.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def write(self, lines: deque[bytes]) -> None:
        """Send the entries, each of them one line; waits while the journal is behind. Raises OSError."""
        while lines:
            try:
                self._socket.sendto(lines[0], self._path)
            except OSError as error:
                if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                    raise
                self._send_as_file(lines[0])
            lines.popleft()

    def passes(self, error: OSError) -> bool:
        """It does, unless it is ours: a journal that is not there is being restarted."""
        return error.errno != errno.EBADF

    def _send_as_file(self, text: bytes) -> None:
        fd = os.memfd_create("batond-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            left = memoryview(text)
            while left:
                left = left[os.write(fd, left) :]
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, "little"))
            self._socket.sendmsg([], [rights], 0, self._path)
        finally:
            os.close(fd)
