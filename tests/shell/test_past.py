"""A stretch of the record: where it begins when nobody says so, and that no read of it is a large one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon import past
from daemon.past import Past
from states.events import Resume
from tests.shell.recorded_life import START, Life
from tests.shell.timeline_stage import DAY, pieces


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    with closing((made := Life(tmp_path / "state")).store):
        yield made


def begun(life: Life, name: str) -> Any:
    session = life.store.session(name)
    assert session is not None
    return session.started_at


def test_the_fifty_sessions_are_the_last_that_began_before_the_end(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the end is named too: what began after it is of no account."""
    monkeypatch.setattr(past, "SESSIONS", 3)
    for name in "abcdefgh":
        life.submit(name)
        life.finish(life.run_to(50))
        life.now += 2 * DAY.total_seconds()
    beginnings = {name: begun(life, name) for name in "abcdefgh"}
    usual = life.store.past.usual_beginning
    assert usual(life.wall) == beginnings["f"]
    assert usual(beginnings["e"] + timedelta(hours=1)) == beginnings["c"]
    assert usual(beginnings["e"]) == beginnings["c"]
    assert usual(beginnings["b"] + timedelta(hours=1)) == beginnings["a"], "all that there are"
    assert usual(START - DAY) == START - 2 * DAY, "none had begun: a day"


def test_what_was_alive_before_the_stretch_is_read_in_small_pieces(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past, "PIECE_ROWS", 5)
    life.submit("before")
    life.finish(life.run_to(50))
    first = life.store.decisions()[-1].seq + 1
    life.submit("a")
    generation = life.run_to(10)
    for cursor in range(11, 30):
        life.hand_back(generation, cursor)
        life.feed(Resume(0.0, "cpu"))
        generation = life.run_to(cursor)
    since = life.wall + timedelta(seconds=1)
    told = [entry.seq for entry in life.store.history("a")]
    assert len(told) > 20

    reads: list[int] = []

    def rows(sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        found = life.store._rows(sql, values)
        if "notes" in sql:
            reads.append(len(found))
        return found

    def decided() -> list[int]:
        stretch = Past(rows).pieces(since, since + DAY)
        return [told.seq for piece in stretch for told in piece.get("decisions", ())]

    assert decided() == sorted(set(told)), "of what lives, in their order"
    assert min(decided()) >= first
    assert max(reads) <= 5
    monkeypatch.setattr(past, "ALIVE", 7)
    assert decided() == sorted(set(told))[-7:], "the newest, where there are very many"
    assert [told.seq for piece in pieces(life, since, since + DAY) for told in piece.decisions] == decided()


def test_those_alive_are_found_without_reading_the_rest(life: Life) -> None:
    plan = life.store._rows(f"EXPLAIN QUERY PLAN {past._ALIVE}", ("a", "a", 1, 1))
    steps = [str(row[-1]) for row in plan]
    assert "session_ran (started_at<?)" in steps[0]
    assert "PRIMARY KEY (name=?" in steps[1]
