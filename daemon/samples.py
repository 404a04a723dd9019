"""Device memory over time, and when a daemon was there to see it: which samples are kept, where. Decides nothing else.

A sample is kept when a lane's state or workers change, when a figure moved by more than a hundredth of the device (at
most once a second), and each minute in any case; that the daemon is there, every few seconds. So little is written that
quiet days cost next to nothing, and it is written behind: never while a lane hands over, and never before a decision.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, Protocol

from msgspec.structs import astuple

from daemon.records import from_text, to_text
from daemon.results import Sample
from states import gate, policy
from states.snapshot import Lane, Worker, World

MOVED_SHARE: Final = 0.01  # of the device's memory
QUIET_S: Final = 1.0  # between two samples of a lane where nothing but figures changes
HANDOVER_S: Final = 0.05  # the same while it hands over
SIGN_S: Final = 60.0  # a sample at least so often
WRITE_S: Final = 1.0
SEEN_S: Final = 5.0  # that the daemon is there, at least so often: one row, and no wait for the disk
WAITING: Final = 2000  # samples not yet written: minutes of the busiest lane; of more the oldest are lost

COLUMNS: Final = ", ".join(Sample.__struct_fields__)


class Rows(Protocol):
    """Runs one statement of SQL, and gives its rows. Raises the store's error."""

    def __call__(self, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]: ...


class Samples:
    """The tables of samples and of daemons' lives. Each method that writes is one transaction."""

    def __init__(self, rows: Rows, transaction: Callable[[str], AbstractContextManager[None]]) -> None:
        """rows, transaction: the store's own."""
        self._rows = rows
        self._transaction = transaction
        self._life: list[tuple[int]] = []  # this daemon's row, once it is there

    def keep(self, samples: Iterable[Sample], at: datetime, *, ended: bool = False) -> None:
        """Keep samples, and that this daemon is still there; with `ended`, that it goes now."""
        insert = f"INSERT INTO samples ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - no value in it
        now = to_text(at)
        with self._transaction("record memory over time"):
            life = self._life or self._rows(
                "INSERT INTO lives (began_at, seen_at) VALUES (?, ?) RETURNING id", (now, now)
            )
            self._rows("UPDATE lives SET seen_at = ?, ended = ? WHERE id = ?", (now, ended, *life[0]))
            for sample in samples:
                self._rows(insert, (to_text(sample.ts), sample.lane, *figures(sample)))
        self._life = life

    def began(self, since: datetime, until: datetime) -> tuple[datetime, ...]:
        """When daemons began within that stretch, in order."""
        sql = "SELECT began_at FROM lives WHERE began_at BETWEEN ? AND ? ORDER BY began_at"
        return tuple(from_text(began) for (began,) in self._rows(sql, (to_text(since), to_text(until))))

    def prune(self, cutoff: str | None, limit: int) -> int:
        """Within the caller's transaction: delete the oldest, older than `cutoff` (None: of any age); how many.

        With the samples go the lives that ended before the first one left.
        """
        older = "1" if cutoff is None else "ts < ?"
        chosen = f"SELECT id FROM samples WHERE {older} ORDER BY id LIMIT ?"  # noqa: S608 - no value in it
        values = (limit,) if cutoff is None else (cutoff, limit)
        gone = len(self._rows(f"DELETE FROM samples WHERE id IN ({chosen}) RETURNING id", values))  # noqa: S608
        if gone:
            first = "COALESCE((SELECT MIN(ts) FROM samples), '')"
            self._rows(f"DELETE FROM lives WHERE seen_at < {first} AND id < (SELECT MAX(id) FROM lives)", ())  # noqa: S608
        return gone


class Keep(Protocol):
    """Writes samples, and that the daemon is there (with `ended`: that it goes); whether that could be done."""

    def __call__(self, samples: Iterable[Sample], *, ended: bool = False) -> bool: ...


class Sampler:
    """Sees each world, and has the samples written that are to be kept. For the event loop's thread."""

    def __init__(self, world: Callable[[], World], keep: Keep) -> None:
        self._world = world
        self._keep = keep
        self._waiting: deque[Sample] = deque(maxlen=WAITING)
        self._last: dict[str, tuple[float, tuple[object, ...], Sample]] = {}
        self._looking = False

    def look_soon(self) -> None:
        """Look at the world once what is in hand is decided and done: an order to a worker goes first."""
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_soon(self._look)

    async def write(self) -> NoReturn:
        """Write what is to be kept, and that the daemon is there, whenever no lane hands over."""
        self._keep(())
        seen_at = time.monotonic()
        while True:
            await asyncio.sleep(WRITE_S)
            now = time.monotonic()
            handing_over = policy.any_hands_over(self._world(), now)
            due = self._waiting or now - seen_at >= SEEN_S
            if due and not handing_over and self._keep(self._waiting):
                self._waiting.clear()
                seen_at = now

    def end(self) -> None:
        """Write the rest, and that the daemon ends."""
        self._keep(self._waiting, ended=True)

    def _look(self) -> None:
        self._looking = False
        world, now = self._world(), time.monotonic()
        for lane in world.lanes.values():
            scene = (lane.state, *((worker.generation, worker.phase) for worker in lane.workers()))
            before = self._last.get(lane.name)
            if before is not None and now - before[0] < HANDOVER_S and scene == before[1]:
                continue
            found = sample(world, lane, now)
            pace = HANDOVER_S if policy.hands_over(world, lane, now) else QUIET_S
            if before is None or self._is_due(pace, now - before[0], scene != before[1], before[2], found):
                self._last[lane.name] = (now, scene, found)
                self._waiting.append(found)

    def _is_due(self, pace: float, since_s: float, changed: bool, before: Sample, found: Sample) -> bool:  # noqa: FBT001
        if changed or since_s >= SIGN_S:
            return True
        much = MOVED_SHARE * max(before.total_bytes, found.total_bytes)
        return since_s >= pace and any(
            abs(new - old) > much for old, new in zip(figures(before), figures(found), strict=True)
        )


def figures(sample: Sample) -> tuple[int, ...]:
    """What may move: all but when and where."""
    return astuple(sample)[2:]


def sample(world: World, lane: Lane, now: float) -> Sample:
    """A lane's memory as the world knows it. now: monotonic seconds."""
    reading = lane.readings[-1] if lane.readings else None
    return Sample(
        ts=datetime.now(UTC),
        lane=lane.name,
        total_bytes=0 if reading is None else reading.total,
        free_bytes=0 if reading is None else reading.free,
        active_bytes=_held(lane.active),
        standby_bytes=_held(lane.standby),
        retiring_bytes=sum(map(_held, (*lane.retiring, *lane.leaving))),
        foreign_bytes=sum(holder.size or 0 for holder in lane.foreign),
        wanted_bytes=_wanted(world, lane, now),
    )


def _held(worker: Worker | None) -> int:
    return 0 if worker is None else worker.held_bytes


def _wanted(world: World, lane: Lane, now: float) -> int:
    """What the gate holds back needs; asked of a lane only where something waits for memory there."""
    if not policy.waits_for_memory(world, lane, now):
        return 0
    held_back = policy.next_tier(world, lane, now)
    return 0 if held_back is None else max(0, gate.asked(world, lane, *held_back, lane.standby))
