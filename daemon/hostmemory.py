"""How much memory of the host this process and its children may use, and how much is free. Changes nothing.

What the machine has is not what one may have: each cgroup from ours up to the root may set a limit of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

PROC: Final = Path("/proc")
CGROUP: Final = Path("/sys/fs/cgroup")
# Version 1 says "no limit" as the largest multiple of a page below 2^63.
NO_LIMIT_BYTES: Final = 1 << 62


@dataclass(frozen=True)
class HostMemory:
    """Bytes: the most that may be used, and what is free of it now."""

    total: int
    free: int


@dataclass(frozen=True)
class _Group:
    """The files of one memory controller's group, by version: its limit, its usage, its inactive file pages."""

    path: Path
    limit: str
    usage: str
    inactive: str

    def room(self) -> tuple[int, int] | None:
        """The limit and what is free below it; None where no limit is set.

        The inactive file cache counts as free: the kernel gives it up before it lets an allocation fail.
        """
        try:
            text = (self.path / self.limit).read_text().strip()
            limit = NO_LIMIT_BYTES if text == "max" else int(text)
            if limit >= NO_LIMIT_BYTES:
                return None
            used = int((self.path / self.usage).read_text())
        except (OSError, ValueError):  # the root of version 2 has neither file
            return None
        return limit, max(0, limit - max(0, used - self._inactive()))

    def _inactive(self) -> int:
        with suppress(OSError, ValueError):
            for line in (self.path / "memory.stat").read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == self.inactive:
                    return int(value)
        return 0


def read(proc: Path = PROC, cgroup: Path = CGROUP) -> HostMemory:
    """The tightest of the machine's memory and all limits above this process."""
    machine = psutil.virtual_memory()
    total, free = int(machine.total), int(machine.available)
    for group in _groups(proc, cgroup):
        room = group.room()
        if room is not None:
            total, free = min(total, room[0]), min(free, room[1])
    return HostMemory(total, free)


def _groups(proc: Path, cgroup: Path) -> Iterator[_Group]:
    """Our groups from the innermost to the root, of either version of the memory controller."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:  # a kernel without cgroups
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = cgroup / "unified" if (cgroup / "unified").is_dir() else cgroup
            files = ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = cgroup / "memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        for folder in _up(root, path):
            yield _Group(folder, *files)


def _up(root: Path, path: str) -> Iterator[Path]:
    """The group's folder and those above it, as far as they are to be seen here.

    In a container the path may be the host's, and not below what is mounted: then the mount's root is our group.
    """
    folder = root / path.lstrip("/")
    while folder != root and root in folder.parents:
        if folder.is_dir():
            yield folder
        folder = folder.parent
    yield root
