"""Which Python an interpreter is that a session names, asked of itself. Knows no session, and judges no script."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from typing import Final

from daemon.processes import signal_name

OLDEST: Final = (3, 9)  # what baton.py runs in
ASK_TIMEOUT_S: Final = 30.0  # an environment on a slow disk; a program that is no Python may wait for ever
ANSWER_LIMIT_BYTES: Final = 4096
QUESTION: Final = "import sys; sys.stdout.write('python %d.%d' % sys.version_info[:2])"  # Python 2 can answer it too


def unfit(python: str, environment: Mapping[str, str]) -> str | None:
    """Why no session can run in it, in one line; None where one can. Waits: not for the event loop's thread."""
    try:
        status, said = _asked(python, environment)
    except OSError as error:
        return f"cannot start {python!r}: {error.strerror}; name a Python interpreter"
    if status is None:
        return f"{python!r} is no Python that works: it gave no answer within {ASK_TIMEOUT_S:.0f} s; name another"
    version = re.fullmatch(r"python (\d+)\.(\d+)", said)
    if status != 0 or version is None:
        last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it printed nothing")
        shown = "".join(character if character.isprintable() else "?" for character in last)[:200]
        ended = f"exit status {status}" if status >= 0 else f"killed by {signal_name(-status)}"
        return f"{python!r} is no Python that works ({ended}: {shown}); name a Python interpreter"
    if (int(version[1]), int(version[2])) < OLDEST:
        return f"{python!r} is Python {version[1]}.{version[2]}, and baton.py needs 3.9 or newer; name a newer one"
    return None


def _asked(python: str, environment: Mapping[str, str]) -> tuple[int | None, str]:
    """Its exit status, None where it was too slow, and what it printed. Raises OSError where it does not start.

    No more is read than an answer takes; it, and what it started, is gone afterwards.
    """
    until = time.monotonic() + ASK_TIMEOUT_S
    answer_r, answer_w = os.pipe()
    with open(answer_r, "rb") as answer:  # noqa: PTH123 - a descriptor, here and below
        with open(answer_w, "wb") as its_answer:  # noqa: PTH123
            child = subprocess.Popen(
                [python, "-S", "-c", QUESTION],
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=its_answer,
                stderr=its_answer,
                start_new_session=True,
            )
        pidfd = os.pidfd_open(child.pid)
        said = _read(answer.fileno(), pidfd, until)
    ended = bool(_ready(until, pidfd))
    os.close(pidfd)
    os.killpg(child.pid, signal.SIGKILL)  # it is not waited for yet, so the number is its group's still
    status = child.wait()
    return status if ended else None, said.decode(errors="replace")


def _ready(until: float, *fds: int) -> list[int]:
    """Which of them can be read (a pidfd: has ended); waits for one until the moment `until`."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(max(0.0, until - time.monotonic()) * 1000)]


def _read(fd: int, pidfd: int, until: float) -> bytes:
    """What comes before the end of file, the limit, the moment `until`, or that of the process's end.

    One that it leaves in the background may hold the pipe for as long as it likes.
    """
    said = b""
    while len(said) < ANSWER_LIMIT_BYTES and fd in _ready(until, fd, pidfd):
        chunk = os.read(fd, ANSWER_LIMIT_BYTES)
        if not chunk:
            break
        said += chunk
    return said
