"""TFRecord files read past what is damaged in them: record by record, by their offsets. Decides no session's end.

TensorFlow's own reader leaves a file at its first bad record. Where a record's length can be read, the next one can
be found without its data. Where it cannot, the rest of the file is lost: that counts as one item. Of a compressed
file, whatever follows the first damage is.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import tensorflow as tf
from tensorflow.python.lib.io.tf_record import tf_record_random_reader

from daemon.worker.failures import Refused, first_line
from daemon.worker.inputs import tfrecord
from daemon.worker.inputs.batches import refused
from daemon.worker.inputs.tfrecord import FOOTER_BYTES, HEADER_BYTES, LENGTH
from daemon.worker.inputs.values import UnfitError
from daemon.worker.signature import Signature

HEADERS_AT_ONCE: Final = 1 << 16
COUNTED_AT_ONCE: Final = 64  # records of a compressed file
TRIED_FOR_FEATURES: Final = 1000  # records: where none of so many fits the model, the file is not the model's
# CRC-32C (Castagnoli, reflected) and the mask that TFRecord puts over it:
# https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
POLYNOMIAL: Final = 0x82F63B78
MASK_DELTA: Final = 0xA282EAD8


@dataclass(frozen=True)
class Framed:
    """A file with its number of items, None where they are counted as they are read.

    `lost`: why it cannot be split into records to its end, or None. What is lost is the last item.
    """

    path: Path
    count: int | None
    compressed: bool
    lost: str | None


@dataclass(frozen=True)
class Damaged:
    """What stands for a record that cannot be read."""

    reason: str


def survey(path: Path, *, counted: bool = True) -> Framed:
    """Count the file's records by their lengths, each held against its checksum. Reads no data. Raises OSError.

    A length whose checksum is wrong is taken for right where it leads to another sound one, or to the file's end.
    Of a compressed file the data is read as well. counted: else such a one is not looked at.
    """
    if tfrecord.is_compressed(path):
        return _survey_compressed(path) if counted else Framed(path, None, compressed=True, lost=None)
    size = path.stat().st_size
    count = position = 0
    lost_at: int | None = None
    with _mapped(path) as content:
        while position < size and lost_at is None:
            offsets = _hops(content, position)
            trusted = _count_trusted(content, offsets)
            if trusted < len(offsets) - 1:
                lost_at = offsets[trusted]
            count += trusted
            position = offsets[-1]
    if lost_at is None:
        return Framed(path, count, compressed=False, lost=None)
    what = f"'{path}' from byte {lost_at} to its end at {size}"
    why = f"{what} cannot be split into records: a length there is damaged, or the last one is cut short"
    return Framed(path, count + 1, compressed=False, lost=why)


def _survey_compressed(path: Path) -> Framed:
    """TensorFlow's reader says where it stops, but not how far it came in a batch: that one is read again, singly."""
    count = 0
    try:
        for batch in tfrecord.dataset([path], compressed=True).batch(COUNTED_AT_ONCE):
            count += len(batch)
        return Framed(path, count, compressed=True, lost=None)
    except tf.errors.OpError:
        pass
    try:
        for _ in tfrecord.dataset([path], compressed=True).skip(count):
            count += 1
    except tf.errors.OpError as error:
        return Framed(path, count + 1, compressed=True, lost=_lost(path, count, error))
    return Framed(path, count, compressed=True, lost=None)


def records(files: Sequence[Framed], start: int) -> Iterator[bytes | Damaged]:
    """The items from position `start` on, of all files. Raises OSError, or TensorFlow's errors, where one is gone."""
    for file in files:
        if file.count is None:
            for record in _streamed(file.path):
                if start == 0:
                    yield record
                start = max(0, start - 1)
        else:
            yield from _records_of(file, file.count, start)
            start = max(0, start - file.count)


def features(files: Sequence[Framed], signature: Signature, given: tfrecord.Given) -> dict[str, tfrecord.Feature]:
    """The feature for each of the signature's inputs, judged by the first record that has them.

    Raises Refused (input) where none of the first ones does, with what is wrong with the very first.
    """
    first: Refused | None = None
    tried = ((file.path, record) for file in files for record in records([file], 0))
    for path, record in itertools.islice(tried, TRIED_FOR_FEATURES):
        if isinstance(record, Damaged):
            first = first or refused(path, record.reason, "write it again")
            continue
        try:
            return tfrecord.match(path, record, signature, given)
        except Refused as error:
            first = first or error
    assert first is not None  # there is an item, and each of them returns or refuses
    raise first


def parsed(
    found: Mapping[int, bytes | Damaged], features: Mapping[str, tfrecord.Feature]
) -> tuple[dict[str, tf.Tensor] | None, dict[int, str]]:
    """The tensors of all items that can be parsed, None where there are none; and why the others cannot be."""
    errors = {item: record.reason for item, record in found.items() if isinstance(record, Damaged)}
    sound = [(item, record) for item, record in found.items() if isinstance(record, bytes)]
    parts = list(_parts(sound, features, errors))
    if len(parts) > 1:
        return {name: tf.concat([part[name] for part in parts], axis=0) for name in features}, errors
    return parts[0] if parts else None, errors


def _parts(
    records: list[tuple[int, bytes]], features: Mapping[str, tfrecord.Feature], errors: dict[int, str]
) -> Iterator[dict[str, tf.Tensor]]:
    """The tensors of the records, in one piece if that goes, else by halves down to the ones that cannot be parsed."""
    if not records:
        return
    try:
        tensors = tfrecord.parse([record for _, record in records], features)
    except (UnfitError, tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:  # see `first_line` of the second
        if len(records) == 1:
            why = first_line(error).removeprefix("Name: <unknown>, ")  # records have none
            errors[records[0][0]] = f"the record: {why}"
            return
    else:
        yield tensors
        return
    half = len(records) // 2
    yield from _parts(records[:half], features, errors)
    yield from _parts(records[half:], features, errors)


def _streamed(path: Path) -> Iterator[bytes | Damaged]:
    """The records of a compressed file, and what is lost of it as the last one."""
    count = 0
    try:
        for record in tfrecord.dataset([path], compressed=True).as_numpy_iterator():
            yield record
            count += 1
    except tf.errors.OpError as error:
        yield Damaged(_lost(path, count, error))


def _lost(path: Path, count: int, error: Exception) -> str:
    return f"'{path}' from its record {count} on is lost: it is damaged there ({first_line(error)})"


def _records_of(file: Framed, count: int, start: int) -> Iterator[bytes | Damaged]:
    readable = count - (file.lost is not None)
    if start < readable and file.compressed:
        records = tfrecord.dataset([file.path], compressed=True).skip(start).take(readable - start)
        yield from records.as_numpy_iterator()
    elif start < readable:
        with _mapped(file.path) as content:
            position = 0
            for _ in range(start):
                position = _after(content, position)
            reader = tf_record_random_reader(str(file.path))
            for _ in range(start, readable):
                following = _after(content, position)
                try:
                    yield reader.read(position)[0]
                except tf.errors.DataLossError:
                    yield Damaged(f"the record at byte {position} of '{file.path}' is damaged: its checksum is wrong")
                position = following
            reader.close()
    if file.lost is not None and start < count:
        yield Damaged(file.lost)


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    with path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size == 0:  # which cannot be mapped
            yield b""
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content


def _after(content: mmap.mmap | bytes, position: int) -> int:
    """Where the record that follows the one at `position` begins, by its length; beyond the end without one."""
    if position + HEADER_BYTES > len(content):
        return len(content) + 1
    return position + HEADER_BYTES + int(LENGTH.unpack_from(content, position)[0]) + FOOTER_BYTES


def _hops(content: mmap.mmap | bytes, position: int) -> list[int]:
    """Where records begin from `position` on, as their lengths say, and where the last of them ends."""
    offsets = [position]
    while len(offsets) <= HEADERS_AT_ONCE and offsets[-1] < len(content):
        offsets.append(_after(content, offsets[-1]))
    return offsets


def _count_trusted(content: mmap.mmap | bytes, offsets: list[int]) -> int:
    """How many of the records between these offsets, from the first on, are where they seem to be."""
    sound = _sound(content, offsets)
    sound[-1] |= offsets[-1] == len(content)
    fits = np.array([offset <= len(content) for offset in offsets[1:]])
    doubtful = np.flatnonzero(~(fits & (sound[:-1] | sound[1:])))
    return int(doubtful[0]) if len(doubtful) else len(offsets) - 1


def _sound(content: mmap.mmap | bytes, offsets: list[int]) -> np.ndarray:
    """Whether a length with its right checksum is at each of the offsets."""
    headers = b"".join(content[offset : offset + HEADER_BYTES].ljust(HEADER_BYTES, b"\0") for offset in offsets)
    table = np.frombuffer(headers, np.uint8).reshape(-1, HEADER_BYTES)
    crc = np.full(len(offsets), 0xFFFFFFFF, np.uint32)
    for column in range(LENGTH.size):
        crc = CRC_TABLE[(crc ^ table[:, column]) & 0xFF] ^ (crc >> 8)
    crc = ~crc
    masked = ((crc >> 15) | (crc << 17)) + np.uint32(MASK_DELTA)
    sound: np.ndarray = masked == table[:, LENGTH.size :].copy().view("<u4")[:, 0]
    return sound


def _crc_table() -> np.ndarray:
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, (crc >> 1) ^ np.uint32(POLYNOMIAL), crc >> 1)
    return crc


CRC_TABLE: Final = _crc_table()
