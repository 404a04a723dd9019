"""Items as plain Python or NumPy values, made the tensors of a batch. Reads no file.

An item is a table by the inputs' names or, for a model with one input, its bare value. Numbers and lists of them are
taken as the model wants them: rounded by a float dtype to what it holds, but never cut to a whole number, nor wrapped
around. An array must have the model's own dtype. A text is UTF-8, and `{"b64": "…"}` other bytes, as in TensorFlow
Serving's requests.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import tensorflow as tf

from daemon.worker.inputs.batches import Batch, Shapes
from daemon.worker.signature import Signature, Tensor, shape_text

Arrays = dict[str, np.ndarray]  # one item, by input

# The kinds of NumPy that a kind of the model's takes from plain values.
TAKEN: Final = {"b": "b", "i": "iu", "u": "iu", "f": "iuf", "c": "iufc"}
CALLED: Final = {
    "b": "true or false",
    "i": "whole numbers",
    "u": "whole numbers",
    "f": "numbers with fractions",
    "U": "text",
}
# What is called by other names than Python's, where it should be a number.
HOLDS: Final[dict[type, str]] = {type(None): "null", Mapping: "a table", str: "text", bytes: "bytes"}


class UnfitError(Exception):
    """Why an item is not what the model takes, in one line."""


class Assembler:
    """Turns items into batches, as one session wants them."""

    def __init__(self, signature: Signature, batch_size: int) -> None:
        """With a batch_size of 1, sizes that the model leaves free may differ from item to item."""
        self._inputs = signature.inputs
        self._uniform = batch_size > 1
        self.shapes: Shapes = {}  # of the first item

    @property
    def varies(self) -> bool:
        """Whether items may have several shapes."""
        return not self._uniform and any(
            tensor.item_shape is None or None in tensor.item_shape for tensor in self._inputs.values()
        )

    def item(self, value: object) -> Arrays:
        """The item's values as the model takes them; the first one fixes the shapes. Raises UnfitError."""
        arrays = {name: _array(name, part, self._inputs[name]) for name, part in self._parts(value).items()}
        shapes = {name: array.shape for name, array in arrays.items()}
        if not self.shapes:
            self.shapes = shapes
        for name, shape in shapes.items() if self._uniform else ():
            if shape != self.shapes[name]:
                have = f"'{name}' has shape {shape_text(shape)}, and in the first item {shape_text(self.shapes[name])}"
                raise UnfitError(f"{have}; with batch_size = 1 they may differ")
        return arrays

    def batch(self, start: int, items: Sequence[Arrays | str]) -> Batch:
        """The items from position `start` on; a string is the reason why there is none."""
        errors = {start + index: item for index, item in enumerate(items) if isinstance(item, str)}
        sound = [item for item in items if not isinstance(item, str)]
        tensors = {name: self._stacked(name, sound) for name in self._inputs} if sound else None
        return Batch(start, start + len(items), tensors, errors)

    def _stacked(self, name: str, items: Sequence[Arrays]) -> tf.Tensor:
        return tf.convert_to_tensor(np.stack([item[name] for item in items]), self._inputs[name].dtype)

    def _parts(self, value: object) -> Mapping[str, Any]:
        if isinstance(value, Mapping) and not (len(self._inputs) == 1 and _is_bytes(value)):
            missing = next((name for name in self._inputs if name not in value), None)
            if missing is not None:
                raise UnfitError(f"it has no '{missing}' (it has: {', '.join(map(str, value)) or 'nothing'})")
            return {name: value[name] for name in self._inputs}
        if len(self._inputs) > 1:
            names = ", ".join(self._inputs)
            raise UnfitError(f"it is one value, and the model takes {len(self._inputs)} by name ({names})")
        return dict.fromkeys(self._inputs, value)


def _array(name: str, value: Any, wanted: Tensor) -> np.ndarray:
    if wanted.dtype == "string":
        array = _texts(name, value, wanted)
    else:
        try:
            array = np.asarray(value)
        except ValueError:  # "inhomogeneous shape"
            raise UnfitError(f"'{name}' is a list of lists of several lengths, but takes {wanted}") from None
        exact = hasattr(value, "dtype")
        if not exact and array.size and array.dtype.kind == "f" and tf.dtypes.as_dtype(wanted.dtype).is_integer:
            array = np.asarray(value, object)  # they may be integers: NumPy makes floats of 2**63 beside a smaller one
        array = _cast(name, array, wanted, exact=exact)
    if not wanted.accepts(array.shape):
        raise UnfitError(f"'{name}' has shape {shape_text(array.shape)}, but takes {wanted}")
    return array


def _cast(name: str, array: np.ndarray, wanted: Tensor, *, exact: bool) -> np.ndarray:
    dtype = np.dtype(tf.dtypes.as_dtype(wanted.dtype).as_numpy_dtype)
    kind = "f" if tf.dtypes.as_dtype(wanted.dtype).is_floating else dtype.kind  # bfloat16 is of none
    if array.dtype == object and not exact:
        array = _numbers(name, array, wanted)
    if array.dtype == dtype:
        return array
    if exact or array.dtype.kind not in TAKEN.get(kind, ""):
        if array.size == 0 and not exact:
            return array.astype(dtype)  # of an empty list nobody knows the kind
        have = array.dtype.name if exact else CALLED.get(array.dtype.kind, "something else")
        raise UnfitError(f"'{name}' is {have}, but takes {wanted}")
    if kind in "iu" and array.size:
        _check_limits(name, array, wanted)
    with np.errstate(over="ignore"):  # told here, as what it is
        cast = array.astype(dtype)
    if kind == "f" and (np.isinf(cast.astype(np.float64)) & np.isfinite(array.astype(np.float64))).any():
        raise UnfitError(f"'{name}' is beyond what {wanted.dtype} holds, but takes {wanted}")
    return cast


def _check_limits(name: str, integers: np.ndarray, wanted: Tensor) -> None:
    limits = np.iinfo(tf.dtypes.as_dtype(wanted.dtype).as_numpy_dtype)
    if integers.min() < limits.min or integers.max() > limits.max:
        raise UnfitError(f"'{name}' is beyond {limits.min} to {limits.max}, but takes {wanted}")


def _numbers(name: str, array: np.ndarray, wanted: Tensor) -> np.ndarray:
    """An array of Python objects as one of numbers. Raises UnfitError, naming what is none."""
    odd = [leaf for leaf in array.flat if not isinstance(leaf, int | float)]
    if odd:
        have = next((what for of, what in HOLDS.items() if isinstance(odd[0], of)), f"a {type(odd[0]).__name__}")
        raise UnfitError(f"'{name}' holds {have}, but takes {wanted}")
    dtype = tf.dtypes.as_dtype(wanted.dtype)
    if dtype.is_integer and all(isinstance(leaf, int) for leaf in array.flat):
        _check_limits(name, array, wanted)
        return array.astype(dtype.as_numpy_dtype)
    try:
        return array.astype(np.float64)
    except OverflowError:
        raise UnfitError(f"'{name}' is beyond what {wanted.dtype} holds, but takes {wanted}") from None


def _texts(name: str, value: Any, wanted: Tensor) -> np.ndarray:
    """An array of bytes objects: NumPy's own kinds of text drop zeros at their ends."""
    if hasattr(value, "dtype"):
        value = np.asarray(value).tolist()
    leaves = _leaves(name, value, wanted)
    array = np.array(leaves, dtype=object)
    if any(not isinstance(leaf, bytes) for leaf in array.ravel()):
        raise UnfitError(f"'{name}' is a list of lists of several lengths, but takes {wanted}")
    return array


def _leaves(name: str, value: Any, wanted: Tensor) -> Any:
    if isinstance(value, list | tuple):
        return [_leaves(name, part, wanted) for part in value]
    if isinstance(value, str):
        try:
            return value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # half of a pair
            raise UnfitError(f"'{name}' is no text that UTF-8 has, but takes {wanted}") from None
    if isinstance(value, bytes):
        return value
    if _is_bytes(value):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise UnfitError(f"'{name}' has a b64 that is no base64") from None
    raise UnfitError(f"'{name}' is no text, but takes {wanted}")


def _is_bytes(value: object) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"b64"}
