"""The store when things go wrong: a second daemon, a damaged file, a full disk, someone else writing, kill -9."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemon.database import MIGRATIONS
from daemon.store import RecordError, Store, StoreError, StoreLockedError
from states.decision import Decision
from states.events import (
    Cancel,
    Pause,
    Tick,
)
from states.notes import SessionMoved
from tests.shell.recorded_life import Life


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    made = Life(tmp_path / "state")
    yield made
    made.store.close()


def test_a_second_daemon_is_refused_with_the_firsts_pid(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from daemon.store import Store\n"
            "store = Store.open(Path(sys.argv[1])); print('open', flush=True); time.sleep(600)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreLockedError) as refused:
            Store.open(tmp_path)
        assert refused.value.pid == holder.pid
        assert str(refused.value) == (
            f"cannot use the state directory {tmp_path}: batond with pid {holder.pid} uses it; "
            "stop that one, or set another state_dir"
        )
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()  # type: ignore[union-attr]
    Store.open(tmp_path).close()  # a lock does not outlive its process


def test_a_child_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    """Workers outlive a daemon that is killed; the next one must get in."""
    store = Store.open(tmp_path)
    child = subprocess.Popen(["sleep", "600"])
    try:
        store.close()
        Store.open(tmp_path).close()
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("damage", ["header", "middle", "garbage", "index"])
def test_a_damaged_database_is_set_aside_and_told(tmp_path: Path, damage: str) -> None:
    life = Life(tmp_path)
    life.feed(Pause(0.0, "cpu"))
    for number in range(60):
        life.submit(f"s{number}")
    life.store.checkpoint()
    life.store.close()
    path = tmp_path / "batond.db"
    content = bytearray(path.read_bytes())
    if damage == "header":
        content[:16] = b"no SQLite format"
    elif damage == "middle":
        content[8192 : len(content) - 4096] = os.urandom(len(content) - 12288)
    elif damage == "garbage":
        content[:] = b"\0" * 100_000
    else:  # a file that opens and reads well, with a row that its index does not know
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("PRAGMA writable_schema = ON")
            database.execute("UPDATE sqlite_schema SET sql = replace(sql, '(ts)', '(at)') WHERE name = 'decision_ts'")
        content = bytearray(path.read_bytes())
    path.write_bytes(content)
    with closing(Store.open(tmp_path)) as store:
        assert store.set_aside is not None
        assert store.set_aside.path.name.startswith(f"batond.db.damaged-{datetime.now(UTC):%Y}")
        assert store.set_aside.path.read_bytes() == bytes(content)
        assert store.set_aside.reason
        assert "\n" not in store.set_aside.reason
        assert store.load().queue == ()
    with closing(Store.open(tmp_path)) as store:
        assert store.set_aside is None


def test_two_damaged_databases_of_one_second_are_both_kept(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "batond.db").write_text(f"garbage {number} " * 200)
        with closing(Store.open(tmp_path)) as store:
            assert store.set_aside is not None
    kept = [path.read_text()[:9] for path in tmp_path.glob("*damaged*")]
    assert sorted(kept) == ["garbage 0", "garbage 1", "garbage 2"]


def test_a_newer_batonds_database_is_left_alone(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "batond.db")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match=rf"a newer batond wrote it \(schema 99, this one knows {len(MIGRATIONS)}\)"):
        Store.open(tmp_path)
    with pytest.raises(StoreError, match="a newer batond"):  # and not: it is locked
        Store.open(tmp_path)
    assert [path.name for path in tmp_path.glob("*damaged*")] == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot use the state directory .*/file/x: .*; give user \d+ the right"):
        Store.open(tmp_path / "file" / "x")


def test_a_session_whose_record_makes_no_sense_harms_no_other(life: Life, tmp_path: Path) -> None:
    life.feed(Pause(0.0, "cpu"))
    for name in ("a", "b"):
        life.submit(name)
    life.store.close()
    with closing(sqlite3.connect(tmp_path / "state" / "batond.db")) as database, database:
        database.execute("UPDATE sessions SET spec = '{\"name\": 3}' WHERE name = 'a'")
    life.store = Store.open(tmp_path / "state")
    loaded = life.store.load()
    assert [session.name for session in loaded.queue] == ["b"]
    ((name, reason),) = loaded.unreadable
    assert name == "a"
    assert reason.startswith("its record cannot be read: Expected `str`, got `int`")
    assert life.store.load().unreadable == ()


def fill(folder: Path, life: Life) -> int:
    """Record until there is no room left; how many were recorded."""
    decision = Decision(life.world, life.world, Tick(1.0), notes=(SessionMoved("a", 1.0, 0),) * 50)
    count = 0
    while True:
        try:
            life.store.record(decision, life.wall)
        except RecordError as error:
            assert str(error).startswith(f"cannot record a decision in {folder}/batond.db: ")  # noqa: PT017
            return count
        count += 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system of its own")
def test_a_full_file_system_refuses_a_record_and_takes_it_once_there_is_room(tmp_path: Path) -> None:
    """In a mount namespace of its own: however the test ends, nothing stays mounted."""
    private = ["unshare", "--mount", "--propagation", "private"]
    if subprocess.run([*private, "true"], check=False, capture_output=True).returncode:
        pytest.skip("may not make a mount namespace here")
    code = "import sys; from pathlib import Path; from tests.shell.test_store_faults import fill_a_disk as fill\n"
    code += "fill(Path(sys.argv[1]))"
    script = f'mount -t tmpfs -o size=512k tmpfs "{tmp_path}" && exec "$@"'
    command = [*private, "sh", "-c", script, "sh", sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, timeout=60, cwd=Path(__file__).parents[2])
    assert list(tmp_path.iterdir()) == []


def fill_a_disk(disk: Path) -> None:
    """What the test above does on a small disk that is its own."""
    (disk / "ballast").write_bytes(b"x" * 100_000)
    life = Life(disk)
    life.feed(Pause(0.0, "cpu"))
    life.submit("a")
    count = fill(disk, life)
    assert [session.name for session in life.store.load().queue] == ["a"]  # reading goes on
    with pytest.raises(RecordError):
        life.feed(Cancel(0.0, "a"))
    (disk / "ballast").unlink()
    life.feed(Cancel(0.0, "a"))
    assert len(life.store.decisions(limit=100_000)) == count + 3
    life.store.close()
    with closing(Store.open(disk)) as store:
        assert store.set_aside is None
        assert store.load().queue == ()


def test_a_file_that_may_not_grow_refuses_a_record_and_takes_it_later(tmp_path: Path) -> None:
    """The same for everybody, by a limit on the size of a process's files."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            life = Life(tmp_path)
            life.feed(Pause(0.0, "cpu"))
            life.submit("a")
            unlimited = resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, unlimited))
            assert fill(tmp_path, life) > 0
            resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
            life.feed(Cancel(0.0, "a"))
            life.store.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    with closing(Store.open(tmp_path)) as store:
        assert store.set_aside is None
        assert [record.state for record in store.sessions()] == ["cancelled"]


def test_someone_who_writes_into_the_file_delays_a_record_and_is_named_in_the_refusal(life: Life) -> None:
    life.feed(Pause(0.0, "cpu"))
    with closing(sqlite3.connect(life.store.folder / "batond.db", isolation_level=None)) as person:
        person.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(RecordError, match="database is locked; see to the disk, or to who holds the file"):
            life.submit("a")
        assert time.monotonic() - began < 10
        person.execute("ROLLBACK")
    life.submit("a")
    assert [session.name for session in life.store.load().queue] == ["a"]


def test_what_was_recorded_survives_kill_9_at_any_moment(tmp_path: Path) -> None:
    """A process submits and cancels for ever and says each number it was given; it is killed in the middle."""
    code = """
        import sys
        from pathlib import Path
        from states.events import Cancel, Pause
        from tests.shell.recorded_life import Life
        life = Life(Path(sys.argv[1]))
        life.feed(Pause(0.0, "cpu"))
        number = 0
        while True:
            number += 1
            life.submit(f"s{number}")
            print(number, flush=True)
            if number % 3 == 0:
                life.feed(Cancel(0.0, f"s{number}"))
    """
    for round_ in range(4):
        folder = tmp_path / str(round_)
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert writer.stdout is not None
        for _ in range(40 + 17 * round_):
            said = writer.stdout.readline()
        writer.kill()
        said = (writer.stdout.read().splitlines() or [said])[-1]
        writer.wait()
        writer.stdout.close()
        with closing(Store.open(folder)) as store:
            assert store.set_aside is None
            records = store.sessions(limit=1 << 30)
            assert [record.name for record in records] == [f"s{number + 1}" for number in range(len(records))]
            assert len(records) in (int(said), int(said) + 1)
            assert all(record.state == "queued" for record in records if int(record.name[1:]) % 3)
            assert all(record.state == "cancelled" for record in records[:-1] if int(record.name[1:]) % 3 == 0)
            decisions = store.decisions(limit=1 << 30)
            assert [decision.seq for decision in decisions] == list(range(1, len(decisions) + 1))
