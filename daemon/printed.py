"""What a short-lived process prints, through a pipe: the newest of it, taken at a bounded pace. Understands no line.

A pipe breaks with the daemon, so this is for processes that end with it; a worker's log is a file (worklogs.py).
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

TAIL_BYTES: Final = 64 << 10
READ_BYTES: Final = 64 << 10  # what a pipe holds
PAUSE_S: Final = 0.02  # between two reads: who prints without end waits, and takes neither the disk nor the loop
KEPT_FILES: Final = 16


class Printed:
    """The daemon's end of one process's standard output and error. `its_fd` is the other one, until `handed_over`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tail = bytearray()
        self._pause: asyncio.TimerHandle | None = None
        self._fd, self.its_fd = os.pipe()
        os.set_blocking(self._fd, False)
        self._listen()

    def handed_over(self) -> None:
        """The process has its end, or there is none: ours of it is closed."""
        os.close(self.its_fd)

    def text(self) -> str:
        """The newest of what was printed so far."""
        for _ in range(2):  # what lies in the pipe yet
            self._read()
        return self._tail.decode("utf-8", "backslashreplace")

    def close(self) -> None:
        """Take no more."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _listen(self) -> None:
        self._loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        self._loop.remove_reader(self._fd)
        if not self._read():
            self._pause = self._loop.call_later(PAUSE_S, self._listen)

    def _read(self) -> bool:
        """Take what is there now. Whether nothing will come any more."""
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return False
        self._tail += data
        del self._tail[:-TAIL_BYTES]
        return not data


def keep(folder: Path, name: str, text: str) -> Path | None:
    """Write it to a new file in the folder, where the newest KEPT_FILES stay; None where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd, path = tempfile.mkstemp(".log", f"{quote(name, safe='')[:80]}-", folder)
        with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123 - opened already
            file.write(text)
    except OSError:
        return None
    with suppress(OSError):  # another daemon may just have removed one
        files = sorted(folder.glob("*.log"), key=lambda file: file.stat().st_mtime_ns)
        for old in files[:-KEPT_FILES]:
            old.unlink()
    return Path(path)
