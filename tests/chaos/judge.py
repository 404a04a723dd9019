"""What came of a run, counted from what lies on disk: every row, every end. Runs nothing, trusts no daemon.

Rows are told apart by what they say: which item each is of follows from the model's formula.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.chaos.lives import Event
from tests.chaos.people import Answer, Answered, Books
from tests.chaos.program import ROW_BYTES
from tests.chaos.sessions import Session, expected
from tests.logs.conforming import wrong

ENDED: Final = ("done", "failed", "cancelled")
END_EVENTS: Final = {"session.finished": "done", "session.failed": "failed", "session.cancelled": "cancelled"}
ALARMS: Final = ("count.mismatched", "daemon.broke", "store.set_aside", "session.unreadable", "library.spoke")


@dataclass(frozen=True, slots=True)
class Rows:
    """What one session left, item by item."""

    right: int = 0
    lost: int = 0  # items without a row
    duplicated: int = 0  # rows beyond an item's first
    foreign: int = 0  # rows that no item of the session gives
    misplaced: int = 0  # rows of an item that another one's place holds

    def __add__(self, other: Rows) -> Rows:
        return Rows(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    @property
    def sound(self) -> bool:
        """Whether each item has its one row, at its place."""
        return not (self.lost or self.duplicated or self.foreign or self.misplaced)


def count(found: Any, wanted: Any, *, whole: bool) -> Rows:
    """Rows against those that are wanted, of shape (items, …).

    whole: every item must have its row; else only those before the first that was never written (all zero, or not
    there), and behind it a row may be there or not.
    """
    width = int(np.prod(wanted.shape[1:], dtype=np.int64))
    items = {row.tobytes(): item for item, row in enumerate(np.ascontiguousarray(wanted.reshape(-1, width)))}
    seen: Counter[int] = Counter()
    blank = foreign = misplaced = 0
    for place, row in enumerate(np.ascontiguousarray(found.reshape(-1, width))):
        item = items.get(row.tobytes())
        if item is not None:
            seen[item] += 1
            misplaced += item != place
        elif not row.any() or (row.dtype.kind == "f" and np.isnan(row).all()):
            blank += 1
        else:
            foreign += 1
    missing = len(items) - len(seen)
    return Rows(
        right=len(seen),
        lost=missing if whole else 0,
        duplicated=sum(times - 1 for times in seen.values()),
        foreign=foreign,
        misplaced=misplaced,
    )


def rows_of(session: Session, outputs: Path, programs: Path, *, how: str) -> Rows:
    """All rows that a session left, which ended so: of one that is done, all; of another, what is there is true."""
    if not session.built_in:
        return _lines(session, programs / f"{session.name}.rows", whole=how == "done")
    folder = outputs / session.name
    if how == "done":
        return _whole(session, folder)
    return _part(session, folder)


def _whole(session: Session, folder: Path) -> Rows:
    found = Rows()
    for name, wanted in expected(session).items():
        rows = _load(folder / f"{name}.npy")
        if rows is None or rows.shape != wanted.shape or rows.dtype != wanted.dtype:
            return Rows(lost=session.items)
        one = count(rows, wanted, whole=True)
        found = one if found.sound else found  # an item is counted once, by the first output that is wrong
    return found


def _part(session: Session, folder: Path) -> Rows:
    """Before the cursor every row, after it none or the right one."""
    try:
        manifest = json.loads((folder / "session.json").read_bytes())
    except FileNotFoundError:
        return Rows()
    found = Rows()
    cursor = manifest["cursor"]
    for name, wanted in expected(session).items():
        rows = _load(folder / f"{name}.npy.partial")
        rows = _load(folder / f"{name}.npy") if rows is None else rows
        if rows is None:
            return Rows(lost=cursor)
        sure = count(rows[:cursor], wanted[:cursor], whole=True)
        rest = count(rows[cursor:], wanted[cursor:], whole=False)
        one = Rows(sure.right, sure.lost, sure.duplicated, sure.foreign + rest.foreign, sure.misplaced + rest.misplaced)
        found = one if found.sound else found
    return found


def _load(path: Path) -> Any:
    """An array; None where there is none, or not all of it."""
    try:
        return np.load(path)
    except (FileNotFoundError, ValueError, EOFError):
        return None


def _lines(session: Session, path: Path, *, whole: bool) -> Rows:
    content = path.read_bytes() if path.exists() else b""
    if not whole:
        content = content[: len(content) - len(content) % ROW_BYTES]  # its program may have died within a row
    seen: Counter[int] = Counter()
    foreign = misplaced = 0
    for place in range(-(-len(content) // ROW_BYTES)):
        row = content[place * ROW_BYTES : (place + 1) * ROW_BYTES]
        if not row.strip(b"\0"):
            continue
        item = int(row) - session.base if row.strip().isdigit() and row.endswith(b"\n") else -1
        if not 0 <= item < session.items:
            foreign += 1
            continue
        misplaced += not seen[item] and item != place
        seen[item] += 1
    wanted = session.items if whole else max(seen, default=-1) + 1
    return Rows(
        right=len(seen),
        lost=wanted - len(seen),
        duplicated=sum(times - 1 for times in seen.values()),
        foreign=foreign,
        misplaced=misplaced,
    )


@dataclass
class Verdict:
    """All that was counted."""

    rows: Rows = field(default_factory=Rows)
    sessions: Counter[str] = field(default_factory=Counter)
    unsound: dict[str, str] = field(default_factory=dict)  # by session, what is wrong with its rows
    ended_twice: list[str] = field(default_factory=list)
    never_ended: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)  # the daemon said that it has it, and its record knows of none
    refused_and_run: list[str] = field(default_factory=list)
    cancelled_unasked: list[str] = field(default_factory=list)
    failed_unexpectedly: dict[str, str] = field(default_factory=dict)
    alarms: Counter[str] = field(default_factory=Counter)
    unlike_schema: Counter[str] = field(default_factory=Counter)  # lines of the log, by what is wrong with them
    tracebacks: int = 0


Recorded = list[tuple[str, str, str]]  # name, state, reason


def recorded(database: Path) -> Recorded:
    """Every session that the record knows, in the order of submission."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as record:
        return record.execute("SELECT name, state, reason FROM sessions ORDER BY id").fetchall()


def judge(books: Books, record: Recorded, events: Iterable[Event], said: str, outputs: Path, programs: Path) -> Verdict:
    """The books of those who asked, against the record, the log and the rows."""
    verdict = Verdict()
    told: dict[str, list[str]] = {}
    for event in events:
        if event["event"] in END_EVENTS and event["seq"] is not None:  # of a daemon that stops on a full disk: not kept
            told.setdefault(event["session"], []).append(END_EVENTS[event["event"]])
        if event["event"] in ALARMS:
            verdict.alarms[event["event"]] += 1
    kept: dict[str, list[tuple[str, str]]] = {}
    for name, state, reason in record:
        kept.setdefault(name, []).append((state, reason))
    verdict.tracebacks = said.count("Traceback (most recent call last)")
    for name, session in books.submitted.items():
        if name not in kept:
            if books.answers.get(name, _NOTHING).how is Answered.DONE:
                verdict.forgotten.append(name)
                verdict.rows += Rows(lost=session.items)
            continue
        if books.answers.get(name, _NOTHING).how is Answered.REFUSED:
            verdict.refused_and_run.append(name)
        _judge_end(verdict, books, name, kept[name], told.get(name, []))
        state = kept[name][-1][0]
        if state in ENDED:
            _judge_rows(verdict, session, state, outputs, programs)
        else:
            verdict.rows += Rows(lost=session.items)
    return verdict


_NOTHING: Final = Answer(Answered.NOTHING)


def unlike_schema(events: Iterable[Event]) -> Counter[str]:
    """How many lines of the log are not as docs/events.schema.json says, by event and what is wrong."""
    return Counter(f"{event.get('event')}: {why}" for event in events if (why := wrong(event)) is not None)


def _judge_end(verdict: Verdict, books: Books, name: str, kept: list[tuple[str, str]], told: list[str]) -> None:
    """An end may be recorded and not told: the daemon was killed between. Told and not recorded, or twice: never."""
    state, reason = kept[-1]
    verdict.sessions[state] += 1
    if len(kept) > 1 or len(told) > 1 or (told and told[-1] != state):
        verdict.ended_twice.append(f"{name}: recorded {', '.join(each for each, _ in kept)}; told {', '.join(told)}")
    if state not in ENDED:
        verdict.never_ended.append(f"{name}: {state}: {reason}")
    elif state == "failed":
        verdict.failed_unexpectedly[name] = reason
    elif state == "cancelled" and name not in books.cancels:
        verdict.cancelled_unasked.append(name)


def _judge_rows(verdict: Verdict, session: Session, state: str, outputs: Path, programs: Path) -> None:
    found = rows_of(session, outputs, programs, how=state)
    verdict.rows += found
    if not found.sound:
        verdict.unsound[session.name] = f"{state}, of {session.items} items: {_wrong(found)}"


def _wrong(found: Rows) -> str:
    names: Mapping[str, int] = {name: getattr(found, name) for name in found.__slots__ if name != "right"}
    return ", ".join(f"{number} {name}" for name, number in names.items() if number)
