"""The fork server: imports once what workers need, then forks one process a request. Knows no session.

`python -m daemon.worker.forkserver FD MODULE…`, where FD is a SOCK_SEQPACKET socket. On it, JSON packets:

    to it     {"id", "entry": "module:function", "environment": {…}}  with two descriptors: the worker's socket, its log
    from it   {"ready": true, "error": null or why a module could not be imported, "threads"}   once, after the import
              {"id", "pid"} with a pidfd, or {"id", "error"}
              {"exited": pid, "status": code or −signal}

It forks only while it has one thread: a lock held by another thread at the fork would stay locked in the child for
ever. It ends when the other end of its socket is closed; the processes it forked go on.

Not the standard library's: that one runs the daemon's `__main__` in each child, swallows an ImportError, joins its
children when the daemon ends, says 255 both for that exit code and for "unknown", keeps itself alive as long as
one child lives, and listens at an address.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any, Final

PACKET_LIMIT_BYTES: Final = 1 << 16
HANDED_DOWN: Final = 2  # descriptors a request carries: the worker's socket, its log


@dataclass(frozen=True)
class Order:
    """What a child just forked is to do. `channel_fd` and `log_fd` are open in it."""

    entry: str
    environment: dict[str, str]
    channel_fd: int
    log_fd: int

    def begin(self) -> None:
        """Put this process in order: its streams, its signals, its environment."""
        null_fd = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null_fd, 0)
        os.dup2(self.log_fd, 1)
        os.dup2(self.log_fd, 2)
        os.close(null_fd)
        os.close(self.log_fd)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.environ.update(self.environment)

    def run(self) -> int:
        """Call the entry with the worker's socket; its status is this process's, unless it ends it itself."""
        module, _, function = self.entry.partition(":")
        status = getattr(importlib.import_module(module), function)(self.channel_fd)
        return int(status or 0)


class Server:
    """Forks on request, and reports how each child ended."""

    def __init__(self, control: socket.socket) -> None:
        """control: the SOCK_SEQPACKET socket to the daemon."""
        self._control = control
        self._children: dict[int, int] = {}  # pidfd → pid
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def serve(self) -> Order | None:
        """Until the daemon is gone (None); in each forked child, what that child is to do."""
        while True:
            for fd, _ in self._poll.poll():
                if fd != self._control.fileno():
                    self._bury(fd)
                    continue
                packet, fds, _, _ = socket.recv_fds(
                    self._control, PACKET_LIMIT_BYTES, HANDED_DOWN, socket.MSG_CMSG_CLOEXEC
                )
                if not packet:
                    return None
                order = self._fork(json.loads(packet), fds)
                if order is not None:
                    return order

    def tell(self, fds: list[int], **packet: Any) -> None:
        """Send one packet. A daemon that is gone is seen at the next read."""
        try:
            socket.send_fds(self._control, [json.dumps(packet).encode()], fds)
        except (BrokenPipeError, ConnectionResetError):
            return

    def _fork(self, request: dict[str, Any], fds: list[int]) -> Order | None:
        threads = count_threads()
        if threads != 1:
            _close(fds)
            self.tell([], id=request["id"], error=f"the fork server has {threads} threads")
            return None
        ordered_r, ordered_w = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:  # too many processes, or too little memory
            _close([*fds, ordered_r, ordered_w])
            self.tell([], id=request["id"], error=f"fork: {error.strerror}")
            return None
        if pid == 0:
            os.setsid()
            os.close(ordered_r)
            os.close(ordered_w)  # the server reads its end: the process leads its own group now
            self._control.close()
            _close(list(self._children))
            channel_fd, log_fd = fds
            return Order(request["entry"], request["environment"], channel_fd, log_fd)
        os.close(ordered_w)
        os.read(ordered_r, 1)
        _close([*fds, ordered_r])
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        self.tell([pidfd], id=request["id"], pid=pid)
        return None

    def _bury(self, pidfd: int) -> None:
        pid = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        with contextlib.suppress(PermissionError):  # a member that changed its user
            os.killpg(pid, signal.SIGKILL)  # what it left behind; until it is reaped the group is surely its own
        _, status = os.waitpid(pid, 0)
        self.tell([], exited=pid, status=os.waitstatus_to_exitcode(status))


def count_threads() -> int:
    """Those the kernel knows of; Python's own count misses what a C library started."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names are all it takes


def preload(modules: list[str]) -> str | None:
    """Import them; None, or why one cannot be."""
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - whatever an import raises means the same: not here
            return f"cannot import {module}: {type(error).__name__}: {error}"
    gc.collect()
    gc.freeze()  # else the first full collection of each child writes to, and so copies, every page they share
    return None


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def main(arguments: list[str]) -> int:
    """Serve, or in a forked child run one worker."""
    server = Server(socket.socket(fileno=int(arguments[0])))
    error = preload(arguments[1:])
    server.tell([], ready=True, error=error, threads=count_threads())
    order = None if error else server.serve()
    if order is None:
        return 0
    order.begin()
    return order.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
