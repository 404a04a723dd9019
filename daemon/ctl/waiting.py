"""Waiting for sessions to end, and showing meanwhile how far they are. Asks and shows; changes nothing."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import TypeAlias

import msgspec

from daemon import results, wire
from daemon.ctl.client import Client, UnreachableError, again
from daemon.results import Row

POLL_S = 0.25
LOST_PATIENCE_S = 30.0  # a daemon that is started again is back within this
ROOM_LINES = 4  # for the heading, the counts, a remark and the prompt
ENDED = {"done", "failed", "cancelled"}

Show: TypeAlias = Callable[[tuple[Row, ...], str], None]  # rows in the order asked for, and a remark
Display: TypeAlias = AbstractContextManager[Show]


def until_ended(client: Client, names: tuple[str, ...], display: Display) -> tuple[Row, ...]:
    """Show the sessions until all have ended; those that are not done. Outlives a restart of the daemon."""
    with display as show, contextlib.ExitStack() as own:
        lost_at: float | None = None
        rows: tuple[Row, ...] = ()

        def tell_silence(quiet_s: float, _patience_s: float) -> None:
            show(rows, f"batond has not answered for {quiet_s:.0f} s; waiting for it")

        client.on_silence = tell_silence
        while True:
            try:
                rows = _rows(client, names)
                lost_at = None
                show(rows, "")
            except UnreachableError as error:
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > LOST_PATIENCE_S:
                    raise
                show(rows, f"{error}; looking for it again")
                client = again(client)
                own.callback(client.close)
            if rows and lost_at is None and all(row.state in ENDED for row in rows):
                return tuple(row for row in rows if row.state != "done")
            time.sleep(POLL_S)


def _rows(client: Client, names: tuple[str, ...]) -> tuple[Row, ...]:
    """A row for each name, in that order."""
    found: dict[str, Row] = {}
    for first in range(0, len(names), wire.LIST_LIMIT):
        part = names[first : first + wire.LIST_LIMIT]
        answer = client.call("list", wire.ListParams(names=part, limit=wire.LIST_LIMIT), results.ListResult)
        found.update({row.name: row for row in answer.sessions})
    gone = Row(name="", state="cancelled", reason="batond knows nothing of it any more")
    return tuple(found.get(name) or msgspec.structs.replace(gone, name=name) for name in names)


def for_people() -> Display:
    """Bars on a terminal; in a pipe, a line for each change."""
    return _bars() if sys.stdout.isatty() else _change_lines()


@contextmanager
def json_lines(write: Callable[[bytes], None]) -> Iterator[Show]:
    """The row of each session whose state changed, as JSON."""
    yield _changes(lambda row: write(msgspec.json.encode(row)))


@contextmanager
def _change_lines() -> Iterator[Show]:
    from daemon.ctl.screen import clock, items, safe

    def write(row: Row) -> None:
        where = f" on {row.lane}" if row.lane else ""
        count = items(row.done, row.total, row.errors)
        reason = f": {safe(row.reason)}" if row.reason else ""
        tell(f"{clock(_now())} {row.name} {row.state}{where}{f' {count}' if count else ''}{reason}")

    changes, said = _changes(write), ""

    def show(rows: tuple[Row, ...], remark: str) -> None:
        nonlocal said
        changes(rows, remark)
        if remark and not said:
            tell(f"{clock(_now())} {safe(remark)}")
        said = remark

    yield show


def tell(text: str) -> None:
    """A line, at once: whoever reads may be waiting for it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _changes(write: Callable[[Row], None]) -> Show:
    seen: dict[str, tuple[str, str | None]] = {}

    def show(rows: tuple[Row, ...], _remark: str) -> None:
        for row in rows:
            if seen.get(row.name) != (row.state, row.lane):
                seen[row.name] = (row.state, row.lane)
                write(row)

    return show


@contextmanager
def _bars() -> Iterator[Show]:
    """One bar a session, redrawn in place; what is left on the screen at the end is how each ended."""
    from rich.live import Live

    from daemon.ctl import screen

    last: tuple[Row, ...] = ()
    with Live(console=screen.console(), auto_refresh=False, vertical_overflow="crop") as live:

        def show(rows: tuple[Row, ...], remark: str) -> None:
            nonlocal last
            last = rows
            height = screen.console().size.height - ROOM_LINES
            live.update(screen.progress(_visible(rows, height), rows, remark), refresh=True)

        yield show
        live.update(screen.progress(last, last, ""), refresh=True)


def _visible(rows: tuple[Row, ...], height: int) -> tuple[Row, ...]:
    """As many as the screen holds: first those at work, then those that are next, then those that ended last."""
    if len(rows) <= height:
        return rows
    at_work = [row for row in rows if row.state not in ENDED and row.state != "queued"]
    queued = sorted((row for row in rows if row.state == "queued"), key=lambda row: row.place or 0)
    ended = sorted((row for row in rows if row.state in ENDED), key=lambda row: str(row.ended_at), reverse=True)
    chosen = {row.name for row in (at_work + queued[: max(1, height // 2)] + ended + queued)[: max(1, height)]}
    return tuple(row for row in rows if row.name in chosen)


def _now() -> datetime:
    return datetime.now(UTC)
