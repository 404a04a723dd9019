"""Inputs that are JSON lines, plain or gzip: line i + 1 of all files is item i. Holds a batch of lines at a time."""

from __future__ import annotations

import codecs
import gzip
import itertools
import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from daemon.sessionfile import SessionSpec
from daemon.worker.failures import Refused, first_line
from daemon.worker.inputs.batches import Batch, Shapes, ahead, refused
from daemon.worker.inputs.counting import are_countable
from daemon.worker.inputs.tfrecord import is_compressed
from daemon.worker.inputs.values import Arrays, Assembler, UnfitError
from daemon.worker.signature import Signature

COUNTED_AT_ONCE_BYTES: Final = 1 << 20
UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
NOT_FINITE: Final = re.compile(rb"\b(?:NaN|Infinity)\b")
TRIED: Final = 1000  # lines: where none of so many is what the model takes, the file is not the model's


class JsonLinesInput:
    """A line is an object with a key for each input, or the value of the only one. Further keys are left alone.

    Blank lines at a file's end are none; one before is an item that is not what the model takes. Files too large to be
    counted beforehand are counted as they are read.
    """

    def __init__(self, files: list[Path], signature: Signature, spec: SessionSpec) -> None:
        self._files = files
        self._counts = [_count(file) for file in files] if are_countable(files) else []  # of the first files
        self._skip = spec.on_error == "skip"
        self._assembler = Assembler(signature, spec.batch_size)
        self.total: int | None = sum(self._counts) if self._counts else None
        if self.total != 0:
            self._check_first()
        self.item_shapes: Shapes = self._assembler.shapes

    @property
    def varies(self) -> bool:
        """Whether items may have several shapes."""
        return self._assembler.varies

    def batches(self, start: int, size: int) -> Iterator[Batch]:
        """Read and converted by a thread that runs ahead."""
        return ahead(self._read(start, size))

    def fault(self, start: int, end: int) -> tuple[int, str] | None:  # noqa: ARG002 - `_read` names it itself
        """Never told: a line that is no item is named where it is read."""
        return None

    def names(self) -> Iterator[str] | None:
        """None: lines are told by their position."""
        return None

    def _check_first(self) -> None:
        """See that the first line fits; when lines may be left out, one of the first."""
        first: Refused | None = None
        for item, line in enumerate(itertools.islice(self._lines(0), TRIED)):
            found = self._item(line)
            if not isinstance(found, str):
                return
            first = first or self._damaged(item, found)
            if not self._skip:
                raise first
        if first is not None:
            raise first
        self.total = 0

    def _read(self, start: int, size: int) -> Iterator[Batch]:
        lines = self._lines(start)
        while some := list(itertools.islice(lines, size)):
            items = [self._item(line) for line in some]
            batch = self._assembler.batch(start, items)
            if batch.errors and self._skip:
                where = {item: self._place(item) for item in batch.errors}
                told = {
                    item: f"line {where[item][1]} of '{where[item][0]}': {why}" for item, why in batch.errors.items()
                }
                batch = Batch(batch.start, batch.end, batch.tensors, told)
            elif batch.errors:
                raise self._damaged(*min(batch.errors.items()))
            yield batch
            start = batch.end

    def _item(self, line: bytes) -> Arrays | str:
        try:
            return self._assembler.item(_decoded(line))
        except UnfitError as error:
            return str(error)
        except RecursionError:
            return "it is nested too deep"
        except ValueError as error:  # as both decoders raise it
            if line.startswith(UTF_16):
                return "it is UTF-16, and JSON is UTF-8"
            return f"no JSON ({first_line(error)})" if line.strip() else "it is empty"

    def _lines(self, start: int) -> Iterator[bytes]:
        """From position `start` on; files that are known to lie wholly before it are not opened."""
        for index, file in enumerate(self._files):
            count = self._counts[index] if index < len(self._counts) else None
            if count is not None and start >= count:
                start -= count
                continue
            read = 0
            for line in itertools.islice(_lines_of(file), count):
                if read >= start:
                    yield line
                read += 1
            if count is None:
                self._counts.append(read)
            start = max(0, start - read)

    def _place(self, item: int) -> tuple[Path, int]:
        """The file of an item that was read, and its line there, from 1 on."""
        for file, count in zip(self._files, self._counts, strict=False):
            if item < count:
                return file, item + 1
            item -= count
        return self._files[min(len(self._counts), len(self._files) - 1)], item + 1

    def _damaged(self, item: int, why: str) -> Refused:
        file, line = self._place(item)
        remedy = "write it again" if self._skip else 'write it again, or set on_error = "skip"'
        return refused(file, f"item {item} (line {line}) is no item of this model: {why}", remedy, item)


def _opened(file: Path) -> gzip.GzipFile | BinaryIO:
    return gzip.open(file) if is_compressed(file) else file.open("rb")


def _decoded(line: bytes) -> Any:
    """The value of a line of JSON, where Python's NaN, Infinity and -Infinity are numbers, too. Raises ValueError."""
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError:
        if not NOT_FINITE.search(line):
            raise
    return json.loads(line, parse_float=_finite)


def _finite(text: str) -> float:
    """A number that a line spells out. Python makes one that is too large infinite."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"number out of range: {text}")
    return number


def _lines_of(file: Path) -> Iterator[bytes]:
    """A file's lines, without blank ones at its end, and without the mark that may be at its beginning."""
    blank: list[bytes] = []
    with _opened(file) as stream:
        for line in itertools.chain([stream.readline().removeprefix(codecs.BOM_UTF8)], stream):
            if not line.strip():
                blank.append(line)
                continue
            yield from blank
            blank.clear()
            yield line


def _count(file: Path) -> int:
    """Its lines, without blank ones at its end. All of it is read for that."""
    ended = count = 0  # lines that came to an end; lines up to the last that is not blank
    try:
        with _opened(file) as stream:
            while chunk := stream.read(COUNTED_AT_ONCE_BYTES):
                ended += chunk.count(b"\n")
                if said := len(chunk.rstrip()):
                    count = ended - chunk.count(b"\n", said) + 1
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise refused(
            file, f"its compressed data is damaged after line {ended} ({first_line(error)})", "write it again"
        ) from error
    return count
