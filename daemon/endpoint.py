"""The control socket's file: claimed, checked, removed. Says nothing on it and reads nothing from it."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from daemon import wire

PROBE_TIMEOUT_S = 2.0
ELSEWHERE = "choose another path (--socket, or socket in [control])"


class UnusableError(Exception):
    """The socket cannot be had: one line for a person."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A listening socket and the file it is reached by. Holds the lock that keeps a second daemon off it."""

    socket: socket.socket
    path: Path
    inode: int
    lock: int

    def release(self) -> None:
        """Close the socket and remove its file, if it is still this one, and the lock's."""
        self.socket.close()
        try:
            if self.path.lstat().st_ino == self.inode:
                self.path.unlink()
        except FileNotFoundError:
            pass  # its folder went before us: a stopping system removes it too
        _unlock(self.path, self.lock)


def claim(where: str, mode: int, gid: int | None) -> Endpoint:
    """Bind and listen at `where` with the file mode `mode` and the group `gid`. Replaces a dead daemon's socket.

    A lock beside the file decides between two daemons that start at once: both could find the old one dead. Raises
    UnusableError.
    """
    path = Path(where)
    if len(os.fsencode(where)) > wire.PATH_LIMIT_BYTES:
        raise UnusableError(
            f"cannot listen at {where}: a socket's path may have {wire.PATH_LIMIT_BYTES} bytes, this one has "
            f"{len(os.fsencode(where))}; choose a shorter one"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnusableError(
            f"cannot listen at {where}: cannot make {path.parent}: {error.strerror}; {ELSEWHERE}"
        ) from None
    try:
        _look(path)  # what is no socket is in the way, lock or no lock
        lock = _lock(path)
    except OSError as error:
        raise UnusableError(f"cannot listen at {where}: {error.strerror}; {ELSEWHERE}") from None
    listener = None
    try:
        _exclude_others(path)
        listener = _bind(path, mode, gid)
        return Endpoint(listener, path, path.lstat().st_ino, lock)
    except BaseException as error:
        if listener is not None:
            listener.close()
        _unlock(path, lock)
        if isinstance(error, OSError):
            raise UnusableError(f"cannot listen at {where}: {error.strerror}; {ELSEWHERE}") from None
        raise


def _lock(path: Path) -> int:
    """The lock beside `path`, held. Raises UnusableError where another daemon holds it, OSError.

    Its holder removes the file before it lets go. So a lock counts only where it is on the file that is there
    *after* it was taken: between our opening that and our locking it, its holder may have ended, and another daemon
    have made and locked a new one. Only the holder removes it, so from then on nobody else's can be there.
    """
    name = f"{path}.lock"
    while True:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(name)):  # noqa: PTH116 - one form for both
                return lock
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(lock)
            raise UnusableError(_taken(path)) from None
        except BaseException:  # whatever it is goes on: only the lock must not be left held
            os.close(lock)
            raise
        os.close(lock)


def _unlock(path: Path, lock: int) -> None:
    """Remove the lock's file, while it is still held, then let go."""
    Path(f"{path}.lock").unlink(missing_ok=True)
    os.close(lock)


def _look(path: Path) -> bool:
    """Whether a socket's file is at `path`. Raises UnusableError where it is something else."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(found.st_mode):
        raise UnusableError(f"cannot listen at {path}: something that is no socket lies there; remove it")
    return True


def _exclude_others(path: Path) -> None:
    """Make sure that no daemon answers at `path`; with the lock held, none will."""
    if not _look(path):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except FileNotFoundError:
            return
        except TimeoutError:  # something listens, and is too busy to accept
            pass
    raise UnusableError(_taken(path))


def _taken(path: Path) -> str:
    return f"cannot listen at {path}: another batond answers there; stop it (batonctl shutdown) or use another path"


def _bind(path: Path, mode: int, gid: int | None) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # the file's mode at birth: nobody connects before group and mode are set
        listener.bind(str(path))
        if gid is not None:
            os.chown(path, -1, gid)
        path.chmod(mode)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EPERM and gid is not None:
            raise UnusableError(f"cannot give {path} to the group {gid}: batond's user is not a member of it") from None
        raise
    return listener
