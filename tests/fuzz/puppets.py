"""Workers whose words are somebody else's: a real process each, and its end of the channel. Decides nothing.

The process is a shell that waits to be told its exit status; or, where it has to come back to a new daemon, a Python
that connects on demand: the kernel tells a daemon which process connected.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from daemon.processes import Process

SEND_TIMEOUT_S = 0.1  # a daemon that has had enough does not read on
SHELL = ("sh", "-c", "read -r status && exit $status")
PYTHON = """
import os, socket, sys
out = socket.socket(fileno=int(sys.argv[1]))
for line in sys.stdin:
    if line.strip().isdigit():
        os._exit(int(line))
    line = line.rstrip("\\n")
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(line)
        socket.send_fds(out, [b"y"], [sock.fileno()])
    except OSError:
        out.send(b"n")
    sock.close()
"""


class Puppet:
    """One worker: `orders` are the types of what it was told, `lost` says that its daemon hung up."""

    def __init__(self, session: str, generation: int, channel: socket.socket, *, returns: bool) -> None:
        self.session, self.generation = session, generation
        self.orders: list[dict[str, Any]] = []
        self.lost = False
        self.half_sent = False  # some of what was to be sent was not
        self._told = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._door: socket.socket | None = None
        theirs = None
        command: tuple[str, ...] = SHELL
        if returns:
            self._door, theirs = socket.socketpair()
            command = (sys.executable, "-S", "-c", PYTHON, str(theirs.fileno()))
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            start_new_session=True,
            pass_fds=() if theirs is None else (theirs.fileno(),),
        )
        if theirs is not None:
            theirs.close()
        self.channel = self._take(channel)

    def _take(self, channel: socket.socket) -> socket.socket:
        channel.setblocking(False)
        self.lost, self._buffer = False, b""
        self._loop.add_reader(channel, self._readable)
        return channel

    def _readable(self) -> None:
        try:
            chunk = self.channel.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        self.orders += [json.loads(line) for line in lines]
        if not chunk:
            self._hang_up()
        self._told.set()

    def _hang_up(self) -> None:
        self.lost = True
        self._loop.remove_reader(self.channel)

    def told(self, *kinds: str) -> bool:
        """Whether it was told one of these."""
        return any(order["type"] in kinds for order in self.orders)

    def told_more_than(self, count: int) -> bool:
        """Whether it was told anything since it had been told so many orders."""
        return len(self.orders) > count

    async def until(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until it was told something that makes it hold, or hung up on."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not holds() and not self.lost and self.process.poll() is None:
                    self._told.clear()
                    await self._told.wait()
        return holds()

    async def say(self, data: bytes) -> bool:
        """Send bytes; False where they did not all go out."""
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._loop.sock_sendall(self.channel, data)
        except (TimeoutError, OSError):
            self.half_sent = True
            return False
        return True

    async def tell(self, **message: Any) -> bool:
        """Send a message."""
        return await self.say(json.dumps(message).encode() + b"\n")

    async def come_back(self, path: Path, timeout_s: float) -> bool:
        """Have the process connect to the worker socket, and speak by that from now on."""
        assert self._door is not None
        self.close()
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.write(f"{path}\n".encode())
            self.process.stdin.flush()
            answer, fds, _, _ = await asyncio.to_thread(socket.recv_fds, self._door, 1, 1)
            if answer == b"y":
                self.channel = self._take(socket.socket(fileno=fds[0]))
                return True
            await asyncio.sleep(0.01)
        return False

    def half_close(self) -> None:
        """Say that nothing more will be said."""
        with suppress(OSError):
            self.channel.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Let go of the channel."""
        if self.channel.fileno() >= 0:
            self._loop.remove_reader(self.channel)
            self.channel.close()
        self.lost = True

    def exit(self, status: int) -> None:
        """End the process."""
        assert self.process.stdin is not None
        if status < 0:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, -status)
            return
        with suppress(OSError):
            self.process.stdin.write(f"{status}\n".encode())
            self.process.stdin.flush()

    def bury(self) -> None:
        """Let go of everything, and wait for the process, which is to be ending."""
        self.close()
        if self._door is not None:
            self._door.close()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()


Actor = Callable[[Puppet], Awaitable[None]]


class Puppets:
    """What the crew starts its workers by. `actors` says, by session, who speaks for them."""

    def __init__(self) -> None:
        self.actors: dict[str, Actor] = {}
        self.returning = False
        self.all: list[Puppet] = []
        self._acting: set[asyncio.Task[None]] = set()

    async def start(self, spec: Any, _device: Any, generation: int, channel: socket.socket, _log_fd: int) -> Process:
        """A process for the session; its actor begins to act."""
        await asyncio.sleep(0)
        puppet = Puppet(spec.name, generation, channel.dup(), returns=self.returning)
        self.all.append(puppet)
        task = asyncio.get_running_loop().create_task(self.actors[spec.name](puppet))  # type: ignore[arg-type]
        self._acting.add(task)
        task.add_done_callback(self._over)
        process = puppet.process
        return Process(process.pid, os.pidfd_open(process.pid), reap=process.wait)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._acting.discard(task)
        if not task.cancelled():
            task.result()

    async def bury(self) -> None:
        """All of them have ended, or do now."""
        for task in tuple(self._acting):
            task.cancel()
        await asyncio.gather(*self._acting, return_exceptions=True)
        for puppet in self.all:
            puppet.bury()
        self.all.clear()
        self.actors.clear()
