"""SavedModels of TensorFlow 1, run in a session of their own, as they were meant to be. Knows no other format.

`tf.saved_model.load` makes functions of them, and fails on some with reference variables below a device; a session
takes them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.saved_model import loader_impl

from daemon.worker import device
from daemon.worker.signature import Signature
from daemon.worker.staging import Model, Staged, Value

tf1 = tf.compat.v1


def stage(path: Path, graph: Any, signature: Signature, target: str) -> Staged:
    """Its graph, placed on `target`; ops without a kernel there go where they have one.

    graph: the MetaGraphDef. No session is there yet, so nothing of the device is taken. Values are not read into the
    host's memory ahead: how they are read is written in the graph itself. The files are in the page cache by then.
    """
    loader = loader_impl.SavedModelLoader(str(path))
    tags = list(graph.meta_info_def.tags)
    placed = tf.Graph()
    with placed.as_default(), placed.device(target):
        saver, _ = loader.load_graph(placed, tags, clear_devices=True)
    definition = graph.signature_def[signature.name]

    def load() -> Model:
        session = tf1.Session(graph=placed)  # on the devices of this process, their memory limits included
        try:
            loader.restore_variables(session, saver)
            loader.run_init_ops(session, tags)  # tables are filled, from assets too
            call = _callable(session, definition, signature)
        except BaseException:  # whatever it is goes on: only the session must not stay open
            session.close()
            raise
        return Model(signature, call, inputs_at=device.HOST, close=session.close)

    return Staged(signature, load)


def _callable(session: Any, definition: Any, signature: Signature) -> Any:
    """definition: the SignatureDef. What it gives is the host's already."""
    fed = [definition.inputs[name].name for name in signature.inputs]
    fetched = {name: _tensor_names(definition.outputs[name]) for name in signature.outputs}
    run = session.make_callable(fetched, fed)

    def call(inputs: Mapping[str, tf.Tensor]) -> Mapping[str, Value]:
        results = run(*(inputs[name].numpy() for name in signature.inputs))
        return {name: _value(*parts) for name, parts in results.items()}

    return call


def _tensor_names(info: Any) -> list[str]:
    """What to fetch of an output (a TensorInfo); of a ragged one, its values and the splits of their rows."""
    if info.WhichOneof("encoding") == "composite_tensor":
        return [component.name for component in info.composite_tensor.components]
    return [info.name]


def _value(values: np.ndarray, *splits: np.ndarray) -> Value:
    return tf.RaggedTensor.from_nested_row_splits(values, splits) if splits else values
