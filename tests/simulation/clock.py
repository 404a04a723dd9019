"""Simulated time: what is due next happens next, at once. Knows nothing of what happens."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Clock:
    """Time in whole milliseconds, so that a printed time is the time; equal times happen in the order of asking."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._asked = 0

    def after(self, seconds: float, action: Callable[[], None]) -> float:
        """Have `action` happen in so many seconds; the time at which it will."""
        return self.at(self.now + max(0.0, seconds), action)

    def at(self, moment: float, action: Callable[[], None]) -> float:
        """Have `action` happen at a moment that is not past; that moment, rounded."""
        moment = max(self.now, round(moment, 3))
        self._asked += 1
        heapq.heappush(self._due, (moment, self._asked, action))
        return moment

    def turn(self) -> bool:
        """Let the next thing happen; False where nothing is left to."""
        if not self._due:
            return False
        self.now, _, action = heapq.heappop(self._due)
        action()
        return True
