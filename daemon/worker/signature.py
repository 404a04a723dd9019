"""The names, dtypes and shapes of a model's tensors, as plain values. Imports no TensorFlow, reads no file."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Tensor:
    """One named input or output.

    dtype: TensorFlow's name of it, as "float32".
    shape: the batch first; None for a size that is free; None as a whole where even the rank is.
    ragged: the free sizes differ from row to row, within one batch too.
    """

    dtype: str
    shape: tuple[int | None, ...] | None
    ragged: bool = False

    @property
    def item_shape(self) -> tuple[int | None, ...] | None:
        """The shape of one item: without the batch."""
        return None if self.shape is None else self.shape[1:]

    def accepts(self, item_shape: tuple[int, ...]) -> bool:
        """Whether an item of that shape fits."""
        wanted = self.item_shape
        return wanted is None or (
            len(wanted) == len(item_shape)
            and all(want is None or want == have for want, have in zip(wanted, item_shape, strict=True))
        )

    def __str__(self) -> str:
        return f"{self.dtype} {'of any shape' if self.shape is None else shape_text(self.shape)}"


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives under one name."""

    name: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    @property
    def fixed_batch(self) -> int | None:
        """The number of items that every call must have, or None where it is free."""
        sizes = [tensor.shape[0] for tensor in self.inputs.values() if tensor.shape]
        return next((size for size in sizes if size is not None), None)


def shape_text(shape: tuple[int | None, ...]) -> str:
    """(None, 28, 28) as "(any, 28, 28)"."""
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


def item_count(shape: tuple[int | None, ...]) -> int:
    """The values in one item, free sizes counted as one."""
    return math.prod(1 if size is None else size for size in shape)
