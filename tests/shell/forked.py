"""What the tests have a fork server import and its children do. Asserts nothing."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn


def obey(socket_fd: int) -> int:
    """Say who this is, then do what the one line says: exit with a status, die by a signal, leave a child behind."""
    tell(socket_fd)
    order = json.loads(os.read(socket_fd, 1 << 16))
    print("to stdout")
    sys.stderr.write("to stderr\n")
    if "leave" in order:
        child = subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"], close_fds=True)
        os.write(socket_fd, str(child.pid).encode())
    if "signal" in order:
        sys.stdout.flush()
        os.kill(os.getpid(), order["signal"])
    return int(order.get("exit", 0))


def tell(socket_fd: int) -> None:
    """Which descriptors are open, and what the process looks like from inside."""
    descriptors = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            descriptors[entry.name] = str(entry.readlink())
        except OSError:  # the listing's own
            continue
    told = {
        "descriptors": descriptors,
        "channel": socket_fd,
        "session": os.getsid(0),
        "main": str(getattr(sys.modules["__main__"], "__file__", None)),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "default": [signal.getsignal(n) is signal.SIG_DFL for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        "frozen": gc.get_freeze_count(),
        "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    }
    os.write(socket_fd, json.dumps(told).encode())


def hold(socket_fd: int) -> NoReturn:
    """Live until killed, or until the channel ends."""
    tell(socket_fd)
    while os.read(socket_fd, 1):
        pass
    os._exit(0)


def ordinary_user(socket_fd: int) -> int:
    """As a user without privileges: lower and raise oneself, over and over until the kernel has said "again" once.

    Tells the priority when lowered, that when raised, and how often the kernel said it; in vain a hundred times: 0.
    """
    from daemon import priority

    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: else /proc/self would still be root's
    seen: dict[bool, int] = {}
    again = 0
    for _ in range(100):  # a change soon after another is refused; on a busy host this one may not come soon
        for low in (True, False):
            while not priority.apply(os.getpid(), (os.getpid(),), priority.Method.AUTOGROUP, low=low):
                again += 1
                time.sleep(0.05)
            seen[low] = int(Path("/proc/self/autogroup").read_text().split()[-1])
        if again:
            break
    os.write(socket_fd, json.dumps([seen[True], seen[False], again]).encode())
    return 0


def save_model(socket_fd: int) -> int:
    """Into the folder that the channel names: a SavedModel that doubles, and 500 items for it."""
    import numpy as np
    import tensorflow as tf

    folder = os.read(socket_fd, 1 << 16).decode()
    module = tf.Module()
    signature = [tf.TensorSpec([None, 4], tf.float32, "x")]
    module.call = tf.function(lambda x: {"y": 2 * x}, input_signature=signature)
    tf.saved_model.save(module, f"{folder}/model", signatures=module.call)
    np.save(f"{folder}/x.npy", np.ones((500, 4), np.float32))
    return 0
