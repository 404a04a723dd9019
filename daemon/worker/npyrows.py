"""Rows kept as one `.npy` file per output, row i belonging to input item i. Knows no manifest, commits nothing.

All space is taken when the files are made. Where nobody knows the number of items, the files grow, and get their true
header at the end.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import numpy as np

from daemon.worker import folder
from daemon.worker.errorlog import write_all
from daemon.worker.failures import Refused
from daemon.worker.folder import PARTIAL, OutputFile

FILL_BYTES: Final = 1 << 22

Results = Mapping[str, np.ndarray]  # by output, a row for each item


def plain(result: np.ndarray) -> np.ndarray:
    """C-contiguous, in a dtype that a .npy file can name: bfloat16 and the like, which it cannot, as float32."""
    return np.ascontiguousarray(result, np.float32 if result.dtype.kind == "V" else None)


def filler(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The rows of items that are errors: NaN, or zero where the dtype has none, or False."""
    return np.full(shape, np.nan if dtype.kind in "fc" else 0, dtype)


def file_name(output: str) -> str:
    """The file of the output of that name."""
    return output.replace("/", "_") + ".npy"


class NpyRows:
    """The files of one session. Whatever raises OSError may be called again, and ends the same."""

    def __init__(self, directory: Path, total: int | None) -> None:
        self._directory = directory
        self._total = total
        self._files: dict[str, tuple[BinaryIO, int]] = {}  # with the offset of row 0
        self._outputs: tuple[OutputFile, ...] = ()

    @property
    def end(self) -> int:
        """Bytes that count: none, as rows have their places."""
        return 0

    def describe(self, results: Results) -> tuple[OutputFile, ...]:
        """The files that will hold such results."""
        return tuple(
            OutputFile(name, file_name(name), plain(result).dtype.str, (self._total or 0, *result.shape[1:]))
            for name, result in sorted(results.items())
        )

    def create(self, outputs: tuple[OutputFile, ...], start: int) -> None:
        """Make the files. Rows before `start` are errors: no item had shown what a row is."""
        try:
            for output in outputs:
                partial = self._directory / (output.file + PARTIAL)
                self._files[output.name] = _created(partial, output, preallocated=self._total is not None)
                self._fill(output, 0, start)
        except OSError:
            self._discard(outputs)
            raise
        self._outputs = outputs

    def reopen(self, outputs: tuple[OutputFile, ...], cursor: int, end: int) -> None:  # noqa: ARG002 - see `end`
        """Go on behind row `cursor`. Raises Refused (output) where the files are not what `outputs` says."""
        rows = cursor if self._total is None else self._total
        files: dict[str, tuple[BinaryIO, int]] = {}
        with contextlib.ExitStack() as opened:  # closes those already open where one is not what it should be
            for output in outputs:
                final = self._directory / output.file
                partial = final.with_name(output.file + PARTIAL)
                path = partial if partial.exists() else final
                if not path.is_file():
                    raise folder.misfit(self._directory, output.file, "is not what")
                stream = opened.enter_context(path.open("rb+", buffering=0))
                offset = _offset(stream, output, rows)
                if offset is None:
                    raise folder.misfit(self._directory, output.file, "is not what")
                if self._total is None:
                    os.ftruncate(stream.fileno(), offset + _size_bytes(output, rows))  # what a crash left behind it
                files[output.name] = stream, offset
            opened.pop_all()
        self._files, self._outputs = files, outputs

    def put(self, start: int, end: int, results: Results | None, errors: Collection[int]) -> None:  # noqa: ARG002
        """The rows of items `start` to `end`; None: all of them are errors, whose rows are in the results else."""
        whole = {name: plain(result) for name, result in results.items()} if results is not None else {}
        for output in self._outputs:
            if results is None:
                self._fill(output, start, end)
                continue
            rows = whole.get(output.name)
            if rows is None or rows.shape[1:] != output.shape[1:] or rows.dtype != np.dtype(output.dtype):
                raise _misfit(output, rows)
            self._put(output, start, rows)

    def sync(self) -> None:
        """Make durable what is written."""
        for stream, _ in self._files.values():
            os.fdatasync(stream.fileno())

    def finish(self, count: int) -> tuple[OutputFile, ...]:
        """Give the files their final names, and what grew its true header. The files as they are now."""
        finished = tuple(msgspec.structs.replace(output, shape=(count, *output.shape[1:])) for output in self._outputs)
        for output in finished:
            partial = self._directory / (output.file + PARTIAL)
            if self._total is None and self._files:
                stream, _ = self._files[output.name]
                write_all(stream.fileno(), memoryview(_header(output, count)), 0)
                os.fsync(stream.fileno())
            if partial.exists():
                partial.rename(self._directory / output.file)
        return finished

    def _put(self, output: OutputFile, start: int, rows: np.ndarray) -> None:
        stream, offset = self._files[output.name]
        write_all(stream.fileno(), rows.reshape(-1).view(np.uint8).data, offset + start * rows[:1].nbytes)

    def _fill(self, output: OutputFile, start: int, end: int) -> None:
        dtype = np.dtype(output.dtype)
        step = max(1, FILL_BYTES // max(1, filler((1, *output.shape[1:]), dtype).nbytes))
        for first in range(start, end, step):
            self._put(output, first, filler((min(step, end - first), *output.shape[1:]), dtype))

    def _discard(self, outputs: tuple[OutputFile, ...]) -> None:
        """Give the room back: while this session waits for more of it, somebody else may need what it took."""
        for stream, _ in self._files.values():
            stream.close()
        self._files.clear()
        for output in outputs:
            with contextlib.suppress(OSError):  # what made them fail is the error to tell
                (self._directory / (output.file + PARTIAL)).unlink(missing_ok=True)


def _misfit(output: OutputFile, rows: np.ndarray | None) -> Refused:
    have = "gone" if rows is None else f"{rows.dtype.name} {rows.shape[1:]}"
    why = f"output '{output.name}' is {have} now, and was {np.dtype(output.dtype).name} {output.shape[1:]}"
    remedy = 'set output_format = "jsonl" and overwrite = true, or choose a signature with rows of one shape'
    return Refused("model", f"cannot keep the results: {why}; {remedy}")


def _header(output: OutputFile, count: int) -> bytes:
    """Of so many rows. NumPy leaves room in it for that number to grow, so that its length is the same for any."""
    header = io.BytesIO()
    shape = (count, *output.shape[1:])
    np.lib.format.write_array_header_1_0(header, {"descr": output.dtype, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _created(path: Path, output: OutputFile, *, preallocated: bool) -> tuple[BinaryIO, int]:
    """A new file with its header; `preallocated`: all its space taken, so a full disk is an error here, not later."""
    header = _header(output, output.shape[0])
    stream = path.open("wb+", buffering=0)
    try:
        if preallocated:
            os.posix_fallocate(stream.fileno(), 0, len(header) + _size_bytes(output, output.shape[0]))
        write_all(stream.fileno(), memoryview(header), 0)
    except OSError:
        stream.close()
        raise
    return stream, len(header)


def _offset(stream: BinaryIO, output: OutputFile, rows: int) -> int | None:
    """Where row 0 begins, or None where this is not the file described, with at least `rows` rows.

    The header is one that was written here: the one to begin with, or, of a file that grew, the true one at the end.
    """
    headers = {_header(output, count) for count in (output.shape[0], rows)}
    (length,) = {len(header) for header in headers}
    if stream.read(length) not in headers or os.fstat(stream.fileno()).st_size < length + _size_bytes(output, rows):
        return None
    return length


def _size_bytes(output: OutputFile, rows: int) -> int:
    return rows * int(np.prod(output.shape[1:], dtype=np.int64)) * np.dtype(output.dtype).itemsize
