"""Workers that come into need: on a small disk of their own, or without root's right to write anywhere.

Runs in a host's child, before the worker begins.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import NoReturn

CANNOT = 77  # the status that says that this host does not let it
CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x10000000
MS_REC_PRIVATE = 0x4000 | 0x40000
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


def serve_on_small_disk(folder: str, kib: int, timeout_s: float, fd: int) -> NoReturn:
    """Serve with a tmpfs of that size at `folder`, in a mount namespace of the process's own: it ends with it."""
    user = os.getuid()
    if libc.unshare(CLONE_NEWNS) != 0:  # an ordinary user may, as root of a user namespace of its own
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0:
            os._exit(CANNOT)
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    made = [
        libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None),
        libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, f"size={kib}k".encode()),
    ]
    if any(made):
        os._exit(CANNOT)
    serve(timeout_s, fd)


def serve_unprivileged(timeout_s: float, fd: int) -> NoReturn:
    """Serve as a user whom permissions bind, root too."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, low words first
    if libc.capget(header, sets) != 0:
        os._exit(CANNOT)
    sets[0] &= ~(1 << CAP_DAC_OVERRIDE)
    if libc.capset(header, sets) != 0:
        os._exit(CANNOT)
    serve(timeout_s, fd)


def serve(timeout_s: float, fd: int) -> NoReturn:
    from daemon.worker import main

    os.environ["BATON_DISK_TIMEOUT_S"] = str(timeout_s)
    main.serve(fd)
