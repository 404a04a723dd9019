"""Where a session's standard output and error go: one append-only file each, trimmed in place. Understands no line."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Final
from urllib.parse import quote

TAIL_BYTES: Final = 16 << 10
CHARACTER_BYTES: Final = 4  # of UTF-8, at most


def log_path(directory: Path, session: str) -> Path:
    """The session's log file: its name, with what a file name cannot hold as %XX."""
    return directory / f"{quote(session, safe='')}.log"


def open_log(path: Path) -> int:
    """A descriptor to append to the file, made where it is not there. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def size(path: Path) -> int:
    """The bytes of a log; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def tail(path: Path, start: int) -> bytes:
    """The last TAIL_BYTES of a log, or less: what stands in it from byte `start` on. Nothing, where it cannot be read.

    A log that is shorter than `start` was trimmed or begun anew: all of it counts. The first character is a whole one.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a fifo in its place is not waited for
        with open(fd, "rb") as log:  # noqa: PTH123 - opened already
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return b""
            begin = start if start <= found.st_size else 0
            cut = max(begin, found.st_size - TAIL_BYTES)
            log.seek(cut)
            data = log.read(TAIL_BYTES)
    except OSError:
        return b""
    return _from_a_character(data) if cut > begin else data


def _from_a_character(data: bytes) -> bytes:
    """Without what is left at the start of a character whose first byte is cut off."""
    rest = data.lstrip(bytes(range(0x80, 0xC0)))
    return rest if len(data) - len(rest) < CHARACTER_BYTES else data


def remove(path: Path) -> None:
    """Remove the log of a session that is not remembered any more. Failure is silent: it is only a file too many."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def room(directory: Path) -> bool:
    """Whether a line that a worker prints finds a place on the directory's disk. Where that is not known: yes."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return True
    free = found.f_bfree if os.geteuid() == 0 else found.f_bavail
    return free > 0 or found.f_blocks == 0  # some file systems count no blocks


def trim(path: Path, limit_bytes: int) -> int:
    """Keep the newest half of `limit_bytes` of a file that is longer, from the start of a line.

    How many bytes were cut off its beginning; 0: it stays as it is. In place, since the worker holds the file open:
    what it writes within these microseconds may be lost, as with any log that is truncated under its writer. No file,
    or a full disk: nothing is done.
    """
    try:
        with path.open("r+b") as log:
            end = log.seek(0, os.SEEK_END)
            if end <= limit_bytes:
                return 0
            begin = log.seek(end - limit_bytes // 2)
            tail = log.read()
            cut = tail.find(b"\n") + 1
            log.truncate(0)
            log.seek(0)
            log.write(tail[cut:])
    except OSError:
        return 0
    return begin + cut
