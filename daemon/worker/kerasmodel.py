"""Keras' files, `.keras` and `.h5`: described by building them, staged by building layers apart from weights.

Knows no other format, and no batch. What it cannot take apart it loads whole, as Keras does.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
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
from daemon.worker.staging import Model, Staged, Wanted, Weight, cannot, note_unstaged

NAME: Final = "a .keras or .h5 file"
SIGNATURE: Final = "serving_default"  # a Keras file has none; TensorFlow's name for the only one
ZIPPED, HDF5 = ".keras", (".h5", ".hdf5")  # by these endings Keras tells its formats apart
WEIGHTS: Final = "model.weights.h5"  # of a .keras file, which is a zip archive
CONFIG: Final = "config.json"  # of it, too: the layers
METADATA: Final = "metadata.json"  # and this
OPTIMIZER: Final = "optimizer"  # the group of WEIGHTS that is not loaded, as nothing is compiled
H5_WEIGHTS: Final = "model_weights"  # the group of an .h5 file that is
H5_MODEL: Final = "model_config"  # the attribute of an .h5 file that says what the weights belong to
# Keras' words for a class or function that it does not have, in .keras and in .h5 files.
CUSTOM: Final = re.compile(r"Could not locate (?:class|function) '([^']+)'|Unknown [\w ]+: '([^']+)'")


class _DepthwiseConv2D(keras.layers.DepthwiseConv2D):  # type: ignore[misc]
    """As an .h5 file of Keras 2 has it: it says that it has one group, a word that Keras 3 does not take."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """The layer."""
        return keras.layers.DepthwiseConv2D.from_config({k: v for k, v in config.items() if k != "groups"})


OLD_LAYERS: Final = {"DepthwiseConv2D": _DepthwiseConv2D}
AS_SAVED_MODEL: Final = "save it as a SavedModel, by model.export()"


def recognises(path: Path) -> bool:
    """Whether it is a Keras file: by its ending, and its first or last bytes."""
    if not path.is_file():
        return False
    return (path.suffix == ZIPPED and zipfile.is_zipfile(path)) or (path.suffix in HDF5 and h5py.is_hdf5(path))


def kind(path: Path) -> str:
    """For people."""
    return f"Keras file ({path.suffix})"


def signatures(_path: Path) -> list[str]:
    """The one that is not in the file."""
    return [SIGNATURE]


def describe(path: Path, wanted: Wanted) -> Signature:
    """Loads the whole model, on the host: its tensors are known only then."""
    with tf.device(device.HOST):
        return _signature(path, _open(path, wanted))


def weigh(path: Path, _name: str) -> Weight:
    """By the shapes of the arrays in the file, an optimizer's left out; none of them is read. May raise anything."""
    if path.suffix in HDF5:
        with h5py.File(path, "r") as file:
            return _arrays(file[H5_WEIGHTS])
    with zipfile.ZipFile(path) as archive, archive.open(WEIGHTS) as member:
        content = member if member.seekable() else io.BytesIO(member.read())
        with h5py.File(content, "r") as file:
            return _arrays(file)


def _arrays(group: Any) -> Weight:
    found: list[tuple[int, int]] = []

    def note(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith(f"{OPTIMIZER}/"):
            found.append((math.prod(item.shape), item.dtype.itemsize))

    group.visititems(note)
    return Weight(sum(count for count, _ in found), sum(count * size for count, size in found))


def stage(path: Path, wanted: Wanted, target: str, *, hold: bool) -> Staged:
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


def _layers_alone(path: Path, wanted: Wanted) -> tuple[Any, dict[int, tf.Tensor]] | str:
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


def _open_on(path: Path, wanted: Wanted, target: str) -> Any:
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

    return Model(signature, call, inputs_at=target)


def _open(path: Path, wanted: Wanted) -> Any:
    """The model as Keras loads it. Raises Refused (model, signature), or whatever a damaged file makes Keras raise."""
    if wanted.signature is not None:
        why = f"no signature '{wanted.signature}', as a Keras file has none"
        raise Refused("signature", cannot(path, why, "leave signature out"))
    _check_whole(path)
    try:
        layers = OLD_LAYERS if path.suffix in HDF5 else None
        model = keras.saving.load_model(path, layers, compile=False, safe_mode=wanted.safe_mode)
    except (TypeError, ValueError) as error:
        raise _unreadable(path, str(error)) or error from error
    if not getattr(model, "inputs", None):
        why = "its inputs are not known (a subclassed Keras model)"
        raise Refused("model", cannot(path, why, AS_SAVED_MODEL))
    return model


def _check_whole(path: Path) -> None:
    """Raises Refused (model) for a file without a model's layers, which looks like a model's until it is read."""
    if path.suffix not in HDF5:
        with zipfile.ZipFile(path) as archive:
            if CONFIG not in archive.namelist():
                raise Refused("model", cannot(path, f"it is a zip archive without {CONFIG}", "save the model again"))
            _check_layers(path, CONFIG, archive.read(CONFIG))
        return
    with h5py.File(path, "r") as file:
        if H5_MODEL not in file.attrs:
            why = "it holds weights alone, without the model that they belong to"
            raise Refused("model", cannot(path, why, "save the model whole, by model.save('NAME.keras')"))
        _check_layers(path, H5_MODEL, file.attrs[H5_MODEL])


def _check_layers(path: Path, name: str, text: str | bytes) -> None:
    """Raises Refused (model) for what does not even look as if it told of layers."""
    try:
        tells = "class_name" in dict(json.loads(text))
    except (TypeError, ValueError, RecursionError):  # no JSON, or no table
        tells = False
    if not tells:
        raise Refused("model", cannot(path, f"its {name} is garbled", "save the model again"))


def _unreadable(path: Path, told: str) -> Refused | None:
    """What Keras' words mean, where that is known: it wraps them in the file's whole configuration."""
    if "safe_mode" in told:
        why = "it holds Python code (a Lambda layer), which is not run"
        return Refused("model", cannot(path, why, f"set safe_mode = false if you trust the file, or {AS_SAVED_MODEL}"))
    if (custom := CUSTOM.search(told)) is not None:
        name = next(filter(None, custom.groups())).rpartition(">")[2]  # without the package it was registered under
        why = f"its '{name}' is a custom layer or function, and the code of that is not in the file"
        return Refused("model", cannot(path, why, AS_SAVED_MODEL))
    if (version := _written_by(path)) is not None and version.startswith("2."):
        why = f"Keras {version} wrote it, and Keras {keras.__version__} cannot read it"
        remedy = "save it there as a SavedModel" + (", or as .h5" if path.suffix == ZIPPED else "")
        return Refused("model", cannot(path, why, remedy))
    inner = told.rpartition("Exception encountered: ")[2].strip()
    return Refused("model", cannot(path, first_line(ValueError(inner)), "save the model again"))


def _written_by(path: Path) -> str | None:
    """The version of Keras that wrote the file, where that tells."""
    version = None
    if path.suffix in HDF5:
        with h5py.File(path, "r") as file:
            version = file.attrs.get("keras_version")
    else:
        with zipfile.ZipFile(path) as archive, contextlib.suppress(KeyError, ValueError, AttributeError):
            version = json.loads(archive.read(METADATA)).get("keras_version")
    return version if isinstance(version, str) else None


def _signature(path: Path, model: Any) -> Signature:
    """Named by the keys of a dict, else inputs by their tensors and outputs by the layers they come from."""
    taken, given = _structures(model)
    inputs = _names(taken) or [tensor.name for tensor in model.inputs]
    outputs = _names(given) or list(getattr(model, "output_names", [model.layers[-1].name]))
    if len(set(inputs)) < len(model.inputs) or len(set(outputs)) < len(model.outputs):
        why = f"tensors share a name (inputs {inputs}, outputs {outputs})"
        raise Refused("model", cannot(path, why, f"name its layers apart, or {AS_SAVED_MODEL}"))
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
