"""SavedModels of TensorFlow 2, staged by graph and weights apart. Reads no signature's definition, and no batch.

What it cannot take apart it loads whole, as TensorFlow does.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2

from daemon.worker import device
from daemon.worker.failures import first_line, is_out_of_memory
from daemon.worker.signature import Signature
from daemon.worker.staging import Model, Staged, note_unstaged

VARIABLES: Final = "variables/variables"  # the checkpoint, below the directory
ASSETS: Final = "assets"
OBJECT_GRAPH_KEY: Final = "_CHECKPOINTABLE_OBJECT_GRAPH"  # where a checkpoint says which object each value is of
VARIABLE_VALUE: Final = "VARIABLE_VALUE"
HARMLESS_ATTRIBUTES: Final = frozenset({VARIABLE_VALUE, "OBJECT_CONFIG_JSON"})  # the second is Keras 2's, for people
COPIED_LIMIT_BYTES: Final = 64 << 20  # of a graph with its constants; a larger one is loaded as it is
KERAS_COPIES: Final = "_all_variables"  # the attribute below which export() keeps every weight once more

_copies = itertools.count()


def stage(path: Path, graph: Any, signature: Signature, target: str, *, hold: bool) -> Staged:
    """Its graph on `target`, with variables that hold nothing yet; with `hold` their values in the host's memory.

    graph: the MetaGraphDef. Handles of variables take no memory of the device; constants that a function captures are
    the graph's, and do. Raises what TensorFlow does for a checkpoint that is missing or damaged.
    """
    try:
        with tf.device(target):
            loaded = _loaded_empty(path, graph)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if hold:
            note_unstaged(path, f"its graph cannot be built without them ({first_line(error)})")
        return Staged(signature, lambda: _load_whole(path, signature, target))  # so it may do
    variables = _matched(loaded, loaded.signatures[signature.name].variables, path)
    if isinstance(variables, str):
        if hold:
            note_unstaged(path, variables)
        return Staged(signature, lambda: _read_whole(path, loaded, signature, target))
    held = _values(path, variables) if hold else {}

    def load() -> Model:
        for key, variable in variables.items():
            value = held.pop(key) if hold else _values(path, {key: variable})[key]
            with tf.device(target):
                variable.assign(value, read_value=False)
        return _model(loaded, signature, target)

    return Staged(signature, load)


def _load_whole(path: Path, signature: Signature, target: str) -> Model:
    with tf.device(target):
        return _model(tf.saved_model.load(str(path)), signature, target)


def _read_whole(path: Path, loaded: Any, signature: Signature, target: str) -> Model:
    """All that the checkpoint has for it, tables too, but not what Keras' export() saves a second time."""
    if hasattr(loaded, KERAS_COPIES):
        delattr(loaded, KERAS_COPIES)
    with tf.device(target):
        tf.train.Checkpoint(root=loaded).read(str(path / VARIABLES)).assert_existing_objects_matched()
    return _model(loaded, signature, target)


def _model(loaded: Any, signature: Signature, target: str) -> Model:
    function = loaded.signatures[signature.name]

    def call(inputs: Mapping[str, tf.Tensor], keep: object = loaded) -> Mapping[str, tf.Tensor | tf.RaggedTensor]:
        del keep  # the function holds its variables weakly: they must not go before it
        with tf.device(target):
            return function(**inputs)

    return Model(signature, call, inputs_at=target)


def _loaded_empty(path: Path, graph: Any) -> Any:
    """The model without values, and without what nobody computes with, where that is worth a copy of its graph.

    TensorFlow's loader builds every function of the library, with Python, operation by operation; two of them save and
    restore each variable, and can be most of a model's operations. And Keras 2 says which variables are slots of its
    legacy optimizers: with Keras 3 `tf.saved_model.load` fails on that ("'_UserObject' object has no attribute
    'add_slot'"). What is left is read from TensorFlow's file system in memory.
    """
    options = tf.saved_model.LoadOptions(experimental_skip_checkpoint=True)
    slots = any(node.slot_variables for node in graph.object_graph_def.nodes)
    needed = _reachable(graph)
    library = graph.graph_def.library.function
    is_small = graph.ByteSize() < COPIED_LIMIT_BYTES
    if not slots and not (is_small and any(function.signature.name not in needed for function in library)):
        return tf.saved_model.load(str(path), options=options)
    stripped = saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=[graph])
    (copied,) = stripped.meta_graphs
    for node in copied.object_graph_def.nodes:
        node.ClearField("slot_variables")
    kept = [function for function in library if function.signature.name in needed]
    copied.graph_def.library.ClearField("function")
    copied.graph_def.library.function.extend(kept)
    for asset in copied.asset_file_def:
        asset.filename = str(path / ASSETS / asset.filename)  # absolute, it is not looked for beside the graph
    directory = f"ram://batond/{next(_copies)}"
    tf.io.gfile.makedirs(directory)
    try:
        with tf.io.gfile.GFile(f"{directory}/saved_model.pb", "wb") as file:
            file.write(stripped.SerializeToString())
        return tf.saved_model.load(directory, options=options)
    finally:
        tf.io.gfile.rmtree(directory)


def _reachable(graph: Any) -> set[str]:
    """The names of the functions that an object of the model, or a gradient, can call, through however many others."""
    library = graph.graph_def.library
    functions = {function.signature.name: function for function in library.function}
    found: set[str] = set()
    ahead = [*graph.object_graph_def.concrete_functions]
    ahead += [name for each in library.gradient for name in (each.function_name, each.gradient_func)]
    ahead += [each.gradient_func for each in library.registered_gradients]
    while ahead:
        name = ahead.pop()
        if name in found or name not in functions:
            continue
        found.add(name)
        for node in functions[name].node_def:
            ahead.append(node.op)
            for attribute in node.attr.values():
                ahead.append(attribute.func.name)
                ahead += [function.name for function in attribute.list.func]
    return found


def _matched(loaded: Any, variables: tuple[tf.Variable, ...], path: Path) -> dict[str, tf.Variable] | str:
    """The variables by their keys in the checkpoint; or why it cannot be read one by one.

    The checkpoint's own object graph is walked along the loaded objects'. Only what the signature captures is asked
    for: Keras' export() saves every weight twice, and this finds one of them.
    """
    if not variables and not Path(f"{path / VARIABLES}.index").is_file():
        return {}
    reader = tf.train.load_checkpoint(str(path / VARIABLES))
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    if OBJECT_GRAPH_KEY not in shapes:
        return "its checkpoint does not say which values are whose"
    try:
        content = reader.get_tensor(OBJECT_GRAPH_KEY)
    except IndexError as error:  # the reader's word for it
        raise tf.errors.OutOfRangeError(None, None, str(error)) from error
    nodes = trackable_object_graph_pb2.TrackableObjectGraph.FromString(content).nodes
    for node in nodes:
        other = {attribute.name for attribute in node.attributes} - HARMLESS_ATTRIBUTES
        if other or node.HasField("registered_saver"):
            return f"its checkpoint holds more than variables ({', '.join(sorted(other)) or 'a saver of its own'})"
    keys = _keys(loaded, nodes)
    matched: dict[str, tf.Variable] = {}
    for variable in variables:
        key = keys.get(id(variable))
        if key is None or key not in shapes:
            return f"its checkpoint does not hold variable '{variable.name}' by itself"
        if not variable.shape.is_compatible_with(shapes[key]) or variable.dtype != dtypes[key]:
            return f"its checkpoint holds variable '{variable.name}' in another shape or dtype"
        matched[key] = variable
    if len(matched) < len(variables):
        return "variables of it share a value in its checkpoint"
    return matched


def _keys(root: Any, nodes: Any) -> dict[int, str]:
    """The checkpoint's key for each variable below `root`, by the variable's id. `nodes`: of the checkpoint's graph."""
    view = tf.train.TrackableView(root)
    keys: dict[int, str] = {}
    seen = {0}
    ahead = [(root, 0)]
    while ahead:
        trackable, number = ahead.pop()
        for attribute in nodes[number].attributes:
            if attribute.name == VARIABLE_VALUE:
                keys[id(trackable)] = attribute.checkpoint_key
        children = view.children(trackable)
        for child in nodes[number].children:
            if child.node_id not in seen and child.local_name in children:
                seen.add(child.node_id)
                ahead.append((children[child.local_name], child.node_id))
    return keys


def _values(path: Path, variables: Mapping[str, tf.Variable]) -> dict[str, tf.Tensor]:
    """The variables' values as tensors of the host, by their keys. A variable there takes one over uncopied."""
    if not variables:
        return {}
    with tf.device(device.HOST):
        values = tf.raw_ops.RestoreV2(
            prefix=str(path / VARIABLES),
            tensor_names=list(variables),
            shape_and_slices=[""] * len(variables),
            dtypes=[variable.dtype for variable in variables.values()],
        )
    return dict(zip(variables, values, strict=True))
