"""Inputs that are TFRecord files of tf.train.Example, plain or gzip: streamed, or read past what is damaged."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from daemon.sessionfile import SessionSpec
from daemon.worker.inputs import otherformats, salvage, tfrecord
from daemon.worker.inputs.batches import BATCHES_AHEAD, Batch, Input, Shapes, Tensors, ahead, refused
from daemon.worker.inputs.counting import are_countable
from daemon.worker.signature import Signature


class TFRecordInput:
    """The records of the files, one after the other. An input is fed by the feature of its name.

    A model with a single input also takes the only feature there is, whatever its name. A feature of bytes
    feeds a string input as it is, and any other one as the values' little-endian memory. Integer features
    feed every integer dtype and bool, float features every float dtype, with values that these hold. Every record must
    look like the first.
    The reader stops at a record that is damaged, and cannot go past it: see `SalvagedInput`.
    """

    def __init__(self, files: list[Path], signature: Signature, given: tfrecord.Given) -> None:
        self._files = files
        self._compressed = tfrecord.is_compressed(files[0])
        is_counted = not self._compressed or are_countable(files)
        self._counts = [tfrecord.count(file) for file in files] if is_counted else None
        self.total: int | None = None if self._counts is None else sum(self._counts)
        self.item_shapes: Shapes = {}
        self._features: dict[str, tfrecord.Feature] = {}
        if self.total != 0:
            first = next(file for file, count in zip(files, self._counts or itertools.repeat(1), strict=False) if count)
            self._features = tfrecord.features(first, signature, given)
            self.item_shapes = {name: feature.shape for name, feature in self._features.items()}

    @property
    def varies(self) -> bool:
        """Never: each record is held against the first."""
        return False

    def batches(self, start: int, size: int) -> Iterator[Batch]:
        """tf.data runs ahead in its own threads; files that are known to lie wholly before `start` are not opened."""
        before, skipped = 0, start
        for count in self._counts or []:
            if skipped < count:
                break
            before, skipped = before + 1, skipped - count
        records = tfrecord.dataset(self._files[before:], compressed=self._compressed).skip(skipped)
        parse = tf.autograph.experimental.do_not_convert(self._parse)  # else each leaves a file in the temporary folder
        parsed = records.batch(size).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
        for tensors in parsed.prefetch(BATCHES_AHEAD):
            end = start + len(next(iter(tensors.values())))
            yield Batch(start, end, tensors)
            start = end

    def fault(self, start: int, end: int) -> tuple[int, str] | None:
        """Read again, record by record: TensorFlow tells of a batch, or of a byte."""
        files = [salvage.survey(file, counted=self._counts is not None) for file in self._files]
        return _fault(files, self._features, start, end)

    def names(self) -> Iterator[str] | None:
        """None: records have no names."""
        return None

    def _parse(self, serialized: Any) -> Tensors:
        return tfrecord.parse(serialized, self._features)


class SalvagedInput:
    """TFRecord files as `TFRecordInput` takes them, read record by record, past those that are damaged."""

    def __init__(self, files: list[Path], signature: Signature, given: tfrecord.Given) -> None:
        is_counted = not tfrecord.is_compressed(files[0]) or are_countable(files)
        self._files = [salvage.survey(file, counted=is_counted) for file in files]
        self.total: int | None = sum(file.count or 0 for file in self._files) if is_counted else None
        self.item_shapes: Shapes = {}
        self._features: dict[str, tfrecord.Feature] = {}
        if self.total != 0:
            self._features = salvage.features(self._files, signature, given)
            self.item_shapes = {name: feature.shape for name, feature in self._features.items()}

    @property
    def varies(self) -> bool:
        """Never: each record is held against the first."""
        return False

    def batches(self, start: int, size: int) -> Iterator[Batch]:
        """Read and parsed by a thread that runs ahead."""
        return ahead(self._read(start, size))

    def fault(self, start: int, end: int) -> tuple[int, str] | None:
        """For what is damaged since it was surveyed."""
        return _fault(self._files, self._features, start, end)

    def names(self) -> Iterator[str] | None:
        """None: records have no names."""
        return None

    def _read(self, start: int, size: int) -> Iterator[Batch]:
        records = salvage.records(self._files, start)
        while found := dict(enumerate(itertools.islice(records, size), start)):
            tensors, errors = salvage.parsed(found, self._features)
            yield Batch(start, start + len(found), tensors, errors)
            start += len(found)


def open_tfrecord(files: list[Path], signature: Signature, spec: SessionSpec) -> Input:
    """Files that are all compressed, or none: TensorFlow's reader is told once. Empty ones are of either kind."""
    files = [file for file in files if file.stat().st_size] or files
    for file in files:
        otherformats.check(file)
    compressed = [tfrecord.is_compressed(file) for file in files]
    if any(compressed) and not all(compressed):
        odd = files[compressed.index(False)]
        raise refused(str(spec.input), f"some of its files are gzip, and '{odd}' is not", "compress all, or none")
    kind = SalvagedInput if spec.on_error == "skip" else TFRecordInput
    return kind(files, signature, spec.features or {})


def _fault(
    files: list[salvage.Framed], features: Mapping[str, tfrecord.Feature], start: int, end: int
) -> tuple[int, str] | None:
    found = dict(zip(range(start, end), salvage.records(files, start), strict=False))
    _, errors = salvage.parsed(found, features)
    return min(errors.items(), default=None)
