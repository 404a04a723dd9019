"""An input's batches in order, each failure named by the item it happened at. Knows no format, opens no file."""

from __future__ import annotations

from dataclasses import replace

import tensorflow as tf

from daemon.worker import device
from daemon.worker.failures import Refused, first_line, is_out_of_memory, out_of_memory
from daemon.worker.inputs.batches import Batch, Input, ahead, refused


class Reader:
    """Hands out batches from a position on.

    `total` is None as long as nobody knows it: then one batch is held back, so that the last one is known for the last
    when it is handed out.
    """

    def __init__(self, called: str, source: Input, start: int, size: int, *, skip: bool) -> None:
        """called: what messages call the input; size: items of one batch; skip: what could be skipped is."""
        self.total = source.total
        self._remedy = "write it again" if skip else 'write it again, or set on_error = "skip"'
        self._source = source
        self._called = called
        self._position = start  # of what is to be read next
        self._size = size
        self._batches = source.batches(start, size)
        self._held: Batch | Exception | None = None
        if self.total is None:
            self._hold()

    def next(self) -> Batch | None:
        """The next batch, None after the last. Raises Refused (input) or baton.Failure (memory)."""
        if self.total is not None:
            return self._released() if self._held else self._read()
        batch = self._released()
        self._hold()
        return batch

    def place(self, target: str, batch: Batch | None) -> Batch | None:
        """From now on, batches lie on the device `target`, copied ahead by a thread; `batch`, already read, as well."""
        if target == device.HOST or batch is None:
            return batch
        self._batches = ahead(_placed(item, target) for item in self._batches)
        if isinstance(self._held, Batch):
            self._held = _placed(self._held, target)
        return _placed(batch, target)

    def _hold(self) -> None:
        """Read one batch further. What goes wrong there is raised in its turn."""
        try:
            self._held = self._read()
        except Exception as error:  # noqa: BLE001 - `_released` raises it
            self._held = error
        if self._held is None:
            self.total = self._position

    def _released(self) -> Batch | None:
        held, self._held = self._held, None
        if isinstance(held, Exception):
            raise held
        return held

    def _read(self) -> Batch | None:
        start = self._position
        end = start + self._size if self.total is None else min(start + self._size, self.total)
        if start >= end:
            return None
        try:
            batch = next(self._batches, None)
        except Refused:
            raise
        except Exception as error:  # whatever a file's damage makes NumPy or TensorFlow raise
            if is_out_of_memory(error):
                raise out_of_memory(f"read '{self._called}'", error, item=start) from error
            item, why = self._fault(start, end, error)
            raise refused(self._called, why, self._remedy, item) from error
        if batch is not None:
            self._position = batch.end
        elif self.total is not None:
            raise refused(self._called, f"it ends after {start} of {self.total} items", "write it again", start)
        return batch

    def _fault(self, start: int, end: int, error: Exception) -> tuple[int, str]:
        """The item to blame for an `error` in the items from `start` to `end`, and what is wrong; else the first."""
        try:
            found = self._source.fault(start, end)
        except Exception:  # noqa: BLE001 - the file is damaged, or gone: what was met first is what is told
            found = None
        if found is not None:
            return found[0], f"item {found[0]} is damaged: {found[1]}"
        where = f"item {start}" if end - start == 1 else f"one of the items {start} to {end - 1}"
        return start, f"{where} is damaged ({first_line(error)})"


def _placed(batch: Batch, target: str) -> Batch:
    """The batch with a copy of its tensors on the device `target`, as far as it takes their dtype."""
    if batch.tensors is None:
        return batch
    with tf.device(target):
        tensors = {name: tf.identity(tensor) for name, tensor in batch.tensors.items()}
    return replace(batch, tensors=tensors)
