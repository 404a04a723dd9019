"""What a service manager is told, and what it handed over: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).

The protocols, by hand: a datagram, and a few variables. Decides nothing; silent where no manager listens.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["Manager", "listening_socket"]

FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
STATUS_LIMIT_CHARACTERS: Final = 1000


class Manager:
    """The service manager that started this process, if one did. No word to it waits, and none fails."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(environ)
        """Within how many seconds it wants to hear from us again and again; None where it does not watch."""
        self._socket: socket.socket | None = None
        if self._address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    @property
    def listens(self) -> bool:
        """Whether there is one that wants to be told anything."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """Serving: for the first time, or again after `reloading`."""
        self._say("READY=1", _status(status))

    def status(self, text: str) -> None:
        """One line for a person, shown by `systemctl status`."""
        self._say(_status(text))

    def reloading(self) -> None:
        """The configuration is being read again; `ready` follows, whether it was taken or not."""
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The end has begun."""
        self._say("STOPPING=1")

    def extend(self, seconds: float) -> None:
        """What is going on, the start or the end, takes so many seconds more from now, and is not stuck."""
        self._say(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def alive(self) -> None:
        """What the watchdog waits for."""
        self._say("WATCHDOG=1")

    def close(self) -> None:
        """Say nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _say(self, *lines: str) -> None:
        if self._socket is not None and self._address is not None:
            # A manager that is gone, being replaced, or has a full queue: nothing hangs on one word, and the next
            # one follows. A watchdog that hears nothing does what it is there for.
            with suppress(OSError):
                self._socket.sendto("\n".join(lines).encode(), self._address)


def listening_socket(environ: Mapping[str, str]) -> tuple[socket.socket, Path] | None:
    """The Unix socket that the service manager listens on for us, and its path; None where it passed none.

    Raises ValueError, in words, where what it passed is not one listening stream socket with a path.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return None  # meant for another process, or for none
    count = environ.get("LISTEN_FDS", "")
    if count != "1":
        raise ValueError(
            f"the service manager passed {count or 'no'} sockets, and batond takes one: the control socket"
        )
    try:
        given = socket.socket(fileno=os.dup(FIRST_FD))  # dup is close-on-exec
        os.close(FIRST_FD)
    except OSError as error:
        raise ValueError(f"what the service manager passed is no socket: {error.strerror}") from None
    stream = given.family == socket.AF_UNIX and given.type == socket.SOCK_STREAM
    if not (stream and given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)):
        given.close()
        raise ValueError("the service manager passed a socket that is no listening Unix stream socket")
    name = given.getsockname()
    if not isinstance(name, str) or not name:
        given.close()
        raise ValueError("the service manager passed a socket without a path; give it one: ListenStream=/run/…")
    given.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return given, Path(name)


def _address(text: str) -> str | None:
    """`@` stands for the abstract namespace's NUL. Other transports (vsock) are for virtual machines, not for us."""
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else None


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    usec = environ.get("WATCHDOG_USEC", "")
    return int(usec) / 1e6 if usec.isdecimal() and int(usec) > 0 else None


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())[:STATUS_LIMIT_CHARACTERS]
