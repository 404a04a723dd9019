"""What a model is on its way to a device: staged on the host, then loaded. Knows no format of file, and reads none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from daemon.worker.signature import Signature

Value: TypeAlias = tf.Tensor | tf.RaggedTensor | np.ndarray


def nothing() -> None:
    """Close what needs no closing."""


@dataclass(frozen=True)
class Wanted:
    """What a session asks of a model's file. `signature`: None for the only one."""

    signature: str | None = None
    safe_mode: bool = True  # Python code in a Keras file is not run


@dataclass(frozen=True)
class Weight:
    """What a signature keeps in memory once it is loaded: its variables' values, counted, and constants beside them."""

    parameters: int | None  # None where the files do not tell
    variable_bytes: int
    constant_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.variable_bytes + self.constant_bytes


@dataclass(frozen=True)
class Model:
    """A loaded model: weights on the device, not yet traced.

    call: takes and gives tensors by the signature's names, the batch first in each. An output whose rows differ in
    length may be a RaggedTensor.
    inputs_at: the device where it takes its inputs without another copy.
    close: gives back what it holds beside memory; to be called once, after the last call.
    """

    signature: Signature
    call: Callable[[Mapping[str, tf.Tensor]], Mapping[str, Value]]
    inputs_at: str
    close: Callable[[], None] = nothing


@dataclass(frozen=True)
class Staged:
    """A model as far as it can be prepared without holding its weights on the device.

    load: brings the weights there; to be called once, as it gives away what the host held of them. Where it raises,
    nothing is left to be closed.
    """

    signature: Signature
    load: Callable[[], Model]


def cannot(path: Path, why: str, remedy: str) -> str:
    """The reason to report for a model that cannot be used."""
    return f"cannot load '{path}': {why}; {remedy}"


def note_unstaged(path: Path, why: str) -> None:
    """Into the session's log: the model is loaded all at once when the device is free, which takes longer then."""
    print(f"cannot stage the weights of '{path}': {why}; it is loaded whole for tier warm", file=sys.stderr)  # noqa: T201 - its log is stderr
