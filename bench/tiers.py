"""What a standby saves, in seconds: for `staged`, for `staged` to `warm`, for a plain load with first call.

    python bench/tiers.py

Each figure is of a process of its own that has TensorFlow imported, with the model's files in the page cache; medians
of ROUNDS. Measures the models on this host's CPU; decides nothing, and is no test.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
import tensorflow as tf

from bench.worker import in_a_child
from daemon.worker import device, models

ROUNDS = 3
BATCH = 8
WIDTH, LAYERS = 5600, 4  # 502 MB of float32


def make_dense(path: Path) -> None:
    module = tf.Module()
    module.layers = [tf.Variable(tf.random.normal([WIDTH, WIDTH], stddev=0.01)) for _ in range(LAYERS)]

    def call(x: Any) -> Any:
        for layer in module.layers:
            x = tf.nn.relu(x @ layer)
        return {"y": x}

    spec = [tf.TensorSpec([None, WIDTH], tf.float32, "x")]
    tf.saved_model.save(module, str(path), signatures=tf.function(call, input_signature=spec))


def make_dense_export(path: Path) -> None:
    layers = [keras.layers.Dense(WIDTH, "relu") for _ in range(LAYERS)]
    keras.Sequential([keras.Input((WIDTH,)), *layers]).export(str(path), verbose=False)


def make_resnet_export(path: Path) -> None:
    keras.applications.ResNet50(weights=None).export(str(path), verbose=False)


def make_resnet_keras(path: Path) -> None:
    keras.applications.ResNet50(weights=None).save(path)


MODELS: dict[str, Callable[[Path], None]] = {
    "dense": make_dense,
    "dense-export": make_dense_export,
    "resnet50-export": make_resnet_export,
    "resnet50.keras": make_resnet_keras,
}


def batch_for(path: Path) -> dict[str, tf.Tensor]:
    signature = models.describe(path, None)
    (name,) = signature.inputs
    item = [size or 1 for size in signature.inputs[name].item_shape or ()]
    return {name: tf.constant(np.random.default_rng(1).random((BATCH, *item), np.float32))}


def staged(path: Path) -> list[float]:
    """Seconds up to `staged`, and from there through the first call."""
    batch = batch_for(path)
    began = time.monotonic()
    model = models.stage(path, None, device.HOST, hold=True)
    ready = time.monotonic()
    model.load().call(batch)
    return [ready - began, time.monotonic() - ready]


def plain(path: Path) -> list[float]:
    """Seconds of TensorFlow's or Keras' own load, and of the first call."""
    batch = batch_for(path)
    began = time.monotonic()
    if path.is_dir():
        loaded = tf.saved_model.load(str(path))
        call = loaded.signatures["serving_default"]
    else:
        model = keras.saving.load_model(path, compile=False)
        call = tf.function(lambda **inputs: model(list(inputs.values()), training=False), autograph=False)
    ready = time.monotonic()
    call(**batch)
    return [ready - began, time.monotonic() - ready]


def direct(path: Path) -> list[float]:
    """Seconds of our own way from `imported` to `warm`, without a stop between."""
    batch = batch_for(path)
    began = time.monotonic()
    models.stage(path, None, device.HOST, hold=False).load().call(batch)
    return [time.monotonic() - began]


def medians(function: Callable[[Path], list[float]], path: Path) -> list[float]:
    rounds = [in_a_child(function, path) for _ in range(ROUNDS)]
    return [statistics.median(values) for values in zip(*rounds, strict=True)]


def main() -> None:
    print(f"{'model':18}{'staged':>9}{'to warm':>9}{'direct':>9}{'load':>9}{'call':>9}{'to warm / plain':>17}")
    with tempfile.TemporaryDirectory() as folder:
        for name, make in MODELS.items():
            path = Path(folder) / name
            in_a_child(make, path)
            up, on = medians(staged, path)
            (straight,) = medians(direct, path)
            load, call = medians(plain, path)
            seconds = "".join(f"{value:8.2f}s" for value in (up, on, straight, load, call))
            print(f"{name:18}{seconds}{on / (load + call):17.2f}", flush=True)


if __name__ == "__main__":
    main()
