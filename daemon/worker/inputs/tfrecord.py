"""TFRecord files: their records counted, and their features matched with a signature. Reads no batch."""

from __future__ import annotations

import gzip
import mmap
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tensorflow as tf

from daemon.sessionfile import FeatureOptions
from daemon.worker import device
from daemon.worker.failures import Refused, first_line
from daemon.worker.inputs.batches import refused
from daemon.worker.inputs.values import UnfitError
from daemon.worker.signature import Signature, Tensor, item_count

# A record is its length (8 bytes), that length's checksum (4), the data, and the data's checksum (4):
# https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
LENGTH: Final = struct.Struct("<Q")
GZIP_MAGIC: Final = b"\x1f\x8b"  # RFC 1952, 2.3.1
BUFFER_BYTES: Final = 1 << 20  # of TensorFlow's reader
HEADER_BYTES: Final = 12
FOOTER_BYTES: Final = 4
DECODED: Final = {tf.uint32: tf.int32, tf.uint64: tf.int64}  # tf.io.decode_raw knows no others of their size


def count(file: Path) -> int:
    """The number of records. Hops from length to length, so that no data is read, and no checksum tested.

    A compressed file has to be unpacked for it. Raises Refused (input) where the last record is cut short or the file
    is none of records.
    """
    if is_compressed(file):
        return _count_compressed(file)
    size = file.stat().st_size
    if size == 0:
        return 0
    records = 0
    position = 0
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        while position < size:
            if position + HEADER_BYTES <= size:
                end = position + HEADER_BYTES + LENGTH.unpack_from(content, position)[0] + FOOTER_BYTES
            else:
                end = size + 1
            if end > size:
                why = f"record {records} is cut short at byte {size}" if records else "it is no TFRecord file"
                raise refused(file, why, "write it again")
            records += 1
            position = end
    return records


def is_compressed(file: Path) -> bool:
    """Whether it is a gzip file, whatever its name."""
    with file.open("rb") as stream:
        return stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def dataset(files: list[Path], *, compressed: bool) -> tf.data.TFRecordDataset:
    """The records of the files, one after the other."""
    compression = "GZIP" if compressed else ""
    return tf.data.TFRecordDataset([str(file) for file in files], compression, buffer_size=BUFFER_BYTES)


def _count_compressed(file: Path) -> int:
    records = 0
    why = "it holds no TFRecord file"
    try:
        with gzip.open(file) as stream:
            while header := stream.read(HEADER_BYTES):
                data_bytes = LENGTH.unpack_from(header)[0] if len(header) == HEADER_BYTES else 0
                after = stream.tell() + data_bytes + FOOTER_BYTES
                if len(header) < HEADER_BYTES or stream.seek(after) < after:
                    raise refused(file, f"record {records} is cut short" if records else why, "write it again")
                records += 1
    except (EOFError, gzip.BadGzipFile, zlib.error, OverflowError) as error:
        why = f"its compressed data is damaged after record {records} ({first_line(error)})" if records else why
        raise refused(file, why, "write it again") from error
    return records


@dataclass(frozen=True)
class Feature:
    """How one feature of an Example becomes one input of the model."""

    name: str
    kind: str  # bytes_list, float_list or int64_list: what the file holds
    dtype: str  # what the model takes
    shape: tuple[int, ...]  # of one item
    raw: str  # the dtype of values in a bytes_list that are none of text: as the model takes them, or as given

    @property
    def _is_raw(self) -> bool:
        return self.kind == "bytes_list" and self.dtype != "string"

    @property
    def _held(self) -> tf.DType:
        """What the file holds, as TensorFlow reads it; of `raw` "bool" the bytes, which need not be 0 or 1."""
        if self._is_raw:
            return tf.uint8 if self.raw == "bool" else tf.dtypes.as_dtype(self.raw)
        return {"bytes_list": tf.string, "float_list": tf.float32, "int64_list": tf.int64}[self.kind]

    @property
    def parsing(self) -> tf.io.FixedLenFeature:
        """What tf.io.parse_example is told."""
        return tf.io.FixedLenFeature([], tf.string) if self._is_raw else tf.io.FixedLenFeature(self.shape, self._held)

    def convert(self, parsed: Any) -> Any:
        """The parsed batch as the model takes it: dtype `dtype`, shape (batch, *shape).

        Raises UnfitError where a value is beyond what it is to become: cast, it would be another one. In a graph that
        is an InvalidArgumentError, and which record it was is found by parsing them again.
        """
        if self._is_raw:
            values = tf.io.decode_raw(parsed, DECODED.get(self._held, self._held))
            parsed = tf.reshape(tf.bitcast(values, self._held), [tf.shape(parsed)[0], *self.shape])
        cast = tf.cast(parsed, self.dtype)
        fits, limits = self._fits(parsed, cast)
        if fits is None:
            return cast
        why = f"feature '{self.name}' is beyond {limits}, but its input takes {self.dtype}"
        all_fit = tf.reduce_all(fits)
        if not tf.executing_eagerly():
            with tf.control_dependencies([tf.debugging.Assert(all_fit, [why])]):
                return tf.identity(cast)
        if not all_fit:
            raise UnfitError(why)
        return cast

    def _fits(self, held: Any, cast: Any) -> tuple[Any, str]:
        """Whether each value is the same when `cast`, and the limits to name; None where none can be another.

        What a float cannot hold exactly is rounded by it, which is no error; what it has to call infinite is one.
        """
        taken = cast.dtype
        if self._held.is_integer:
            dtypes = (self._held, taken, tf.dtypes.as_dtype(self.raw))
            lows, highs = zip(*(_ends(dtype) for dtype in dtypes if dtype.is_integer or dtype == tf.bool), strict=True)
            if (max(lows), min(highs)) != _ends(self._held):
                return (held >= max(lows)) & (held <= min(highs)), f"{max(lows)} to {min(highs)}"
        if taken.is_floating and float(self._held.max) > float(taken.max):
            finite = tf.math.is_finite(cast)
            return finite | ~tf.math.is_finite(held) if self._held.is_floating else finite, f"what {self.dtype} holds"
        return None, ""


def _ends(dtype: tf.DType) -> tuple[int, int]:
    """The least and the largest integer of that dtype."""
    return (0, 1) if dtype == tf.bool else (int(dtype.min), int(dtype.max))


Given = Mapping[str, FeatureOptions]  # what the session says of features, by the model's inputs


def features(file: Path, signature: Signature, given: Given) -> dict[str, Feature]:
    """The feature for each of the signature's inputs, judged by the file's first record.

    A free size in an input's shape is filled from that record, where it is the only one.
    Raises Refused (input) where the record is damaged, or something does not fit.
    """
    try:
        record = next(iter(dataset([file], compressed=is_compressed(file)))).numpy()
    except Exception as error:  # DataLossError, and more by TensorFlow's versions
        raise _no_example(file, error) from error
    return match(file, record, signature, given)


def match(file: Path, record: bytes, signature: Signature, given: Given) -> dict[str, Feature]:
    """As `features`, by that record of the file."""
    for name in given:
        if name not in signature.inputs:
            why = (
                f"features names '{name}', and the model takes no such input (it takes: {', '.join(signature.inputs)})"
            )
            raise refused(file, why, "name the model's inputs in it")
    try:
        found = tf.train.Example.FromString(record).features.feature
    except Exception as error:  # protobuf's versions raise DecodeErrors of their own
        raise _no_example(file, error) from error
    held = {name: found[name] for name in sorted(found)}
    matched = {
        name: _match(file, name, wanted, held, given.get(name, FeatureOptions()), alone=len(signature.inputs) == 1)
        for name, wanted in signature.inputs.items()
    }
    try:
        with tf.device(device.HOST):
            parse([record], matched)
    except UnfitError as error:
        raise refused(file, str(error), "write it again, or choose another model or signature") from error
    return matched


def parse(serialized: Any, features: Mapping[str, Feature]) -> dict[str, Any]:
    """A batch of records as the model takes it, by input. Raises what TensorFlow does where one does not fit."""
    parsed = tf.io.parse_example(serialized, {feature.name: feature.parsing for feature in features.values()})
    return {name: feature.convert(parsed[feature.name]) for name, feature in features.items()}


def _match(
    file: Path, name: str, wanted: Tensor, held: Mapping[str, Any], given: FeatureOptions, *, alone: bool
) -> Feature:
    """`alone`: it is the model's only input, so it takes the only feature of a record, whatever its name."""
    source = given.feature or name
    if given.feature is None and name not in held and alone and len(held) == 1:
        source = next(iter(held))
    if source not in held:
        why = f"no feature '{source}' (it has: {', '.join(held) or 'none'})"
        remedy = f'name the features as the model\'s inputs, or set features = {{ {name} = {{ feature = "…" }} }}'
        raise refused(file, why, remedy)
    kind = held[source].WhichOneof("kind") or "bytes_list"
    values = getattr(held[source], kind).value
    length = len(values)
    dtype = tf.dtypes.as_dtype(wanted.dtype)
    is_raw = kind == "bytes_list" and dtype != tf.string
    raw = given.raw if is_raw and given.raw else wanted.dtype
    if is_raw:
        value_bytes = tf.dtypes.as_dtype(raw).size
        length = len(values[0]) // value_bytes if length == 1 and len(values[0]) % value_bytes == 0 else -1
    fits = {
        "bytes_list": not is_raw or _is_whole(tf.dtypes.as_dtype(raw)) or not _is_whole(dtype),
        "float_list": dtype.is_floating,
        "int64_list": _is_whole(dtype),
    }.get(kind, False)
    shape = _given_shape(wanted, given.shape, length) if given.shape is not None else _filled(wanted, length)
    if not fits or shape is None:
        what = f"{len(values[0])} bytes" if is_raw and len(values) == 1 else f"{len(values)} values"
        what += f" of {given.raw}" if is_raw and given.raw is not None else ""
        stated = f" of shape {list(given.shape)}, as features says" if given.shape is not None else ""
        why = f"feature '{source}' holds {what} ({kind}){stated}, but input '{name}' takes {wanted}"
        remedy = "write it again, or choose another model or signature"
        if is_raw and given.raw is None:
            remedy = f'say what the bytes are, as features = {{ {name} = {{ raw = "uint8" }} }}, or write it again'
        raise refused(file, why, remedy)
    return Feature(source, kind, wanted.dtype, shape, raw)


def _is_whole(dtype: tf.DType) -> bool:
    return bool(dtype.is_integer or dtype == tf.bool)


def _given_shape(wanted: Tensor, shape: tuple[int, ...], length: int) -> tuple[int, ...] | None:
    """The shape as the session gives it; None where neither the values nor the model are of it."""
    return shape if wanted.accepts(shape) and item_count(shape) == length else None


def _filled(wanted: Tensor, length: int) -> tuple[int, ...] | None:
    """The item's shape for that many values, or None where they do not fit, or fit in more than one way."""
    shape = wanted.item_shape
    if shape is None or shape.count(None) > 1 or length < 0:
        return None
    known = item_count(shape)
    if None in shape:
        if known == 0 or length % known:
            return None
        return tuple(length // known if size is None else size for size in shape)
    return tuple(size for size in shape if size is not None) if known == length else None


def _no_example(file: Path, error: Exception) -> Refused:
    return refused(file, f"its first record is no tf.train.Example ({first_line(error)})", "write it again")
