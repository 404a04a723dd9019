"""The journal's native protocol, against a real socket: fields, long entries, one that is away or stands still."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon import backlog, journal
from daemon.journal import UnusableJournalError, reads
from daemon.logs import Log
from daemon.stories import DaemonBroke, DaemonStopped, WorkerTraceback
from states.notes import LaneMoved
from tests.logs.conforming import assert_conforming

MOVED = LaneMoved("gpu0", "Draining", "Swapping", "Exited", "fits", "digits", 1.5)


class Listener:
    """What journald is to a client: a datagram socket at a path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open()

    def open(self) -> None:
        self.path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(60)

    def entry(self) -> dict[str, str]:
        """The next entry's fields."""
        data, fds, _, _ = socket.recv_fds(self.socket, 1 << 20, 1)
        for fd in fds:
            assert not data
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE, "journald takes none that can change"
            with os.fdopen(fd, "rb") as file:
                file.seek(0)
                data = file.read()
        return dict(fields(data))


def fields(data: bytes) -> Iterator[tuple[str, str]]:
    """An entry taken apart as the protocol's description says."""
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            data = rest
        else:
            size = int.from_bytes(rest[:8], "little")
            value, data = rest[8 : 8 + size], rest[8 + size + 1 :]
            assert rest[8 + size : 8 + size + 1] == b"\n"
        yield name.decode(), value.decode()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(tmp_path / "socket")
    yield listener
    listener.socket.close()


def log_to(listener: Listener, **options: Any) -> Log:
    return Log(style="journal", journal_socket=str(listener.path), **options)


def test_an_event_is_an_entry_with_its_line_and_its_fields(listener: Listener) -> None:
    log = log_to(listener)
    log.emit(MOVED, 7)
    assert log.close()
    entry = listener.entry()
    line = json.loads(entry.pop("MESSAGE"))
    assert_conforming([line])
    assert entry == {
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "batond",
        "BATON_EVENT": "lane.moved",
        "BATON_LANE": "gpu0",
        "BATON_SESSION": "digits",
        "BATON_SEQ": "7",
        "BATON_SCHEMA": "1",
        "BATON_FROM": "Draining",
        "BATON_TO": "Swapping",
        "BATON_CAUSE": "Exited",
        "BATON_GUARD": "fits",
        "BATON_WAITED_S": "1.5",
    }


def test_text_of_several_lines_is_one_field_and_long_text_is_in_the_message(listener: Listener) -> None:
    log = log_to(listener)
    log.emit(WorkerTraceback("a", "cpu", 1, "E: x", "one\nPRIORITY=0\ntwo"))
    log.emit(WorkerTraceback("a", "cpu", 1, "E: x", "x" * 2000))
    assert log.close()
    entry = listener.entry()
    assert entry["BATON_TRACE"] == "one\nPRIORITY=0\ntwo"
    assert entry["PRIORITY"] == "4", "what a worker prints makes no field of its own"
    entry = listener.entry()
    assert "BATON_TRACE" not in entry
    assert json.loads(entry["MESSAGE"])["trace"] == "x" * 2000


def test_an_entry_that_no_datagram_holds_goes_as_a_sealed_file(listener: Listener) -> None:
    """More than any send buffer that the kernel may have given."""
    log = log_to(listener, buffer_bytes=64 << 20)
    trace = "x" * (20 << 20)
    log.emit(DaemonBroke("x", trace))
    log.emit(MOVED)
    entry = listener.entry()
    assert json.loads(entry["MESSAGE"])["trace"] == trace
    assert listener.entry()["BATON_EVENT"] == "lane.moved"
    assert log.close()


def test_a_journal_that_stands_still_costs_lines_and_no_time(listener: Listener) -> None:
    """Its queue is full; the daemon's loop goes on, and is told of nothing. Later the hole is told, in its place."""
    log = log_to(listener, buffer_bytes=1 << 16)
    for number in range(5000):
        log.emit(MOVED, number)  # if it waited, it would wait for ever
    seen = lost = 0
    while seen + lost < 5000:
        line = json.loads(listener.entry()["MESSAGE"])
        if line["event"] == "log.dropped":
            lost += line["lines"]
        else:
            assert line["seq"] == seen + lost
            seen += 1
    assert lost
    assert log.close()


def test_closing_does_not_wait_for_a_journal_that_stands_still(listener: Listener) -> None:
    log = log_to(listener)
    for number in range(5000):
        log.emit(MOVED, number)
    began = time.monotonic()
    assert not log.close(0.2)
    assert time.monotonic() - began < 30


def test_a_journal_that_is_restarted_loses_nothing(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "RETRY_S", 0.05)
    log = log_to(listener)
    log.emit(MOVED, 1)
    assert listener.entry()["BATON_SEQ"] == "1"
    listener.socket.close()
    listener.path.unlink()
    log.emit(MOVED, 2)
    log.emit(MOVED, 3)
    listener.open()
    assert [listener.entry()["BATON_SEQ"] for _ in range(2)] == ["2", "3"]
    assert log.close()


def test_what_did_not_get_out_at_the_end_is_what_the_next_log_begins_with(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one came between that nobody read: nor was it told then, nor is it forgotten."""
    monkeypatch.setattr(backlog, "RETRY_S", 0.05)
    lost = tmp_path / "lost"
    log = log_to(listener, lost=lost)
    log.emit(MOVED, 1)
    assert listener.entry()["BATON_SEQ"] == "1"
    listener.socket.close()
    listener.path.unlink()
    for number in (2, 3, 4):
        log.emit(MOVED, number)
    assert not log.close()
    with Path(os.devnull).open("wb") as nowhere:
        unread = Log(nowhere.fileno(), lost=lost)
        unread.emit(MOVED, 5)
        assert unread.close()
    closed = Log(1 << 20, lost=lost)  # no such descriptor
    closed.emit(MOVED, 6)
    assert not closed.close()
    listener.open()
    for expected in ("log.dropped", "lane.moved"):
        log = log_to(listener, lost=lost)
        log.emit(MOVED, 6)
        line = json.loads(listener.entry()["MESSAGE"])
        assert line["event"] == expected, "told, and told once"
        assert line.get("lines") == (4 if expected == "log.dropped" else None)
        if expected == "log.dropped":
            assert listener.entry()["BATON_SEQ"] == "6"
        assert log.close()


def test_where_no_journal_listens_it_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(
        UnusableJournalError, match=r"cannot log to the journal: .*: No such file .*; set log.format to"
    ):
        Log(style="journal", journal_socket=str(tmp_path / "none"))


def test_by_itself_it_goes_to_the_journal_where_that_reads_standard_output(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only there: with output to a file, somebody wants the file."""
    ours, theirs = socket.socketpair()
    with ours, theirs, (tmp_path / "out").open("wb") as file:
        found = os.fstat(theirs.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert reads(theirs.fileno(), os.environ)
        assert not reads(file.fileno(), os.environ)
        assert not reads(ours.fileno(), os.environ)
        log = Log(theirs.fileno(), journal_socket=str(listener.path))
        log.emit(DaemonStopped(0.0, 0))
        assert log.style == "journal"
        assert log.close()
        assert listener.entry()["BATON_EVENT"] == "daemon.stopped"
        hidden = Log(theirs.fileno(), journal_socket=str(tmp_path / "hidden"))
        assert hidden.style == "json", "a sandbox may hide the socket"
        hidden.emit(MOVED)
        assert hidden.close()
        assert json.loads(ours.recv(10_000))["event"] == "lane.moved"
        elsewhere = Log(file.fileno(), journal_socket=str(listener.path))
        assert elsewhere.style == "json"
        assert elsewhere.close()


def test_priorities_are_known_of_every_level() -> None:
    assert journal.PRIORITIES.keys() == {"debug", "info", "warning", "error"}
