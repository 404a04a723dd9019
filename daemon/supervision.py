"""What the service manager is shown of the daemon, and for how long: ready, status, watchdog, the time a stop takes.

Looks at the world, changes nothing in it. The watchdog is fed for progress: a daemon whose event loop turns, but which
leaves a deadline of its own standing, is as stuck as a frozen one, and is to be replaced; its workers go on.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

from daemon.notify import Manager
from states import policy
from states.snapshot import Lane, State, Worker, World

INTERVAL_S: Final = 1.0  # between two looks
FEEDS: Final = 4  # of them at least within the watchdog's time
OVERDUE_S: Final = 10.0  # a deadline that has stood so long after it passed is not going to be dealt with
EXTEND_S: Final = 30.0  # from each look on, while a stop gets on
LANES_SHOWN: Final = 8


class Decides(Protocol):
    """What of the loop is asked here."""

    world: World
    unrecorded: str | None


class Supervision:
    """Tells `manager` how `loop` is, from `ready` on, as long as `run` runs."""

    def __init__(self, manager: Manager, loop: Decides) -> None:
        self._manager = manager
        self._loop = loop
        self._shown = ""
        self._overdue: tuple[float, float] | None = None  # the deadline that stands, and when it was first seen to
        self._stopping = False

    def ready(self) -> None:
        """The lanes and the sockets stand."""
        self._shown = status(self._loop.world)
        self._manager.ready(self._shown)

    def reloading(self) -> None:
        """The configuration is being read again."""
        self._manager.reloading()

    def stopping(self) -> None:
        """The end has begun; told once."""
        if not self._stopping:
            self._stopping = True
            self._manager.stopping()
            self._manager.extend(EXTEND_S)

    def stopped(self, queued: int, left_running: int) -> None:
        """The last word: what `systemctl status` shows from then on."""
        going_on = f"; {left_running} left running" if left_running else ""
        self._manager.status(f"Stopped; {queued} queued{going_on}")

    async def run(self) -> None:
        """Until it is cancelled. Where nobody listens there is nothing to do, and it sleeps."""
        watchdog_s = self._manager.watchdog_s
        interval_s = INTERVAL_S if watchdog_s is None else min(INTERVAL_S, watchdog_s / FEEDS)
        while self._manager.listens:
            self._look(time.monotonic())
            await asyncio.sleep(interval_s)
        await asyncio.Event().wait()

    def _look(self, now: float) -> None:
        shown = status(self._loop.world)
        if shown != self._shown:
            self._shown = shown
            self._manager.status(shown)
        if self.stuck(now):
            return
        self._manager.alive()
        if self._stopping:
            self._manager.extend(EXTEND_S)

    def stuck(self, now: float) -> bool:
        """Whether a deadline of the world has been left standing.

        Counted from when it was seen to have passed: a daemon that did not run for an hour is not an hour behind. Where
        nothing can be recorded the daemon waits by intention, and another one would do no better.
        """
        due = policy.next_deadline(self._loop.world)
        if due is None or due > now or self._loop.unrecorded is not None:
            self._overdue = None
            return False
        if self._overdue is None or self._overdue[0] != due:
            self._overdue = (due, now)
        return now - self._overdue[1] > OVERDUE_S


def status(world: World) -> str:
    """One line: each lane's state with its session and how far that is, and how many wait."""
    lanes = list(world.lanes.values())
    parts = [f"{lane.name}: {_lane(lane)}" for lane in lanes[:LANES_SHOWN]]
    if len(lanes) > LANES_SHOWN:
        parts.append(f"{len(lanes) - LANES_SHOWN} more lanes")
    parts.append(f"{len(world.queue)} queued")
    return ("Stopping; " if world.stopping else "") + "; ".join(parts)


def _lane(lane: Lane) -> str:
    said = lane.state.value
    if lane.active is not None:
        said += f" {_worker(lane.active)}"
    if lane.standby is not None:
        said += f", {lane.standby.session.name} {lane.standby.phase.value}"
    if lane.retiring:
        said += f", {', '.join(worker.session.name for worker in lane.retiring)} committing"
    if lane.lost is not None:
        said += " (device lost)"
    elif lane.held and lane.state is not State.STOPPED:
        said += " (paused)"
    return said


def _worker(worker: Worker) -> str:
    done = f"{worker.session.name} {worker.done}"
    return done if not worker.total else f"{done}/{worker.total} ({100 * worker.done // worker.total} %)"
