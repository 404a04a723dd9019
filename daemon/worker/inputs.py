"""Input items from disk, in batches, from any position on. Knows no model: only what its signature takes.

`FORMATS` is the place to add a format: how it is recognised, and opened against a signature.
"""

from __future__ import annotations

import glob
import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import tensorflow as tf

from daemon.worker import device, fingerprint, salvage, tfrecord
from daemon.worker.failures import Refused, first_line, is_out_of_memory, out_of_memory
from daemon.worker.signature import Signature, Tensor, shape_text

BATCHES_AHEAD: Final = 2

Tensors = dict[str, tf.Tensor]  # by input, the batch first


class Input(Protocol):
    """One opened input."""

    total: int  # items
    item_shapes: dict[str, tuple[int, ...]]  # of each input, without the batch

    def batches(self, start: int, size: int) -> Iterator[Batch]:
        """The items from position `start` on, `size` at a time, the last batch maybe shorter. On the host.

        May raise anything: see `Reader`.
        """

    def fault(self, start: int, end: int) -> tuple[int, str] | None:
        """The first of these items that cannot be read, and why; None where that cannot be told. May raise anything."""


class Opens(Protocol):
    """Opens the files, sorted, for what the model takes; `skip` as in `open_input`."""

    def __call__(self, files: list[Path], signature: Signature, *, skip: bool) -> Input: ...


@dataclass(frozen=True)
class Format:
    """One kind of input on disk."""

    name: str
    suffixes: tuple[str, ...]  # () takes whatever no other format takes
    open: Opens


def files_of(pattern: str) -> list[Path]:
    """The file of that path or, where there is none, the files that match it as a glob, sorted by path."""
    literal = Path(pattern)
    matches = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    found = [literal] if literal.exists() else sorted(map(Path, matches))
    files = [path for path in found if path.is_file()]
    if not files:
        why = "it is a directory" if found else "no such file, and none matches it as a pattern"
        remedy = f'set input = "{pattern.rstrip("/")}/*"' if literal.is_dir() else "set input = the path of a file"
        raise Refused("input", _cannot(pattern, why, remedy))
    return files


def open_input(pattern: str, signature: Signature, *, skip: bool) -> Input:
    """Open the input for a model with that signature, and find its number of items.

    skip: an item that cannot be read is an error in its batch, and the others are read; else nothing is.
    Raises Refused (input): missing, empty, cut short, or not what the signature takes.
    """
    files = files_of(pattern)
    try:
        opened = _format_of(files).open(files, signature, skip=skip)
    except OSError as error:
        raise Refused("input", _cannot(pattern, first_line(error), "make it readable")) from error
    if opened.total == 0:
        raise Refused("input", _cannot(pattern, "it has no items", "write it again"))
    return opened


def fingerprint_of(pattern: str) -> str:
    """The fingerprint of the input's files."""
    return fingerprint.of_files(files_of(pattern))


def _format_of(files: list[Path]) -> Format:
    return next(f for f in FORMATS if not f.suffixes or files[0].suffix in f.suffixes)


def _cannot(path: str | Path, why: str, remedy: str) -> str:
    return f"cannot read '{path}': {why}; {remedy}"


@dataclass(frozen=True)
class Batch:
    """Items `start` to `end` (exclusive). `errors`: the ones that could not be read, with the reason.

    `tensors` holds a row for each of the others, in their order; it is None where there are none.
    """

    start: int
    end: int
    tensors: Tensors | None
    errors: Mapping[int, str] = field(default_factory=dict)


class Reader:
    """An input's batches in order, with their positions, each failure named by the item it happened at."""

    def __init__(self, pattern: str, source: Input, start: int, size: int) -> None:
        """size: items of one batch."""
        self.total = source.total
        self._source = source
        self._pattern = pattern
        self._position = start
        self._size = size
        self._batches = source.batches(start, size)

    def _fault(self, start: int, end: int, error: Exception) -> tuple[int, str]:
        """The item to blame for an `error` in the items from `start` to `end`, and what is wrong; else the first."""
        try:
            found = self._source.fault(start, end)
        except Exception:  # noqa: BLE001 - the file is damaged, or gone: what was met first is what is told
            found = None
        if found is not None:
            return found[0], f"item {found[0]} is damaged: {found[1]}"
        where = f"item {start}" if end - start == 1 else f"one of the items {start} to {end - 1}"
        return start, f"{where} is damaged ({first_line(error)})"

    def place(self, target: str, batch: Batch | None) -> Batch | None:
        """From now on, batches lie on the device `target`, copied ahead by a thread; `batch`, already read, as well."""
        if target == device.HOST or batch is None:
            return batch
        self._batches = _ahead(_placed(item, target) for item in self._batches)
        return _placed(batch, target)

    def next(self) -> Batch | None:
        """The next batch, None after the last. Raises Refused (input) or baton.Failure (memory)."""
        start = self._position
        end = min(start + self._size, self.total)
        if start >= end:
            return None
        try:
            batch = next(self._batches)
        except Exception as error:  # whatever a file's damage makes NumPy or TensorFlow raise
            if is_out_of_memory(error):
                raise out_of_memory(f"read '{self._pattern}'", error, item=start) from error
            item, why = self._fault(start, end, error)
            raise Refused(
                "input", _cannot(self._pattern, why, 'write it again, or set on_error = "skip"'), item
            ) from error
        self._position = end
        return batch


def _placed(batch: Batch, target: str) -> Batch:
    """The batch with a copy of its tensors on the device `target`, as far as it takes their dtype."""
    if batch.tensors is None:
        return batch
    with tf.device(target):
        tensors = {name: tf.identity(tensor) for name, tensor in batch.tensors.items()}
    return replace(batch, tensors=tensors)


class NpyInput:
    """One `.npy` file, memory-mapped: the model's only input, item i its row i. Never read as a whole."""

    def __init__(self, file: Path, signature: Signature) -> None:
        if len(signature.inputs) != 1:
            names = ", ".join(signature.inputs)
            why = f"a .npy file holds one tensor, and the model takes {len(signature.inputs)} ({names})"
            raise Refused("input", _cannot(file, why, "use TFRecord files with a feature for each"))
        self._name, wanted = next(iter(signature.inputs.items()))
        rows = _mapped(file)
        self._check(file, rows, wanted)
        self._rows = rows
        self._dtype = tf.dtypes.as_dtype(wanted.dtype)
        self.total = int(rows.shape[0])
        self.item_shapes = {self._name: tuple(rows.shape[1:])}

    def _check(self, file: Path, rows: np.ndarray, wanted: Tensor) -> None:
        if rows.ndim == 0:
            raise Refused("input", _cannot(file, "it is a single value, without items", "write it again"))
        is_text = rows.dtype.kind in "SU" and wanted.dtype == "string"
        dtype = rows.dtype.newbyteorder("=")
        same = is_text or dtype == tf.dtypes.as_dtype(wanted.dtype).as_numpy_dtype
        if not same or not wanted.accepts(rows.shape[1:]):
            have = f"{rows.dtype.name} {shape_text(rows.shape)}"
            why = f"it holds {have}, but input '{self._name}' takes {wanted}"
            raise Refused("input", _cannot(file, why, "convert it, or choose another model or signature"))

    def batches(self, start: int, size: int) -> Iterator[Batch]:
        """Each batch is copied out of the map by a thread that runs ahead."""
        return _ahead(self._read(start, size))

    def fault(self, start: int, end: int) -> tuple[int, str] | None:  # noqa: ARG002 - rows have no checksums
        """Never told: a row that is there can be read."""
        return None

    def _read(self, start: int, size: int) -> Iterator[Batch]:
        for first in range(start, self.total, size):
            rows = self._rows[first : first + size]
            native = rows if rows.dtype.kind in "SU" else rows.astype(self._dtype.as_numpy_dtype)
            yield Batch(first, first + len(rows), {self._name: tf.convert_to_tensor(native, self._dtype)})


def _mapped(file: Path) -> np.ndarray:
    """The file's array, mapped read-only. Its size is held against its header first: a map beyond the end
    of a file is a SIGBUS, and a file cut short is the usual damage."""
    try:
        with file.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            expected_bytes = stream.tell() + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    except ValueError as error:
        raise Refused("input", _cannot(file, f"it is no .npy file ({first_line(error)})", "write it again")) from error
    if dtype.hasobject:
        raise Refused("input", _cannot(file, "it holds Python objects", "write it with a plain dtype"))
    size_bytes = file.stat().st_size
    if size_bytes < expected_bytes:
        why = f"it is cut short: {size_bytes} bytes of {expected_bytes}"
        raise Refused("input", _cannot(file, why, "write it again"))
    return np.load(file, mmap_mode="r", allow_pickle=False)


def _ahead(items: Iterator[Batch]) -> Iterator[Batch]:
    """`items`, made by a thread that is BATCHES_AHEAD further. Who stops early leaves it waiting, a daemon."""
    made: queue.Queue[Batch | Exception | None] = queue.Queue(BATCHES_AHEAD)

    def make() -> None:
        try:
            with tf.device(device.HOST):  # a thread has a scope of its own; without one, TensorFlow takes a GPU
                for item in items:
                    made.put(item)
            made.put(None)
        except Exception as error:  # noqa: BLE001 - handed to the reading side, which raises it
            made.put(error)

    def take() -> Iterator[Batch]:
        while (item := made.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    threading.Thread(target=make, name="read-ahead", daemon=True).start()  # now, not when the first is taken
    return take()


class TFRecordInput:
    """TFRecord files of tf.train.Example, streamed. An input is fed by the feature of its name.

    A model with a single input also takes the only feature there is, whatever its name. A feature of bytes
    feeds a string input as it is, and any other one as the values' little-endian memory. Integer features
    feed every integer dtype and bool, float features every float dtype. Every record must look like the first.
    The reader stops at a record that is damaged, and cannot go past it: see `SalvagedInput`.
    """

    def __init__(self, files: list[Path], signature: Signature) -> None:
        self._files = files
        self._counts = [tfrecord.count(file) for file in files]
        self.total = sum(self._counts)
        self.item_shapes: dict[str, tuple[int, ...]] = {}
        self._features: dict[str, tfrecord.Feature] = {}
        if self.total:
            first = next(file for file, count in zip(files, self._counts, strict=True) if count)
            self._features = tfrecord.features(first, signature)
            self.item_shapes = {name: feature.shape for name, feature in self._features.items()}

    def batches(self, start: int, size: int) -> Iterator[Batch]:
        """tf.data runs ahead in its own threads; files wholly before `start` are not opened."""
        files = list(zip(self._files, self._counts, strict=True))
        skipped = start
        while files and skipped >= files[0][1]:
            skipped -= files.pop(0)[1]
        records = tf.data.TFRecordDataset([str(file) for file, _ in files]).skip(skipped)
        parse = tf.autograph.experimental.do_not_convert(self._parse)  # else each leaves a file in the temporary folder
        parsed = records.batch(size).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
        for tensors in parsed.prefetch(BATCHES_AHEAD):
            end = min(start + size, self.total)
            yield Batch(start, end, tensors)
            start = end

    def fault(self, start: int, end: int) -> tuple[int, str] | None:
        """Read again, record by record: TensorFlow tells of a batch, or of a byte."""
        return _fault([salvage.survey(file) for file in self._files], self._features, start, end)

    def _parse(self, serialized: Any) -> Tensors:
        return tfrecord.parse(serialized, self._features)


class SalvagedInput:
    """TFRecord files as `TFRecordInput` takes them, read record by record, past those that are damaged."""

    def __init__(self, files: list[Path], signature: Signature) -> None:
        self._files = [salvage.survey(file) for file in files]
        self.total = sum(file.count for file in self._files)
        self.item_shapes: dict[str, tuple[int, ...]] = {}
        self._features: dict[str, tfrecord.Feature] = {}
        if self.total:
            self._features = salvage.features(self._files, signature)
            self.item_shapes = {name: feature.shape for name, feature in self._features.items()}

    def batches(self, start: int, size: int) -> Iterator[Batch]:
        """Read and parsed by a thread that runs ahead."""
        return _ahead(self._read(start, size))

    def fault(self, start: int, end: int) -> tuple[int, str] | None:
        """For what is damaged since it was surveyed."""
        return _fault(self._files, self._features, start, end)

    def _read(self, start: int, size: int) -> Iterator[Batch]:
        records = salvage.records(self._files, start)
        for first in range(start, self.total, size):
            end = min(first + size, self.total)
            found = dict(zip(range(first, end), records, strict=False))
            tensors, errors = salvage.parsed(found, self._features)
            yield Batch(first, end, tensors, errors)


def _fault(
    files: list[salvage.Framed], features: Mapping[str, tfrecord.Feature], start: int, end: int
) -> tuple[int, str] | None:
    found = dict(zip(range(start, end), salvage.records(files, start), strict=False))
    _, errors = salvage.parsed(found, features)
    return min(errors.items(), default=None)


def _open_npy(files: list[Path], signature: Signature, *, skip: bool) -> Input:  # noqa: ARG001 - all rows can be read
    if len(files) > 1:
        why = f"{len(files)} .npy files match, and rows are numbered through one"
        raise Refused("input", _cannot(files[0].parent, why, "set input = one of them"))
    return NpyInput(files[0], signature)


def _open_tfrecord(files: list[Path], signature: Signature, *, skip: bool) -> Input:
    return SalvagedInput(files, signature) if skip else TFRecordInput(files, signature)


FORMATS: Final = (
    Format(".npy", (".npy",), _open_npy),
    Format("TFRecord", (), _open_tfrecord),
)


def value_bytes(dtype: str) -> int:
    """Bytes of one value of TensorFlow's `dtype`; of a string, which has no fixed size, those of its handle."""
    return int(tf.dtypes.as_dtype(dtype).size) or 24
