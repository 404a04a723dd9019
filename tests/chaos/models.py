"""Makes the models, and measures a call of each. A process of its own: the only part that imports TensorFlow.

`python -m tests.chaos.models FOLDER` leaves in FOLDER the models, some TFRecord inputs and `rates.json`. What a model
gives for an item tells which item that was: see `sessions.expected`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from tests.chaos.sessions import BATCH, FACTOR, OFFSET, RECORD_INPUTS

WIDTH: Final = 192  # of the matrices that take the time of a call
ROUNDS: Final = 12
CALLS: Final = 60


class Telling(tf.Module):  # type: ignore[misc]  # tensorflow is untyped
    """`y` tells the item, `z` does in three columns; both only after some matrices were multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable(np.random.default_rng(1).normal(size=(WIDTH, WIDTH)).astype(np.float32) / WIDTH)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "x")])  # type: ignore[untyped-decorator]
    def serve(self, x: Any) -> dict[str, Any]:
        heat = tf.fill([WIDTH, WIDTH], tf.cast(tf.reduce_max(x) % 7, tf.float32))
        for _ in range(ROUNDS):
            heat = tf.tanh(tf.matmul(heat, self.weights))
        nothing = tf.cast(tf.reduce_max(tf.abs(heat)) * 0.5, tf.int64)  # |tanh| < 1: always 0, and not known to be
        y = x * FACTOR + OFFSET + nothing
        return {"y": y, "z": tf.cast(tf.stack([x + 1, -x - 1, y], axis=1), tf.float64)}


def telling_keras() -> keras.Model:
    """The same `y`, in float32, of an input of two columns: the item's thousands, and the rest."""
    x = keras.Input((2,), name="x", dtype="float32")
    dense = keras.layers.Dense(1, name="y")
    model = keras.Model(x, {"y": dense(x)})
    dense.set_weights([np.array([[1000.0 * FACTOR], [FACTOR]], np.float32), np.array([OFFSET], np.float32)])
    return model


def records(path: Path, base: int, items: int) -> None:
    """A TFRecord file of so many items, from `base` on."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for item in range(base, base + items):
            example = tf.train.Example()
            example.features.feature["x"].int64_list.value.append(item)
            writer.write(example.SerializeToString())


def seconds_a_call(path: Path, batch: Any) -> float:
    """As a worker calls it: the loaded model's signature."""
    loaded = tf.saved_model.load(str(path)) if path.is_dir() else keras.models.load_model(path)
    function = loaded.signatures["serving_default"] if path.is_dir() else tf.function(loaded)
    argument = {"x": tf.constant(batch)} if path.is_dir() else {"inputs": tf.constant(batch)}
    for _ in range(5):
        function(**argument)
    began = time.perf_counter()
    for _ in range(CALLS):
        function(**argument)
    return (time.perf_counter() - began) / CALLS


def main(folder: Path) -> None:
    module = Telling()
    tf.saved_model.save(module, str(folder / "telling"), signatures=module.serve)
    telling_keras().save(folder / "telling.keras")
    for base, items in RECORD_INPUTS:
        records(folder / f"{base}.tfrecord", base, items)
    rates = {
        "telling": seconds_a_call(folder / "telling", np.arange(BATCH, dtype=np.int64)),
        "telling.keras": seconds_a_call(folder / "telling.keras", np.ones((BATCH, 2), np.float32)),
    }
    (folder / "rates.json").write_text(json.dumps(rates))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
