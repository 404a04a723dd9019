"""The built-in worker on a disk that is full, or not to be written: it holds its place, says so, and goes on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_peer import TIMEOUT_S, Host, Message, Peer
from worker_plight import CANNOT

pytestmark = pytest.mark.tensorflow

Spec = Callable[..., Message]
TOTAL = 20_000
FEW_ERRORS = list(range(0, TOTAL, 997))
DISK_KIB = 1024  # the rows take 400
LONG_S = 600.0
SOON_S = 10.0  # what is to happen at once, on a host that is busy


class Disk:
    """A worker's own small disk, seen from outside its mount namespace."""

    def __init__(self, peer: Peer, folder: Path) -> None:
        self.peer = peer
        self._fd = os.open(f"/proc/{peer.pid}/root{folder}", os.O_RDONLY | os.O_DIRECTORY)
        self.path = Path(f"/proc/self/fd/{self._fd}")  # also when the worker is gone
        self._ballast = self.path / "ballast"

    def fill(self, *, leave_kib: int = 0) -> None:
        """Leave no more than that."""
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                status = os.statvfs(self.path)
                free = status.f_bavail * status.f_bsize - (leave_kib << 10)
                if free <= 0:
                    return
                file.write(bytes(min(free, 1 << 16)))

    def free(self) -> None:
        self._ballast.unlink()

    def manifest(self) -> Message:
        content: Message = json.loads((self.path / "out" / "session.json").read_text())
        return content

    def close(self) -> None:
        os.close(self._fd)


Disks = Callable[..., Disk]


@pytest.fixture
def disk(host: Host, tmp_path: Path) -> Iterator[Disks]:
    """Starts a worker with its output on a disk of its own, and prepares it."""
    made: list[Disk] = []
    folder = tmp_path / "disk"
    folder.mkdir()

    def start(session: Message, *, timeout_s: float = LONG_S, rejoin: Message | None = None) -> Disk:
        peer = plight(host, "serve_on_small_disk", str(folder), DISK_KIB, timeout_s)
        prepare(host, peer, session | {"output": str(folder / "out")}, rejoin)
        made.append(Disk(peer, folder))
        return made[-1]

    yield start
    for one in made:
        one.close()
    assert not os.path.ismount(folder), "the mount is the worker's own, and gone with it"


def plight(host: Host, function: str, *arguments: Any) -> Peer:
    ours, theirs = socket.socketpair()
    peer = Peer(ours)
    with theirs:
        peer.pid = host.call("worker_plight", function, *arguments, fd=theirs.fileno())
    return peer


def prepare(host: Host, peer: Peer, session: Message, rejoin: Message | None = None) -> None:
    with contextlib.suppress(BrokenPipeError):
        peer.assign(session, rejoin=rejoin)
    if peer.hear() is None:
        assert host.status(peer.pid) == CANNOT, host.log.read_text()
        pytest.skip("this host does not let a test mount a disk, or put a right aside, for one process")
    peer.until("ready")


def check_rows(folder: Path, expected: Any) -> None:
    rows = np.load(folder / "y.npy")
    bad = np.flatnonzero(np.isnan(rows).all(axis=1)).tolist()
    good = np.setdiff1d(np.arange(TOTAL), bad)
    np.testing.assert_allclose(rows[good], expected[good], rtol=1e-5, atol=1e-6)
    lines = (folder / "errors.jsonl").read_text().splitlines() if (folder / "errors.jsonl").exists() else []
    assert [json.loads(line)["item"] for line in lines] == bad


def test_a_disk_that_is_full_before_the_first_row_is_waited_for(
    host: Host, world: Path, spec: Spec, disk: Disks
) -> None:
    """Nothing of the room there is kept meanwhile; the rows that were computed are not computed again."""
    small = disk(spec(input_="many.npy", batch_size=512))
    small.fill(leave_kib=200)
    small.peer.say("go")
    reason = small.peer.until("paused")["reason"]
    assert "no space left on device; free some space there" in reason
    assert not list(small.path.glob("out/*.npy*"))
    assert small.manifest()["cursor"] == 0
    small.free()
    small.peer.until("resumed")
    small.peer.rest()
    assert host.status(small.peer.pid) == 0
    assert small.peer.types()[3:] == ["started", "paused", "resumed", "last_batch", "quiesced", "committed"]
    done = [message["done"] for message in small.peer.heard if message["type"] == "progress"]
    assert done == sorted(set(done))
    check_rows(small.path / "out", np.load(world / "many.y.npy"))


def test_a_disk_that_fills_up_pauses_and_a_drain_is_made_durable_when_there_is_room(
    host: Host, world: Path, spec: Spec, disk: Disks, tmp_path: Path
) -> None:
    """Errors too: what could be written of them half is there once when it is resumed to its end."""
    session = spec("checked", "few.npy", batch_size=1, on_error="skip")
    small = disk(session)
    small.peer.say("go")
    small.peer.until("progress", cursor=1)
    small.fill()
    small.peer.until("paused")
    before = small.manifest()
    small.peer.say("drain")
    quiesced = small.peer.until("quiesced")
    assert small.manifest() == before, "the old one is whole, and true"
    assert not list(small.path.glob("out/session.json.partial"))
    small.free()
    assert small.peer.rest()[-3:] == ["quiesced", "resumed", "committed"]
    assert host.status(small.peer.pid) == 0
    committed = small.peer.one("committed")
    assert (committed["cursor"], committed["errors"]) == (quiesced["done"], quiesced["errors"])
    assert 0 < small.manifest()["cursor"] == quiesced["done"] < TOTAL
    output = tmp_path / "out"
    shutil.copytree(small.path / "out", output)
    peer = host.worker()
    peer.assign(session | {"output": str(output), "batch_size": 512}, resume=True)
    peer.until("ready")
    peer.say("go")
    peer.rest()
    assert host.status(peer.pid) == 0
    check_rows(output, np.load(world / "few.y.npy"))
    assert peer.one("committed")["errors"] == len(FEW_ERRORS)


def test_no_room_in_time_fails_as_output_and_the_record_is_true(host: Host, spec: Spec, disk: Disks) -> None:
    small = disk(spec(input_="many.npy", batch_size=1), timeout_s=0.5)
    small.peer.say("go")
    small.peer.until("progress", done=20)
    small.fill()
    small.peer.until("paused")
    small.peer.say("drain")
    assert small.peer.rest()[-2:] == ["quiesced", "failed"]
    assert host.status(small.peer.pid) == 1
    failed = small.peer.one("failed")
    assert failed["kind"] == "output"
    assert "no space left on device" in failed["reason"]
    assert "(waited " in failed["reason"]
    assert (small.manifest()["cursor"], small.manifest()["complete"]) == (0, False)


def test_a_cancelled_session_does_not_wait_for_room(host: Host, spec: Spec, disk: Disks) -> None:
    small = disk(spec(input_="many.npy", batch_size=512))
    small.fill(leave_kib=200)
    small.peer.say("go")
    small.peer.until("paused")
    asked = time.monotonic()
    small.peer.say("cancel")
    assert small.peer.rest()[-3:] == ["paused", "quiesced", "committed"]
    assert time.monotonic() - asked < SOON_S < LONG_S
    assert (small.peer.one("quiesced")["done"], small.peer.one("committed")["cursor"]) == (512, 0)
    assert host.status(small.peer.pid) == 0


def test_a_folder_that_becomes_read_only_is_waited_for(host: Host, world: Path, spec: Spec) -> None:
    session = spec(input_="many.npy")
    output = Path(session["output"])
    peer = plight(host, "serve_unprivileged", LONG_S)
    prepare(host, peer, session)
    peer.say("go")
    peer.until("progress", done=20)
    output.chmod(0o555)
    assert "permission denied; make it writable by user" in peer.until("paused")["reason"]
    output.chmod(0o755)
    peer.until("resumed")
    peer.rest()
    assert host.status(peer.pid) == 0
    check_rows(output, np.load(world / "many.y.npy"))


def test_a_worker_that_is_paused_says_so_to_the_next_daemon(host: Host, spec: Spec, disk: Disks) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/s")  # a path that is short enough for an address
        listening.listen()
        listening.settimeout(TIMEOUT_S)
        small = disk(spec(input_="many.npy", batch_size=512), rejoin={"socket": f"{folder}/s", "seconds": TIMEOUT_S})
        small.fill(leave_kib=200)
        small.peer.say("go")
        reason = small.peer.until("paused")["reason"]
        small.peer.hang_up()
        again = Peer(listening.accept()[0])
        hello = again.until("hello")
        assert (hello["phase"], hello["done"], hello["paused"]) == ("computing", 512, reason)
        small.free()
        assert again.rest() == ["hello", "resumed", "last_batch", "quiesced", "committed"]
        assert host.status(small.peer.pid) == 0
