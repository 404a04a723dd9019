"""The processes of a run, as the kernel shows them: whose they are, what they are, what they hold. Ends none."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.place import MARK

FORK_SERVER = b"daemon.worker.forkserver"
SHIM = b"shim.main"


@dataclass(frozen=True, slots=True)
class Found:
    """A living process."""

    pid: int
    parent: int
    started: int
    command: bytes

    def __str__(self) -> str:
        return f"{self.pid}: {self.command.replace(bytes(1), b' ').decode(errors='replace')[:200]}"

    @property
    def is_fork_server(self) -> bool:
        """Whether it is the fork server, or one that it forked: these have its command line."""
        return FORK_SERVER in self.command


def look(pid: int) -> Found | None:
    """The process of that number; None where it is gone, or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    return None if stat[0] in (b"Z", b"X") else Found(pid, int(stat[1]), int(stat[19]), command)


def all_of(run: Path) -> Iterator[Found]:
    """Every process but this one that has anything of the run's folder: named, marked, open, or to stand in."""
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        if pid != os.getpid() and _belongs(entry, os.fsencode(run)) and (found := look(pid)) is not None:
            yield found


def children(pid: int) -> Iterator[Found]:
    """The living children of a process."""
    for entry in Path("/proc").glob("[0-9]*"):
        found = look(int(entry.name))
        if found is not None and found.parent == pid:
            yield found


def descriptors(pid: int) -> Counter[str]:
    """What a process has open, by kind: a path, or `socket`, `pipe`, `anon_inode:[…]`."""
    kinds: Counter[str] = Counter()
    for link in _links(Path(f"/proc/{pid}/fd")):
        kinds[re.sub(r":\[\d+\]$|(?<=life-)\d+(?=\.)", "", link)] += 1
    return kinds


def memory_bytes(pid: int, field: str) -> int:
    """VmRSS or VmHWM of a process; 0 where it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


def _belongs(entry: Path, run: bytes) -> bool:
    mark = MARK.encode() + b"=" + run
    try:
        if mark in (entry / "environ").read_bytes().split(b"\0") or run + b"/" in (entry / "cmdline").read_bytes():
            return True
        places = [str((entry / "cwd").readlink()), *_links(entry / "fd")]
    except OSError:  # it is gone, or another user's, and so none of ours
        return False
    return any(os.fsencode(place).startswith(run) for place in places)


def _links(folder: Path) -> Iterator[str]:
    for fd in folder.iterdir():
        with suppress(OSError):
            yield str(fd.readlink())
