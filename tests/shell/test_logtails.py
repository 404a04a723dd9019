"""What a failed attempt's worker printed last: read off its log, kept in the record, gone with its session."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from daemon import database, views, worklogs
from daemon.logtails import LogTail
from daemon.store import RecordError, Store
from states.events import Exited, Failed, Tick
from tests.shell.recorded_life import Life

KEPT = worklogs.TAIL_BYTES


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    made = Life(tmp_path / "state")
    yield made
    made.store.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "s.log"


# The log's end


def test_a_short_log_is_its_own_end(log: Path) -> None:
    assert worklogs.tail(log, 0) == b""
    log.write_bytes(b"\x1b[31mred\x00\xff\n")
    assert worklogs.tail(log, 0) == b"\x1b[31mred\x00\xff\n"
    assert worklogs.tail(log, 5) == b"red\x00\xff\n"
    assert worklogs.tail(log, worklogs.size(log)) == b""


def test_of_a_long_one_the_last_bytes_are_read_even_within_a_line(log: Path) -> None:
    log.write_bytes(b"=" * (1 << 20) + b"the end")
    tail = worklogs.tail(log, 0)
    assert len(tail) == KEPT
    assert tail.endswith(b"=the end")


@pytest.mark.parametrize("before", range(4))
def test_it_begins_with_a_whole_character(log: Path, before: int) -> None:
    text = "🟥" * KEPT + "x" * before
    log.write_bytes(text.encode())
    tail = worklogs.tail(log, 0)
    assert text.endswith(tail.decode())
    assert len(tail) > KEPT - 4


def test_bytes_that_are_no_text_are_not_taken_for_the_rest_of_a_character(log: Path) -> None:
    log.write_bytes(b"\x80" * (KEPT + 5))
    assert worklogs.tail(log, 0) == b"\x80" * KEPT


def test_a_log_that_was_trimmed_counts_whole(log: Path) -> None:
    log.write_text("before\n" * 1000)
    begin = worklogs.size(log)
    with log.open("a") as file:
        file.write("of this worker\n" * 3)
    assert worklogs.trim(log, begin)
    assert worklogs.tail(log, begin).endswith(b"of this worker\n")


@pytest.mark.parametrize("there", ["nothing", "folder", "fifo"])
def test_what_is_no_file_has_no_end(log: Path, there: str) -> None:
    if there == "folder":
        log.mkdir()
    elif there == "fifo":
        os.mkfifo(log)  # opened for reading as a file is, it would hold up the daemon for ever
    assert worklogs.tail(log, 0) == b""


# The record


def fail(life: Life, log: Path, words: str, *, more: str = "") -> None:
    """The session at the head is started, prints `words` and dies; `more` is in its log already."""
    with log.open("a") as file:
        file.write(more)
        life.store.log_tails.begin("a", file.tell())
        file.write(words)
    generation = life.run_to(0)
    life.feed(Exited(0.0, generation, -11))
    record = life.store.session("a")
    assert record is not None
    life.store.log_tails.keep("a", record.attempt, partial(worklogs.tail, log))


def kept(life: Life) -> LogTail | None:
    record = life.store.session("a")
    assert record is not None
    return life.store.log_tails.of(record.id)


def test_a_session_of_which_no_attempt_failed_has_none(life: Life) -> None:
    life.submit("a")
    assert kept(life) is None
    life.store.log_tails.begin("a", 17)
    assert kept(life) is None
    assert views.failure(kept(life)) is None


def test_it_is_what_the_failed_attempt_printed_and_nothing_before_it(life: Life, log: Path) -> None:
    """Neither an earlier session of that name nor an earlier attempt speaks for the one that failed."""
    life.submit("a")
    fail(life, log, "first\n", more="a session of yesterday\n")
    assert kept(life) == LogTail(attempt=1, tail=b"first\n")
    life.feed(Tick(0.0))
    life.now += 60
    life.feed(Tick(0.0))
    fail(life, log, "second\n")
    assert kept(life) == LogTail(attempt=2, tail=b"second\n")


def test_it_outlives_the_log_and_the_daemon(life: Life, log: Path, tmp_path: Path) -> None:
    life.submit("a")
    fail(life, log, "why it failed\n")
    log.unlink()
    life.store.close()
    life.store = Store.open(tmp_path / "state")
    assert kept(life) == LogTail(attempt=1, tail=b"why it failed\n")


def test_where_its_worker_began_outlives_the_daemon(life: Life, log: Path, tmp_path: Path) -> None:
    """A worker may be adopted, and fail under another daemon than the one that started it."""
    life.submit("a")
    log.write_text("an earlier session\n")
    life.store.log_tails.begin("a", worklogs.size(log))
    life.store.close()
    life.store = Store.open(tmp_path / "state")
    with log.open("a") as file:
        file.write("the adopted one\n")
    life.store.log_tails.keep("a", 1, partial(worklogs.tail, log))
    assert kept(life) == LogTail(attempt=1, tail=b"the adopted one\n")


def test_a_later_session_of_the_name_has_its_own(life: Life, log: Path) -> None:
    life.submit("a")
    generation = life.run_to(0)
    life.feed(Failed(0.0, generation, "program", "ValueError: no"))
    life.feed(Exited(0.0, generation, 1))
    log.write_text("ValueError\n")
    life.store.log_tails.keep("a", 1, partial(worklogs.tail, log))
    first = life.store.session("a")
    assert first is not None
    life.submit("a")
    assert kept(life) is None
    assert life.store.log_tails.of(first.id) == LogTail(attempt=1, tail=b"ValueError\n")


def test_it_is_taken_out_with_its_session(life: Life, log: Path) -> None:
    life.submit("a")
    generation = life.run_to(0)
    life.feed(Failed(0.0, generation, "program", "ValueError: no"))
    life.feed(Exited(0.0, generation, 1))
    log.write_text("ValueError\n")
    life.store.log_tails.keep("a", 1, partial(worklogs.tail, log))
    record = life.store.session("a")
    assert record is not None
    life.store.prune(30, 1 << 30, life.wall + timedelta(days=29))
    assert life.store.log_tails.of(record.id) is not None
    life.store.prune(30, 1 << 30, life.wall + timedelta(days=31))
    assert life.store.session("a") is None
    assert life.store.log_tails.of(record.id) is None


def test_one_that_nobody_knows_is_kept_nowhere(life: Life) -> None:
    life.store.log_tails.begin("nobody", 0)
    life.store.log_tails.keep("nobody", 1, lambda _: b"words")


def test_where_it_cannot_be_written_the_store_says_so_and_the_session_has_failed_all_the_same(
    life: Life, log: Path, tmp_path: Path
) -> None:
    life.submit("a")
    fail(life, log, "first\n")
    with closing(sqlite3.connect(tmp_path / "state" / "batond.db", isolation_level=None)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        with pytest.raises(RecordError, match="cannot record what a worker printed"):
            life.store.log_tails.keep("a", 2, lambda _: b"second\n")
        with pytest.raises(RecordError, match="cannot record where a log begins"):
            life.store.log_tails.begin("a", 0)
    assert kept(life) == LogTail(attempt=1, tail=b"first\n"), "it says whose it is"
    life.store.log_tails.keep("a", 2, lambda _: b"second\n")
    assert kept(life) == LogTail(attempt=2, tail=b"second\n")


def test_a_record_of_the_schema_before_gets_the_table(
    life: Life, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(database, "MIGRATIONS", database.MIGRATIONS[:1])
        with closing(Store.open(tmp_path / "old")):
            pass
    with closing(Life(tmp_path / "old").store) as store:
        assert store.log_tails.of(1) is None


def test_bytes_that_are_no_text_are_shown_as_what_they_are() -> None:
    tail = LogTail(attempt=1, tail="é\n\x1b[31m\x00".encode() + b"\xff\xc3")
    assert tail.text == "é\n\x1b[31m\x00\\xff\\xc3"
    shown = views.failure(replace_tail(tail, b"Traceback (most recent call last):\n  File x\nKeyError: 'a'\nE\n"))
    assert shown is not None
    assert shown.traceback == "Traceback (most recent call last):\n  File x\nKeyError: 'a'\nE"


def replace_tail(tail: LogTail, data: bytes) -> LogTail:
    return LogTail(attempt=tail.attempt, tail=data)
