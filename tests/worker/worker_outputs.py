"""Models whose outputs are hard to keep, made in a process that has TensorFlow. Tests nothing itself."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

BAD = [3, 20, 21, 49]  # items of some_bad.npy


def make(folder: str) -> None:
    """In the folder of worker_world.make."""
    root = Path(folder)
    module = tf.Module()
    spec = tf.TensorSpec([None, 4], tf.float32, "x")

    def save(name: str, method: Any) -> None:
        function = tf.function(method, input_signature=[spec])
        tf.saved_model.save(module, str(root / name), signatures={"serving_default": function})

    def spread(x: Any) -> Any:
        """Rows as wide as there are items in the call, in numbers, text and pairs of numbers."""
        with tf.control_dependencies([tf.debugging.assert_non_negative(x, "a negative pixel")]):
            wide = tf.tile(x[:, :1], [1, tf.shape(x)[0]])
        return {"wide": wide, "text": tf.as_string(wide), "pairs": tf.stack([wide, wide], 2)}

    save("twins", lambda x: {"a/b": x * 2.0, "a_b": x * 3.0})
    save("spread", spread)
    x = np.abs(np.load(root / "x.npy"))
    x[BAD, 1] = -1
    np.save(root / "some_bad.npy", x)


def reopened_in_vain(folder: str) -> None:
    """Files that are gone on from, where the last of them is not what it should be: none is left open."""
    from daemon.worker.failures import Refused
    from daemon.worker.folder import PARTIAL
    from daemon.worker.npyrows import NpyRows

    directory = Path(folder)
    results = {name: np.zeros((8, 3), np.float32) for name in "abc"}
    for total in (8, None):
        written = NpyRows(directory, total)
        outputs = written.describe(results)
        written.create(outputs, 0)
        written.put(0, 8, results, ())
        sound = (directory / f"c.npy{PARTIAL}").read_bytes()
        for damaged in (sound[:-20], b"no array", sound[:20] + b"(((" + sound[23:], sound.replace(b"3)", b"4)"), None):
            if damaged is None:
                (directory / f"c.npy{PARTIAL}").unlink()
            else:
                (directory / f"c.npy{PARTIAL}").write_bytes(damaged)
            with warnings.catch_warnings(record=True, action="always", category=ResourceWarning) as left_open:
                with pytest.raises(Refused, match=r"'c.npy' is not what session.json says of it"):
                    NpyRows(directory, total).reopen(outputs, 8, 0)
                gc.collect()
            assert not left_open
        (directory / f"c.npy{PARTIAL}").write_bytes(sound)
        NpyRows(directory, total).reopen(outputs, 8, 0)
