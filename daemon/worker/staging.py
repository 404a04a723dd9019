"""What a model is on its way to a device: staged on the host, then loaded. Knows no format of file, and reads none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from daemon.worker.signature import Signature


@dataclass(frozen=True)
class Model:
    """A loaded model: weights on the device, not yet traced.

    call: takes and gives tensors by the signature's names, the batch first in each.
    """

    signature: Signature
    call: Callable[[Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]]


@dataclass(frozen=True)
class Staged:
    """A model as far as it can be prepared without holding its weights on the device.

    load: brings the weights there; to be called once, as it gives away what the host held of them.
    """

    signature: Signature
    load: Callable[[], Model]


def cannot(path: Path, why: str, remedy: str) -> str:
    """The reason to report for a model that cannot be used."""
    return f"cannot load '{path}': {why}; {remedy}"


def note_unstaged(path: Path, why: str) -> None:
    """Into the session's log: the model is loaded all at once when the device is free, which takes longer then."""
    print(f"cannot stage the weights of '{path}': {why}; it is loaded whole for tier warm", file=sys.stderr)  # noqa: T201 - its log is stderr
