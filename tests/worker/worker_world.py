"""Makes the small models and inputs that the tests use, and what each model gives for them. Runs in a host's child."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

ITEMS = 50
MANY = 20_000


def make(folder: str) -> None:
    root = Path(folder)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(ITEMS, 4)).astype(np.float32)
    np.save(root / "x.npy", x)
    np.save(root / "many.npy", rng.normal(size=(MANY, 4)).astype(np.float32))
    np.save(root / "double.npy", x.astype(np.float64))
    np.save(root / "wide.npy", np.zeros((ITEMS, 5), np.float32))
    np.save(root / "empty.npy", np.zeros((0, 4), np.float32))
    spoilt = np.abs(x)
    spoilt[37, 2] = -1
    np.save(root / "spoilt.npy", spoilt)
    for name, items, bad in (
        ("late", 650, slice(0, 600)),
        ("few", MANY, slice(0, None, 997)),
        ("none", 8, slice(None)),
    ):
        spoilt = np.abs(rng.normal(size=(items, 4)).astype(np.float32))
        spoilt[bad, 1] = -1
        np.save(root / f"{name}.npy", spoilt)
    content = (root / "x.npy").read_bytes()
    (root / "cut.npy").write_bytes(content[:-7])
    (root / "garbage.npy").write_bytes(b"no array at all")
    records(root / "x-0.tfrecord", [{"x": row} for row in x[:20]])
    records(root / "x-1.tfrecord", [{"x": row} for row in x[20:]])
    records(root / "other.tfrecord", [{"pixels": row} for row in x])
    records(root / "wide.tfrecord", [{"x": np.zeros(5, np.float32)}])
    content = (root / "x-0.tfrecord").read_bytes()
    (root / "cut.tfrecord").write_bytes(content[:-3])
    damaged = bytearray(content)
    damaged[len(content) // 20 * 10 + 20] ^= 0xFF  # in the data of record 10 of 20
    (root / "damaged.tfrecord").write_bytes(damaged)
    damaged_in_every_way(root, x)
    (root / "garbage.tfrecord").write_bytes(b"this is a text, and no record of anything")
    (root / "empty.tfrecord").touch()
    mixed(root, rng)
    saved_models(root, x)
    keras_models(root, x)


def damaged_in_every_way(root: Path, x: np.ndarray) -> None:
    """bad.tfrecord: the first 20 rows of x, of which 0, 3, 7, 12, 14 and 18 are bad, and 19 is lost behind 18."""
    path = root / "bad.tfrecord"
    offsets = []
    with tf.io.TFRecordWriter(str(path)) as writer:
        for item, row in enumerate(x[:20]):
            example = tf.train.Example()
            name = "z" if item == 3 else "x"
            example.features.feature[name].float_list.value.extend([*row, 1.0] if item == 7 else row)
            writer.write(b"\xff no message" if item == 0 else example.SerializeToString())
            writer.flush()
            offsets.append(path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[offsets[11] + 20] ^= 0xFF  # in the data of record 12
    content[offsets[13] + 9] ^= 0xFF  # in the checksum of the length of record 14
    content[offsets[17]] ^= 0x01  # in the length of record 18: it leads to another byte of the file
    path.write_bytes(content)


def records(path: Path, items: list[dict[str, np.ndarray | bytes]]) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for item in items:
            example = tf.train.Example()
            for name, value in item.items():
                feature = example.features.feature[name]
                if isinstance(value, bytes):
                    feature.bytes_list.value.append(value)
                elif value.dtype.kind == "f":
                    feature.float_list.value.extend(value.ravel().tolist())
                else:
                    feature.int64_list.value.extend(value.ravel().tolist())
            writer.write(example.SerializeToString())


def save(module: tf.Module, path: Path, **functions: Any) -> None:
    tf.saved_model.save(module, str(path), signatures=functions)


def mixed(root: Path, rng: np.random.Generator) -> None:
    """Three inputs of three kinds: floats, an integer scalar, and an image as raw bytes."""
    module = tf.Module()

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 3], tf.float32, "a"),
            tf.TensorSpec([None], tf.int32, "n"),
            tf.TensorSpec([None, 2, 2], tf.uint8, "image"),
        ]
    )
    def call(a: Any, n: Any, image: Any) -> Any:
        image_sum = tf.reduce_sum(tf.cast(image, tf.int32), [1, 2])
        return {"sum": tf.reduce_sum(a, 1) + tf.cast(n + image_sum, tf.float32)}

    save(module, root / "mixed", serving_default=call)
    a = rng.normal(size=(ITEMS, 3)).astype(np.float32)
    n = rng.integers(-5, 5, ITEMS)
    image = rng.integers(0, 255, (ITEMS, 2, 2)).astype(np.uint8)
    items: list[Any] = [{"a": a[i], "n": n[i : i + 1], "image": image[i].tobytes()} for i in range(ITEMS)]
    records(root / "mixed.tfrecord", items)
    np.save(root / "mixed.sum.npy", call(a, n.astype(np.int32), image)["sum"].numpy())


class Affine(tf.Module):
    """y = x · weights + 1, with the position of its largest value."""

    def __init__(self) -> None:
        self.weights = tf.Variable(tf.random.stateless_normal([4, 3], [1, 2]))

    def free(self, x: Any) -> Any:
        y = x @ self.weights + 1.0
        return {"y": y, "label": tf.argmax(y, 1)}

    def checked(self, x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_non_negative(x, "a negative pixel")]):
            return self.free(tf.identity(x))

    def flagged(self, x: Any) -> Any:
        return self.checked(x) | {"positive": x[:, 0] > 0, "count": tf.ones_like(x[:, 0], tf.int32)}

    def text(self, x: Any) -> Any:
        return {"text": tf.as_string(x[:, 0])}

    def half(self, x: Any) -> Any:
        return {"y": tf.cast(self.free(x)["y"], tf.bfloat16)}

    def whole(self, x: Any) -> Any:
        return {"mean": tf.reduce_mean(x)}


def saved_models(root: Path, x: np.ndarray) -> None:
    affine = Affine()
    free = tf.TensorSpec([None, 4], tf.float32, "x")

    def function(method: Any, spec: Any = free) -> Any:
        return tf.function(method, input_signature=[spec])

    save(affine, root / "affine", serving_default=function(affine.free))
    save(affine, root / "fixed", serving_default=function(affine.free, tf.TensorSpec([8, 4], tf.float32, "x")))
    save(affine, root / "checked", serving_default=function(affine.checked))
    save(affine, root / "flagged", serving_default=function(affine.flagged, tf.TensorSpec([8, 4], tf.float32, "x")))
    save(affine, root / "two", first=function(affine.free), second=function(affine.half))
    save(affine, root / "text", serving_default=function(affine.text))
    save(affine, root / "whole", serving_default=function(affine.whole))
    save(affine, root / "weightless", serving_default=function(affine.free))
    for part in (root / "weightless" / "variables").iterdir():
        part.unlink()
    expected = affine.free(x)
    np.save(root / "affine.y.npy", expected["y"].numpy())
    np.save(root / "affine.label.npy", expected["label"].numpy())
    np.save(root / "half.y.npy", affine.half(x)["y"].numpy().astype(np.float32))
    for name in ("spoilt", "late", "few"):
        np.save(root / f"{name}.y.npy", affine.free(np.load(root / f"{name}.npy"))["y"].numpy())
    np.save(root / "many.y.npy", affine.free(np.load(root / "many.npy"))["y"].numpy())
    (root / "no_model").mkdir()
    (root / "no_model" / "readme.txt").touch()


def keras_models(root: Path, x: np.ndarray) -> None:
    layers = keras.layers
    given = keras.Input((4,), name="x")
    hidden = layers.Dropout(0.5)(layers.Dense(8, activation="relu")(given))
    functional = keras.Model(given, {"a": layers.Dense(3)(hidden), "b": layers.Dense(2)(hidden)})
    functional.save(root / "functional.keras")
    functional.export(str(root / "exported"), verbose=False)
    for name, value in functional(x, training=False).items():
        np.save(root / f"functional.{name}.npy", value.numpy())
    sequential = keras.Sequential([given, layers.Dense(3, name="last")])
    sequential.save(root / "sequential.keras")
    np.save(root / "sequential.last.npy", sequential(x).numpy())
    with_code = keras.Sequential([given, layers.Lambda(lambda value: value + 1)])
    with_code.save(root / "with_code.keras")
    (root / "garbage.keras").write_bytes(b"no zip file")


def survey_unwritable(folder: str) -> None:
    """As a user without privileges: a folder that may not be written, and one that may not even be looked into."""
    from daemon.worker import folder as output
    from daemon.worker.failures import Refused

    root = Path(folder)
    for name, mode in (("shut", 0o555), ("hidden", 0o000)):
        (root / name).mkdir()
        (root / name).chmod(mode)
    os.chdir(root)  # held open: the folders above may be closed to that user
    if os.geteuid() == 0:
        os.setuid(65534)
    identity = output.Identity("s", "m", "i", 1, "serving_default")
    for name in ("shut", "shut/out", "hidden/out"):
        with pytest.raises(Refused) as refused:
            output.survey(Path(name), identity, overwrite=False, resume=False)
        assert refused.value.key == "output"
        print(refused.value.reason)


def make_mean(path: str) -> None:
    """A model that gives the mean of each row, however long it is."""

    def call(x: Any) -> Any:
        return {"mean": tf.reduce_mean(x, 1)}

    spec = tf.TensorSpec([None, None], tf.float32, "x")
    save(tf.Module(), Path(path), serving_default=tf.function(call, input_signature=[spec]))
