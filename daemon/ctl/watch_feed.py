"""What `batonctl watch` knows of the daemon, kept fresh by a thread of its own. Draws nothing.

It polls, and asks for no more of the queue than is shown and for no events but new ones: so what a watcher costs the
daemon has a bound, however much happens there. (The stream of events has every line that a worker prints.)
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from daemon import wire
from daemon.ctl.client import Client, UnreachableError, again
from daemon.results import EventsResult, StatusResult, VersionResult

POLL_S = 0.25
RECENT = 100  # decisions; who is further behind starts with the newest
KEPT = 200  # events


@dataclass(frozen=True, slots=True)
class Known:
    """The last answer, with when it came; the newest events, oldest first; why no daemon answers now, since when."""

    status: StatusResult
    events: tuple[dict[str, Any], ...]
    asked_at: float  # monotonic
    came: datetime
    lost: str = ""
    lost_since: datetime | None = None


class Feed:
    """Asks four times a second, and goes on looking where no daemon answers. `known` is the newest."""

    def __init__(self, client: Client, queue: int) -> None:
        """Asks once, for so many of the queue. Raises UnreachableError."""
        self._given = self._client = client
        self._queue = queue
        self._events: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._seq: int | None = None
        self._ended = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._hurry = threading.Event()
        self.known = self._answer()

    def start(self, changed: Callable[[], None]) -> None:
        """Go on asking. changed: called from the thread; nobody waits for its end, for it may wait for an answer."""
        self._given.on_silence = None  # from now on how old `known` is tells it
        threading.Thread(target=self._run, args=(changed,), name="feed", daemon=True).start()

    def show(self, queue: int) -> None:
        """So many of the queue are to be known."""
        if queue != self._queue:
            self._queue = queue
            self._hurry.set()

    def hold(self, *, held: bool) -> None:
        """Ask no more for now, or go on."""
        if held:
            self._going.clear()
        else:
            self._going.set()

    def close(self) -> None:
        """Ask no more."""
        self._ended.set()
        self._going.set()
        self._hurry.set()

    def _run(self, changed: Callable[[], None]) -> None:
        while not self._ended.is_set():
            self._hurry.wait(POLL_S)
            self._hurry.clear()
            self._going.wait()
            if not self._ended.is_set():
                self.known = self._look()
                changed()
        if self._client is not self._given:  # that one is its maker's
            self._client.close()

    def _look(self) -> Known:
        known = self.known
        if known.lost:
            self._client = again(self._client)
        try:
            return self._answer()
        except (UnreachableError, wire.Refusal, msgspec.DecodeError) as error:
            why = error.message if isinstance(error, wire.Refusal) else str(error)
            since = known.lost_since or datetime.now().astimezone()
            return replace(known, lost=why, lost_since=since)

    def _answer(self) -> Known:
        asked_at = time.monotonic()
        status = self._client.call("status", wire.StatusParams(queue=self._queue), StatusResult)
        if status.seq != self._seq:
            self._seq = self._read_events(status.seq)
        return Known(status, tuple(self._events), asked_at, datetime.now().astimezone())

    def _read_events(self, newest: int) -> int:
        """Those since the last time, on a connection of their own; the number of the last decision among them.

        All of them, or none: where the stream breaks off, they are read again.
        """
        anew = self._seq is None or not 0 < newest - self._seq <= RECENT  # less: another daemon, with another record
        if anew:
            params = wire.EventsParams(last=RECENT, follow=False)
        else:
            params = wire.EventsParams(since=self._seq, follow=False)
        with Client(self._client.path) as line:
            seq = line.call("events", params, EventsResult).seq
            told = [each for _, each in line.notices()]
        read = max((each["seq"] or 0 for each in told), default=0)
        if read < seq:  # a decision may tell nothing; but a daemon that dies ends a stream just so
            self._client.call("version", wire.Params(), VersionResult)
        if anew:
            self._events.clear()
        self._events.extend(told)
        return max(seq, read)
