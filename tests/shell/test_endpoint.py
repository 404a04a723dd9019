"""The control socket's file, and the kernel's word on who is at its other end."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.control import Bounds, ControlServer
from daemon.endpoint import UnusableError
from daemon.wire import Code
from tests.shell.control_stage import Line, Quiet, Stage, error_of, request, serve, talk

ROOT = os.getuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="only root can become other users")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage


# The socket's file


def test_the_file_has_the_mode_and_the_group_that_are_configured(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "s"

    async def main() -> None:
        gid = 4242 if ROOT else os.getgid()
        async with ControlServer(path, Quiet().table, gid, mode=0o620):
            found = path.stat()
            assert stat.S_IMODE(found.st_mode) == 0o620
            assert found.st_gid == gid

    asyncio.run(main())


def test_a_dead_daemons_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def test(_server: ControlServer, _quiet: Quiet) -> None:
        assert "result" in (await talk(path, request("version")))[0]

    serve(path, test)


def refused(path: Path) -> str:
    async def test(_server: ControlServer, _quiet: Quiet) -> None:
        raise AssertionError("it must not start")

    with pytest.raises(UnusableError) as found:
        serve(path, test)
    assert "\n" not in str(found.value)
    return str(found.value)


def test_a_living_daemons_socket_is_not_taken(stage: Stage) -> None:
    assert "another batond answers there" in refused(stage.path)
    with Line(stage.path) as line:
        assert line.ask("version")["id"] == 7


def test_of_two_daemons_that_find_a_dead_socket_at_once_one_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with (tmp_path / "s.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other one is just about to bind
        assert "another batond answers there" in refused(path)
    assert path.exists()


def test_a_socket_on_which_something_else_listens_is_not_taken(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen(1)
        assert "another batond answers there" in refused(tmp_path / "s")


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    assert "no socket" in refused(path)
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_is_said_to_be(tmp_path: Path) -> None:
    assert "107 bytes" in refused(tmp_path / ("x" * 200))


def test_a_folder_that_cannot_be_made_is_said_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    elsewhere = "choose another path (--socket, or socket in [control])"
    assert refused(tmp_path / "file" / "s") == (
        f"cannot listen at {tmp_path}/file/s: cannot make {tmp_path}/file: File exists; {elsewhere}"
    )
    assert refused(Path("/proc/x/s")) == (
        f"cannot listen at /proc/x/s: cannot make /proc/x: No such file or directory; {elsewhere}"
    )


# The lock


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_clean_end_leaves_neither_socket_nor_lock(tmp_path: Path) -> None:
    async def test(_server: ControlServer, _quiet: Quiet) -> None:
        assert names(tmp_path) == ["s", "s.lock"]

    serve(tmp_path / "s", test)
    assert names(tmp_path) == []


def test_a_start_that_is_refused_leaves_no_lock_behind(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    assert "no socket" in refused(tmp_path / "s")
    assert names(tmp_path) == ["s"]
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "t"))
        other.listen(1)
        assert "another batond answers there" in refused(tmp_path / "t")
    assert names(tmp_path) == ["s", "t"]


def test_a_start_that_is_refused_leaves_the_lock_of_the_one_that_lives(stage: Stage) -> None:
    lock = stage.path.with_suffix(".sock.lock")
    inode = lock.stat().st_ino
    refused(stage.path)
    assert lock.stat().st_ino == inode


def test_a_lock_that_was_removed_by_its_holder_is_worth_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our opening it and our locking it, its holder ends and another daemon takes its place."""
    path, lock = tmp_path / "s", tmp_path / "s.lock"
    flock = fcntl.flock
    raced: list[int] = []

    def late(descriptor: int, operation: int) -> None:
        if not raced:
            lock.unlink()
            raced.append(os.open(lock, os.O_RDWR | os.O_CREAT, 0o600))
            flock(raced[0], fcntl.LOCK_EX)
        flock(descriptor, operation)

    monkeypatch.setattr("daemon.endpoint.fcntl.flock", late)
    assert "another batond answers there" in refused(path)
    assert lock.exists()
    os.close(raced[0])


def test_of_many_daemons_that_come_and_go_one_at_a_time_has_the_socket(tmp_path: Path) -> None:
    script = """
import os, sys
from daemon.endpoint import UnusableError, claim
had = 0
while had < 60:
    try:
        held = claim(sys.argv[1], 0o600, None)
    except UnusableError:
        continue
    os.close(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL))  # there is one already: two have the socket
    os.unlink(sys.argv[2])
    held.release()
    had += 1
"""
    command = [sys.executable, "-c", script, str(tmp_path / "s"), str(tmp_path / "held")]
    crowd = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [each.communicate(timeout=60)[1] for each in crowd]
    assert said == [""] * 4
    assert names(tmp_path) == []


def test_a_socket_that_listens_already_is_served_and_left(tmp_path: Path) -> None:
    path = tmp_path / "given"
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(path))
        given.listen()

        async def test(_server: ControlServer, _quiet: Quiet) -> None:
            assert "result" in (await talk(path, request("version")))[0]

        serve(given.dup(), test)
        assert path.exists()


def test_a_file_that_another_daemon_put_there_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def test(_server: ControlServer, _quiet: Quiet) -> None:
        path.unlink()
        path.write_text("another's")

    serve(path, test)
    assert path.read_text() == "another's"


# Who may act

PROBE = """
import json, os, socket, sys
path, uid, gid, groups = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
os.setgroups(groups); os.setgid(gid); os.setuid(uid)
with socket.socket(socket.AF_UNIX) as s:
    s.connect(path)
    f = s.makefile("rb")
    for method in ("version", "pause"):
        s.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method}).encode() + b"\\n")
        print(f.readline().decode(), end="")
"""


def probe(path: Path, uid: int, gid: int, groups: list[int]) -> tuple[Any, Any]:
    """The answers to a look and to an act of that user."""
    command = [sys.executable, "-I", "-S", "-c", PROBE, str(path), str(uid), str(gid), json.dumps(groups)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
    look, act = map(json.loads, done.stdout.splitlines())
    return look, act


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="batond-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def open_stage(open_folder: Path) -> Iterator[Stage]:
    """A daemon that the group 4242 may command, on a socket that everybody may connect to."""
    with Stage(open_folder, gid=4242) as stage:
        yield stage


@as_root
@pytest.mark.parametrize(
    ("uid", "gid", "groups", "may"),
    [
        (0, 0, [], True),
        (6001, 6001, [], False),
        (6001, 6001, [6002, 6003], False),
        (6001, 4242, [], True),
        (6001, 6001, [6002, 4242], True),
        (6001, 6001, [*range(7000, 7200), 4242], True),
        (6001, 6001, [*range(7000, 7600), 4242], False),  # more groups than can be read: only the primary counts
    ],
)
def test_the_kernels_word_on_user_and_groups_decides_who_may_act(
    open_stage: Stage, uid: int, gid: int, groups: list[int], may: bool
) -> None:
    look, act = probe(open_stage.path, uid, gid, groups)
    assert "result" in look
    if may:
        assert act["result"] == {"lanes": ["cpu"]}
    else:
        assert error_of(act) is Code.NOT_PERMITTED
        assert f"user id {uid} may look, but not act" in act["error"]["message"]
        assert [(told.method, told.uid) for told in open_stage.told] == [("pause", uid)]
        with Line(open_stage.path) as line:
            assert not line.ask("status")["result"]["lanes"][0]["held"]


@as_root
def test_clients_that_may_only_look_cannot_lock_out_those_who_may_act(open_folder: Path) -> None:
    script = """
import os, socket, sys
os.setuid(6001)
sockets = []
for _ in range(5):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    sockets.append(s)
    try:
        s.sendall(b'{"jsonrpc":"2.0","id":1,"method":"version"}\\n')
    except OSError:
        pass  # hung up on already; what it was told lies there
    print("busy" if b"error" in s.recv(9999) else "served", flush=True)
input()
"""
    with Stage(open_folder, bounds=Bounds(clients=4, lookers=2)) as stage:
        command = [sys.executable, "-I", "-S", "-c", script, str(stage.path)]
        crowd = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert crowd.stdout is not None
        assert [crowd.stdout.readline().strip() for _ in range(5)] == ["served", "served", "busy", "busy", "busy"]
        with Line(stage.path) as line:
            assert line.ask("pause")["result"] == {"lanes": ["cpu"]}
        crowd.communicate("done\n", timeout=20)
