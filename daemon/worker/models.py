"""Models from disk: what each takes and gives, and how it is called. Knows neither inputs nor outputs.

`FORMATS` is the place to add a format: how it is recognised, described cheaply, and loaded.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import keras
import tensorflow as tf
from tensorflow.python.saved_model import loader_impl

from daemon.worker.failures import Refused, first_line, is_out_of_memory, out_of_memory
from daemon.worker.signature import Signature, Tensor

T = TypeVar("T")

DEFAULT_SIGNATURE: Final = "serving_default"
INIT_SIGNATURE: Final = "__saved_model_init_op"  # TensorFlow's own: it runs initialisers, and is no model


@dataclass(frozen=True)
class Model:
    """A loaded model: weights on the device, not yet traced.

    call: takes and gives tensors by the signature's names, the batch first in each.
    """

    signature: Signature
    call: Callable[[Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]]


@dataclass(frozen=True)
class Format:
    """One kind of model on disk. `describe` and `load` get the path and the signature asked for, or None."""

    name: str
    recognises: Callable[[Path], bool]
    describe: Callable[[Path, str | None], Signature]
    load: Callable[[Path, str | None], Model]


def describe(path: Path, signature: str | None) -> Signature:
    """What the model takes and gives, as cheaply as its format allows. Raises Refused (model, signature)."""
    return _guarded(path, lambda: _usable(path, _format_of(path).describe(path, signature)))


def load(path: Path, signature: str | None) -> Model:
    """The model, ready to be called. Raises Refused (model, signature), or baton.Failure (memory)."""
    model = _guarded(path, lambda: _format_of(path).load(path, signature))
    _usable(path, model.signature)
    return model


def _format_of(path: Path) -> Format:
    if not path.exists():
        raise Refused("model", _cannot(path, "it does not exist", "set model = the path of a model"))
    for format_ in FORMATS:
        if format_.recognises(path):
            return format_
    known = " or ".join(format_.name for format_ in FORMATS)
    why = "the directory holds no saved_model.pb" if path.is_dir() else "the file is no .keras file"
    raise Refused("model", _cannot(path, why, f"set model = {known}"))


def _usable(path: Path, signature: Signature) -> Signature:
    flat = [name for name, tensor in signature.inputs.items() if tensor.shape == ()]
    if flat or not signature.inputs:
        why = f"input '{flat[0]}' has no batch dimension" if flat else "it takes no inputs"
        raise Refused("signature", _cannot(path, f"signature '{signature.name}': {why}", "choose another"))
    return signature


def _guarded(path: Path, act: Callable[[], T]) -> T:
    try:
        return act()
    except Refused:
        raise
    except Exception as error:  # a model is a program, and loading one runs it: it may raise anything
        if is_out_of_memory(error):
            raise out_of_memory(f"load '{path}'", error) from error
        raise Refused("model", _cannot(path, first_line(error), "save the model again")) from error


def _cannot(path: Path, why: str, remedy: str) -> str:
    return f"cannot load '{path}': {why}; {remedy}"


def _is_saved_model(path: Path) -> bool:
    return any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt"))


def _describe_saved_model(path: Path, wanted: str | None) -> Signature:
    """Reads `saved_model.pb` only: no graph is built and no weight is read."""
    graphs = loader_impl.parse_saved_model(str(path)).meta_graphs
    graph = next((graph for graph in graphs if "serve" in graph.meta_info_def.tags), graphs[0])
    definitions = {name: d for name, d in graph.signature_def.items() if name != INIT_SIGNATURE}
    name = _choose(path, sorted(definitions), wanted)
    definition = definitions[name]
    return Signature(
        name=name,
        inputs={key: _tensor_of(path, key, info) for key, info in sorted(definition.inputs.items())},
        outputs={key: _tensor_of(path, key, info) for key, info in sorted(definition.outputs.items())},
    )


def _choose(path: Path, names: list[str], wanted: str | None) -> str:
    has = f"(it has: {', '.join(names)})"
    if not names:
        remedy = "save it with signatures=, or by model.export()"
        raise Refused("signature", _cannot(path, "it has no signatures", remedy))
    if wanted is not None:
        if wanted in names:
            return wanted
        remedy = f'set signature = "{_best(names)}"'
        raise Refused("signature", _cannot(path, f"no signature '{wanted}' {has}", remedy))
    if len(names) == 1 or DEFAULT_SIGNATURE in names:
        return _best(names)
    raise Refused("signature", _cannot(path, f"several signatures {has}", "set signature = one of them"))


def _best(names: list[str]) -> str:
    return DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in names else names[0]


def _tensor_of(path: Path, name: str, info: Any) -> Tensor:  # info: a TensorInfo message
    if info.WhichOneof("encoding") not in ("name", None):
        why = f"tensor '{name}' is sparse or ragged, and rows of one shape are needed"
        raise Refused("signature", _cannot(path, why, "choose another signature"))
    shape = tf.TensorShape(info.tensor_shape)
    sizes = None if shape.rank is None else tuple(shape.as_list())
    return Tensor(dtype=tf.dtypes.as_dtype(info.dtype).name, shape=sizes)


def _load_saved_model(path: Path, wanted: str | None) -> Model:
    signature = _describe_saved_model(path, wanted)
    loaded = tf.saved_model.load(str(path))
    function = loaded.signatures[signature.name]

    def call(inputs: Mapping[str, tf.Tensor], keep: object = loaded) -> Mapping[str, tf.Tensor]:
        del keep  # the function holds its variables weakly: they must not go before it
        return function(**inputs)

    return Model(signature, call)


def _is_keras(path: Path) -> bool:
    return path.is_file() and path.suffix == ".keras" and zipfile.is_zipfile(path)


def _describe_keras(path: Path, wanted: str | None) -> Signature:
    """Loads the whole model: its tensors are known only then."""
    return _keras_signature(path, _open_keras(path, wanted))


def _load_keras(path: Path, wanted: str | None) -> Model:
    model = _open_keras(path, wanted)
    signature = _keras_signature(path, model)
    specs = {name: tf.TensorSpec(t.shape, t.dtype, name) for name, t in signature.inputs.items()}
    taken, _ = _keras_structures(model)
    flatten, pack = keras.tree.flatten, keras.tree.pack_sequence_as

    def call(inputs: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        outputs = model(pack(taken, [inputs[name] for name in signature.inputs]), training=False)
        return dict(zip(signature.outputs, flatten(outputs), strict=True))

    return Model(signature, tf.function(call, input_signature=[specs]))


def _open_keras(path: Path, wanted: str | None) -> Any:
    if wanted is not None:
        why = f"no signature '{wanted}', as a .keras file has none"
        raise Refused("signature", _cannot(path, why, "leave signature out"))
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except ValueError as error:
        if "safe_mode" not in str(error):
            raise
        why = "it holds Python code (a Lambda layer), which is not run"
        raise Refused("model", _cannot(path, why, "save it as a SavedModel, by model.export()")) from error
    if not getattr(model, "inputs", None):
        why = "its inputs are not known (a subclassed Keras model)"
        raise Refused("model", _cannot(path, why, "save it as a SavedModel, by model.export()"))
    return model


def _keras_signature(path: Path, model: Any) -> Signature:
    """Named by the keys of a dict, else inputs by their tensors and outputs by the layers they come from."""
    taken, given = _keras_structures(model)
    inputs = _keras_names(taken) or [tensor.name for tensor in model.inputs]
    outputs = _keras_names(given) or list(getattr(model, "output_names", [model.layers[-1].name]))
    if len(set(inputs)) < len(model.inputs) or len(set(outputs)) < len(model.outputs):
        why = f"tensors share a name (inputs {inputs}, outputs {outputs})"
        raise Refused("model", _cannot(path, why, "name its layers apart, or save it by model.export()"))
    return Signature(
        name=DEFAULT_SIGNATURE,
        inputs=dict(zip(inputs, map(_keras_tensor, model.inputs), strict=True)),
        outputs=dict(zip(outputs, map(_keras_tensor, model.outputs), strict=True)),
    )


def _keras_structures(model: Any) -> tuple[Any, Any]:
    """What it is called with and what it returns, as (nested) tensors. A Sequential, once loaded, tells neither."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def _keras_names(structure: object) -> list[str]:
    """The keys of a flat dict of tensors, in the order in which Keras flattens one."""
    return sorted(structure) if isinstance(structure, dict) else []


def _keras_tensor(tensor: Any) -> Tensor:
    return Tensor(dtype=str(tensor.dtype), shape=tuple(tensor.shape))


FORMATS: Final = (
    Format("a SavedModel directory", _is_saved_model, _describe_saved_model, _load_saved_model),
    Format("a .keras file", _is_keras, _describe_keras, _load_keras),
)
