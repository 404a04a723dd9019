"""The digits: scikit-learn's 1,797 real 8×8 images, enlarged, split, turned and shifted; writers for both formats.

Everything follows from fixed seeds, so two runs make the same images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.ndimage import zoom
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SIDE = 32  # pixels of an enlarged image, each way
IMAGE_SHAPE = (SIDE, SIDE, 1)
PIXELS = SIDE // 2 * SIDE // 2  # of an image at half its size, as one row
HELD_OUT = 0.4  # of the real digits: never trained on, and the only ones the sessions classify
TURN_DEGREES = 12.0
SHIFT_PIXELS = 2.5
CHUNK = 2048  # images made at a time: what bounds the memory
SHARDS = 4  # files of one TFRecord input

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Digits:
    """Real digits: images uint8 of shape (n, 32, 32, 1), 0 to 255, and labels int64 of shape (n,)."""

    images: Images
    labels: Labels


def split_digits() -> tuple[Digits, Digits]:
    """The real digits, enlarged, as (the part to train on, the part held out)."""
    small, labels = load_digits(return_X_y=True)
    factor = SIDE // 8
    large = zoom(small.reshape(-1, 8, 8), (1, factor, factor), order=3, mode="nearest", grid_mode=True)
    images = np.clip(large * (255 / 16), 0, 255).astype(np.uint8)[..., None]
    parts = train_test_split(images, labels.astype(np.int64), test_size=HELD_OUT, stratify=labels, random_state=7)
    return Digits(parts[0], parts[2]), Digits(parts[1], parts[3])


def variations(digits: Digits, seed: int) -> Iterator[Digits]:
    """Without end, chunks of `digits` drawn at random, each turned and shifted a little."""
    random = np.random.default_rng(seed)
    while True:
        drawn = random.integers(len(digits.labels), size=CHUNK)
        moves = _moves(
            np.deg2rad(random.uniform(-TURN_DEGREES, TURN_DEGREES, CHUNK)),
            random.uniform(-SHIFT_PIXELS, SHIFT_PIXELS, (CHUNK, 2)),
        )
        moved = keras.ops.image.affine_transform(
            digits.images[drawn].astype(np.float32), moves, interpolation="bilinear", data_format="channels_last"
        )
        yield Digits(np.rint(np.asarray(moved)).astype(np.uint8), digits.labels[drawn])


def _moves(turns: npt.NDArray[np.float64], shifts: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Affine transforms, shape (n, 8), that turn (radians) about the image's centre, then shift (pixels)."""
    cos, sin = np.cos(turns), np.sin(turns)
    centre = (SIDE - 1) / 2
    across = centre - centre * cos + centre * sin + shifts[:, 0]
    down = centre - centre * sin - centre * cos + shifts[:, 1]
    zero = np.zeros_like(cos)
    return np.stack([cos, -sin, across, sin, cos, down, zero, zero], axis=1).astype(np.float32)


def pixels(images: Images) -> npt.NDArray[np.float32]:
    """The images at half their size, each pixel the mean of four, as rows: float32 of shape (n, 256), 0 to 255."""
    half = SIDE // 2
    means: npt.NDArray[np.float32] = images.reshape(-1, half, 2, half, 2).mean(axis=(2, 4), dtype=np.float32)
    return means.reshape(-1, PIXELS)


def take(digits: Digits, seed: int, items: int) -> Iterator[Digits]:
    """The first `items` of `variations`, still in chunks."""
    chunks = -(-items // CHUNK)
    for number, chunk in enumerate(islice(variations(digits, seed), chunks)):
        wanted = min(CHUNK, items - number * CHUNK)
        yield Digits(chunk.images[:wanted], chunk.labels[:wanted])


def collect(chunks: Iterator[Digits]) -> Digits:
    """All chunks as one."""
    made = list(chunks)
    return Digits(np.concatenate([chunk.images for chunk in made]), np.concatenate([chunk.labels for chunk in made]))


def write_npy(path: Path, chunks: Iterator[Digits], items: int) -> Labels:
    """Write the images as one .npy file of shape (items, 32, 32, 1), chunk by chunk; the labels come back."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (items, *IMAGE_SHAPE)}
    labels = []
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(chunk.images.tobytes())
            labels.append(chunk.labels)
    return np.concatenate(labels)


def write_tfrecords(pattern: Path, chunks: Iterator[Digits], items: int, feature: str) -> Labels:
    """Write the images as SHARDS files of tf.train.Example, `feature` their `pixels`; the labels come back.

    Args:
        pattern: the files' path, with a `*` where the number of the shard goes.
    """
    labels: list[Labels] = []
    examples = _examples(chunks, feature, labels)
    for shard in range(SHARDS):
        share = items * (shard + 1) // SHARDS - items * shard // SHARDS
        name = pattern.name.replace("*", f"{shard:05d}-of-{SHARDS:05d}")
        with tf.io.TFRecordWriter(str(pattern.with_name(name))) as writer:
            for example in islice(examples, share):
                writer.write(example)
    return np.concatenate(labels)


def _examples(chunks: Iterator[Digits], feature: str, labels: list[Labels]) -> Iterator[bytes]:
    for chunk in chunks:
        labels.append(chunk.labels)
        for row in pixels(chunk.images).tolist():
            values = tf.train.Feature(float_list=tf.train.FloatList(value=row))
            yield tf.train.Example(features=tf.train.Features(feature={feature: values})).SerializeToString()


def read_batches(source: Path, feature: str, batch_size: int) -> Iterator[npt.NDArray[Any]]:
    """A session's input, a .npy file or a glob of TFRecords, in batches as its model takes them."""
    if source.suffix == ".npy":
        rows = np.load(source, mmap_mode="r")
        for first in range(0, len(rows), batch_size):
            yield rows[first : first + batch_size]
        return
    files = sorted(str(path) for path in source.parent.glob(source.name))
    layout = {feature: tf.io.FixedLenFeature((PIXELS,), tf.float32)}
    for records in tf.data.TFRecordDataset(files).batch(batch_size):
        yield tf.io.parse_example(records, layout)[feature].numpy()
