"""A stretch of the record as it is kept: decisions with their notes, samples, lives; in pieces. Makes nothing of it.

Read for `timeline`. A piece is a read of a millisecond or less, so that the one who asks never holds up a handover,
and what it gives fits well into one line of the control socket.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from daemon.records import from_text, to_text
from daemon.results import Life, Sample, Told
from daemon.samples import COLUMNS, SIGN_S, Rows

PIECE_ROWS: Final = 200
PIECE_BYTES: Final = 1 << 18  # of notes in one piece
ALIVE: Final = 1000  # decisions before the stretch, of sessions that were alive when it began
SESSIONS: Final = 50  # so many at the least are in the stretch that nobody named


class Past:
    """The stretches of one record."""

    def __init__(self, rows: Rows) -> None:
        """rows: the store's own."""
        self._rows = rows

    def usual_beginning(self, until: datetime) -> datetime:
        """A day before; earlier, where fewer than fifty sessions began in it: when the fiftieth last did."""
        sql = (
            "SELECT MIN(started_at) FROM "
            "(SELECT started_at FROM sessions WHERE started_at <= ? ORDER BY started_at DESC LIMIT ?)"
        )
        found = self._rows(sql, (to_text(until), SESSIONS))[0][0]
        day = until - timedelta(days=1)
        return day if found is None else min(day, from_text(found))

    def pieces(self, since: datetime, until: datetime) -> Iterator[dict[str, Any]]:
        """The stretch, piece by piece, each as a `TimelinePiece` says it."""
        for lives in self._lives(since, until):
            yield {"lives": lives}
        for decisions in self._decisions(since, until):
            yield {"decisions": decisions}
        for samples in self._samples(since, until):
            yield {"samples": samples}
        yield {"last": True}

    def _lives(self, since: datetime, until: datetime) -> Iterator[tuple[Life, ...]]:
        """The daemons that were there within the stretch, and the last one before it."""
        after = self._rows("SELECT COALESCE(MAX(id), 1) FROM lives WHERE began_at <= ?", (to_text(since),))[0][0] - 1
        sql = "SELECT id, began_at, seen_at, ended FROM lives WHERE id > ? AND began_at <= ? ORDER BY id LIMIT ?"
        while page := self._rows(sql, (after, to_text(until), PIECE_ROWS)):
            after = page[-1][0]
            yield tuple(
                Life(began_at=from_text(began), seen_at=from_text(seen), ended=bool(ended))
                for _, began, seen, ended in page
            )

    def _decisions(self, since: datetime, until: datetime) -> Iterator[tuple[Told, ...]]:
        """What was told within the stretch, and before that of the sessions that were alive when it began."""
        first = self._rows(
            "SELECT COALESCE((SELECT MIN(seq) FROM decisions WHERE ts >= ?), (SELECT MAX(seq) + 1 FROM decisions), 0)",
            (to_text(since),),
        )[0][0]
        alive = [seq for (seq,) in self._rows(_ALIVE, (to_text(since), to_text(since), first, ALIVE))][::-1]
        for begin in range(0, len(alive), PIECE_ROWS):
            chosen = tuple(alive[begin : begin + PIECE_ROWS])
            places = ", ".join("?" * len(chosen))
            yield from _pieces(
                self._rows(f"SELECT seq, ts, notes FROM decisions WHERE seq IN ({places}) ORDER BY seq", chosen)  # noqa: S608 - no value in it
            )
        after = first - 1
        sql = "SELECT seq, ts, notes FROM decisions WHERE seq > ? AND ts <= ? ORDER BY seq LIMIT ?"
        while page := self._rows(sql, (after, to_text(until), PIECE_ROWS)):
            after = page[-1][0]
            yield from _pieces(page)

    def _samples(self, since: datetime, until: datetime) -> Iterator[tuple[Sample, ...]]:
        """The samples of the stretch, and the minute before it: what was so when it began."""
        before = to_text(since - timedelta(seconds=1.5 * SIGN_S))  # each lane has one within that, if it was read
        after = self._rows("SELECT COALESCE(MAX(id), 0) FROM samples WHERE ts < ?", (before,))[0][0]
        sql = f"SELECT id, {COLUMNS} FROM samples WHERE id > ? AND ts <= ? ORDER BY id LIMIT ?"  # noqa: S608 - no value in it
        while page := self._rows(sql, (after, to_text(until), PIECE_ROWS)):
            after = page[-1][0]
            yield tuple(_sample(row) for row in page)


# The numbers of the decisions that tell of a session which had begun before the stretch, and had not ended.
# CROSS: SQLite keeps the order, and looks through none but those sessions' mentions.
_ALIVE: Final = """
    SELECT DISTINCT m.seq FROM sessions s CROSS JOIN mentions m ON m.name = s.name AND m.seq >= s.seq
    WHERE s.started_at < ? AND (s.ended_at IS NULL OR s.ended_at >= ?) AND m.seq < ?
    ORDER BY m.seq DESC LIMIT ?
"""


def _pieces(page: list[tuple[Any, ...]]) -> Iterator[tuple[Told, ...]]:
    """The rows, none so many at once that a line could not hold them."""
    piece: list[Told] = []
    size = 0
    for seq, ts, notes in page:
        for part in _parts(notes):
            if piece and size + len(part) > PIECE_BYTES:
                yield tuple(piece)
                piece, size = [], 0
            piece.append(Told(seq=seq, ts=from_text(ts), notes=msgspec.Raw(part)))
            size += len(part)
    if piece:
        yield tuple(piece)


def _parts(notes: str) -> Iterator[bytes]:
    """A decision's notes, in several lists where they are very many: someone queued thousands of sessions at once."""
    if len(notes) <= PIECE_BYTES:
        yield notes.encode()
        return
    part: list[msgspec.Raw] = []
    size = 0
    for note in msgspec.json.decode(notes, type=list[msgspec.Raw]):
        if part and size + len(bytes(note)) > PIECE_BYTES:
            yield msgspec.json.encode(part)
            part, size = [], 0
        part.append(note)
        size += len(bytes(note))
    yield msgspec.json.encode(part)


def _sample(row: tuple[Any, ...]) -> Sample:
    _, ts, *rest = row
    return Sample(ts=from_text(ts), **dict(zip(Sample.__struct_fields__[1:], rest, strict=True)))
