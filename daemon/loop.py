"""The one consumer of the one inbox: event → step → record → perform → tell. Knows the core, and three callables.

An event is taken as soon as it is posted, unless another is in hand: then it waits its turn. So the answer to a
worker's last item leaves in the same turn of the event loop in which it came, and before anything is logged of it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from states.decision import Decision
from states.effects import Effect
from states.events import (
    Cancel,
    DrainLane,
    Event,
    HostMemory,
    Kill,
    Memory,
    Move,
    Pause,
    Progress,
    Queued,
    Resume,
    Stop,
    Swap,
    Tick,
    Unread,
)
from states.lifecycle import step
from states.policy import next_deadline
from states.snapshot import Limits, World

REGULAR_TICK_S = 1.0  # while a session computes: its end may come near without a word from it
RETRY_RECORD_S = 1.0
ASLEEP_S = 1.0  # a timer that is later than that was not held up by work
LISTEN_S = 0.5
KEPT_DECISIONS = 50  # what a bug's report carries

_COMMANDS = Queued | Cancel | Swap | Pause | Resume | DrainLane | Move


class RecordFailed(Exception):  # noqa: N818 - it names what happened, as the record's own error does
    """A decision cannot be written down; it must not be acted on."""


class Record(Protocol):
    """Writes a decision down, durably enough to act on it; gives its sequence number. Raises `RecordFailed`."""

    def __call__(self, decision: Decision) -> int: ...


class Loop:
    """The daemon's one decision maker. Not thread-safe: everything happens on the event loop's thread."""

    def __init__(
        self,
        world: World,
        *,
        record: Record,
        tell: Callable[[Decision, int | None, float], None],
        perform: Callable[[Effect], None],
        blocked: Callable[[str], None],
        unblocked: Callable[[int, float], None],
    ) -> None:
        """tell: of a decision, with its number in the record (None: it is not in it), and when it was recorded.

        blocked: told once why nothing can be recorded; unblocked: after how many decisions and seconds it can be.
        """
        self.world = world
        self.recent: deque[Decision] = deque(maxlen=KEPT_DECISIONS)
        self._record = record
        self._tell = tell
        self._perform = perform
        self._tell_blocked = blocked
        self._tell_unblocked = unblocked
        self._inbox: deque[tuple[Event, asyncio.Future[Decision] | None]] = deque()
        self._busy = False
        self._blocked: str | None = None
        self._blocked_at = 0.0
        self.unrecorded: str | None = None  # why decisions cannot be recorded just now
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._watchers: list[asyncio.Future[None]] = []
        self._bug: Exception | None = None

    def post(self, event: Event) -> None:
        """Hand in an event. Its decision is made now, or after the one in hand."""
        self._take(event, None)

    async def ask(self, event: Event) -> Decision:
        """Hand in an event and wait for its decision. A command that cannot be recorded is refused."""
        answer: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._take(event, answer)
        return await answer

    async def until(self, holds: Callable[[World], bool]) -> None:
        """Wait until something holds of the world; raises what a bug in a decision raised."""
        while not holds(self.world):
            if self._bug is not None:
                raise self._bug
            changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._watchers.append(changed)
            await changed
        if self._bug is not None:
            raise self._bug

    def configure(self, limits: Limits) -> None:
        """Decide by other limits from now on; deadlines that are set already stand."""
        self.world = replace(self.world, limits=limits)
        self.post(Tick(time.monotonic()))

    def start(self) -> None:
        """Begin to look at the time."""
        self.post(Tick(time.monotonic()))

    def close(self) -> None:
        """Take nothing more."""
        for timer in (self._timer, self._retry):
            if timer is not None:
                timer.cancel()
        self._busy = True

    def _take(self, event: Event, answer: asyncio.Future[Decision] | None) -> None:
        if self._blocked is not None:
            if isinstance(event, Stop | Kill):  # it is not to wait for room on a disk
                self._blocked = None
                self._inbox.appendleft((event, answer))
                if not self._busy:
                    self._drain()
                return
            if isinstance(event, _COMMANDS) and answer is not None:
                answer.set_result(Decision(self.world, self.world, event, refused=self._blocked))
                return
            self._drop_superseded(event)
        self._inbox.append((event, answer))
        if not self._busy and self._blocked is None:
            self._drain()

    def _drop_superseded(self, event: Event) -> None:
        """While nothing can be recorded, keep only the newest of what a newer one replaces: memory stays bounded."""
        if not isinstance(event, Tick | Memory | HostMemory | Unread | Progress):
            return
        first = self._inbox[0] if self._inbox else None  # in hand: it waits for its own record
        self._inbox = deque(entry for entry in self._inbox if entry is first or not _supersedes(event, entry[0]))

    def _drain(self) -> None:
        self._busy = True
        mattered = False
        try:
            while self._inbox:
                event, answer = self._inbox[0]
                decision = step(self.world, event)
                seq = None
                if decision.matters:
                    try:
                        seq = self._record(decision)
                    except RecordFailed as failure:
                        if not self._goes_unrecorded(decision, answer, str(failure)):
                            return
                    else:
                        self._tell_unblocked_once()
                recorded_at = time.monotonic()
                self._inbox.popleft()
                self._adopt(decision, answer)
                if decision.matters:
                    self._tell(decision, seq, recorded_at)
                mattered = mattered or decision.matters or isinstance(event, Tick)
        except Exception as bug:  # noqa: BLE001 - any at all
            # A bug of ours: nothing more is decided; `until` raises it, with what led to it, and ends the daemon.
            story = "; ".join(type(each.event).__name__ for each in self.recent)
            bug.add_note(f"the last decisions were about: {story}")
            self._bug = bug
            self._wake()
        finally:
            self._busy = self._bug is not None
        if mattered:
            self._set_timer()
            self._wake()

    def _goes_unrecorded(self, decision: Decision, answer: asyncio.Future[Decision] | None, failure: str) -> bool:
        """Whether the decision is acted on though it could not be recorded; else it, or who asked for it, waits."""
        self._tell_blocked_once(failure)
        if decision.after.stopping:
            return True  # nothing new is begun any more, and what is done the outputs prove: the end is not held up
        self._blocked = f"{failure}; nothing new is started until it can be"
        if isinstance(decision.event, _COMMANDS) and answer is not None:
            self._inbox.popleft()
            answer.set_result(Decision(self.world, self.world, decision.event, refused=self._blocked))
        self._retry = asyncio.get_running_loop().call_later(RETRY_RECORD_S, self._try_again)
        return False

    def _tell_unblocked_once(self) -> None:
        if self.unrecorded is not None:
            self.unrecorded = None
            self._tell_unblocked(len(self._inbox), time.monotonic() - self._blocked_at)

    def _tell_blocked_once(self, why: str) -> None:
        if self._blocked is None and self.unrecorded is None:
            self.unrecorded = why
            self._blocked_at = time.monotonic()
            self._tell_blocked(why)

    def _try_again(self) -> None:
        """Take up what waits; where nothing of it needs a record, the next that does will tell whether it can be.

        As if it came now, and then the time: a deadline that is counted from a fact has not passed before
        anybody could act on the fact, however long the record was in the way.
        """
        if not self._busy:
            self._blocked = None
            now = time.monotonic()
            waiting = [entry for entry in self._inbox if not isinstance(entry[0], Tick)]
            self._inbox = deque((replace(event, at=now), answer) for event, answer in waiting)
            self._inbox.append((Tick(now), None))
            self._drain()

    def _adopt(self, decision: Decision, answer: asyncio.Future[Decision] | None) -> None:
        self.world = decision.after
        if decision.matters:
            self.recent.append(decision)
            for effect in decision.effects:
                self._perform(effect)
            if decision.refused is None:
                self._inbox.append((Tick(time.monotonic()), None))
        if answer is not None and not answer.done():
            answer.set_result(decision)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = next_deadline(self.world)
        if any(lane.active is not None for lane in self.world.lanes.values()):
            regular = time.monotonic() + REGULAR_TICK_S
            due = regular if due is None else min(due, regular)
        if due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._tick, due)

    def _tick(self, due: float) -> None:
        """Tell the time. A daemon that did not run itself (stopped, swapped out, its host frozen) first listens.

        What workers said meanwhile lies in their sockets: a limit is not to pass before it is heard.
        """
        now = time.monotonic()
        if now - due > ASLEEP_S:
            self._timer = asyncio.get_running_loop().call_at(now + LISTEN_S, self._tick, now + LISTEN_S)
        else:
            self.post(Tick(now))

    def _wake(self) -> None:
        watchers, self._watchers = self._watchers, []
        for each in watchers:
            if not each.done():
                each.set_result(None)


def _supersedes(new: Event, old: Event) -> bool:
    match new, old:
        case (Tick(), Tick()):
            return True
        case (Memory(lane=lane), Memory(lane=other)) | (Unread(lane=lane), Unread(lane=other)):
            return lane == other
        case (HostMemory(), HostMemory()):
            return True
        case (Progress(generation=generation), Progress(generation=other)):
            return generation == other
        case _:
            return False
