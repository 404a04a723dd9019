"""SavedModel directories as their protocol buffer tells of them: signatures, weights, and who loads them.

Reads `saved_model.pb` and a checkpoint's index: no graph is built here, and no value read.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import tensorflow as tf
from tensorflow.python.framework import op_def_registry
from tensorflow.python.saved_model import loader_impl

from daemon.modelversions import is_saved_model
from daemon.worker import savedmodel_tf1, savedmodel_tf2
from daemon.worker.failures import Refused
from daemon.worker.signature import Signature, Tensor
from daemon.worker.staging import Staged, Wanted, Weight, cannot

NAME: Final = "a SavedModel directory"
DEFAULT_SIGNATURE: Final = "serving_default"
INIT_SIGNATURE: Final = "__saved_model_init_op"  # TensorFlow's own: it runs initialisers, and is no model


def recognises(path: Path) -> bool:
    """Whether there is a SavedModel in that directory."""
    return is_saved_model(path)


def kind(path: Path) -> str:
    """For people: which TensorFlow's loader it takes."""
    return "SavedModel of TensorFlow 2" if _is_tf2(_graph_of(path)) else "SavedModel of TensorFlow 1"


def signatures(path: Path) -> list[str]:
    """The names of its signatures, sorted."""
    return sorted(_definitions(_graph_of(path)))


def describe(path: Path, wanted: Wanted) -> Signature:
    """The signature asked for, its op kernels known to be here. Raises Refused (model, signature)."""
    graph = _graph_of(path)
    definitions = _definitions(graph)
    name = _choose(path, sorted(definitions), wanted.signature)
    _check_ops(path, graph)
    definition = definitions[name]
    return Signature(
        name=name,
        inputs={key: _input(path, key, info) for key, info in sorted(definition.inputs.items())},
        outputs={key: _output(path, key, info) for key, info in sorted(definition.outputs.items())},
    )


def weigh(path: Path, name: str) -> Weight:
    """What the signature of that name keeps on the device: the variables it captures, and the graph's constants.

    A variable that is saved twice, an optimizer's slots and counters are captured by no signature, and not counted.
    A SavedModel of TensorFlow 1 tells of no captures: there it is the whole checkpoint. May raise anything.
    """
    graph = _graph_of(path)
    functions = [graph.graph_def.node, *(function.node_def for function in graph.graph_def.library.function)]
    constants = sum(node.attr["value"].tensor.ByteSize() for nodes in functions for node in nodes if node.op == "Const")
    sizes = _captured(graph, name) if _is_tf2(graph) else _saved(path)
    return Weight(sum(count for count, _ in sizes), sum(count * size for count, size in sizes), constants)


def stage(path: Path, wanted: Wanted, target: str, *, hold: bool) -> Staged:
    """As its loader stages it. `hold` is for weights of TensorFlow 2: those of TensorFlow 1 stay in the page cache."""
    signature = describe(path, wanted)
    graph = _graph_of(path)
    if _is_tf2(graph):
        return savedmodel_tf2.stage(path, graph, signature, target, hold=hold)
    return savedmodel_tf1.stage(path, graph, signature, target)


def _graph_of(path: Path) -> Any:
    """The MetaGraphDef to be served. Raises Refused (model) where the file is not what its name says."""
    try:
        graphs = loader_impl.parse_saved_model(str(path)).meta_graphs
    except OSError:  # so TensorFlow says that it cannot be parsed; what cannot be read, it says in errors of its own
        graphs = ()
    if not graphs:
        raise Refused("model", cannot(path, "its saved_model.pb is damaged or cut short", "save the model again"))
    return next((graph for graph in graphs if "serve" in graph.meta_info_def.tags), graphs[0])


def _is_tf2(graph: Any) -> bool:
    """TensorFlow 2 writes a graph of objects beside that of operations; what TensorFlow 1 wrote has none."""
    return bool(graph.HasField("object_graph_def"))


def _definitions(graph: Any) -> dict[str, Any]:
    return {name: definition for name, definition in graph.signature_def.items() if name != INIT_SIGNATURE}


def _captured(graph: Any, name: str) -> list[tuple[int, int]]:
    """How many values, and the bytes of one, of each variable that the signature captures."""
    objects = graph.object_graph_def
    children = {child.local_name: child.node_id for child in objects.nodes[0].children}
    functions = {child.local_name: child.node_id for child in objects.nodes[children["signatures"]].children}
    function = objects.nodes[functions[name]].bare_concrete_function.concrete_function_name
    captured = [objects.nodes[node] for node in set(objects.concrete_functions[function].bound_inputs)]
    variables = [node.variable for node in captured if node.WhichOneof("kind") == "variable"]
    return [
        (math.prod(tf.TensorShape(variable.shape).as_list()), tf.dtypes.as_dtype(variable.dtype).size)
        for variable in variables
    ]


def _saved(path: Path) -> list[tuple[int, int]]:
    """The same of everything in the checkpoint."""
    if not Path(f"{path / savedmodel_tf2.VARIABLES}.index").is_file():
        return []
    reader = tf.train.load_checkpoint(str(path / savedmodel_tf2.VARIABLES))
    dtypes = reader.get_variable_to_dtype_map()
    return [(math.prod(shape), dtypes[key].size) for key, shape in reader.get_variable_to_shape_map().items()]


def _check_ops(path: Path, graph: Any) -> None:
    """Raises Refused (model) where it needs an op of somebody's own: found now, and not when it is loaded."""
    library = graph.graph_def.library.function
    functions = {function.signature.name for function in library}
    nodes = [graph.graph_def.node, *(function.node_def for function in library)]
    ops = {node.op for some in nodes for node in some} - functions
    missing = sorted(op for op in ops if op_def_registry.get(op) is None)
    if missing:
        names = ", ".join(f"'{op}'" for op in missing[:3]) + (" and others" if len(missing) > 3 else "")
        why = f"it needs the custom op {names}, which this TensorFlow does not have"
        raise Refused("model", cannot(path, why, "save it without"))


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


def _input(path: Path, name: str, info: Any) -> Tensor:  # info: a TensorInfo message
    if info.WhichOneof("encoding") not in ("name", None):
        why = f"input '{name}' is sparse or ragged, and a batch is given as a plain tensor"
        raise Refused("signature", cannot(path, why, "choose another signature"))
    return _tensor(info.dtype, info.tensor_shape)


def _output(path: Path, name: str, info: Any) -> Tensor:
    if info.WhichOneof("encoding") in ("name", None):
        return _tensor(info.dtype, info.tensor_shape)
    spec = info.composite_tensor.type_spec
    if spec.type_spec_class != spec.RAGGED_TENSOR_SPEC:
        why = f"output '{name}' is sparse, and has no rows"
        raise Refused("signature", cannot(path, why, "choose another signature"))
    shape, dtype = spec.type_state.tuple_value.values[:2]  # as tf.RaggedTensorSpec writes itself
    return _tensor(dtype.tensor_dtype_value, shape.tensor_shape_value, ragged=True)


def _tensor(dtype: int, shape: Any, *, ragged: bool = False) -> Tensor:
    sizes = tf.TensorShape(shape)
    return Tensor(tf.dtypes.as_dtype(dtype).name, None if sizes.rank is None else tuple(sizes.as_list()), ragged)
