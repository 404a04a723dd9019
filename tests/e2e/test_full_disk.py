"""The whole daemon where the disk of its state is full: it starts, says so, and goes on when there is room."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from batond import ROOT, TIMEOUT_S, Batond, alive, stand_in, wait_gone


@contextmanager
def no_room_behind(path: Path) -> Iterator[None]:
    """What is started here can make no file longer than this one is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def reading(database: Path) -> Iterator[None]:
    """Somebody reads it all the while: what its journal holds stays there, and leaves no room for more."""
    with closing(sqlite3.connect(database)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield


def unrecorded(batond: Batond) -> str:
    """Why decisions cannot be recorded, as soon as there is one that is to be."""
    until = time.monotonic() + TIMEOUT_S
    while (why := batond.ctl("status")["unrecorded"]) is None:
        assert time.monotonic() < until, "everything can be recorded"
    assert isinstance(why, str)
    return why


def test_a_daemon_that_starts_on_a_full_disk_stumbles_over_no_worker_that_is_gone(batond: Batond) -> None:
    """It cannot take it out of its record: that is told, nothing is begun, and with room all goes on."""
    batond.submit(stand_in("s", batond.folder, "--item-ms", "5", items=200, max_attempts=5))
    batond.event("session.started", session="s")
    workers = batond.workers()
    batond.kill()
    for pid in workers:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    for pid in workers:
        wait_gone(pid)
    with reading(batond.folder / "state" / "batond.db"), no_room_behind(batond.folder / "state" / "batond.db-wal"):
        batond.start()
        batond.event("record.failed")
        assert "batond.db" in unrecorded(batond)
    command = (sys.executable, "-m", "daemon.cli", "--socket", str(batond.socket), "status")
    seen = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "NOTHING NEW IS STARTED: " in seen
    assert len(batond.told("session.started", session="s")) == 1
    resource.prlimit(batond.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    batond.ended("s")
    assert batond.told("session.finished", session="s")
    assert batond.rows("s") == list(range(200))
    assert batond.told("daemon.broke") == []
    assert batond.ctl("status")["unrecorded"] is None
