"""Waiting for room to write in: pauses where it stands, says so, tries again. Writes nothing itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final, TypeVar

import baton
from daemon.worker.failures import Refused
from daemon.worker.folder import NoRoomError

T = TypeVar("T")

RETRY_S: Final = 1.0
DISK_TIMEOUT_S: Final = 600.0  # BATON_DISK_TIMEOUT_S in the environment: tests wait for less


class CancelledError(Exception):
    """What was to be written is not wanted any more."""


class Patience:
    """How long, and how, one session waits for a disk."""

    def __init__(self, channel: baton.Channel, told: Callable[[], None]) -> None:
        """told: called while it waits and the session is to drain, maybe several times."""
        self._channel = channel
        self._told = told
        self._timeout_s = float(os.environ.get("BATON_DISK_TIMEOUT_S", DISK_TIMEOUT_S))

    def insist(self, act: Callable[[], T]) -> T:
        """What `act` gives; while it raises NoRoomError, it is called again, every second.

        Raises what `act` raises otherwise, Refused (output) when the time is over, CancelledError after a `cancel`.
        """
        since: float | None = None
        while True:
            try:
                done = act()
            except NoRoomError as error:
                since = self._pause(error, since)
            else:
                if since is not None:
                    self._channel.resumed()
                return done

    def _pause(self, error: NoRoomError, since: float | None) -> float:
        """One wait, since `since`; None: the first. When it began."""
        channel, now = self._channel, time.monotonic()
        if since is None:
            channel.paused(error.reason)
            since = now
        if channel.draining:
            self._told()
        if channel.cancelled:
            raise CancelledError from error
        if now - since >= self._timeout_s:
            raise Refused("output", f"{error.reason} (waited {now - since:.0f} s)") from error
        channel.idle(RETRY_S)
        return since
