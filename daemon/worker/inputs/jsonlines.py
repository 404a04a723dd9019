"""Inputs that are JSON lines, plain or gzip: line i + 1 of all files is item i. Holds a batch of lines at a time."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from daemon.sessionfile import SessionSpec
from daemon.worker.failures import Refused, first_line
from daemon.worker.inputs.batches import Batch, Shapes, ahead, refused
from daemon.worker.inputs.tfrecord import is_compressed
from daemon.worker.inputs.values import Arrays, Assembler, UnfitError
from daemon.worker.signature import Signature

COUNTED_AT_ONCE_BYTES: Final = 1 << 20
TRIED: Final = 1000  # lines: where none of so many is what the model takes, the file is not the model's


class JsonLinesInput:
    """A line is an object with a key for each input, or the value of the only one. Further keys are left alone."""

    def __init__(self, files: list[Path], signature: Signature, spec: SessionSpec) -> None:
        self._files = files
        self._counts = [_count(file) for file in files]
        self._skip = spec.on_error == "skip"
        self._assembler = Assembler(signature, spec.batch_size)
        self.total: int | None = sum(self._counts)
        if self.total:
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
        assert first is not None  # there is a line, and each of them returns or refuses
        raise first

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
            return self._assembler.item(msgspec.json.decode(line))
        except UnfitError as error:
            return str(error)
        except msgspec.DecodeError as error:
            return f"no JSON ({first_line(error)})" if line.strip() else "it is empty"

    def _lines(self, start: int) -> Iterator[bytes]:
        """From position `start` on; files wholly before it are not opened."""
        for file, count in zip(self._files, self._counts, strict=True):
            if start < count:
                with _opened(file) as stream:
                    yield from itertools.islice(stream, start, None)
            start = max(0, start - count)

    def _place(self, item: int) -> tuple[Path, int]:
        """The item's file, and its line there, from 1 on."""
        for file, count in zip(self._files, self._counts, strict=True):
            if item < count:
                return file, item + 1
            item -= count
        return self._files[-1], item + 1

    def _damaged(self, item: int, why: str) -> Refused:
        file, line = self._place(item)
        remedy = "write it again" if self._skip else 'write it again, or set on_error = "skip"'
        return refused(file, f"item {item} (line {line}) is no item of this model: {why}", remedy, item)


def _opened(file: Path) -> gzip.GzipFile | BinaryIO:
    return gzip.open(file) if is_compressed(file) else file.open("rb")


def _count(file: Path) -> int:
    """Its lines. All of it is read for that."""
    count, last = 0, b"\n"
    try:
        with _opened(file) as stream:
            while chunk := stream.read(COUNTED_AT_ONCE_BYTES):
                count += chunk.count(b"\n")
                last = chunk[-1:]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise refused(
            file, f"its compressed data is damaged after line {count} ({first_line(error)})", "write it again"
        ) from error
    return count + (last != b"\n")
