"""`ExecStopPost=` of the unit: ends what a stop left behind. Not part of the daemon, and knows nothing of sessions.

The unit kills no worker with its daemon (KillMode=process), so that after a crash the next daemon finds them. But a
stop means everybody. `ExecStop=` leaves a mark of it; where that is there, the processes that are still in the unit's
control group are waited for if the daemon ended in order, else asked to end, and then made to.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

MARK: Final = "stopping"
GRACE_S: Final = 10.0  # for each way; on SIGTERM a worker makes durable what it has computed
POLL_S: Final = 0.1
CGROUPS: Final = Path("/sys/fs/cgroup")


def main() -> None:
    """The entry point of `python -m daemon.leftovers`."""
    mark = Path(os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or "/nonexistent") / MARK
    stopped = mark.exists()
    mark.unlink(missing_ok=True)
    if not stopped:
        return  # it crashed, or was told to leave its sessions running: what runs is meant to run
    group = own_group(Path("/proc/self/cgroup").read_text(), CGROUPS)
    if group is None:
        sys.exit("batond: cannot see the unit's control group; what its stop left, if anything, runs on")
    left = end(group, in_order=os.environ.get("SERVICE_RESULT") == "success")
    if left:
        sys.exit(f"batond: cannot end {len(left)} processes that a stop left: {', '.join(map(str, sorted(left)))}")


def own_group(memberships: str, root: Path) -> Path | None:
    """The folder of the service that this process belongs to; None where it is in none, or that cannot be seen."""
    paths = dict(line.split(":", 2)[1:] for line in memberships.splitlines() if line.count(":") >= 2)
    for name, mount in (("name=systemd", root / "systemd"), ("", root), ("", root / "unified")):
        path = paths.get(name, "")
        folder = mount / path.lstrip("/")
        if path.endswith(".service") and (folder / "cgroup.procs").is_file():
            return folder
    return None


def end(group: Path, *, in_order: bool) -> set[int]:
    """End every process in the group and below it but this one; those that could not be ended.

    in_order: nobody should be there but those that are about to go, as the fork server.
    """
    for number in ((0,) if in_order else ()) + (signal.SIGTERM, signal.SIGKILL):
        told: set[int] = set()
        until = time.monotonic() + GRACE_S
        while left := members(group):
            for pid in left - told:
                with suppress(OSError):  # gone
                    os.kill(pid, number)
            told |= left
            if time.monotonic() >= until:
                break
            time.sleep(POLL_S)
        else:
            return set()
    return members(group)


def members(group: Path) -> set[int]:
    """The living processes of the group and of those below it, but for this one."""
    found: set[int] = set()
    for listed in group.rglob("cgroup.procs"):
        with suppress(OSError):  # a group that went meanwhile
            found |= {int(pid) for pid in listed.read_text().split()}
    return {pid for pid in found - {os.getpid()} if not _zombie(pid)}


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
    except OSError:
        return True


if __name__ == "__main__":
    main()
