"""TFRecord files: their records counted, and their features matched with a signature. Reads no batch."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tensorflow as tf

from daemon.worker.failures import Refused, first_line
from daemon.worker.signature import Signature, Tensor, item_count

# A record is its length (8 bytes), that length's checksum (4), the data, and the data's checksum (4):
# https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
LENGTH: Final = struct.Struct("<Q")
HEADER_BYTES: Final = 12
FOOTER_BYTES: Final = 4


def count(file: Path) -> int:
    """The number of records. Hops from length to length, so that no data is read, and no checksum tested.

    Raises Refused (input) where the last record is cut short or the file is none of records.
    """
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
                raise _refused(file, why, "write it again")
            records += 1
            position = end
    return records


@dataclass(frozen=True)
class Feature:
    """How one feature of an Example becomes one input of the model."""

    name: str
    kind: str  # bytes_list, float_list or int64_list: what the file holds
    dtype: str  # what the model takes
    shape: tuple[int, ...]  # of one item

    @property
    def _is_raw(self) -> bool:
        return self.kind == "bytes_list" and self.dtype != "string"

    @property
    def parsing(self) -> tf.io.FixedLenFeature:
        """What tf.io.parse_example is told."""
        held = {"bytes_list": tf.string, "float_list": tf.float32, "int64_list": tf.int64}[self.kind]
        return tf.io.FixedLenFeature([] if self._is_raw else self.shape, held)

    def convert(self, parsed: Any) -> Any:
        """The parsed batch as the model takes it: dtype `dtype`, shape (batch, *shape)."""
        if self._is_raw:
            is_bool = self.dtype == "bool"  # decode_raw knows no bool
            values = tf.io.decode_raw(parsed, tf.uint8 if is_bool else tf.dtypes.as_dtype(self.dtype))
            parsed = tf.reshape(tf.cast(values, self.dtype), [tf.shape(parsed)[0], *self.shape])
        return tf.cast(parsed, self.dtype)


def features(file: Path, signature: Signature) -> dict[str, Feature]:
    """The feature for each of the signature's inputs, judged by the file's first record.

    A free size in an input's shape is filled from that record, where it is the only one.
    Raises Refused (input) where the record is damaged, or something does not fit.
    """
    try:
        record = next(iter(tf.data.TFRecordDataset(str(file)))).numpy()
    except Exception as error:  # DataLossError, and more by TensorFlow's versions
        why = f"its first record is no tf.train.Example ({first_line(error)})"
        raise _refused(file, why, "write it again") from error
    return match(file, record, signature)


def match(file: Path, record: bytes, signature: Signature) -> dict[str, Feature]:
    """As `features`, by that record of the file."""
    try:
        found = tf.train.Example.FromString(record).features.feature
    except Exception as error:  # protobuf's versions raise DecodeErrors of their own
        why = f"its first record is no tf.train.Example ({first_line(error)})"
        raise _refused(file, why, "write it again") from error
    held = {name: found[name] for name in sorted(found)}
    return {name: _match(file, name, wanted, held, signature) for name, wanted in signature.inputs.items()}


def parse(serialized: Any, features: Mapping[str, Feature]) -> dict[str, Any]:
    """A batch of records as the model takes it, by input. Raises what TensorFlow does where one does not fit."""
    parsed = tf.io.parse_example(serialized, {feature.name: feature.parsing for feature in features.values()})
    return {name: feature.convert(parsed[feature.name]) for name, feature in features.items()}


def _match(file: Path, name: str, wanted: Tensor, held: dict[str, Any], signature: Signature) -> Feature:
    source = name
    if name not in held and len(signature.inputs) == 1 and len(held) == 1:
        source = next(iter(held))
    if source not in held:
        why = f"no feature '{name}' (it has: {', '.join(held) or 'none'})"
        raise _refused(file, why, "name the features as the model's inputs")
    kind = held[source].WhichOneof("kind") or "bytes_list"
    values = getattr(held[source], kind).value
    length = len(values)
    dtype = tf.dtypes.as_dtype(wanted.dtype)
    is_raw = kind == "bytes_list" and dtype != tf.string
    if is_raw:
        length = len(values[0]) // dtype.size if length == 1 and len(values[0]) % dtype.size == 0 else -1
    fits = is_raw or {
        "bytes_list": dtype == tf.string,
        "float_list": dtype.is_floating,
        "int64_list": dtype.is_integer or dtype == tf.bool,
    }.get(kind, False)
    shape = _filled(wanted, length)
    if not fits or shape is None:
        what = f"{len(values[0])} bytes" if is_raw and len(values) == 1 else f"{len(values)} values"
        why = f"feature '{source}' holds {what} ({kind}), but input '{name}' takes {wanted}"
        raise _refused(file, why, "write it again, or choose another model or signature")
    return Feature(source, kind, wanted.dtype, shape)


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


def _refused(file: Path, why: str, remedy: str) -> Refused:
    return Refused("input", f"cannot read '{file}': {why}; {remedy}")
