"""What a worker leaves running when its own process has ended: found, killed, seen to be gone. Watches no living one.

A worker leads a process session of its own, so what it started is in its group. A shim's program may have left that
(setsid): as long as the shim lives, what it orphans comes to the shim, which ends it. Where the shim was killed, such
a process is known by its environment, which names the shim.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

MARK: Final = "BATON_SHIM"  # set by daemon/worker/children.py: the shim's pid and start, PID.TICKS
POLL_S: Final = 0.005


class Remains:
    """Of the worker that was process `pid`, started at `ticks` (clock ticks since boot)."""

    def __init__(self, pid: int, ticks: int | None, *, strays: bool) -> None:
        """strays: whether it may have left processes outside its group: it was a shim, and did not end in order."""
        self._pid = pid
        self._ticks = ticks
        self._strays: dict[int, int] = {}  # found by their mark: pid → start
        self._mark = f"{MARK}={pid}.{ticks}".encode() if strays and ticks is not None else None

    def end(self) -> bool:
        """Kill what is left; True when nothing is. A process that was killed may still be in a last write."""
        if self._mark is None and self._group_is_empty():
            return True
        living = self._living()
        for pid in living:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return not living

    def wait_for_end(self, seconds: float) -> bool:
        """Kill what is left, and wait until nothing is; False when the time is over."""
        until = time.monotonic() + seconds
        while not self.end():
            if time.monotonic() >= until:
                return False
            time.sleep(POLL_S)
        return True

    def _group_is_empty(self) -> bool:
        """Cheap, and true of almost all; zombies count as members here."""
        try:
            os.killpg(self._pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # only processes of another user: out of reach, and left
            return True
        return False

    def _living(self) -> list[int]:
        """The processes that can still do something, those of another user left out.

        The kernel gives no new process the number of a group that has members. So if another process than the worker
        has it, the group was empty, and who is in it now is none of ours.
        """
        members: list[int] = []
        reused = False
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # that one ended meanwhile, or is another user's
                stat = (folder / "stat").read_bytes().rpartition(b")")[2].split()  # from field 3 of proc(5) on
                pid, state, group, ticks = int(folder.name), stat[0], int(stat[2]), int(stat[19])
                reused = reused or (pid == self._pid and ticks != self._ticks)
                if state in b"ZX":
                    continue
                os.kill(pid, 0)
                if group == self._pid:
                    members.append(pid)
                elif self._mark is not None and self._mark in (folder / "environ").read_bytes().split(b"\0"):
                    self._strays[pid] = ticks
        return [*([] if reused else members), *self._living_strays()]

    def _living_strays(self) -> list[int]:
        """Those once found: one that dies loses its environment, and so its mark, before it is gone."""
        living: list[int] = []
        for pid, ticks in self._strays.items():
            with suppress(OSError):
                stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
                if int(stat[19]) == ticks and stat[0] not in b"ZX":
                    living.append(pid)
        return living
