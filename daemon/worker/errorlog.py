"""`errors.jsonl`: the items that were left out, one JSON object a line, in the order of the input. Judges none.

A line is `{"item": <position>, "reason": "<one line>"}`. How many of the lines count is said by the manifest.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from daemon.worker import folder
from daemon.worker.failures import Refused

FILE: Final = "errors.jsonl"
REASON_LIMIT_CHARACTERS: Final = 1000


class _Line(msgspec.Struct):
    item: int
    reason: str


class ErrorLog:
    """The file of one session. Touches nothing before the first error, or before there is one to be cut.

    Raises OSError where it cannot be written; the same call may then be made again, and leaves each line once.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / FILE
        self._file: io.FileIO | None = None
        self._end = 0  # bytes; what lies beyond was not wholly written
        self._dirty = False

    def remove(self) -> None:
        """Forget another run's lines."""
        self._path.unlink(missing_ok=True)

    def resume(self, cursor: int, count: int) -> None:
        """Keep the first `count` lines, the errors before `cursor`, and cut what a crash left behind them.

        Raises Refused (output) where they are not there.
        """
        if count == 0 and not self._path.exists():
            return
        end = 0
        try:
            with self._path.open("rb") as stream:
                for _ in range(count):
                    line = stream.readline()
                    if not line.endswith(b"\n") or msgspec.json.decode(line, type=_Line).item >= cursor:
                        raise self._misfit()
                    end += len(line)
        except (FileNotFoundError, msgspec.MsgspecError) as error:
            raise self._misfit() from error
        self._open().truncate(end)
        self._end = end

    def put(self, errors: Mapping[int, str]) -> None:
        """Append a line for each, in the order of their positions."""
        if not errors:
            return
        text = b"".join(msgspec.json.encode(_Line(item, _one_line(errors[item]))) + b"\n" for item in sorted(errors))
        write_all(self._open().fileno(), memoryview(text), self._end)
        self._end += len(text)
        self._dirty = True

    def sync(self) -> None:
        """Make durable what is written."""
        if self._dirty and self._file is not None:
            self._dirty = False  # before: a line that is added meanwhile makes it so again
            try:
                os.fdatasync(self._file.fileno())
            except OSError:
                self._dirty = True
                raise

    def _open(self) -> io.FileIO:
        if self._file is None:
            self._file = io.FileIO(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+")
        return self._file

    def _misfit(self) -> Refused:
        return folder.misfit(self._directory, FILE, "does not hold the errors that")


def write_all(fd: int, content: memoryview, offset: int) -> None:
    """All of it from `offset` on. Raises OSError; done again, it ends the same."""
    while content:
        count = os.pwrite(fd, content, offset)
        content, offset = content[count:], offset + count


def _one_line(reason: str) -> str:
    printable = reason.encode("utf-8", "backslashreplace").decode()  # an error's text may hold what UTF-8 cannot
    return " ".join(printable.split())[:REASON_LIMIT_CHARACTERS]
