"""The two ways to start a process: fork it from a server that has imported what it needs, or exec a program.

Knows no session. Either way it leads a process session of its own, and holds its channel and its log, nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from daemon.processes import CannotStartError, Process

IMPORT_TIMEOUT_S: Final = 120.0  # seconds where the files are cached, a minute from a slow disk
PACKAGES: Final = Path(__file__).resolve().parent.parent  # where `daemon` and `baton` are imported from
# What the service manager told the daemon, and only the daemon.
NOT_INHERITED: Final = frozenset(
    {
        "BATON_FD",
        "JOURNAL_STREAM",
        "LISTEN_FDNAMES",
        "LISTEN_FDS",
        "LISTEN_PID",
        "MAINPID",
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    }
)


class ForkServer:
    """The daemon's side of one `daemon.worker.forkserver` process."""

    def __init__(self, preload: tuple[str, ...], log: Path) -> None:
        """preload: modules to import once. log: what the server itself prints; begun anew at each start."""
        self._preload = preload
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._control: socket.socket | None = None
        self._server: Process | None = None
        self._imported = False
        self._closed = False
        self._ready: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._asked: dict[int, asyncio.Future[tuple[int, int]]] = {}
        self._living: dict[int, Process] = {}
        self._last_id = 0

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._control is not None

    @property
    def pid(self) -> int | None:
        """The server's process, None before it is started."""
        return None if self._server is None else self._server.pid

    async def start(self) -> str | None:
        """Start it, and wait until it has imported. None, or why it must not be used: another would do no better.

        Raises CannotStartError or OSError where it could not be started, or died: another may live.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)  # noqa: FBT003 - the standard library's signature
        command = (sys.executable, "-P", "-u", "-X", "faulthandler", "-m", "daemon.worker.forkserver")
        with theirs, self._log.open("wb") as log:
            try:
                self._server = await execute(
                    (*command, str(theirs.fileno()), *self._preload), own_environment(), theirs, log.fileno()
                )
            except BaseException:  # a cancellation too goes on: only the socket must not be left open
                ours.close()
                raise
        self._control = ours
        if self._closed:
            self.close()
            raise CannotStartError("it was closed while it started")
        self._loop.add_reader(ours, self._readable)
        try:
            async with asyncio.timeout(IMPORT_TIMEOUT_S):
                ready = await self._ready
        except TimeoutError:
            self.close()
            return f"it did not import {self._preload[0]} within {IMPORT_TIMEOUT_S:.0f} s; see {self._log}"
        except BaseException:  # a cancellation too goes on: only the server must not be left running
            self.close()
            raise
        why: str | None = ready["error"]
        if why is None and ready["threads"] != 1:
            why = (
                f"it has {ready['threads']} threads after the import, and only a process with one can be forked safely"
            )
        if why is not None:
            self.close()
        return why

    async def fork(self, entry: str, environment: Mapping[str, str], channel: socket.socket, log_fd: int) -> Process:
        """A child that calls `entry` with `channel`. Raises CannotStartError; then no child was made."""
        if self._control is None:
            raise CannotStartError("the fork server is gone")
        self._last_id += 1
        number = self._last_id
        answer = self._asked[number] = self._loop.create_future()
        packet = json.dumps({"id": number, "entry": entry, "environment": dict(environment)}).encode()
        try:
            socket.send_fds(self._control, [packet], [channel.fileno(), log_fd])
        except OSError as error:
            del self._asked[number]
            raise CannotStartError(f"the fork server cannot be asked: {error.strerror}") from error
        pid, pidfd = await answer
        process = Process(pid, pidfd)
        self._living[pid] = process
        return process

    def close(self) -> None:
        """Let the server end. What it forked goes on; how that ends is then not known any more.

        One that still imports would see only afterwards that nobody is there any more: it is killed.
        """
        self._closed = True
        if self._control is not None:
            self._loop.remove_reader(self._control)
            self._control.close()
            self._control = None
        if self._server is not None and not self._imported:
            self._server.signal_group(signal.SIGKILL)
            if not self._ready.done():
                self._ready.set_exception(CannotStartError("it was closed while it imported"))
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(CannotStartError("the fork server is gone"))
        self._asked.clear()
        for process in self._living.values():
            process.orphaned()
        self._living.clear()

    def _readable(self) -> None:
        assert self._control is not None
        try:
            packet, fds, _, _ = socket.recv_fds(self._control, 1 << 16, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:  # reset: the same as an end
            packet, fds = b"", []
        if not packet:
            if not self._ready.done():
                self._ready.set_exception(
                    CannotStartError(f"it died while it imported {self._preload[0]}; see {self._log}")
                )
            self.close()
            return
        message: dict[str, Any] = json.loads(packet)
        if "ready" in message:
            self._imported = True
            self._ready.set_result(message)
        elif "exited" in message:
            process = self._living.pop(message["exited"], None)
            if process is not None:
                process.report(message["status"])
        else:
            self._answered(message, fds)

    def _answered(self, message: dict[str, Any], fds: list[int]) -> None:
        answer = self._asked.pop(message["id"], None)
        if answer is None or answer.done():
            for fd in fds:
                os.close(fd)
        elif "error" in message:
            answer.set_exception(CannotStartError(message["error"]))
        else:
            answer.set_result((message["pid"], fds[0]))


async def execute(
    command: tuple[str, ...], environment: Mapping[str, str], channel: socket.socket, log_fd: int
) -> Process:
    """Start a program in a process session of its own, holding `channel` and the log, and nothing else of ours."""

    def spawn() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd="/",  # so that no worker keeps a file system busy
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            pass_fds=(channel.fileno(),),
            start_new_session=True,
        )

    spawning = asyncio.ensure_future(asyncio.to_thread(spawn))  # it waits for the exec, which reads from disk
    try:
        child = await asyncio.shield(spawning)
    except OSError as error:
        raise CannotStartError(f"cannot start {command[0]}: {error.strerror}") from error
    except asyncio.CancelledError:
        await asyncio.wait([spawning])  # until then it needs the descriptors, and afterwards it would be nobody's
        if spawning.exception() is None:
            _watched(spawning.result()).signal_group(signal.SIGKILL)
        raise
    return _watched(child)


def _watched(child: subprocess.Popen[bytes]) -> Process:
    return Process(child.pid, os.pidfd_open(child.pid), reap=child.wait)


def inherited() -> dict[str, str]:
    """The daemon's environment, without what is for the daemon only."""
    return {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}


def own_environment() -> dict[str, str]:
    """For processes that run batond's own code."""
    environment = inherited()
    environment["PYTHONPATH"] = extended(PACKAGES, environment.get("PYTHONPATH"))
    # Its pool of threads would make the fork server unfit for forking, and TensorFlow has no use for it.
    environment["OPENBLAS_NUM_THREADS"] = "1"
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # warnings, without the banner of each start
    return environment


def extended(first: Path, rest: str | None) -> str:
    """A search path with one more folder at its front."""
    return f"{first}{os.pathsep}{rest}" if rest else str(first)
