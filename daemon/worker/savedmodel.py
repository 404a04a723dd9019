"""SavedModel directories: described and weighed by their protocol buffers, staged by graph and weights apart.

Knows no other format, and no batch. What it cannot take apart it loads whole, as TensorFlow does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2
from tensorflow.python.saved_model import loader_impl

from daemon.worker import device
from daemon.worker.failures import Refused, first_line, is_out_of_memory
from daemon.worker.signature import Signature, Tensor
from daemon.worker.staging import Model, Staged, cannot, note_unstaged

DEFAULT_SIGNATURE: Final = "serving_default"
INIT_SIGNATURE: Final = "__saved_model_init_op"  # TensorFlow's own: it runs initialisers, and is no model
VARIABLES: Final = "variables/variables"  # the checkpoint, below the directory
OBJECT_GRAPH_KEY: Final = "_CHECKPOINTABLE_OBJECT_GRAPH"  # where a checkpoint says which object each value is of
VARIABLE_VALUE: Final = "VARIABLE_VALUE"
HARMLESS_ATTRIBUTES: Final = frozenset({VARIABLE_VALUE, "OBJECT_CONFIG_JSON"})  # the second is Keras 2's, for people


@dataclass(frozen=True)
class Apart:
    """A model's graph, and its variables by their keys in the checkpoint."""

    loaded: Any
    variables: dict[str, tf.Variable]


def recognises(path: Path) -> bool:
    """Whether there is a SavedModel in that directory."""
    return any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt"))


def describe(path: Path, wanted: str | None) -> Signature:
    """Reads `saved_model.pb` only: no graph is built and no weight is read."""
    definitions = {name: d for name, d in _graph_of(path).signature_def.items() if name != INIT_SIGNATURE}
    name = _choose(path, sorted(definitions), wanted)
    definition = definitions[name]
    return Signature(
        name=name,
        inputs={key: _tensor_of(path, key, info) for key, info in sorted(definition.inputs.items())},
        outputs={key: _tensor_of(path, key, info) for key, info in sorted(definition.outputs.items())},
    )


def weights_bytes(path: Path, name: str) -> int:
    """What the signature of that name keeps on the device: the variables it captures, and the graph's constants.

    A variable that is saved twice, an optimizer's slots and counters are captured by no signature, and not counted.
    A SavedModel of TensorFlow 1 tells of no captures: there it is the whole checkpoint. May raise anything.
    """
    graph = _graph_of(path)
    functions = [graph.graph_def.node, *(function.node_def for function in graph.graph_def.library.function)]
    constants = sum(node.attr["value"].tensor.ByteSize() for nodes in functions for node in nodes if node.op == "Const")
    if not graph.HasField("object_graph_def"):
        return constants + _checkpoint_bytes(path)
    objects = graph.object_graph_def
    children = {child.local_name: child.node_id for child in objects.nodes[0].children}
    signatures = {child.local_name: child.node_id for child in objects.nodes[children["signatures"]].children}
    function = objects.nodes[signatures[name]].bare_concrete_function.concrete_function_name
    captured = [objects.nodes[node] for node in set(objects.concrete_functions[function].bound_inputs)]
    variables = [node.variable for node in captured if node.WhichOneof("kind") == "variable"]
    return constants + sum(
        math.prod(tf.TensorShape(variable.shape).as_list()) * tf.dtypes.as_dtype(variable.dtype).size
        for variable in variables
    )


def stage(path: Path, wanted: str | None, target: str, *, hold: bool) -> Staged:
    """Its graph on `target`, with variables that hold nothing yet; with `hold` their values in the host's memory.

    Only what the signature captures is ever read: Keras' export() saves every weight twice, and this loads one of them.
    """
    signature = describe(path, wanted)
    apart = _graph_alone(path, signature.name, target)
    if isinstance(apart, str):
        if hold:
            note_unstaged(path, apart)
        return Staged(signature, lambda: _load_whole(path, signature, target))
    held = _values(path, apart.variables) if hold else {}

    def load() -> Model:
        for key, variable in apart.variables.items():
            value = held.pop(key) if hold else _values(path, {key: variable})[key]
            with tf.device(target):
                variable.assign(value, read_value=False)
        return _model(apart.loaded, signature, target)

    return Staged(signature, load)


def _load_whole(path: Path, signature: Signature, target: str) -> Model:
    if _graph_of(path).HasField("object_graph_def"):
        with tf.device(target):
            return _model(tf.saved_model.load(str(path)), signature, target)
    # TensorFlow 1's reference variables cannot be loaded below a device: they go where TensorFlow puts them.
    return _model(tf.saved_model.load(str(path)), signature, target)


def _model(loaded: Any, signature: Signature, target: str) -> Model:
    function = loaded.signatures[signature.name]

    def call(inputs: Mapping[str, tf.Tensor], keep: object = loaded) -> Mapping[str, tf.Tensor]:
        del keep  # the function holds its variables weakly: they must not go before it
        with tf.device(target):
            return function(**inputs)

    return Model(signature, call)


def _graph_alone(path: Path, name: str, target: str) -> Apart | str:
    """The model without values, for signature `name`; or why it cannot be had so.

    Handles of variables take no memory of the device; constants that a function captures are the graph's, and do.
    Raises what TensorFlow does for a checkpoint that is missing or damaged.
    """
    if not _graph_of(path).HasField("object_graph_def"):
        return "it is one of TensorFlow 1"
    try:
        with tf.device(target):
            options = tf.saved_model.LoadOptions(experimental_skip_checkpoint=True)
            loaded = tf.saved_model.load(str(path), options=options)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return f"its graph cannot be built without them ({first_line(error)})"  # loaded whole, it may do
    variables = loaded.signatures[name].variables
    if not variables:
        return Apart(loaded, {})
    return _matched(loaded, variables, path)


def _matched(loaded: Any, variables: tuple[tf.Variable, ...], path: Path) -> Apart | str:
    """Each variable's key in the checkpoint: its own object graph is walked along the loaded objects'."""
    reader = tf.train.load_checkpoint(str(path / VARIABLES))
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    if OBJECT_GRAPH_KEY not in shapes:
        return "its checkpoint does not say which values are whose"
    nodes = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(OBJECT_GRAPH_KEY)).nodes
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
    return Apart(loaded, matched)


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


def _graph_of(path: Path) -> Any:  # a MetaGraphDef message
    graphs = loader_impl.parse_saved_model(str(path)).meta_graphs
    return next((graph for graph in graphs if "serve" in graph.meta_info_def.tags), graphs[0])


def _checkpoint_bytes(path: Path) -> int:
    if not (path / f"{VARIABLES}.index").is_file():
        return 0
    reader = tf.train.load_checkpoint(str(path / VARIABLES))
    dtypes = reader.get_variable_to_dtype_map()
    return sum(math.prod(shape) * dtypes[key].size for key, shape in reader.get_variable_to_shape_map().items())


def _choose(path: Path, names: list[str], wanted: str | None) -> str:
    has = f"(it has: {', '.join(names)})"
    if not names:
        remedy = "save it with signatures=, or by model.export()"
        raise Refused("signature", cannot(path, "it has no signatures", remedy))
    if wanted is not None:
        if wanted in names:
            return wanted
        remedy = f'set signature = "{_best(names)}"'
        raise Refused("signature", cannot(path, f"no signature '{wanted}' {has}", remedy))
    if len(names) == 1 or DEFAULT_SIGNATURE in names:
        return _best(names)
    raise Refused("signature", cannot(path, f"several signatures {has}", "set signature = one of them"))


def _best(names: list[str]) -> str:
    return DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in names else names[0]


def _tensor_of(path: Path, name: str, info: Any) -> Tensor:  # info: a TensorInfo message
    if info.WhichOneof("encoding") not in ("name", None):
        why = f"tensor '{name}' is sparse or ragged, and rows of one shape are needed"
        raise Refused("signature", cannot(path, why, "choose another signature"))
    shape = tf.TensorShape(info.tensor_shape)
    sizes = None if shape.rank is None else tuple(shape.as_list())
    return Tensor(dtype=tf.dtypes.as_dtype(info.dtype).name, shape=sizes)
