"""What a service manager hears and hands over, at real sockets; when a daemon counts as stuck, in worlds made so."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.notify import Manager, listening_socket
from daemon.supervision import EXTEND_S, OVERDUE_S, Supervision, status
from states.snapshot import Lane, Phase, State, Worker, World
from states.work import Session, Tier


@pytest.fixture
def manager_socket(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(60)
        yield listening


def heard(listening: socket.socket) -> list[str]:
    return listening.recv(4096).decode().splitlines()


def test_each_word_is_one_datagram(manager_socket: socket.socket) -> None:
    manager = Manager({"NOTIFY_SOCKET": manager_socket.getsockname(), "WATCHDOG_USEC": "3000000"})
    assert manager.listens
    assert manager.watchdog_s == 3.0
    manager.ready("cpu:\nIdle")
    assert heard(manager_socket) == ["READY=1", "STATUS=cpu: Idle"]
    manager.reloading()
    first, second = heard(manager_socket)
    assert first == "RELOADING=1"
    assert second.removeprefix("MONOTONIC_USEC=").isdecimal()
    manager.alive()
    manager.extend(1.5)
    manager.stopping()
    assert [heard(manager_socket) for _ in range(3)] == [
        ["WATCHDOG=1"],
        ["EXTEND_TIMEOUT_USEC=1500000"],
        ["STOPPING=1"],
    ]


def test_a_managers_address_may_be_abstract() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("")  # the kernel gives it a name of its own
        listening.settimeout(60)
        Manager({"NOTIFY_SOCKET": "@" + listening.getsockname()[1:].decode()}).alive()
        assert heard(listening) == ["WATCHDOG=1"]


def test_a_manager_that_is_gone_or_deaf_costs_nothing(tmp_path: Path, manager_socket: socket.socket) -> None:
    deaf = Manager({"NOTIFY_SOCKET": manager_socket.getsockname()})
    for _ in range(10_000):  # more than its queue takes
        deaf.status("x")
    gone = Manager({"NOTIFY_SOCKET": str(tmp_path / "nothing")})
    gone.ready("")
    nobody = Manager({})
    nobody.ready("")
    assert not nobody.listens
    assert nobody.watchdog_s is None


def test_a_watchdog_that_is_meant_for_another_process_is_not_fed() -> None:
    assert Manager({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}).watchdog_s is None


# What is passed: as systemd does it, at descriptor 3 of a process whose pid LISTEN_PID is.
TAKE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
from daemon.notify import listening_socket
environ = {"LISTEN_PID": str(os.getpid() + int(sys.argv[3])), "LISTEN_FDS": sys.argv[2]}
try:
    given = listening_socket(environ)
except ValueError as error:
    print(error)
else:
    print(None if given is None else (str(given[1]), given[0].get_inheritable()))
"""


def passed(fd: int, count: str = "1", other_pid: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", TAKE, str(fd), count, str(other_pid)],
        cwd=Path(__file__).resolve().parents[2],
        pass_fds=(fd,),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_one_listening_socket_is_taken_and_nothing_else(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as idle, socket.socket() as inet:
        listening.bind(str(tmp_path / "s.sock"))
        listening.listen()
        inet.listen()
        assert passed(listening.fileno()) == str((str(tmp_path / "s.sock"), False))
        assert passed(listening.fileno(), other_pid=1) == "None"
        assert "passed 2 sockets, and batond takes one" in passed(listening.fileno(), "2")
        assert "no listening Unix stream socket" in passed(idle.fileno())
        assert "no listening Unix stream socket" in passed(inet.fileno())
    with (tmp_path / "file").open("w") as file:
        assert "is no socket" in passed(file.fileno())
    assert listening_socket({}) is None


class Loop:
    """A loop that decides nothing."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.unrecorded: str | None = None


def draining(deadline: float) -> World:
    worker = Worker(
        session=Session(name="a", order=1.0),
        generation=1,
        phase=Phase.DRAINING,
        aim=Tier.WARM,
        reserved=0,
        since=0.0,
        spawned_at=0.0,
        beside=False,
        deadline=deadline,
        total=200,
        done=50,
    )
    return World(lanes={"cpu": Lane("cpu", state=State.DRAINING, active=worker)}, generation=1)


def test_a_deadline_that_stands_is_stuck_and_one_that_moves_is_not() -> None:
    loop = Loop(draining(100.0))
    supervision = Supervision(Manager({}), loop)
    assert not supervision.stuck(99.0)
    assert not supervision.stuck(5000.0), "it may have slept so long: it is seen now"
    assert not supervision.stuck(5000.0 + OVERDUE_S)
    loop.world = draining(4000.0)
    assert not supervision.stuck(5001.0 + OVERDUE_S), "another one: it gets on"
    assert supervision.stuck(5002.0 + 2 * OVERDUE_S)
    loop.unrecorded = "the disk is full"
    assert not supervision.stuck(6000.0), "it waits, and says so; another daemon would too"
    loop.unrecorded = None
    loop.world = replace(loop.world, lanes={"cpu": Lane("cpu")})
    assert not supervision.stuck(7000.0)


def words(supervision: Supervision, manager: Manager, listening: socket.socket, now: float) -> list[str]:
    """What one look says."""
    supervision._look(now)
    manager.status("so far")
    said: list[str] = []
    while "STATUS=so far" not in said:
        said += heard(listening)
    return said[:-1]


def test_the_watchdog_is_fed_until_it_is_stuck(manager_socket: socket.socket) -> None:
    manager = Manager({"NOTIFY_SOCKET": manager_socket.getsockname()})
    loop = Loop(draining(100.0))
    supervision = Supervision(manager, loop)
    assert "WATCHDOG=1" in words(supervision, manager, manager_socket, 101.0)
    assert words(supervision, manager, manager_socket, 102.0 + OVERDUE_S) == []
    loop.world = draining(4000.0)
    assert words(supervision, manager, manager_socket, 103.0 + OVERDUE_S) == ["WATCHDOG=1"]


def test_a_stop_has_its_time_extended_as_long_as_it_gets_on(manager_socket: socket.socket) -> None:
    manager = Manager({"NOTIFY_SOCKET": manager_socket.getsockname()})
    supervision = Supervision(manager, Loop(draining(100.0)))
    words(supervision, manager, manager_socket, 1.0)
    supervision.stopping()
    supervision.stopping()
    extended = f"EXTEND_TIMEOUT_USEC={int(EXTEND_S * 1e6)}"
    assert words(supervision, manager, manager_socket, 2.0) == ["STOPPING=1", extended, "WATCHDOG=1", extended]
    assert words(supervision, manager, manager_socket, 3.0) == ["WATCHDOG=1", extended]
    words(supervision, manager, manager_socket, 101.0)
    assert words(supervision, manager, manager_socket, 102.0 + OVERDUE_S) == [], "stuck: it is to be ended"
    supervision.stopped(2, 1)
    assert heard(manager_socket) == ["STATUS=Stopped; 2 queued; 1 left running"]


def test_the_status_is_a_line_of_lanes() -> None:
    world = draining(1.0)
    assert status(world) == "cpu: Draining a 50/200 (25 %); 0 queued"
    lost = replace(world.lanes["cpu"], lost="gone", held=True)
    assert status(replace(world, lanes={"cpu": lost})) == "cpu: Draining a 50/200 (25 %) (device lost); 0 queued"
    many = {f"gpu{number}": Lane(f"gpu{number}", held=number == 0) for number in range(10)}
    said = status(replace(world, lanes=many, stopping=True))
    assert said.startswith("Stopping; gpu0: Idle (paused); gpu1: Idle; ")
    assert said.endswith("gpu7: Idle; 2 more lanes; 0 queued")
