"""Calls the model on batches; where it raises, finds the items at fault. Reads no file and writes none."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import tensorflow as tf

from daemon.worker import outputs
from daemon.worker.failures import Refused, first_line, is_out_of_memory, out_of_memory
from daemon.worker.inputs.batches import Batch, Tensors
from daemon.worker.staging import Model, Value

# A device, a runtime or a model in disorder raises these whatever the item is: no item is to be blamed for it.
NO_ITEMS_FAULT: Final = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)


@dataclass(frozen=True)
class Computed:
    """What one batch gave. `rows`: a row for each of its items, on the host; None where all of them are errors.

    Rows of text are an array of `bytes` objects; rows that differ in shape are one of arrays, a row each, which for a
    RaggedTensor of several ragged sizes are such arrays again. Where an item is an error, None stands there.
    errors: position → reason, in one line.
    """

    rows: outputs.Results | None
    errors: dict[int, str]


class Caller:
    """A loaded model with the manner of calling it."""

    def __init__(self, model: Model, path: Path, *, skip: bool) -> None:
        """skip: items that make the model raise become errors; without it they are the session's failure."""
        self._model = model
        self._path = path
        self._skip = skip

    def call(self, batch: Batch) -> Computed:
        """The results for the batch's items. Raises Refused (model), or baton.Failure (memory)."""
        errors = dict(batch.errors)
        if batch.tensors is None:
            return Computed(None, errors)
        sound = np.array([item for item in range(batch.start, batch.end) if item not in errors])
        parts: list[tuple[np.ndarray, outputs.Results]] = []
        for items, outcome in self._parts(batch.tensors, sound):
            if isinstance(outcome, str):
                errors[int(items[0])] = outcome
            else:
                parts.append((items, outcome))
        if not parts:
            return Computed(None, errors)
        if not errors and len(parts) == 1:
            return Computed(parts[0][1], errors)
        return Computed(_joined(batch, parts), errors)

    def _parts(self, tensors: Tensors, items: np.ndarray) -> Iterator[tuple[np.ndarray, outputs.Results | str]]:
        """The results of the items, in one piece if that goes, else by halves down to the ones that raise."""
        try:
            results = self._results(tensors, len(items))
        except Exception as error:  # noqa: BLE001 - a model is a program: it may raise anything; `_judge` sorts it
            self._judge(error, items)
            if len(items) == 1:
                yield items, f"the model: {first_line(error)}"
                return
            half = len(items) // 2
            for part in (slice(None, half), slice(half, None)):
                yield from self._parts({name: tensor[part] for name, tensor in tensors.items()}, items[part])
        else:
            yield items, results

    def _results(self, tensors: Tensors, count: int) -> outputs.Results:
        """One call: on the host when this returns, rows of the padding cut off."""
        fixed = self._model.signature.fixed_batch
        if fixed is not None and count < fixed:
            tensors = {name: _padded(tensor, fixed - count) for name, tensor in tensors.items()}
        results = {name: rows_of(value) for name, value in self._model.call(tensors).items()}
        outputs.storable(results, fixed or count)
        return {name: result[:count] for name, result in results.items()}

    def _judge(self, error: Exception, items: np.ndarray) -> None:
        """Raise where the error ends the session."""
        if isinstance(error, Refused):
            raise error
        first = int(items[0])
        where = f"compute items {first} to {int(items[-1])} with '{self._path}'"
        if is_out_of_memory(error):
            raise out_of_memory(where, error, first) from error
        if not self._skip or isinstance(error, NO_ITEMS_FAULT):
            raise Refused("model", f"cannot {where}: {first_line(error)}; see the worker's log", first) from error


def _padded(tensor: tf.Tensor, missing: int) -> tf.Tensor:
    return tf.concat([tensor, tf.repeat(tensor[-1:], missing, axis=0)], axis=0)


def rows_of(value: Value) -> np.ndarray:
    """The value on the host, a row for each item."""
    if isinstance(value, tf.RaggedTensor):
        inner, splits = rows_of(value.values), value.row_splits.numpy()
        return _objects([inner[first:end] for first, end in itertools.pairwise(splits)])
    return value if isinstance(value, np.ndarray) else value.numpy()


def _objects(rows: Sequence[object]) -> np.ndarray:
    """An array that has these as its elements, whatever they are: NumPy's own ways look into them."""
    array = np.empty(len(rows), object)
    for number, row in enumerate(rows):
        array[number] = row
    return array


def _joined(batch: Batch, parts: list[tuple[np.ndarray, outputs.Results]]) -> outputs.Results:
    """One array an output for the whole batch, what stands for an error in the rows that no part has."""
    whole = {}
    for name in parts[0][1]:
        rows = [outputs.plain(results[name]) for _, results in parts]
        if len({each.shape[1:] for each in rows}) > 1:
            rows = [_objects(list(each)) for each in rows]
        shape, dtype = (batch.end - batch.start, *rows[0].shape[1:]), rows[0].dtype
        whole[name] = np.full(shape, None, object) if dtype.hasobject else outputs.filler(shape, dtype)
        for (items, _), each in zip(parts, rows, strict=True):
            whole[name][items - batch.start] = each
    return whole
