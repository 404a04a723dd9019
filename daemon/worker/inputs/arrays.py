"""Inputs that are arrays of NumPy: `.npy`, `.npz`, and a table of `.npy` files. Item i is row i of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from daemon.sessionfile import SessionSpec
from daemon.worker.inputs import columns
from daemon.worker.inputs.batches import Batch, Shapes, ahead, only_input, refused
from daemon.worker.inputs.columns import Column
from daemon.worker.inputs.tfrecord import is_compressed
from daemon.worker.signature import Signature, Tensor, shape_text


class ArraysInput:
    """A column for each of the model's inputs, all of one length. Every row that is there can be read."""

    def __init__(self, by_input: Mapping[str, Column], signature: Signature) -> None:
        lengths = {column.layout.shape[0] for column in by_input.values()}
        for name, column in by_input.items():
            _check(name, column, signature.inputs[name])
        if len(lengths) > 1:
            counts = ", ".join(f"{name} {column.layout.shape[0]}" for name, column in by_input.items())
            path = next(iter(by_input.values())).path
            raise refused(path, f"the inputs have different numbers of items ({counts})", "write them with equal ones")
        self._columns = by_input
        self._dtypes = {name: tf.dtypes.as_dtype(signature.inputs[name].dtype) for name in by_input}
        self.total: int | None = lengths.pop()
        self.item_shapes: Shapes = {name: column.layout.shape[1:] for name, column in by_input.items()}

    @property
    def varies(self) -> bool:
        """Never: an array has one."""
        return False

    def batches(self, start: int, size: int) -> Iterator[Batch]:
        """Each batch is read by a thread that runs ahead."""
        return ahead(self._read(start, size))

    def fault(self, start: int, end: int) -> tuple[int, str] | None:  # noqa: ARG002 - rows have no checksums
        """Never told: a row that is there can be read."""
        return None

    def names(self) -> Iterator[str] | None:
        """None: rows have no names."""
        return None

    def _read(self, start: int, size: int) -> Iterator[Batch]:
        reading = {name: column.rows(start, size) for name, column in self._columns.items()}
        for parts in zip(*reading.values(), strict=True):
            tensors = {name: self._tensor(name, part) for name, part in zip(reading, parts, strict=True)}
            yield Batch(start, start + len(parts[0]), tensors)
            start += len(parts[0])

    def _tensor(self, name: str, rows: np.ndarray) -> tf.Tensor:
        dtype = self._dtypes[name]
        native = rows if rows.dtype.kind in "SU" else rows.astype(dtype.as_numpy_dtype, copy=False)
        return tf.convert_to_tensor(native, dtype)


def open_npy(files: list[Path], signature: Signature, spec: SessionSpec) -> ArraysInput:
    """One `.npy` file: the model's only input."""
    if len(files) > 1:
        why = f"{len(files)} .npy files match, and rows are numbered through one"
        raise refused(str(spec.input), why, "set input = one of them")
    remedy = f"set input = {{ {', '.join(f'{name} = …' for name in signature.inputs)} }}, a .npy file for each"
    name = only_input(files[0], "a .npy file holds one tensor", signature, remedy)
    _check_unpacked(files[0])
    return ArraysInput({name: columns.of_npy(files[0])}, signature)


def open_npz(files: list[Path], signature: Signature, spec: SessionSpec) -> ArraysInput:
    """One `.npz` archive: each input is fed by the array of its name; a model's only one by the only array."""
    if len(files) > 1:
        why = f"{len(files)} .npz files match, and rows are numbered through one"
        raise refused(str(spec.input), why, "set input = one of them")
    _check_unpacked(files[0])
    found = columns.of_npz(files[0])
    if len(found) == len(signature.inputs) == 1:
        found = {next(iter(signature.inputs)): next(iter(found.values()))}
    for name in signature.inputs:
        if name not in found:
            why = f"it has no array '{name}' (it has: {', '.join(found) or 'none'})"
            raise refused(files[0], why, "name the arrays as the model's inputs")
    return ArraysInput({name: found[name] for name in signature.inputs}, signature)


def open_table(table: Mapping[str, Path], signature: Signature) -> ArraysInput:
    """A `.npy` file for each input, by the inputs' names."""
    for name, file in table.items():
        if name not in signature.inputs:
            why = f"the model takes no input '{name}' (it takes: {', '.join(signature.inputs)})"
            raise refused(file, why, "name the files as the model's inputs")
        if file.suffix != ".npy":
            raise refused(file, f"it feeds input '{name}' of a table, and is no .npy file", "write it as one")
    for name in signature.inputs:
        if name not in table:
            why = f"the model takes '{name}' too, which input has no file for"
            raise refused(next(iter(table.values())), why, f"set input = {{ {name} = …, … }}")
    return ArraysInput({name: columns.of_npy(table[name]) for name in signature.inputs}, signature)


def _check_unpacked(file: Path) -> None:
    if is_compressed(file):
        raise refused(file, "it is a gzip file", "unpack it, or write it with numpy.savez_compressed instead")


def _check(name: str, column: Column, wanted: Tensor) -> None:
    layout = column.layout
    is_text = layout.dtype.kind in "SU" and wanted.dtype == "string"
    dtype = layout.dtype.newbyteorder("=")
    same = is_text or dtype == tf.dtypes.as_dtype(wanted.dtype).as_numpy_dtype
    if not same or not wanted.accepts(layout.shape[1:]):
        have = f"{layout.dtype.name} {shape_text(layout.shape)}"
        why = f"it holds {have}, but input '{name}' takes {wanted}"
        raise refused(column.path, why, "convert it, or choose another model or signature")
