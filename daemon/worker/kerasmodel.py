"""`.keras` files: described by building them, staged by building their layers apart from their weights.

Knows no other format, and no batch. What it cannot take apart it loads whole, as Keras does.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import h5py
import keras
import tensorflow as tf

from daemon.worker import device
from daemon.worker.failures import Refused, first_line, is_out_of_memory
from daemon.worker.signature import Signature, Tensor
from daemon.worker.staging import Model, Staged, cannot, note_unstaged

SIGNATURE: Final = "serving_default"  # a .keras file has none; TensorFlow's name for the only one
WEIGHTS: Final = "model.weights.h5"  # of a .keras file, which is a zip archive
OPTIMIZER: Final = "optimizer"  # the group of WEIGHTS that is not loaded, as nothing is compiled


def recognises(path: Path) -> bool:
    """Whether it is a .keras file."""
    return path.is_file() and path.suffix == ".keras" and zipfile.is_zipfile(path)


def describe(path: Path, wanted: str | None) -> Signature:
    """Loads the whole model, on the host: its tensors are known only then."""
    with tf.device(device.HOST):
        return _signature(path, _open(path, wanted))


def weights_bytes(path: Path, _name: str) -> int:
    """By the shapes of the arrays in the file, an optimizer's left out; none of them is read. May raise anything."""
    sizes: list[int] = []

    def weigh(name: str, found: object) -> None:
        if isinstance(found, h5py.Dataset) and not name.startswith(f"{OPTIMIZER}/"):
            sizes.append(math.prod(found.shape) * found.dtype.itemsize)

    with zipfile.ZipFile(path) as archive, archive.open(WEIGHTS) as member:
        content = member if member.seekable() else io.BytesIO(member.read())
        with h5py.File(content, "r") as weights:
            weights.visititems(weigh)
    return sum(sizes)


def stage(path: Path, wanted: str | None, target: str, *, hold: bool) -> Staged:
    """With `hold`, its layers with variables that do not exist yet, and their values as tensors of the host.

    Without, it is loaded on `target` when it is loaded: Keras makes the weights of a model with its layers.
    """
    if not hold:
        model = _open_on(path, wanted, target)
        return Staged(_signature(path, model), lambda: _model(path, model, target))
    apart = _layers_alone(path, wanted)
    if isinstance(apart, str):
        note_unstaged(path, apart)
        return Staged(describe(path, wanted), lambda: _model(path, _open_on(path, wanted, target), target))
    layers, values = apart

    def load() -> Model:
        with tf.device(target):
            with keras.StatelessScope():
                pass  # it ends by making every variable that does not exist yet
            for variable in layers.variables:
                if (value := values.pop(id(variable), None)) is not None:
                    variable.assign(value)
        return _model(path, layers, target)

    return Staged(_signature(path, layers), load)


def _layers_alone(path: Path, wanted: str | None) -> tuple[Any, dict[int, tf.Tensor]] | str:
    """The model, and the value for each of its variables by that one's id; or why it cannot be had so.

    In a scope without state Keras makes no variable, and keeps beside it what would be assigned to one.
    """
    try:
        with tf.device(device.HOST), keras.StatelessScope(initialize_variables=False) as scope:
            layers = _open(path, wanted)
            values = {id(variable): scope.get_current_value(variable) for variable in layers.variables}
    except Refused:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return f"its layers cannot be built without them ({first_line(error)})"  # loaded whole, it may do
    return layers, {number: value for number, value in values.items() if value is not None}


def _open_on(path: Path, wanted: str | None, target: str) -> Any:
    with tf.device(target):
        return _open(path, wanted)


def _model(path: Path, model: Any, target: str) -> Model:
    signature = _signature(path, model)
    specs = {name: tf.TensorSpec(t.shape, t.dtype, name) for name, t in signature.inputs.items()}
    taken, _ = _structures(model)
    flatten, pack = keras.tree.flatten, keras.tree.pack_sequence_as

    def compute(inputs: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        outputs = model(pack(taken, [inputs[name] for name in signature.inputs]), training=False)
        return dict(zip(signature.outputs, flatten(outputs), strict=True))

    # Keras' own code needs no AutoGraph, which would leave a file in the temporary folder for each function.
    traced = tf.function(compute, input_signature=[specs], autograph=False)

    def call(inputs: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        with tf.device(target):
            return traced(inputs)

    return Model(signature, call)


def _open(path: Path, wanted: str | None) -> Any:
    if wanted is not None:
        why = f"no signature '{wanted}', as a .keras file has none"
        raise Refused("signature", cannot(path, why, "leave signature out"))
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except ValueError as error:
        if "safe_mode" not in str(error):
            raise
        why = "it holds Python code (a Lambda layer), which is not run"
        raise Refused("model", cannot(path, why, "save it as a SavedModel, by model.export()")) from error
    if not getattr(model, "inputs", None):
        why = "its inputs are not known (a subclassed Keras model)"
        raise Refused("model", cannot(path, why, "save it as a SavedModel, by model.export()"))
    return model


def _signature(path: Path, model: Any) -> Signature:
    """Named by the keys of a dict, else inputs by their tensors and outputs by the layers they come from."""
    taken, given = _structures(model)
    inputs = _names(taken) or [tensor.name for tensor in model.inputs]
    outputs = _names(given) or list(getattr(model, "output_names", [model.layers[-1].name]))
    if len(set(inputs)) < len(model.inputs) or len(set(outputs)) < len(model.outputs):
        why = f"tensors share a name (inputs {inputs}, outputs {outputs})"
        raise Refused("model", cannot(path, why, "name its layers apart, or save it by model.export()"))
    return Signature(
        name=SIGNATURE,
        inputs=dict(zip(inputs, map(_tensor, model.inputs), strict=True)),
        outputs=dict(zip(outputs, map(_tensor, model.outputs), strict=True)),
    )


def _structures(model: Any) -> tuple[Any, Any]:
    """What it is called with and what it returns, as (nested) tensors. A Sequential, once loaded, tells neither."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def _names(structure: object) -> list[str]:
    """The keys of a flat dict of tensors, in the order in which Keras flattens one."""
    return sorted(structure) if isinstance(structure, dict) else []


def _tensor(tensor: Any) -> Tensor:
    return Tensor(dtype=str(tensor.dtype), shape=tuple(tensor.shape))
