"""Rows kept as JSON lines in one file, a line for each item, in the order of the input. Commits nothing.

A line is `{"item": <position>, "<output>": <value>, …}`; of an item that is an error every value is null. Lines have
no fixed places: how many bytes of them count is the manifest's word.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from daemon.worker import folder
from daemon.worker.errorlog import write_all
from daemon.worker.failures import Refused
from daemon.worker.folder import PARTIAL, OutputFile
from daemon.worker.npyrows import Results, plain

FILE: Final = "outputs.jsonl"
ITEM: Final = "item"  # the key of the position; no output may be called so
FILLED_AT_ONCE: Final = 4096  # lines

_encoder = msgspec.json.Encoder()


class JsonRows:
    """The file of one session. Whatever raises OSError may be called again, and leaves each line once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = -1
        self._outputs: tuple[OutputFile, ...] = ()
        self._last = (-1, 0)  # the first item of what was put last, and the offset of its line
        self._end = 0

    @property
    def end(self) -> int:
        """Bytes that count: the file's length, without what was not wholly put."""
        return self._end

    def describe(self, results: Results) -> tuple[OutputFile, ...]:
        """The outputs that each line will have. Their shape is any, from line to line."""
        return tuple(OutputFile(name, FILE, _dtype_name(result), ()) for name, result in sorted(results.items()))

    def create(self, outputs: tuple[OutputFile, ...], start: int) -> None:
        """Make the file. Items before `start` are errors: no item had shown what the outputs are."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._close()
        self._fd = os.open(self._directory / (FILE + PARTIAL), flags, 0o666)
        self._outputs, self._last, self._end = outputs, (-1, 0), 0
        for first in range(0, start, FILLED_AT_ONCE):
            self.put(first, min(first + FILLED_AT_ONCE, start), None, ())

    def reopen(self, outputs: tuple[OutputFile, ...], cursor: int, end: int) -> None:  # noqa: ARG002 - told by `end`
        """Go on behind byte `end`. Raises Refused (output) where the file is shorter."""
        final = self._directory / FILE
        partial = final.with_name(FILE + PARTIAL)
        path = partial if partial.exists() else final
        self._close()
        if not path.is_file() or path.stat().st_size < end:
            raise folder.misfit(self._directory, FILE, "does not hold the lines that")
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        os.ftruncate(self._fd, end)  # what a crash left behind the cursor
        self._outputs, self._last, self._end = outputs, (-1, 0), end

    def put(self, start: int, end: int, results: Results | None, errors: Collection[int]) -> None:
        """The lines of items `start` to `end`; results None: all of them are errors. Again for the same ones: once."""
        offset = self._last[1] if start == self._last[0] else self._end
        self._last = (start, offset)
        lines = self._lines(start, end, results, errors)
        write_all(self._fd, memoryview(lines), offset)
        self._end = offset + len(lines)

    def sync(self) -> None:
        """Make durable what is written."""
        if self._fd >= 0:
            os.fdatasync(self._fd)

    def finish(self, count: int) -> tuple[OutputFile, ...]:  # noqa: ARG002 - lines are as many as they are
        """Give the file its final name."""
        partial = self._directory / (FILE + PARTIAL)
        if partial.exists():
            partial.rename(self._directory / FILE)
        return self._outputs

    def _lines(self, start: int, end: int, results: Results | None, errors: Collection[int]) -> bytes:
        if results is not None and results.keys() != {output.name for output in self._outputs}:
            before = ", ".join(output.name for output in self._outputs)
            why = f"the outputs are {', '.join(sorted(results))} now, and were {before}"
            raise Refused("model", f"cannot keep the results: {why}; choose a signature that gives the same for all")
        names = sorted(output.name for output in self._outputs)
        nothing = dict.fromkeys(names)
        if results is None:
            lines = [{ITEM: item} | nothing for item in range(start, end)]
        else:
            keys, columns = (ITEM, *names), [_values(results[name]) for name in names]
            rows = zip(range(start, end), *columns, strict=True)
            lines = [dict(zip(keys, row)) for row in rows]  # noqa: B905 - as long as each other
            for item in errors:
                lines[item - start] = {ITEM: item} | nothing
        return _encoder.encode_lines(lines)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _dtype_name(result: np.ndarray) -> str:
    """Of the values, however deep they lie in rows of several lengths."""
    if not result.dtype.hasobject:
        return plain(result).dtype.name
    inner = next((value for value in result.flat if isinstance(value, np.ndarray)), None)
    return "string" if inner is None else _dtype_name(inner)


def _values(result: np.ndarray) -> list[Any]:
    """Each row as JSON has it. NaN and infinities, which it has not, become null as they are encoded."""
    return [_texts(row) for row in result.tolist()] if result.dtype.hasobject else plain(result).tolist()


def _texts(value: Any) -> Any:
    """Bytes as text or, where they are no UTF-8, as TensorFlow Serving's {"b64": …}; rows of rows as lists of lists."""
    if isinstance(value, np.ndarray):  # of several lengths, each is an array of its own
        return [_texts(part) for part in value] if value.dtype.hasobject else plain(value).tolist()
    if isinstance(value, list):
        return [_texts(part) for part in value]
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}
