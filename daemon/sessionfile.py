"""The session file: its keys, their defaults, and every check that needs neither TensorFlow nor the queue.

Reads TOML and the file system; starts nothing and knows no lane.
"""

from __future__ import annotations

from typing import Literal

import msgspec

DeviceKind = Literal["cpu", "gpu"]


class SessionSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[session]]` table, with defaults filled in and every path absolute.

    Either `model`, `input` and `output` are set (the built-in TensorFlow batch worker) or `run` is (any program).
    """

    name: str
    model: str | None = None  # a SavedModel directory or a .keras file
    input: str | None = None  # a .npy file, or TFRecord files (a path or a glob)
    output: str | None = None  # a directory: <output tensor>.npy, errors.jsonl, session.json
    batch_size: int = 32  # items of one call of the model
    signature: str | None = None  # None: the only one, or serving_default
    device: str = "any"  # any | cpu | gpu | gpu:<index> | <UUID>
    after: tuple[str, ...] = ()
    overwrite: bool = False
    lead: str | int | float = "auto"  # "auto", seconds, or a percentage of the total as "90%"
    max_attempts: int = 3
    priority: int = 0  # higher runs sooner
    run: tuple[str, ...] | None = None  # the program and its arguments
    memory: str | int | None = None  # its need on the device, as "12GiB" or in bytes
    prepare: bool = False  # `run` only: it calls session.ready(), so it may start ahead
    cwd: str | None = None  # `run` only: the session file's folder where not given


class DeviceAssignment(msgspec.Struct, frozen=True, kw_only=True):
    """The device a worker is to use, as `assign` tells it."""

    kind: DeviceKind
    index: int | None = None  # NVML's index, for people
    uuid: str | None = None  # what CUDA_VISIBLE_DEVICES gets
    memory_limit_bytes: int | None = None
