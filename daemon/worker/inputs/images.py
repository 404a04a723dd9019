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

RANGES: Final = {  # factor and offset, of values up to 255
    "0..255": (1.0, 0.0),
    "0..65535": (257.0, 0.0),
    "0..1": (1 / 255, 0.0),
    "-1..1": (1 / 127.5, -1.0),
}
HIGHEST: Final = {"0..255": 255, "0..65535": 65535}  # of the ranges that integers have
CHANNELS: Final = 3  # where neither the model nor the session says
COUNTS: Final = (1, 3, 4)  # of channels: grey, RGB, RGBA
ARRAYS: Final = "write the images as arrays (.npy) of what it takes"
PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
DEPTH_AT: Final = 24  # the byte that tells how many bits a channel has: https://www.w3.org/TR/png-3/#11IHDR


@dataclass(frozen=True)
class Picture:
    """What a file becomes. size: height and width; None: the file's bytes as they are, for a model that decodes."""

    dtype: str
    size: tuple[int, int] | None
    channels: int
    flat: bool  # the model takes no dimension for the one channel
    channels_first: bool  # the model takes them before height and width
    resize: str
    scale: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item."""
        if self.size is None:
            return ()
        if self.flat:
            return self.size
        return (self.channels, *self.size) if self.channels_first else (*self.size, self.channels)

    def of(self, path: Any) -> Any:
        """The tensor of the file at `path`, a scalar string. Raises what TensorFlow does."""
        content = tf.io.read_file(path)
        if self.size is None:
            return content
        resized = tf.cond(
            _is_png_of(16, content),  # decoded as 8, the lower half of each value would be cut off
            lambda: self._resized(content, tf.uint16) / 257.0,  # 65535 becomes 255: as 8 bits, but with fractions
            lambda: self._resized(content, tf.uint8),
        )
        factor, offset = RANGES[self.scale]
        dtype = tf.dtypes.as_dtype(self.dtype)
        scaled = resized * factor + offset if (factor, offset) != (1.0, 0.0) else resized
        values = tf.saturate_cast(scaled if dtype.is_floating else tf.round(scaled), dtype)
        return tf.reshape(tf.transpose(values, [2, 0, 1]) if self.channels_first else values, self.shape)

    def _resized(self, content: Any, held: tf.DType) -> Any:
        pixels = tf.io.decode_image(content, self.channels, held, expand_animations=False)
        pixels.set_shape([None, None, self.channels])
        pixels = _opaque(pixels, content) if self.channels == 4 and held == tf.uint8 else pixels
        return tf.cast(tf.image.resize(pixels, self.size, self.resize), tf.float32)


def _is_png_of(bits: int, content: Any) -> Any:
    """Whether it is a PNG file with so many bits a channel, or an entry of its palette."""
    depth = tf.strings.substr(content, tf.minimum(DEPTH_AT, tf.strings.length(content)), 1)
    return (tf.strings.substr(content, 0, len(PNG_MAGIC)) == PNG_MAGIC) & (depth == bytes([bits]))


def _opaque(pixels: Any, content: Any) -> Any:
    """RGBA pixels of bytes, with the right alpha where a PNG file has none.

    Of one with less than 8 bits TensorFlow makes it 1, 3 or 15, the most that so many bits hold, where opaque is 255.
    """
    alpha = pixels[..., 3:]
    for bits in (1, 2, 4):
        is_filled = _is_png_of(bits, content) & tf.reduce_all(alpha == tf.constant((1 << bits) - 1, tf.uint8))
        alpha = tf.where(is_filled, tf.constant(255, tf.uint8), alpha)
    return tf.concat([pixels[..., :3], alpha], axis=2)


class ImagesInput:
    """The files, decoded, resized and scaled by TensorFlow, several at a time."""

    def __init__(self, files: list[Path], signature: Signature, spec: SessionSpec) -> None:
        name = only_input(str(spec.input), "a file is one image", signature, "write TFRecord files")
        self._name = name
        self._files = [os.fsencode(file) for file in files]  # a Path takes several times as much memory
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
        paths = tf.data.Dataset.from_tensor_slices(self._files[start:] or [b""])
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
                self._picture.of(self._files[item])
            except (tf.errors.OpError, ValueError) as error:
                return item, self._why(item, error)
        return None

    def names(self) -> Iterator[str] | None:
        """The files' paths."""
        return map(_shown, self._files)

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
        return f"'{_shown(self._files[item])}': {first_line(error)}"


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def _picture(called: str, name: str, wanted: Tensor, given: ImageOptions) -> Picture:
    """What the session says, filled up by what the model takes. Raises Refused (input) where they do not agree."""
    dtype, shape = tf.dtypes.as_dtype(wanted.dtype), wanted.item_shape
    if dtype == tf.string and shape in (None, ()):
        return Picture("string", None, 0, flat=False, channels_first=False, resize=given.resize, scale=given.scale)
    if not (dtype.is_floating or dtype.is_integer) or (shape is not None and len(shape) not in (2, 3)):
        why = f"an image has height, width and channels, but input '{name}' takes {wanted}"
        raise refused(called, why, "choose another model or signature")
    height, width, *rest = (None, None, given.channels) if shape is None else shape
    channels_first = bool(rest) and height in COUNTS and rest[0] not in COUNTS
    if channels_first:
        height, width, rest = width, rest[0], [height]
    flat = not rest
    channels = given.channels or (1 if flat else rest[0]) or CHANNELS
    size = given.size or ((height, width) if height and width else None)
    if size is None:
        why = f"input '{name}' takes {wanted}, which leaves the size open"
        raise refused(called, why, "set image = { size = [height, width] }")
    picture = Picture(
        wanted.dtype, size, channels, flat=flat, channels_first=channels_first, resize=given.resize, scale=given.scale
    )
    if not wanted.accepts(picture.shape) or (flat and channels != 1) or channels not in COUNTS:
        why = f"images become {shape_text(picture.shape)}, but input '{name}' takes {wanted}"
        is_told = given.size is not None or given.channels is not None
        remedy = "set image = { size = …, channels = … } as the model takes them" if is_told else ARRAYS
        raise refused(called, why, remedy)
    if dtype.is_integer and given.scale not in HIGHEST:
        why = f"scale = \"{given.scale}\" gives fractions, but input '{name}' takes {wanted}"
        raise refused(called, why, 'set scale = "0..255" in image')
    if HIGHEST.get(given.scale, 0) > dtype.max:
        why = f"scale = \"{given.scale}\" gives values up to {HIGHEST[given.scale]}, but input '{name}' takes {wanted}"
        raise refused(called, why, f"set a smaller one in image; or {ARRAYS}")
    return picture
