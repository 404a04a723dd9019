"""Input items from disk, in batches, from any position on. Knows no model: only what its signature takes.

`FORMATS` is the place to add a format: how it is recognised, and opened against a signature.
"""

from __future__ import annotations

import glob
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import tensorflow as tf

from daemon.worker import fingerprint, tfrecord
from daemon.worker.failures import Refused, first_line, is_out_of_memory, out_of_memory
from daemon.worker.signature import Signature, Tensor, shape_text

BATCHES_AHEAD: Final = 2

Tensors = dict[str, tf.Tensor]


class Input(Protocol):
    """One opened input. `batches` yields tensors by input name, the batch first, the last batch maybe shorter."""

    total: int  # items
    item_shapes: dict[str, tuple[int, ...]]  # of each input, without the batch

    def batches(self, start: int, size: int) -> Iterator[Tensors]:
        """The items from position `start` on, `size` at a time. May raise anything: see `Reader`."""


@dataclass(frozen=True)
class Format:
    """One kind of input on disk. `open` gets the files, sorted, and what the model takes."""

    name: str
    suffixes: tuple[str, ...]  # () takes whatever no other format takes
    open: Callable[[list[Path], Signature], Input]


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


def open_input(pattern: str, signature: Signature) -> Input:
    """Open the input for a model with that signature, and find its number of items.

    Raises Refused (input): missing, empty, cut short, or not what the signature takes.
    """
    files = files_of(pattern)
    try:
        opened = _format_of(files).open(files, signature)
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
    """Items `start` to `end` (exclusive). `tensors` may have more rows than that: padding, to be cut off."""

    start: int
    end: int
    tensors: Tensors


class Reader:
    """An input's batches in order, with their positions, each failure named by the item it happened at."""

    def __init__(self, pattern: str, source: Input, start: int, size: int, *, fixed: bool) -> None:
        """size: items of one batch; fixed: the last batch is padded to it, by its last item repeated."""
        self.total = source.total
        self._pattern = pattern
        self._position = start
        self._size = size
        self._fixed = fixed
        self._batches = source.batches(start, size)

    def next(self) -> Batch | None:
        """The next batch, None after the last. Raises Refused (input) or baton.Failure (memory)."""
        start = self._position
        end = min(start + self._size, self.total)
        if start >= end:
            return None
        try:
            tensors = next(self._batches)
            if self._fixed and end - start < self._size:
                tensors = {name: _padded(tensor, self._size) for name, tensor in tensors.items()}
        except Exception as error:  # whatever a file's damage makes NumPy or TensorFlow raise
            if is_out_of_memory(error):
                raise out_of_memory(f"read '{self._pattern}'", error, item=start) from error
            why = f"damaged at item {start} or up to {end - start - 1} after it ({first_line(error)})"
            raise Refused("input", _cannot(self._pattern, why, "write it again"), item=start) from error
        self._position = end
        return Batch(start, end, tensors)


def _padded(tensor: tf.Tensor, size: int) -> tf.Tensor:
    missing = size - int(tensor.shape[0])
    return tf.concat([tensor, tf.repeat(tensor[-1:], missing, axis=0)], axis=0)


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

    def batches(self, start: int, size: int) -> Iterator[Tensors]:
        """Each batch is copied out of the map, and to the device, by a thread that runs ahead."""
        return _ahead(self._read(start, size))

    def _read(self, start: int, size: int) -> Iterator[Tensors]:
        for first in range(start, self.total, size):
            rows = self._rows[first : first + size]
            native = rows if rows.dtype.kind in "SU" else rows.astype(self._dtype.as_numpy_dtype)
            yield {self._name: tf.convert_to_tensor(native, self._dtype)}


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


def _ahead(items: Iterator[Tensors]) -> Iterator[Tensors]:
    """`items`, made by a thread that is BATCHES_AHEAD further. Who stops early leaves it waiting, a daemon."""
    made: queue.Queue[Tensors | Exception | None] = queue.Queue(BATCHES_AHEAD)

    def make() -> None:
        try:
            for item in items:
                made.put(item)
            made.put(None)
        except Exception as error:  # noqa: BLE001 - handed to the reading side, which raises it
            made.put(error)

    threading.Thread(target=make, name="read-ahead", daemon=True).start()
    while (item := made.get()) is not None:
        if isinstance(item, Exception):
            raise item
        yield item


class TFRecordInput:
    """TFRecord files of tf.train.Example, streamed. An input is fed by the feature of its name.

    A model with a single input also takes the only feature there is, whatever its name. A feature of bytes
    feeds a string input as it is, and any other one as the values' little-endian memory. Integer features
    feed every integer dtype and bool, float features every float dtype. Every record must look like the first.
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

    def batches(self, start: int, size: int) -> Iterator[Tensors]:
        """tf.data runs ahead in its own threads; files wholly before `start` are not opened."""
        files = list(zip(self._files, self._counts, strict=True))
        while files and start >= files[0][1]:
            start -= files.pop(0)[1]
        records = tf.data.TFRecordDataset([str(file) for file, _ in files]).skip(start)
        parsed = records.batch(size).map(self._parse, num_parallel_calls=tf.data.AUTOTUNE)
        return iter(parsed.prefetch(BATCHES_AHEAD))

    def _parse(self, serialized: Any) -> Tensors:
        plan = {feature.name: feature.parsing for feature in self._features.values()}
        parsed = tf.io.parse_example(serialized, plan)
        return {name: feature.convert(parsed[feature.name]) for name, feature in self._features.items()}


def _open_npy(files: list[Path], signature: Signature) -> Input:
    if len(files) > 1:
        why = f"{len(files)} .npy files match, and rows are numbered through one"
        raise Refused("input", _cannot(files[0].parent, why, "set input = one of them"))
    return NpyInput(files[0], signature)


FORMATS: Final = (
    Format(".npy", (".npy",), _open_npy),
    Format("TFRecord", (), TFRecordInput),
)


def value_bytes(dtype: str) -> int:
    """Bytes of one value of TensorFlow's `dtype`; of a string, which has no fixed size, those of its handle."""
    return int(tf.dtypes.as_dtype(dtype).size) or 24
