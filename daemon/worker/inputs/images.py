"""Inputs that are JPEG or PNG files, in a folder or by a pattern: the i-th file by path is item i."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tensorflow as tf

from daemon.sessionfile import ImageOptions, SessionSpec
from daemon.worker.failures import first_line, is_out_of_memory
from daemon.worker.inputs.batches import BATCHES_AHEAD, Batch, Shapes, only_input, refused
from daemon.worker.signature import Signature, Tensor, shape_text

RANGES: Final = {"0..255": (1.0, 0.0), "0..1": (1 / 255, 0.0), "-1..1": (1 / 127.5, -1.0)}  # factor, offset
CHANNELS: Final = 3  # where neither the model nor the session says


@dataclass(frozen=True)
class Picture:
    """What a file becomes. size: height and width; None: the file's bytes as they are, for a model that decodes."""

    dtype: str
    size: tuple[int, int] | None
    channels: int
    flat: bool  # the model takes no dimension for the one channel
    resize: str
    scale: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item."""
        if self.size is None:
            return ()
        return self.size if self.flat else (*self.size, self.channels)

    def of(self, path: Any) -> Any:
        """The tensor of the file at `path`, a scalar string. Raises what TensorFlow does."""
        content = tf.io.read_file(path)
        if self.size is None:
            return content
        pixels = tf.io.decode_image(content, self.channels, expand_animations=False)
        pixels.set_shape([None, None, self.channels])
        factor, offset = RANGES[self.scale]
        resized = tf.cast(tf.image.resize(pixels, self.size, self.resize), tf.float32)
        dtype = tf.dtypes.as_dtype(self.dtype)
        scaled = resized * factor + offset if (factor, offset) != (1.0, 0.0) else resized
        return tf.reshape(tf.saturate_cast(scaled if dtype.is_floating else tf.round(scaled), dtype), self.shape)


class ImagesInput:
    """The files, decoded, resized and scaled by TensorFlow, several at a time."""

    def __init__(self, files: list[Path], signature: Signature, spec: SessionSpec) -> None:
        name = only_input(str(spec.input), "a file is one image", signature, "write TFRecord files")
        self._name = name
        self._files = files
        self._skip = spec.on_error == "skip"
        self._picture = _picture(str(spec.input), name, signature.inputs[name], spec.image or ImageOptions())
        self.total: int | None = len(files)
        self.item_shapes: Shapes = {name: self._picture.shape}
        found = None if self._skip else self.fault(0, 1)
        if found is not None:
            raise refused(
                str(spec.input), f"item 0 is damaged: {found[1]}", 'write it again, or set on_error = "skip"', 0
            )

    @property
    def varies(self) -> bool:
        """Never: they are resized to one."""
        return False

    def batches(self, start: int, size: int) -> Iterator[Batch]:
        """tf.data reads and decodes ahead in its own threads."""
        paths = tf.data.Dataset.from_tensor_slices([os.fsencode(file) for file in self._files[start:]] or [b""])
        decode = tf.autograph.experimental.do_not_convert(self._picture.of)
        pictures = paths.take(len(self._files) - start).map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        if self._skip:
            yield from self._singly(iter(pictures.prefetch(BATCHES_AHEAD * size)), start, size)
            return
        for tensor in pictures.batch(size).prefetch(BATCHES_AHEAD):
            yield Batch(start, start + len(tensor), {self._name: tensor})
            start += len(tensor)

    def fault(self, start: int, end: int) -> tuple[int, str] | None:
        """The files are read again, one by one."""
        for item in range(start, end):
            try:
                self._picture.of(os.fsencode(self._files[item]))
            except (tf.errors.OpError, ValueError) as error:
                return item, self._why(item, error)
        return None

    def names(self) -> Iterator[str] | None:
        """The files' paths."""
        return (os.fsencode(file).decode("utf-8", "backslashreplace") for file in self._files)

    def _singly(self, pictures: Iterator[Any], start: int, size: int) -> Iterator[Batch]:
        """A batch cannot be had without those that fail, so they are taken one by one."""
        while start < len(self._files):
            end = min(start + size, len(self._files))
            sound, errors = [], {}
            for item in range(start, end):
                try:
                    sound.append(next(pictures))
                except (tf.errors.OpError, ValueError) as error:
                    if is_out_of_memory(error):
                        raise
                    _, errors[item] = self.fault(item, item + 1) or (
                        item,
                        self._why(item, error),
                    )  # read alone, it says why
            yield Batch(start, end, {self._name: tf.stack(sound)} if sound else None, errors)
            start = end

    def _why(self, item: int, error: Exception) -> str:
        return f"'{self._files[item]}': {first_line(error)}"


def _picture(called: str, name: str, wanted: Tensor, given: ImageOptions) -> Picture:
    """What the session says, filled up by what the model takes. Raises Refused (input) where they do not agree."""
    dtype, shape = tf.dtypes.as_dtype(wanted.dtype), wanted.item_shape
    if dtype == tf.string and shape in (None, ()):
        return Picture("string", None, 0, flat=False, resize=given.resize, scale=given.scale)
    if dtype == tf.string or dtype == tf.bool or dtype.is_complex or (shape is not None and len(shape) not in (2, 3)):
        why = f"an image has height, width and channels, but input '{name}' takes {wanted}"
        raise refused(called, why, "choose another model or signature")
    height, width, *rest = (None, None, given.channels) if shape is None else shape
    flat = not rest
    channels = given.channels or (1 if flat else rest[0]) or CHANNELS
    size = given.size or ((height, width) if height and width else None)
    if size is None:
        why = f"input '{name}' takes {wanted}, which leaves the size open"
        raise refused(called, why, "set image = { size = [height, width] }")
    picture = Picture(wanted.dtype, size, channels, flat, given.resize, given.scale)
    if not wanted.accepts(picture.shape) or (flat and channels != 1) or channels not in (1, 3, 4):
        have = shape_text((*size, channels))
        why = f"images become {have}, but input '{name}' takes {wanted}"
        raise refused(called, why, "set image = { size = …, channels = … } as the model takes them")
    if not dtype.is_floating and given.scale != "0..255":
        why = f"scale = \"{given.scale}\" gives fractions, but input '{name}' takes {wanted}"
        raise refused(called, why, 'set scale = "0..255" in image')
    return picture
