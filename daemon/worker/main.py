"""How a worker process begins and ends. Imports TensorFlow only once the daemon has its answer; computes nothing.

A fork server preloads `daemon.worker.batch` (TensorFlow and all that these two need), forks, and calls `serve` or
`inspect` in the child with the descriptor of the worker's end of a socket pair.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import NoReturn

import msgspec

import baton
from daemon.sessionfile import DeviceAssignment
from daemon.worker import device


def serve(socket_fd: int, target: str | None = None) -> NoReturn:
    """Run one session as docs/worker-protocol.md says, and end the process: 0, or 1 after `failed`.

    target: TensorFlow's name of the device for weights and computation; None: that of the assigned one.
    """
    channel = baton.Channel(socket_fd)
    status = 0
    try:
        assigned = msgspec.convert(channel.assignment["device"], DeviceAssignment)
        device.claim(assigned)
        from daemon.worker import batch  # seconds of import where no fork server did it: `hello` went first

        batch.run(channel, assigned, target or device.target(assigned))
    except baton.Failure as failure:
        channel.failed(failure.kind, failure.reason, failure.item)
        _print_traceback()
        status = 1
    except Exception as error:  # noqa: BLE001 - the last handler: the daemon is told whatever it is
        kind = "memory" if isinstance(error, MemoryError) else "internal"
        channel.failed(kind, f"the worker stopped: {type(error).__name__}: {error}; see its log")
        _print_traceback()
        status = 1
    leave(status)


def inspect(socket_fd: int) -> NoReturn:
    """Answer one `inspect` request, and end the process. Computes on no device, and takes none."""
    device.claim(DeviceAssignment(kind="cpu"))
    from daemon.worker import inspector

    inspector.answer(socket_fd)
    leave(0)


def leave(status: int) -> NoReturn:
    """End the process now: memory is free when it is gone, and an interpreter with TensorFlow is slow to end.

    What must be kept is on disk by then; only what was printed is still in buffers.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a full disk, or a session's code has closed it: what was done is done
            stream.flush()
    os._exit(status)


def _print_traceback() -> None:
    """Into the session's log, where there is room: what counts has been said before."""
    with contextlib.suppress(OSError):
        traceback.print_exc()
