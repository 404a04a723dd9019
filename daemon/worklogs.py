"""Where a session's standard output and error go: one append-only file each, trimmed in place. Reads no line of it."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote


def log_path(directory: Path, session: str) -> Path:
    """The session's log file: its name, with what a file name cannot hold as %XX."""
    return directory / f"{quote(session, safe='')}.log"


def open_log(path: Path) -> int:
    """A descriptor to append to the file, made where it is not there. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def trim(path: Path, limit_bytes: int) -> bool:
    """Keep the newest half of `limit_bytes` of a file that is longer, from the start of a line; True if it was.

    In place, since the worker holds the file open: what it writes within these microseconds may be lost, as with
    any log that is truncated under its writer. No file, or a full disk: nothing is done.
    """
    try:
        with path.open("r+b") as log:
            if log.seek(0, os.SEEK_END) <= limit_bytes:
                return False
            log.seek(-(limit_bytes // 2), os.SEEK_END)
            tail = log.read()
            log.truncate(0)
            log.seek(0)
            log.write(tail[tail.find(b"\n") + 1 :])
    except OSError:
        return False
    return True
