"""Arrays on disk, read by rows: `.npy` files, and members of `.npz` archives. Knows no model, holds no whole array."""

from __future__ import annotations

import errno
import io
import math
import mmap
import struct
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

import numpy as np

from daemon.worker.failures import Refused, first_line
from daemon.worker.inputs.batches import refused

# The part of a ZIP member's own header that comes before its name: how long name and extra field are, which the
# archive's directory does not tell. https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.7
LOCAL_HEADER: Final = struct.Struct("<26x2H")

# What stands before an array's values, https://numpy.org/neps/nep-0001-npy-format.html: eight bytes, the length of the
# header, as the version has it, the header. NumPy reads none that is longer than this; a usual one has 118 bytes.
HEADER_LENGTHS: Final = {(1, 0): struct.Struct("<H"), (2, 0): struct.Struct("<I"), (3, 0): struct.Struct("<I")}
MAGIC_BYTES: Final = 8
HEADER_LIMIT_BYTES: Final = 10_000
SIZE_LIMIT: Final = 1 << 63  # no array has as many rows, columns or bytes


@dataclass(frozen=True)
class Layout:
    """What an array's header says. `offset`: of its first value in what was read."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype
    offset: int

    @property
    def size_bytes(self) -> int:
        """Of all its values."""
        return math.prod(self.shape) * self.dtype.itemsize


class Column(Protocol):
    """One array, item i its row i."""

    @property
    def path(self) -> Path:
        """Its file."""

    @property
    def layout(self) -> Layout:
        """What its header says."""

    def rows(self, start: int, size: int) -> Iterator[np.ndarray]:
        """The rows from `start` on, `size` at a time, the last time maybe fewer. Each call reads on its own."""


@dataclass(frozen=True)
class Stored:
    """An array that lies in a file as it is. Rows are read, not mapped: what was read counts as no memory of ours."""

    path: Path
    layout: Layout

    def rows(self, start: int, size: int) -> Iterator[np.ndarray]:
        """As `Column` says. Columns of a Fortran-ordered array are all over the file: it is mapped, and let go of."""
        layout, total = self.layout, self.layout.shape[0]
        if layout.fortran_order and len(layout.shape) > 1:
            yield from self._mapped_rows(start, size)
            return
        row_values = math.prod(layout.shape[1:])
        with self.path.open("rb", buffering=0) as stream:
            stream.seek(layout.offset + start * row_values * layout.dtype.itemsize)
            for first in range(start, total, size):
                count = min(size, total - first)
                values = np.fromfile(stream, layout.dtype, count * row_values)
                if len(values) < count * row_values:
                    raise EOFError(f"it was cut short since it was opened: it ends in row {first} or later")
                yield values.reshape(count, *layout.shape[1:])

    def _mapped_rows(self, start: int, size: int) -> Iterator[np.ndarray]:
        layout = self.layout
        with self.path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            array = np.ndarray(layout.shape, layout.dtype, content, layout.offset, order="F")
            try:
                for first in range(start, layout.shape[0], size):
                    yield np.ascontiguousarray(array[first : first + size])
                    content.madvise(mmap.MADV_DONTNEED)  # else all that was ever touched counts as our memory
            finally:
                del array  # a map that something points into cannot be closed


@dataclass(frozen=True)
class Compressed:
    """A member of an archive that has to be unpacked on the way: from its beginning, wherever reading begins."""

    path: Path
    member: str
    layout: Layout

    def rows(self, start: int, size: int) -> Iterator[np.ndarray]:
        """As `Column` says."""
        layout, total = self.layout, self.layout.shape[0]
        row_values = math.prod(layout.shape[1:])
        row_bytes = row_values * layout.dtype.itemsize
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            stream.seek(layout.offset + start * row_bytes)
            for first in range(start, total, size):
                count = min(size, total - first)
                content = stream.read(count * row_bytes)
                if len(content) < count * row_bytes:
                    raise EOFError(f"array '{self.member}' ends in row {first} or later, before its {total} rows")
                if first + count == total:
                    stream.read(1)  # at its end, its checksum is tested
                yield np.frombuffer(content, layout.dtype).reshape(count, *layout.shape[1:])


def of_npy(path: Path) -> Column:
    """The array of a `.npy` file. Raises Refused (input) where it is none, or cut short; OSError."""
    with path.open("rb") as stream:
        layout = _layout(path, "it", stream)
    _check_length(path, "it", layout.offset + layout.size_bytes, path.stat().st_size)
    return Stored(path, layout)


def of_npz(path: Path) -> dict[str, Column]:
    """The arrays of a `.npz` archive, by name. Raises as `of_npy` does."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            return {info.filename.removesuffix(".npy"): _of_member(path, archive, info) for info in members}
    except Refused:
        raise
    except Exception as error:  # of damaged bytes, zipfile and each of its decompressors raises what it likes
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # a seek to where nothing can be
            raise
        raise refused(path, f"it is no .npz file ({first_line(error)})", "write it again") from error


def _of_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Column:
    with archive.open(info) as stream:
        layout = _layout(path, f"array '{info.filename}'", stream)
    _check_length(path, f"array '{info.filename}'", layout.offset + layout.size_bytes, info.file_size)
    if info.compress_type != zipfile.ZIP_STORED:
        if layout.fortran_order and len(layout.shape) > 1:
            why = f"array '{info.filename}' is compressed and in Fortran order, so its rows cannot be read one by one"
            raise refused(path, why, "write it with numpy.savez, or as numpy.ascontiguousarray")
        return Compressed(path, info.filename, layout)
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name_bytes, extra_bytes = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    begins = info.header_offset + LOCAL_HEADER.size + name_bytes + extra_bytes
    _check_length(path, f"array '{info.filename}'", begins + info.file_size, path.stat().st_size)
    return Stored(path, Layout(layout.shape, layout.fortran_order, layout.dtype, begins + layout.offset))


def _layout(path: Path, what: str, stream: IO[bytes]) -> Layout:
    """What the header at the stream's beginning says. Raises Refused (input), whatever is written there."""
    try:
        shape, fortran_order, dtype, offset = _header(stream)
    except ValueError as error:
        raise refused(path, f"{what} is no .npy file ({first_line(error)})", "write it again") from error
    if dtype.hasobject:
        raise refused(path, f"{what} holds Python objects", "write it with a plain dtype")
    if not shape:
        raise refused(path, f"{what} is a single value, without items", "write it again")
    layout = Layout(shape, fortran_order, dtype, offset)
    if dtype.itemsize == 0 or min(shape) < 0 or max(*shape, layout.size_bytes) >= SIZE_LIMIT:
        why = f"{what} is no .npy file (no array has the shape that its header tells of)"
        raise refused(path, why, "write it again")
    return layout


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether in Fortran order, dtype, and where the values begin. Raises ValueError.

    No more is read than a header takes, however long the file says that its own is.
    """
    begin = stream.read(MAGIC_BYTES)
    version = np.lib.format.read_magic(io.BytesIO(begin))
    if version not in HEADER_LENGTHS:
        raise ValueError(f"its format is version {version[0]}.{version[1]}; known are 1.0, 2.0 and 3.0")
    length = stream.read(HEADER_LENGTHS[version].size)
    if len(length) < HEADER_LENGTHS[version].size:
        raise ValueError("it ends in its header")
    (header_bytes,) = HEADER_LENGTHS[version].unpack(length)
    if header_bytes > HEADER_LIMIT_BYTES:
        raise ValueError(f"its header has {header_bytes} bytes; at most {HEADER_LIMIT_BYTES} are read")
    header = stream.read(header_bytes)
    if len(header) < header_bytes:
        raise ValueError("it ends in its header")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        with warnings.catch_warnings(action="ignore"):  # of a garbled header, Python's parser warns of what it reads
            shape, fortran_order, dtype = read(io.BytesIO(length + header))
    except Exception as error:  # NumPy has Python's parser read it, which raises what it likes
        raise ValueError("its header is garbled") from error
    if any(isinstance(size, bool) for size in shape):
        raise ValueError("its header is garbled")
    return shape, fortran_order, dtype, len(begin) + len(length) + header_bytes


def _check_length(path: Path, what: str, expected_bytes: int, size_bytes: int) -> None:
    if size_bytes < expected_bytes:
        raise refused(path, f"{what} is cut short: {size_bytes} bytes of {expected_bytes}", "write it again")
