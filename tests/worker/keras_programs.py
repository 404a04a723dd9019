"""Programs that call Keras' fit as sessions, run in forked children that have TensorFlow imported. Tests nothing."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROWS, BATCH = 32, 8  # four steps an epoch
EPOCHS = 3


def batches() -> Iterator[tuple[Any, Any]]:
    """The rows, in order, as something that does not know its length."""
    x, y = rows()
    for first in range(0, ROWS, BATCH):
        yield x[first : first + BATCH], y[first : first + BATCH]


def rows() -> tuple[Any, Any]:
    """x of shape (32, 4), y of shape (32, 1); always the same."""
    import numpy as np

    x = np.random.default_rng(3).normal(size=(ROWS, 4)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def model(steps_at_once: int = 1) -> Any:
    """With an optimizer that remembers, and a layer that draws at random: what has to be kept besides weights."""
    import keras

    keras.utils.set_random_seed(7)
    made = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    )
    made.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse", steps_per_execution=steps_at_once)
    return made


def train(options: dict[str, Any], fd: int) -> None:
    """One session of a fit; `told` in its folder says how it came out.

    hold: after so many steps of this run, wait to be drained; die: after so many, be gone.
    """
    import keras
    import tensorflow as tf

    import baton

    folder = Path(options["folder"])
    os.environ["BATON_FD"] = str(fd)
    baton.PROGRESS_INTERVAL_S = 0.0
    with baton.session() as session:
        made = model(options.get("at_once", 1))
        keep = session.keras_callback(made, checkpoint=folder / "kept" if options.get("keep") else None)
        seen: list[tuple[int, int]] = []

        class Watch(keras.callbacks.Callback):  # type: ignore[misc]
            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                self.epoch = epoch

            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                seen.append((self.epoch, batch))
                if len(seen) == options.get("die"):
                    os._exit(9)
                if len(seen) == options.get("hold"):
                    (folder / "holding").touch()
                    while not session.draining:
                        time.sleep(0.01)  # part of the program: nothing tells it that the order came

        if options.get("unknown"):
            signature = (tf.TensorSpec((None, 4), tf.float32), tf.TensorSpec((None, 1), tf.float32))
            data = (tf.data.Dataset.from_generator(batches, output_signature=signature),)
        else:
            data = rows()
        more = {} if options.get("unknown") else {"batch_size": BATCH, "shuffle": False}
        stop = [keras.callbacks.EarlyStopping("loss", start_from_epoch=1, patience=0, baseline=-1.0)]
        made.fit(
            *data,
            epochs=options.get("epochs", EPOCHS),
            initial_epoch=options.get("initial_epoch", keep.initial_epoch),
            callbacks=[Watch(), keep, *(stop if options.get("early") else [])],
            verbose=0,
            **more,
        )
        if options.get("raises"):
            raise RuntimeError("after the fit")
    weights = b"".join(value.tobytes() for value in made.get_weights())
    told = {
        "weights": hashlib.sha256(weights).hexdigest(),
        "trained": int(made.optimizer.iterations.numpy()),
        "finished": keep.finished,
        "seen": seen,
        "kept": (folder / "kept" / "state.json").exists(),
    }
    (folder / "told").write_text(json.dumps(told))
