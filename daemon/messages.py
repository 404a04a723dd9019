"""The lines of the worker protocol, version 1, declared once (docs/worker-protocol.md). No socket, no process.

What a worker sends is checked here to the last number: nothing beyond this module looks at its text.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from daemon.sessionfile import DeviceAssignment, SessionSpec

PROTOCOL: Final = 1
LINE_LIMIT_BYTES: Final = 1 << 20

TierName = Literal["imported", "staged", "warm"]
PhaseName = Literal["loading", "ready", "computing", "draining", "committed"]
FailureKind = Literal["model", "input", "output", "memory", "program", "internal"]

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


# From the daemon.


class Rejoin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a worker that loses its daemon finds the next one, and for how long it looks."""

    socket: str
    seconds: float


class Assign(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="assign"):
    """Always the first line: what to run, where, and how far to prepare it."""

    protocol: int = PROTOCOL
    session: str
    generation: int
    tier: TierName
    cursor: int
    resume: bool
    submission: str = ""
    device: DeviceAssignment
    spec: SessionSpec
    rejoin: Rejoin | None = None


class Advance(msgspec.Struct, frozen=True, tag_field="type", tag="advance"):
    """Prepare further, to `tier`."""

    tier: TierName


class Go(msgspec.Struct, frozen=True, tag_field="type", tag="go"):
    """The device is yours: compute."""


class Drain(msgspec.Struct, frozen=True, tag_field="type", tag="drain"):
    """Finish the batch in flight, make it durable, commit, exit 0."""


class Cancel(msgspec.Struct, frozen=True, tag_field="type", tag="cancel"):
    """As `drain` once computing; before `go`, exit at once."""


ToWorker: TypeAlias = Assign | Advance | Go | Drain | Cancel


# From the worker.


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="hello"):
    """The answer to `assign`."""

    protocol: int
    session: str
    generation: int
    pid: Count
    phase: PhaseName
    tier: TierName | None = None
    cursor: Count = 0
    done: Count = 0
    total: Count | None = None
    errors: Count = 0
    began_at: Seconds | None = None
    ended_at: Seconds | None = None
    remaining: Count | None = None
    paused: str | None = None
    tensorflow: bool = False


class Advanced(msgspec.Struct, frozen=True, tag_field="type", tag="advanced"):
    """A tier was passed on the way to a higher one."""

    tier: TierName
    seconds: Seconds


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="ready"):
    """Prepared as far as asked. `peak_bytes` is of host memory, `device_peak_bytes` of a device's own."""

    tier: TierName
    seconds: Seconds
    total: Count | None = None
    peak_bytes: Bytes = 0
    device_peak_bytes: Bytes = 0


class Started(msgspec.Struct, frozen=True, tag_field="type", tag="started"):
    """The first item is about to be computed."""

    at: float


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="progress"):
    """Items computed and items durable, the ones before the cursor included; `errors`: items skipped."""

    done: Count
    cursor: Count
    total: Count | None = None
    errors: Count = 0
    rss_bytes: Bytes = 0


class LastBatch(msgspec.Struct, frozen=True, tag_field="type", tag="last_batch"):
    """No batch follows the one in flight."""


class Quiesced(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="quiesced"):
    """Nothing is in flight any more; the last item was computed `at`."""

    at: float
    done: Count
    remaining: Count | None = None
    errors: Count = 0


class Committed(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="committed"):
    """The output up to `cursor` is durable."""

    cursor: Count
    errors: Count = 0
    peak_bytes: Bytes = 0
    device_peak_bytes: Bytes = 0


class Paused(msgspec.Struct, frozen=True, tag_field="type", tag="paused"):
    """It cannot go on for now, and tries again: the disk of its output is full, or read-only."""

    reason: str


class Resumed(msgspec.Struct, frozen=True, tag_field="type", tag="resumed"):
    """It goes on."""


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="failed"):
    """The session cannot go on."""

    kind: FailureKind
    reason: str
    item: Count | None = None


FromWorker: TypeAlias = (
    Hello | Advanced | Ready | Started | Progress | LastBatch | Paused | Resumed | Quiesced | Committed | Failed
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[FromWorker] = msgspec.json.Decoder(FromWorker)


def encode(message: ToWorker) -> bytes:
    """The message as its line, the newline included."""
    return _encoder.encode(message) + b"\n"


def decode(line: bytes) -> FromWorker:
    """The message of one line. Raises msgspec.DecodeError (or its ValidationError) saying what is wrong with it."""
    return _decoder.decode(line)
