"""Where a run happens: its folders, two small disks in a mount namespace of its own, their ballast. Starts nothing."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

LONGEST_ADDRESS: Final = 107  # bytes of a Unix socket's path
MIB: Final = 1 << 20
STATE_BYTES: Final = 160 * MIB
OUTPUT_BYTES: Final = 64 * MIB
OUTPUT_BYTES_A_SECOND: Final = MIB // 4  # no session leaves rows faster than this
CLONE_NEWNS: Final = 0x20000
CLONE_NEWUSER: Final = 0x10000000
MS_REC_PRIVATE: Final = 0x4000 | 0x40000
MARK: Final = "BATOND_CHAOS"  # in the environment of every process of a run: its folder


class Disk:
    """A tmpfs of its own, and the ballast that fills it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"
        self._fd = -1

    def fill(self) -> None:
        """Leave no room at all. Whoever frees some meanwhile finds it gone at the next call."""
        if self._fd < 0:
            self._fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        status = os.statvfs(self.path)
        free = status.f_bavail * status.f_frsize
        with suppress(OSError):  # somebody else took it
            if free:
                os.posix_fallocate(self._fd, os.fstat(self._fd).st_size, free)

    def free(self) -> None:
        """Give all the room back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._ballast.unlink(missing_ok=True)


class Place:
    """The folders of one run. `disks` is empty where this host does not let a process mount: `why_no_disks`."""

    def __init__(self, out: Path, seconds: float) -> None:
        """out: where the report goes; it is emptied, if it is an earlier run's. Raises ValueError where it is not."""
        self.out = out
        _begin_anew(out)
        self.run = out / "run"
        if len(os.fsencode(self.run / "state" / "workers.sock")) > LONGEST_ADDRESS:
            self.run = Path(tempfile.mkdtemp(prefix="batond-chaos-"))
        self.logs = out / "logs"
        self.state, self.outputs = self.run / "state", self.run / "outputs"
        self.models, self.rows = self.run / "models", self.run / "rows"
        for folder in (self.logs, self.state, self.outputs, self.models, self.rows):
            folder.mkdir(parents=True)
        sizes = {self.state: STATE_BYTES, self.outputs: OUTPUT_BYTES + int(seconds * OUTPUT_BYTES_A_SECOND)}
        self.why_no_disks = _mount(sizes)
        self.disks = {} if self.why_no_disks else {folder.name: Disk(folder) for folder in sizes}

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.run / "s.sock"

    @property
    def workers(self) -> Path:
        """The worker socket."""
        return self.state / "workers.sock"

    def keep_evidence(self, names: list[str]) -> None:
        """Copy what would be gone with the disks: the record, and what these sessions left."""
        evidence = self.out / "evidence"
        shutil.rmtree(evidence, ignore_errors=True)
        evidence.mkdir()
        for path in self.state.glob("batond.db*"):
            shutil.copy(path, evidence)
        for name in names:
            for path in (self.outputs / name, self.rows / f"{name}.rows", self.state / "log" / f"{name}.log"):
                if path.is_dir():
                    shutil.copytree(path, evidence / name, dirs_exist_ok=True)
                elif path.exists():
                    shutil.copy(path, evidence)

    def remove(self) -> None:
        """Remove all but the report, the daemon's logs and the evidence."""
        libc = ctypes.CDLL(None)
        for disk in self.disks.values():
            disk.free()
            libc.umount2(os.fsencode(disk.path), 0x2)  # MNT_DETACH
        shutil.rmtree(self.run, ignore_errors=True)


def _begin_anew(out: Path) -> None:
    if out.exists() and any(out.iterdir()) and not (out / "logs").is_dir():
        raise ValueError(f"{out} is not empty and not an earlier run's: give another folder with --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)


def _mount(sizes: dict[Path, int]) -> str | None:
    """A tmpfs at each folder, seen by this process and its children only; None, or why that cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNS) != 0:  # an ordinary user may, as root of a user namespace of its own
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0:
            return f"no mount namespace: {os.strerror(ctypes.get_errno())}"
        try:
            Path("/proc/self/setgroups").write_text("deny")  # else the kernel lets nobody set the groups
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        except OSError as error:
            return f"no user namespace: {error.strerror}"
    if libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None) != 0:
        return f"its mounts cannot be made private: {os.strerror(ctypes.get_errno())}"
    for folder, size in sizes.items():
        options = f"size={size},mode=700".encode()
        if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options) != 0:
            return f"no tmpfs: {os.strerror(ctypes.get_errno())}"
    return None
