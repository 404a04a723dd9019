"""Strangers at the worker socket: each costs itself its connection, one line of the log, and nobody else anything."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from daemon import adoption
from daemon.adoption import ARRIVALS_LIMIT, Reception
from daemon.processes import Process
from daemon.workers import Alive
from states.events import Hello
from tests.shell.crew_scene import Scene, in_loop

HELLO = {"type": "hello", "protocol": 1, "session": "s", "generation": 1, "pid": 1, "phase": "computing", "done": 3}


class Oneself(Process):
    """This process, as it is watched over: a signal to its group would end the tests."""

    def signal_group(self, number: signal.Signals) -> None:
        raise AssertionError(f"{number.name} to a worker that did nothing wrong")


class Door:
    """A reception, and who comes to it: this very process, which `expect` may have known before."""

    def __init__(self, scene: Scene) -> None:
        self.path = scene.folder / "w.sock"
        self.refused: list[str] = []
        self._scene = scene
        self.reception = Reception(self.path, scene.crew, self.refused.append)
        self.reception.open()

    def expect(self, generation: int = 1) -> None:
        """Have this process expected as a worker that an earlier daemon left."""
        process = Oneself(os.getpid(), os.pidfd_open(os.getpid()))
        self._scene.crew.expect(Alive("s", generation, "cpu", process.pid, process.started), process)

    async def come(self, *words: dict[str, Any] | bytes) -> socket.socket:
        """Connect, and say these."""
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, str(self.path))
        for word in words:
            line = word if isinstance(word, bytes) else json.dumps(word).encode()
            with suppress(OSError):  # turned away meanwhile
                await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(sock, line + b"\n"), 1)
        return sock

    def close(self) -> None:
        self.reception.close()
        for task in tuple(self._scene.crew._tasks):
            task.cancel()
        self._scene.crew._living.clear()


@contextmanager
def door(scene: Scene) -> Iterator[Door]:
    made = Door(scene)
    try:
        yield made
    finally:
        made.close()


async def heard(sock: socket.socket) -> bytes:
    """All that comes until it is hung up on."""
    found = b""
    with suppress(ConnectionError):
        while chunk := await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
            found += chunk
    sock.close()
    return found


@in_loop
async def test_a_stranger_that_talks_on_is_turned_away_once(tmp_path: Path) -> None:
    """One line in the log and one `drain`, however many lines it says, and however wrong they are."""
    async with Scene(tmp_path) as scene:
        with door(scene) as open_door:
            stranger = await open_door.come(*[HELLO | {"generation": 77}] * 500, b"garbage")
            assert await heard(stranger) == b'{"type":"drain"}\n'
            assert open_door.refused == ["it says that it is s, generation 77: nobody waits for that"]
            assert open_door.reception._arrivals == set()


@in_loop
async def test_what_a_stranger_says_of_itself_is_quoted_in_one_short_line(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        with door(scene) as open_door:
            liars = [{"session": "a\nb\x1b[31m" * 50_000}, {"type": "x\n" * 50_000}, {"phase": "y" * 90_000}]
            for lie in liars:
                await heard(await open_door.come(HELLO | lie))
            assert len(open_door.refused) == len(liars)
            for reason in open_door.refused:
                assert reason.isprintable()
                assert len(reason) < 5000


@in_loop
async def test_silent_strangers_are_hung_up_on_and_keep_no_worker_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as are let in at once; when they are gone, a worker that comes back is adopted."""
    monkeypatch.setattr(adoption, "HELLO_TIMEOUT_S", 0.3)
    async with Scene(tmp_path) as scene:
        with door(scene) as open_door:
            open_door.expect()
            silent = [await open_door.come() for _ in range(ARRIVALS_LIMIT)]
            assert [await heard(each) for each in silent] == [b""] * ARRIVALS_LIMIT
            worker = await open_door.come(HELLO)
            assert (await scene.fact(Hello, 1)).done == 3
            assert open_door.reception._arrivals == set()
            assert await heard(await open_door.come()) == b""  # the time of one that came later is over: so is its own
            assert scene.crew._living[1].channel is not None
            worker.close()


@in_loop
async def test_a_second_connection_of_a_worker_that_has_one_is_turned_away(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        with door(scene) as open_door:
            open_door.expect()
            worker = await open_door.come(HELLO)
            await scene.fact(Hello, 1)
            assert await heard(await open_door.come(HELLO)) == b'{"type":"drain"}\n'
            assert scene.names(1) == ["Hello"]
            worker.close()


@in_loop
async def test_without_a_descriptor_left_it_waits_and_then_takes_whoever_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket stays readable all the while: the loop must not turn on it without end."""
    monkeypatch.setattr(adoption, "ACCEPT_RETRY_S", 0.2)
    async with Scene(tmp_path) as scene:
        with door(scene) as open_door:
            calls = 0
            again = asyncio.Event()
            arrive = open_door.reception._arrive

            def counted() -> None:
                nonlocal calls
                calls += 1
                if calls > 2:
                    again.set()
                arrive()

            monkeypatch.setattr(open_door.reception, "_arrive", counted)
            asyncio.get_running_loop().remove_reader(open_door.reception._listener)  # type: ignore[arg-type]
            open_door.reception._listen()
            stranger = socket.socket(socket.AF_UNIX)
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            lowest_free = os.dup(0)
            os.close(lowest_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
            try:
                began = asyncio.get_running_loop().time()
                stranger.connect(str(open_door.path))
                await again.wait()
                waited_s = asyncio.get_running_loop().time() - began
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert waited_s >= 2 * adoption.ACCEPT_RETRY_S - 0.01
            stranger.sendall(b"garbage\n")
            stranger.setblocking(False)
            assert await heard(stranger) == b'{"type":"drain"}\n'
