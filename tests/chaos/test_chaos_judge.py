"""The harness finds what it is there for: each wrong that is planted, in rows, ends, processes, is counted as that."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.chaos import plan, processes, report
from tests.chaos.judge import Rows, Verdict, count, judge, recorded, rows_of, unlike_schema
from tests.chaos.lives import Event, logged
from tests.chaos.people import Answer, Answered, Books
from tests.chaos.place import MARK
from tests.chaos.program import ROW_BYTES
from tests.chaos.program import Rows as ProgramRows
from tests.chaos.sessions import Session, expected
from tests.chaos.story import Outcome

LOG = Path(__file__).resolve().parents[1] / "logs" / "sample.jsonl"  # a daemon's

ITEMS = 200
MODEL = Session("model", "savedmodel", 10_000_000, ITEMS, "")
KERAS = Session("keras", "keras", 3_999_000, ITEMS, "")
PROGRAM = Session("program", "tracked", 20_000_000, ITEMS, "")


def write_model(folder: Path, session: Session, *, cursor: int = ITEMS, **changed: Any) -> None:
    """The output of a session, whole unless the cursor says otherwise; `changed`: by output, the rows instead."""
    (folder / session.name).mkdir(exist_ok=True)
    for name, rows in (expected(session) | changed).items():
        suffix = "" if cursor == session.items else ".partial"
        with (folder / session.name / f"{name}.npy{suffix}").open("wb") as file:
            np.save(file, rows)
    (folder / session.name / "session.json").write_text(json.dumps({"cursor": cursor}))


def write_program(folder: Path, items: list[int]) -> None:
    """The rows of a program, as it writes them."""
    rows = ProgramRows(folder / "program.rows", 0)
    for item in items:
        rows.add(PROGRAM.base + item)
    rows.keep()


def found(folder: Path, session: Session, how: str = "done") -> Rows:
    return rows_of(session, folder, folder, how=how)


@pytest.mark.parametrize("session", [MODEL, KERAS])
def test_a_whole_output_is_right(tmp_path: Path, session: Session) -> None:
    """Of every kind, each item is told from every other by its row."""
    write_model(tmp_path, session)
    assert found(tmp_path, session) == Rows(right=ITEMS)


def test_a_lost_and_a_doubled_row_of_a_model_are_counted(tmp_path: Path) -> None:
    """In whichever output it is, each item counts once."""
    for name, wanted in expected(MODEL).items():
        rows = wanted.copy()
        rows[7] = 0
        rows[30] = rows[29]
        write_model(tmp_path, MODEL, **{name: rows})
        assert found(tmp_path, MODEL) == Rows(right=ITEMS - 2, lost=2, duplicated=1, misplaced=1)


def test_rows_of_nobody_and_rows_in_each_other_s_place_are_counted(tmp_path: Path) -> None:
    rows = expected(MODEL)["y"].copy()
    rows[[3, 4]] = rows[[4, 3]]
    rows[9] = 12345
    write_model(tmp_path, MODEL, y=rows)
    assert found(tmp_path, MODEL) == Rows(right=ITEMS - 1, lost=1, foreign=1, misplaced=2)


def test_rows_that_are_nan_are_lost() -> None:
    wanted = np.arange(1, 11, dtype=np.float64)
    rows = wanted.copy()
    rows[4:6] = np.nan
    assert count(rows, wanted, whole=True) == Rows(right=8, lost=2)


def test_an_output_that_is_missing_or_cut_short_is_lost_whole(tmp_path: Path) -> None:
    assert found(tmp_path, MODEL) == Rows(lost=ITEMS)
    write_model(tmp_path, MODEL, y=expected(MODEL)["y"][:-1])
    assert found(tmp_path, MODEL) == Rows(lost=ITEMS)
    write_model(tmp_path, MODEL)
    path = tmp_path / MODEL.name / "y.npy"
    path.write_bytes(path.read_bytes()[:-3])
    assert found(tmp_path, MODEL) == Rows(lost=ITEMS)


def test_what_a_cancelled_session_left_must_be_true(tmp_path: Path) -> None:
    """All rows before the cursor; behind it the right row, or none."""
    assert found(tmp_path, MODEL, "cancelled") == Rows()
    half = expected(MODEL)["y"].copy()
    half[120:] = 0
    write_model(tmp_path, MODEL, cursor=100, y=half)
    assert found(tmp_path, MODEL, "cancelled").sound
    write_model(tmp_path, MODEL, cursor=130, y=half)
    assert found(tmp_path, MODEL, "cancelled") == Rows(right=120, lost=10)
    half[110] = half[0]
    write_model(tmp_path, MODEL, cursor=100, y=half)
    assert not found(tmp_path, MODEL, "cancelled").sound


def test_lost_and_doubled_rows_of_a_program_are_counted(tmp_path: Path) -> None:
    """As two that write at once would leave them: appended."""
    items = list(range(ITEMS))
    write_program(tmp_path, items)
    assert found(tmp_path, PROGRAM) == Rows(right=ITEMS)
    write_program(tmp_path, [*items, *range(150, 160)])
    assert found(tmp_path, PROGRAM) == Rows(right=ITEMS, duplicated=10)
    write_program(tmp_path, items[:-3])
    assert found(tmp_path, PROGRAM) == Rows(right=ITEMS - 3, lost=3)
    assert found(tmp_path, PROGRAM, "cancelled") == Rows(right=ITEMS - 3)
    write_program(tmp_path, [*items[:5], *items[6:]])
    assert found(tmp_path, PROGRAM, "cancelled").lost == 1


def test_a_row_of_a_program_that_was_never_written_is_lost(tmp_path: Path) -> None:
    """A file that was cut to a cursor beyond its end has zeros there."""
    rows = ProgramRows(tmp_path / "program.rows", 3)
    rows.add(PROGRAM.base + 3)
    assert (tmp_path / "program.rows").stat().st_size == 4 * ROW_BYTES
    assert found(tmp_path, PROGRAM, "cancelled").lost == 3


def ruling(
    folder: Path,
    record: list[tuple[str, str, str]],
    told: list[tuple[str, str]],
    *,
    kept: bool = True,
    answer: Answered = Answered.DONE,
    cancels: tuple[str, ...] = (),
    said: str = "",
) -> Verdict:
    """The judge's, where `program` was submitted, and left all of its rows."""
    write_program(folder, list(range(ITEMS)))
    events: list[Event] = [
        {"event": f"session.{how}", "session": name, "seq": 7 if kept else None} for name, how in told
    ]
    books = Books({"program": PROGRAM}, {"program": Answer(answer)}, set(cancels))
    return judge(books, record, events, said, folder, folder)


def wrongs(verdict: Verdict, **outcome: Any) -> list[str]:
    """What the report says is wrong."""
    whole = {"drained": True, "exit_status": 0} | outcome
    return list(report.faults(Outcome(1, 1.0, Books(), **whole), verdict))


DONE = [("program", "done", "")]


def test_a_session_that_ended_once_is_right_whether_or_not_it_was_told(tmp_path: Path) -> None:
    """A daemon may be killed after it has recorded the end, and before it tells."""
    for told in ([("program", "finished")], []):
        assert wrongs(ruling(tmp_path, DONE, told)) == []


def test_a_session_that_ended_twice_is_found(tmp_path: Path) -> None:
    """Twice in the log, twice in the record, or in the one otherwise than in the other."""
    twice = [("program", "finished"), ("program", "finished")]
    for record, told in ((DONE, twice), (DONE * 2, twice[:1]), (DONE, [("program", "cancelled")])):
        verdict = ruling(tmp_path, record, told)
        assert len(verdict.ended_twice) == 1
        assert any("ended twice" in line for line in wrongs(verdict))


def test_an_end_that_was_told_and_not_recorded_comes_again(tmp_path: Path) -> None:
    """A daemon that is stopped on a full disk does not wait for room: the next one finds the rows, and ends it."""
    assert wrongs(ruling(tmp_path, DONE, [("program", "finished")] * 2, kept=False)) == []


def test_a_session_that_never_ended_or_is_not_known_any_more_is_found(tmp_path: Path) -> None:
    """Its items count as lost."""
    verdict = ruling(tmp_path, [("program", "queued", "handed back")], [])
    assert verdict.never_ended == ["program: queued: handed back"]
    assert verdict.rows.lost == ITEMS
    verdict = ruling(tmp_path, [], [])
    assert verdict.forgotten == ["program"]
    assert verdict.rows.lost == ITEMS
    assert wrongs(ruling(tmp_path, [], [], answer=Answered.NOTHING)) == [], "nobody was promised anything"


def test_other_broken_words_are_found(tmp_path: Path) -> None:
    """Refused and run, cancelled unasked, failed with attempts left; a traceback, an alarm."""
    assert ruling(tmp_path, DONE, [], answer=Answered.REFUSED).refused_and_run == ["program"]
    cancelled = [("program", "cancelled", "")]
    assert ruling(tmp_path, cancelled, []).cancelled_unasked == ["program"]
    assert ruling(tmp_path, cancelled, [], cancels=("program",)).cancelled_unasked == []
    assert ruling(tmp_path, [("program", "failed", "why")], []).failed_unexpectedly == {"program": "why"}
    assert ruling(tmp_path, DONE, [], said="Traceback (most recent call last):\n x\n").tracebacks == 1
    verdict = ruling(tmp_path, DONE, [])
    verdict.alarms["count.mismatched"] += 1
    for kind in (verdict, *(ruling(tmp_path, [("program", "failed", "why")], []),)):
        assert wrongs(kind)


def test_a_line_of_the_log_that_is_not_as_the_schema_says_is_found() -> None:
    """A key that is not declared, one that is missing, an event that is none."""
    lines = [json.loads(line) for line in LOG.read_text("utf-8").splitlines()]
    assert unlike_schema(lines) == Counter()
    spoilt = [lines[0] | {"more": 1}, {key: value for key, value in lines[0].items() if key != "ts"}, {"event": "none"}]
    found = unlike_schema([*lines, *spoilt, *spoilt])
    assert list(found.values()) == [2, 2, 2]
    assert len(wrongs(Verdict(unlike_schema=found))) == 3


def test_orphans_leaks_and_ends_of_the_daemon_are_told() -> None:
    assert wrongs(Verdict()) == []
    assert wrongs(Verdict(), orphans=["17: python"])
    assert wrongs(Verdict(), descriptors_before=Counter(socket=3), descriptors_after=Counter(socket=4))
    assert wrongs(Verdict(), descriptors_before=Counter(socket=3), descriptors_after=Counter(socket=2)) == []
    assert wrongs(Verdict(), ended_by_itself=["life 2: status 70"])
    assert wrongs(Verdict(), exit_status=1)
    assert wrongs(Verdict(), drained=False)


def test_the_figures_have_all_that_is_asked_for(tmp_path: Path) -> None:
    """As a file, to be read by others."""
    figures = report.summary(Outcome(7, 1.0, Books()), Verdict(rows=Rows(lost=2)))
    report.write(figures, tmp_path / "chaos.json")
    kept = json.loads((tmp_path / "chaos.json").read_text())
    assert kept["seed"] == 7
    assert kept["lost"] == 2
    assert report.table(figures)


def test_the_record_and_the_log_are_read_as_a_daemon_leaves_them(tmp_path: Path) -> None:
    """The last line of one that was killed may be half."""
    with closing(sqlite3.connect(tmp_path / "batond.db")) as record, record:
        record.execute("CREATE TABLE sessions (id INTEGER PRIMARY KEY, name TEXT, state TEXT, reason TEXT)")
        record.executemany("INSERT INTO sessions VALUES (?, ?, ?, ?)", [(2, "b", "done", ""), (1, "a", "queued", "x")])
    assert recorded(tmp_path / "batond.db") == [("a", "queued", "x"), ("b", "done", "")]
    (tmp_path / "life-002.jsonl").write_text('{"event": "third"}\n{"event": "fou')
    (tmp_path / "life-001.jsonl").write_text('{"event": "first"}\n{"event": "second"}\n')
    assert [event["event"] for event in logged(tmp_path)] == ["first", "second", "third"]


def orphan(folder: Path, *arguments: str, **settings: Any) -> subprocess.Popen[bytes]:
    """A process that waits, and says so."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", "import sys\nprint(flush=True)\nsys.stdin.read()", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        **settings,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.fixture
def left(tmp_path: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Processes that have something of a run's folder, each in its own way; and one that has nothing of it."""
    with (tmp_path / "held").open("wb") as held:
        made = {
            "argument": orphan(tmp_path, f"{tmp_path}/rows"),
            "environment": orphan(tmp_path, env={**os.environ, MARK: str(tmp_path)}),
            "descriptor": orphan(tmp_path, stderr=held),
            "folder": orphan(tmp_path, cwd=tmp_path),
            "stranger": orphan(tmp_path, f"{tmp_path}-other/rows", env={**os.environ, MARK: f"{tmp_path}-other"}),
        }
    yield made
    for process in made.values():
        process.communicate(b"")


def test_orphans_are_found_however_they_hold_on(tmp_path: Path, left: dict[str, subprocess.Popen[bytes]]) -> None:
    """By what they were called with, by their mark, by what is open, by where they stand; nobody else is."""
    mine = {process.pid for name, process in left.items() if name != "stranger"}
    assert {found.pid for found in processes.all_of(tmp_path)} == mine
    assert processes.look(left["argument"].pid) in set(processes.children(os.getpid()))


def test_the_descriptors_of_a_process_are_counted_by_kind(tmp_path: Path) -> None:
    before = processes.descriptors(os.getpid())
    with (tmp_path / "open").open("wb"):
        assert processes.descriptors(os.getpid()) - before == Counter({str(tmp_path / "open"): 1})


def test_a_seed_draws_the_same_faults_and_each_kind_comes() -> None:
    """None of the last daemon's life is cut short."""
    mishaps = plan.draw(7, 300.0)
    assert mishaps == plan.draw(7, 300.0) != plan.draw(8, 300.0)
    assert {mishap.kind for mishap in mishaps} == set(plan.DECK)
    ends = [mishap.at for mishap in mishaps if plan.ends_daemon(mishap.kind)]
    assert max(ends) < 300.0 - plan.LAST_LIFE_S
