"""What every format of input gives: batches of items, in order, from any position on. Knows no format."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import tensorflow as tf

from daemon.sessionfile import SessionSpec
from daemon.worker import device
from daemon.worker.failures import Refused
from daemon.worker.signature import Signature

BATCHES_AHEAD: Final = 2

Tensors = dict[str, tf.Tensor]  # by input, the batch first
Shapes = dict[str, tuple[int, ...]]  # of one item, by input


@dataclass(frozen=True)
class Batch:
    """Items `start` to `end` (exclusive). `errors`: the ones that could not be read, with the reason.

    `tensors` holds a row for each of the others, in their order; it is None where there are none.
    """

    start: int
    end: int
    tensors: Tensors | None
    errors: Mapping[int, str] = field(default_factory=dict)


class Input(Protocol):
    """One opened input. The same items come in the same order whenever it is read."""

    total: int | None  # items; None: known when the last one is read
    item_shapes: Shapes  # of the first item, or of every one

    @property
    def varies(self) -> bool:
        """Whether items may have several shapes."""

    def batches(self, start: int, size: int) -> Iterator[Batch]:
        """The items from position `start` on, `size` at a time, the last batch maybe shorter. On the host.

        May raise anything: see `Reader`.
        """

    def fault(self, start: int, end: int) -> tuple[int, str] | None:
        """The first of these items that cannot be read, and why; None where that cannot be told. May raise anything."""

    def names(self) -> Iterator[str] | None:
        """What each item is called, in order; None where an item is told by its position alone."""


Open = Callable[[list[Path], Signature, SessionSpec], Input]


def refused(what: str | Path, why: str, remedy: str, item: int | None = None) -> Refused:
    """The failure to report for an input that cannot be read."""
    return Refused("input", f"cannot read '{what}': {why}; {remedy}", item)


def only_input(what: str | Path, holds: str, signature: Signature, remedy: str) -> str:
    """The name of the model's only input. Raises Refused (input) where it takes several."""
    if len(signature.inputs) != 1:
        why = f"{holds}, and the model takes {len(signature.inputs)} ({', '.join(signature.inputs)})"
        raise refused(what, why, remedy)
    return next(iter(signature.inputs))


def ahead(items: Iterator[Batch]) -> Iterator[Batch]:
    """`items`, made by a thread that is BATCHES_AHEAD further. Who stops early leaves it waiting, a daemon."""
    made: queue.Queue[Batch | BaseException | None] = queue.Queue(BATCHES_AHEAD)

    def make() -> None:
        try:
            with tf.device(device.HOST):  # a thread has a scope of its own; without one, TensorFlow takes a GPU
                for item in items:
                    made.put(item)
            made.put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the reading side, which raises it: else that waits for ever
            made.put(error)

    def take() -> Iterator[Batch]:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    threading.Thread(target=make, name="read-ahead", daemon=True).start()  # now, not when the first is taken
    return take()


def value_bytes(dtype: str) -> int:
    """Bytes of one value of TensorFlow's `dtype`; of a string, which has no fixed size, those of its handle."""
    return int(tf.dtypes.as_dtype(dtype).size) or 24
