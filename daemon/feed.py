"""Live events, from the one who tells them to whoever listens. Keeps nothing, waits for nobody."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any
from weakref import WeakSet

from daemon.logs import line
from daemon.stories import Story, fields
from states.notes import Note

BACKLOG = 2000  # lines a listener may be behind, before it is cut off


class Listener:
    """Events from the moment it was made on."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._lines: deque[dict[str, Any]] = deque()
        self._more = asyncio.Event()
        self.cut_off = False
        feed.listeners.add(self)

    def put(self, told: dict[str, Any]) -> None:
        """Hand it a line; one that is too far behind gets no more."""
        if len(self._lines) >= BACKLOG:
            self.cut_off = True
            self._feed.listeners.discard(self)
        else:
            self._lines.append(told)
        self._more.set()

    async def lines(self) -> AsyncGenerator[dict[str, Any], None]:
        """The lines, until it is cut off."""
        while True:
            while self._lines:
                yield self._lines.popleft()
            if self.cut_off:
                return
            self._more.clear()
            await self._more.wait()

    def close(self) -> None:
        """Listen no more."""
        self._feed.listeners.discard(self)


class Feed:
    """What is told, for those who listen now. `seq` is the newest decision's number."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        # Weakly: whoever asks for a stream and hangs up before its first line never begins to read, and so never ends.
        self.listeners: WeakSet[Listener] = WeakSet()

    def tell(self, note: Note | Story, seq: int | None, at: datetime) -> None:
        """Tell one event; `seq` is the number of the decision it belongs to, if it belongs to one."""
        self.seq = self.seq if seq is None else max(self.seq, seq)
        if self.listeners:
            told = line(fields(note), seq, at)
            for listener in tuple(self.listeners):
                listener.put(told)
