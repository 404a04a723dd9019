"""A SavedModel whose signature reaches other functions in every way that a graph has. Runs in a host's child."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.eager import context

from daemon.worker import device, models
from daemon.worker.staging import Wanted

SAVING = ("traced_save", "traced_restore")  # the functions that TensorFlow saves beside a model's own


def make(path: str) -> None:
    """Save it: y = 54 · x, by a call, a loop, a branch, and a function with a gradient of its own."""
    module = tf.Module()
    module.w = tf.Variable(2.0)
    doubled = tf.function(lambda x: x * module.w)

    @tf.custom_gradient  # type: ignore[misc]
    def watched(x: Any) -> Any:
        return tf.identity(x), lambda upstream: 3.0 * upstream

    def call(x: Any) -> Any:
        _, y = tf.while_loop(lambda n, _: n < 3, lambda n, y: (n + 1, y + doubled(y)), (0, doubled(x)))
        return {"y": tf.cond(tf.reduce_sum(y) > 0.0, lambda: watched(y), lambda: y)}

    signature = tf.function(call, input_signature=[tf.TensorSpec([None, 1], tf.float32, "x")])
    tf.saved_model.save(module, path, signatures=signature)
    saved = saved_model_pb2.SavedModel.FromString((Path(path) / "saved_model.pb").read_bytes())
    library = saved.meta_graphs[0].graph_def.library
    names = [function.signature.name for function in library.function]
    assert all(any(saving in name for name in names) for saving in SAVING), names
    assert library.registered_gradients


def stage(path: str) -> None:
    """Stage and load it, call it, and look which functions there are now."""
    model = models.stage(Path(path), Wanted(None, True), device.HOST, hold=True).load()
    rows = model.call({"x": tf.constant([[1.0], [2.0]])})["y"].numpy().tolist()
    assert rows == [[54.0], [108.0]], rows
    names = [str(name) for name in context.context().list_function_names()]
    assert any("while" in name for name in names), names
    assert not [name for name in names if any(saving in name for saving in SAVING)], names
