"""Makes the models and inputs of the TensorFlow story, in a process of its own: who tests needs no TensorFlow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.batond import ROOT

ITEMS = 50
MANY = 20_000


def make(folder: Path) -> None:
    """`affine` and `two_heads`, SavedModels over rows of four floats; `many.npy` and `x.npy`."""
    command = [sys.executable, "-m", "tests.crashpoints.models", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def _make(folder: Path) -> None:
    import numpy as np
    import tensorflow as tf

    rng = np.random.default_rng(1)
    np.save(folder / "many.npy", rng.normal(size=(MANY, 4)).astype(np.float32))
    np.save(folder / "x.npy", rng.normal(size=(ITEMS, 4)).astype(np.float32))
    module = tf.Module()
    module.weights = tf.Variable(tf.random.stateless_normal([4, 3], [1, 2]))
    signature = [tf.TensorSpec([None, 4], tf.float32, "x")]

    def affine(x: Any) -> Any:
        return {"y": x @ module.weights + 1.0}

    def two_heads(x: Any) -> Any:
        y = x @ module.weights
        return {"y": y, "label": tf.argmax(y, 1)}

    for call in (affine, two_heads):
        tf.saved_model.save(
            module, str(folder / call.__name__), signatures=tf.function(call, input_signature=signature)
        )


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
