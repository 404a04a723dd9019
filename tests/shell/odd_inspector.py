"""An inspector without TensorFlow: does to each spec what the name of its model says. Tests no thing itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from daemon.worker import children

FD = int(os.environ["BATON_FD"])


def say(message: dict[str, Any] | bytes) -> None:
    os.write(FD, message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")


def stray() -> None:
    """Leave processes that hold the line and the output, in this group and in one of its own, and tell their pids."""
    left = [subprocess.Popen(["sleep", "1000"], pass_fds=(FD,), start_new_session=own).pid for own in (False, True)]
    print(*left, flush=True)


def later() -> None:
    """End the process while it is at the next spec."""

    def end() -> None:
        while not waiting.wait():
            pass
        os._exit(7)

    threading.Thread(target=end).start()


def wait_behind_another() -> None:
    """Wait for ever, unless this is the first spec of its process."""
    if answered:
        waiting.set()
        time.sleep(1e6)


def flood() -> None:
    while True:
        os.write(1, b"y" * 1023 + b"\n")


def crash() -> None:
    trace = ("Traceback (most recent call last):", '  File "x.py", line 1, in <module>', "ValueError: no such split")
    print(*trace, sep="\n", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def close() -> None:
    os.close(FD)
    os._exit(3)


def leave_behind() -> None:
    stray()
    os._exit(4)


def noise() -> None:
    print("\x1b[1mnoise\x1b[0m\n", flush=True)
    os._exit(5)


answered: list[str] = []
waiting = threading.Event()
ACTS: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(9),
    "crash": crash,
    "hang": lambda: time.sleep(1e6),
    "flood": flood,
    "garbage": lambda: say(b"garbage\n"),
    "another": lambda: say({"type": "inspected", "session": "x", "error": None}),
    "endless": lambda: [say(b"{" * (1 << 16)) for _ in range(64)],
    "close": close,
    "leave": leave_behind,
    "noise": noise,
    "later": later,
    "waits": wait_behind_another,
}


def main() -> None:
    with open(FD, "rb", buffering=0, closefd=False) as line:
        request = json.loads(line.readline())
    os.environ[children.MARK] = children.mark()
    for spec in request["specs"]:
        say({"type": "inspecting", "key": "input"})
        ACTS.get(spec["model"], lambda: None)()
        answered.append(spec["name"])
        say({"type": "inspected", "session": spec["name"], "error": None, "pid": os.getpid()})


if __name__ == "__main__":
    main()
