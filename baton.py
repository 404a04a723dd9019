"""The library a session's own script imports. One file, standard library only; decides nothing of its own.

    import baton

    with baton.session() as session:            # outside batond: a no-op that prints nothing
        model = load()                          # prepares while the other session still runs
        session.ready()                         # blocks until the device is yours
        for batch in session.track(batches):    # progress, drain, cancel; len() or total= gives the end
            ...

`Session` is for scripts. `Channel` is the protocol below it (docs/worker-protocol.md), for workers that are
prepared in more than one step. Runs in any Python from 3.9 on.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import stat
import sys
import threading
import time
from queue import SimpleQueue

TYPE_CHECKING = False  # typing's own constant would cost its import, half of this module's
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Any, Final, NoReturn, TypeVar

    T = TypeVar("T")

__all__ = ["Channel", "Failure", "Session", "session"]

PROTOCOL: Final = 1
LINE_LIMIT_BYTES: Final = 1 << 20
REASON_LIMIT_CHARACTERS: Final = 2000
PROGRESS_INTERVAL_S: Final = 0.05  # 20 lines a second, however fast the loop is
REJOIN_INTERVAL_S: Final = 0.2
STEADY_S: Final = 1.0  # a line to a daemon that lasted less was none: the time to find one goes on
CHANNEL_FD_LEAST: Final = 256  # beyond what a program closes that closes "all" it may have inherited
EXIT_DAEMON_LOST: Final = 75  # EX_TEMPFAIL: nothing was computed, and nothing is wrong with the session


class Failure(Exception):  # noqa: N818 - a word of the protocol, and what callers write
    """Why a session cannot go on, in one line for a person: what cannot be done, why, what to do.

    kind: model, input, output, memory, program or internal, as docs/worker-protocol.md tells them apart.
    item: position of the input item it happened at, or None.
    """

    def __init__(self, kind: str, reason: str, item: int | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.item = item


class Channel:
    """A worker's end of the socket: reads `assign`, answers `hello`, then sends lines and keeps what arrives.

    A reader thread owns the receiving side. Until `go` it ends the process at once on `cancel`, `drain` or the
    loss of the daemon; after it, these set `draining` (and `cancelled`, `lost`), which the worker looks at
    between two batches. A daemon that is lost while the worker computes is looked for again, as long as `assign`
    allows, and is lost for good only then. The methods that send may be called from any thread and from a signal
    handler; none of them fails when the daemon is gone. In a forked child they do nothing.
    """

    def __init__(self, fd: int) -> None:
        """Take over the socket `fd`, wait for the daemon's first line and answer it. Raises Failure: it is none."""
        self._fd = _taken_over(fd)
        self._identity = _identity(self._fd)
        self._knocking = -1  # a socket that may become the line: a forked child must not keep that open either
        self.forked = False
        self._buffer = b""
        self._orders: SimpleQueue[str | None] = SimpleQueue()
        self._sending = threading.RLock()  # a signal handler may send while this very thread sends
        self._writing = False
        self._outbox: list[bytes] = []
        self._progress_due = 0.0
        self._progress_owed = False
        self._going = False
        self._told = threading.Event()  # a drain or a cancel that `idle` has not seen
        self._paused: str | None = None
        self._joined_at = float("-inf")
        self._look_until = 0.0
        self.phase = "loading"
        self.tier: str | None = None
        self.draining = False
        self.cancelled = False
        self.lost = False
        assignment = self._read()
        if assignment is None or assignment.get("type") != "assign":
            _leave(EXIT_DAEMON_LOST)
        self.assignment: dict[str, Any] = assignment
        self.session = str(assignment["session"])
        self.generation = int(assignment["generation"])
        self.done = self.cursor = int(assignment.get("cursor") or 0)
        self.total: int | None = None
        self.errors = 0  # of the items done, those that were skipped and gave no result; told with them
        self.device_peak: Callable[[], int] = _unknown_bytes  # of the device's own memory; told with `peak_bytes`
        self.began_at: float | None = None
        self.ended_at: float | None = None
        self.remaining: int | None = None
        self._since = time.monotonic()
        os.register_at_fork(after_in_child=self._let_go)
        self.hello()
        threading.Thread(target=self._listen, name="baton", daemon=True).start()

    # What arrives

    def wait(self) -> str | None:
        """Block until the daemon orders something: the tier to advance to, or None for `go`."""
        return self._orders.get()

    def idle(self, seconds: float) -> None:
        """Wait that long, or until told to drain or to cancel."""
        self._told.wait(seconds)
        self._told.clear()

    def _read(self) -> dict[str, Any] | None:
        """One line from the daemon, or None when there will be no more."""
        while b"\n" not in self._buffer:
            if len(self._buffer) > LINE_LIMIT_BYTES:
                return None
            if not self._ours():
                return None
            try:
                chunk = os.read(self._fd, 65536)
            except OSError:  # a reset: the daemon is gone
                return None
            if not chunk:
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:  # what speaks there is not batond
            return None
        return message if isinstance(message, dict) else None

    def _listen(self) -> None:
        while True:
            message = self._read()
            if message is None and self._going and self._rejoin():
                continue
            if message is None:
                self.lost = True
                self._stop(EXIT_DAEMON_LOST)
                return
            kind = message.get("type")
            if kind == "go":
                self._order(None)
            elif kind == "advance":
                self._order(str(message["tier"]))
            elif kind == "cancel":
                self.cancelled = True
                self._stop(0)
            elif kind == "drain":
                self._stop(0)

    def _rejoin(self) -> bool:
        """Look for a daemon where `assign` said, and tell it who this is; False: there was none in time."""
        rejoin = self.assignment.get("rejoin")
        if not rejoin or self._fd < 0:
            return False
        import socket  # only here: a script that never loses its daemon need not wait for this import

        if time.monotonic() - self._joined_at > STEADY_S:
            self._look_until = time.monotonic() + float(rejoin["seconds"])
        else:  # hung up on at once: that was no daemon, or one without a place for us
            time.sleep(REJOIN_INTERVAL_S)
        while time.monotonic() < self._look_until:
            try:
                line = socket.socket(socket.AF_UNIX)
            except OSError:  # no descriptor left: there may be one in a moment
                time.sleep(REJOIN_INTERVAL_S)
                continue
            self._knocking = line.fileno()
            line.settimeout(None)  # the program may have set another default for its own sockets
            try:
                line.connect(rejoin["socket"])
            except OSError:  # no daemon yet, or one that is not listening yet
                self._knocking = -1
                line.close()
                time.sleep(REJOIN_INTERVAL_S)
                continue
            with self._sending:
                if self._ours():
                    os.close(self._fd)
                self._fd = _moved_up(line.detach())
                self._knocking = -1
                self._identity = _identity(self._fd)
                self._buffer = b""
                del self._outbox[:]
                self._hello()
            self._joined_at = time.monotonic()
            return True
        return False

    def _order(self, order: str | None) -> None:
        self._going = self._going or order is None
        self._since = time.monotonic()
        self._orders.put(order)

    def _stop(self, status: int) -> None:
        if not self._going:
            _leave(status)
        self.draining = True
        self._told.set()

    # What is sent

    def hello(self) -> None:
        """Who this is and how far it has come: enough to rebuild any line that was missed."""
        with self._sending:
            self._hello()

    def _hello(self) -> None:
        self._say(
            "hello",
            protocol=PROTOCOL,
            session=self.session,
            generation=self.generation,
            pid=os.getpid(),
            phase=self.phase,
            tier=self.tier,
            cursor=self.cursor,
            done=self.done,
            total=self.total,
            errors=self.errors,
            began_at=self.began_at,
            ended_at=self.ended_at,
            remaining=self.remaining,
            paused=self._paused,
            tensorflow="tensorflow" in sys.modules,
        )

    def advanced(self, tier: str) -> None:
        """A tier was passed on the way to a higher one. The seconds since the order are measured here."""
        self.tier = tier
        self._say("advanced", tier=tier, seconds=time.monotonic() - self._since)

    def ready(self, tier: str, total: int | None = None) -> None:
        """Prepared up to `tier`. The seconds since the order are measured here.

        Raises Failure where the program closed the channel: it could not be told to go.
        """
        self.phase, self.tier = "ready", tier
        if total is not None:
            self.total = _count("total", total)
        seconds = time.monotonic() - self._since
        self._say(
            "ready",
            tier=tier,
            seconds=seconds,
            total=self.total,
            peak_bytes=_peak_bytes(),
            device_peak_bytes=self.device_peak(),
        )
        if not self.forked and not self._ours():
            raise Failure(
                "program",
                f"cannot wait for the device: the program closed descriptor {self._fd}, its channel to batond; "
                "have it close only what it opened",
            )

    def started(self) -> None:
        """The first item is about to be computed."""
        at = time.monotonic()
        self.phase, self.began_at = "computing", at
        self._say("started", at=at)

    def progress(self, done: int, total: int | None = None, cursor: int | None = None) -> None:
        """`done` items are computed and `cursor` are durable. Goes out at most 20 times a second.

        Never waits: where the daemon does not read, a report is left out, and the next one says as much. The counts
        only grow: of two threads that report at once, the one that is behind takes nothing back.
        """
        done = _count("done", done)
        with self._sending:
            self.done = max(self.done, done)
            if total is not None:
                self.total = _count("total", total)
            if cursor is not None:
                self.cursor = max(self.cursor, _count("cursor", cursor))
            self._progress_owed = True
            if not self._writing and time.monotonic() >= self._progress_due and self._writable():
                self._send_progress()

    def last_batch(self) -> None:
        """No batch follows the one in flight."""
        with self._sending:
            if self._progress_owed:
                self._send_progress()
            self._say("last_batch")

    def quiesced(self, at: float | None = None, remaining: int | None = None) -> None:
        """Nothing is in flight; the last item was computed `at` (monotonic seconds; None: now).

        remaining: items not computed; None: what the total leaves, if that is known.
        """
        with self._sending:
            if self._progress_owed:
                self._send_progress()
            if remaining is None and self.total is not None:
                remaining = self.total - self.done
            self.phase, self.remaining = "draining", remaining
            self.ended_at = time.monotonic() if at is None else at
            self._say("quiesced", at=self.ended_at, done=self.done, remaining=remaining, errors=self.errors)

    def paused(self, reason: str) -> None:
        """It cannot go on for now, holds its place and tries again: `reason` is one line for a person."""
        with self._sending:
            self._paused = _one_line(reason)
            self._say("paused", reason=self._paused)

    def resumed(self) -> None:
        """What it paused for is over."""
        with self._sending:
            self._paused = None
            self._say("resumed")

    def committed(self, cursor: int) -> None:
        """The output of the first `cursor` items is durable, and the process exits next."""
        self.phase, self.cursor = "committed", cursor
        self._say(
            "committed",
            cursor=cursor,
            errors=self.errors,
            peak_bytes=_peak_bytes(),
            device_peak_bytes=self.device_peak(),
        )

    def failed(self, kind: str, reason: str, item: int | None = None) -> None:
        """The session cannot go on, and the process exits next, with a status other than 0."""
        self._say("failed", kind=kind, reason=_one_line(reason), item=item)

    def _send_progress(self) -> None:
        self._progress_owed = False
        self._progress_due = time.monotonic() + PROGRESS_INTERVAL_S
        self._say(
            "progress",
            done=self.done,
            total=self.total,
            cursor=self.cursor,
            errors=self.errors,
            rss_bytes=_rss_bytes(),
        )

    def _say(self, type_: str, **fields: object) -> None:
        """Send the whole line or, once the daemon is gone, none of it.

        A signal handler may come here while the thread it interrupted is in the midst of a line: that thread sends
        the handler's after its own.
        """
        line = json.dumps({"type": type_, **fields}, separators=(",", ":")).encode() + b"\n"
        with self._sending:
            self._outbox.append(line)
            while self._outbox and not self._writing:
                self._writing = True
                try:
                    self._write()
                finally:  # a handler may raise: the line that was in hand goes before the next one
                    self._writing = False

    def _write(self) -> None:
        try:
            while self._outbox and self._ours():
                line = self._outbox[0]
                sent = os.write(self._fd, line)
                if sent < len(line):
                    self._outbox[0] = line[sent:]
                else:
                    self._outbox.pop(0)
        except OSError:  # the reader thread sees the same end, and acts on it
            pass
        else:
            if not self._outbox:
                return
        del self._outbox[:]

    def _writable(self) -> bool:
        if not self._ours():
            return False
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(0))

    def _ours(self) -> bool:
        """Whether the descriptor is still the line's: a program may have closed it, and opened a file in its place."""
        return self._fd >= 0 and _identity(self._fd) == self._identity

    def _let_go(self) -> None:
        """In a forked child (a data loader, say): it neither speaks for the session nor keeps the line open."""
        self.forked = True
        self._sending = threading.RLock()  # its holder may be a thread that the fork left behind
        self._outbox = []
        self._writing = False
        if self._ours():
            os.close(self._fd)
        if self._knocking >= 0:
            os.close(self._knocking)
        self._fd = self._knocking = -1


class Session:
    """One `with baton.session()` block: a session of batond, or nothing at all outside it."""

    def __init__(self, fd: int | None) -> None:
        """fd: the socket that batond handed down, or None outside batond."""
        self._channel = None if fd is None else Channel(fd)
        self._asking: int | None = None  # the thread that waits for the device, or waited first
        self._first = threading.RLock()
        self._granted = threading.Event()  # the device
        self._counted = False  # the program said how far it is
        self._exhausted = False  # track() came to its iterable's own end

    @property
    def name(self) -> str | None:
        """The session's name, None outside batond."""
        return self._channel.session if self._channel else None

    @property
    def cursor(self) -> int:
        """Where to resume: the number of items whose output is durable."""
        return self._channel.cursor if self._channel else 0

    @property
    def draining(self) -> bool:
        """Whether to begin no further item, to commit and to leave the block."""
        return self._channel.draining if self._channel else False

    @property
    def cancelled(self) -> bool:
        """Whether the session was cancelled: `draining` is set too, and nothing will resume it."""
        return self._channel.cancelled if self._channel else False

    def ready(self, total: int | None = None) -> None:
        """Say that everything is prepared, and block until the device is ours.

        total: items in all, those before the cursor included. Later calls change nothing; those from other threads
        wait as long. Raises Failure where the program closed its channel.
        """
        channel = self._channel
        if channel is None or channel.forked:
            return
        me = threading.get_ident()
        with self._first:
            if self._asking is None:
                self._asking, first = me, True
            else:
                first = False
        if not first:
            if self._asking != me:  # else a signal handler of the thread that waits: it would wait for itself
                self._granted.wait()
            return
        tier: str | None = "warm"  # a program prepares in one step, all of it
        while tier is not None:
            channel.ready(tier, total)
            tier = channel.wait()
        channel.started()
        self._granted.set()

    def track(self, iterable: Iterable[T], total: int | None = None) -> Iterator[T]:
        """Yield the items of `iterable`, which begins at `cursor`; report each when the next is asked for.

        Ends early on a drain or a cancel. `total` counts items in all, those before the cursor included;
        without it, what `ready` was told, or else len(iterable), gives the end. Who tracks several iterables
        in turn gives the total of all; at once, in several threads, only one may be tracked: the others `progress`.
        """
        channel = self._channel
        if channel is None:
            yield from iterable
            return
        self.ready(total)
        self._counted = True
        done = channel.done
        if total is None:
            total = channel.total
        if total is None:
            try:
                total = done + len(iterable)  # type: ignore[arg-type]
            except (TypeError, NotImplementedError):  # a generator, or a data set that does not know
                total = None
        for item in iterable:
            if self._stopped():  # it came while this item was fetched
                return
            if done + 1 == total:
                channel.last_batch()
            yield item
            done += 1
            channel.progress(done, total)
            if done != total and self._stopped():
                return
        self._exhausted = True

    def progress(self, done: int, total: int | None = None) -> None:
        """Say that `done` items are computed, those before the cursor included. For loops without `track`."""
        if self._channel is not None:
            self.ready(total)
            self._counted = True
            self._channel.progress(done, total)

    def commit(self, cursor: int) -> None:
        """Say that the output of the first `cursor` items is durable: a later run resumes there."""
        if self._channel is not None:
            self.ready()
            self._channel.progress(self._channel.done, cursor=cursor)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._channel is None:
            return
        if error is not None and not (isinstance(error, SystemExit) and error.code in (None, 0)):
            self._channel.failed(*_describe(error))
            return
        self.ready()
        self._finish(self._channel)

    def _stopped(self) -> bool:
        return self._channel is not None and self._channel.draining

    def _finish(self, channel: Channel) -> None:
        """Close the account. Who leaves the block undrained is done, also where that was before the total."""
        if channel.cursor > channel.done:  # the block was left before an item was counted that is durable already
            channel.progress(channel.cursor)
        whole = self._exhausted or not channel.draining
        if not whole and channel.total is not None:
            whole = channel.done >= channel.total
        if not whole:
            channel.quiesced()
            channel.committed(channel.cursor)
            return
        done = channel.done
        if not self._counted and channel.total is not None:
            done = channel.total
        if channel.done != done or channel.total != done:
            channel.progress(done, done)
        channel.quiesced(remaining=0)
        channel.committed(done)


def session() -> Session:
    """The session that batond started this process for; outside batond, one whose methods do nothing.

    The first call takes the socket: children of this process, and later calls, get the one that does nothing.
    """
    fd = os.environ.pop("BATON_FD", None)
    return Session(None if fd is None else int(fd))


def _describe(error: BaseException) -> tuple[str, str, int | None]:
    """`failed`'s kind, reason and item."""
    if isinstance(error, Failure):
        return error.kind, error.reason, error.item
    if isinstance(error, SystemExit):
        return "program", f"the program exited with status {error.code}", None
    kind = "memory" if isinstance(error, MemoryError) else "program"
    text = str(error)
    return kind, type(error).__name__ + (": " + text if text else ""), None


def _count(name: str, value: Any) -> int:
    """A number of items as a plain one: numpy's are none that JSON knows. Raises TypeError, ValueError."""
    try:
        number = int(value.__index__())
    except (AttributeError, TypeError):
        raise TypeError(f"{name} counts items: it must be a whole number, not {value!r}") from None
    if number < 0:
        raise ValueError(f"{name} counts items: it cannot be {number}")
    return number


def _taken_over(fd: int) -> int:
    """The socket that batond handed down, out of harm's way. Raises Failure where there is none."""
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        is_socket = False
    if not is_socket:
        raise Failure(
            "program",
            f"cannot join the session: BATON_FD is {fd}, and no socket is open there; who starts this program has to "
            f"hand it down: subprocess.Popen(..., pass_fds=[{fd}])",
        )
    return _moved_up(fd)


def _moved_up(fd: int) -> int:
    """The descriptor under a high number that no program started from here inherits: it would keep the line open."""
    try:
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, CHANNEL_FD_LEAST)
    except OSError:  # the limit on descriptors is lower than that
        os.set_inheritable(fd, False)  # noqa: FBT003 - the standard library's signature
        return fd
    os.close(fd)
    return high


def _identity(fd: int) -> tuple[int, int] | None:
    """What is open at `fd`: None for nothing. No two sockets that are open at once have the same."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _one_line(text: str) -> str:
    return " ".join(text.split())[:REASON_LIMIT_CHARACTERS]


def _peak_bytes() -> int:
    """VmHWM, not getrusage's maximum: that one survives an exec, and would be the launcher's."""
    try:
        with open("/proc/self/status", "rb") as status:  # noqa: PTH123 - pathlib is slow to import
            for line in status:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:  # no descriptor left: a report without it is better than a session that fails
        return 0
    return 0


def _unknown_bytes() -> int:
    return 0


def _rss_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 - as above
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # as above
        return 0


def _leave(status: int) -> NoReturn:
    """End the process from any thread: an exception would end the reader thread only."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # none, gone, closed: nothing is lost that could be kept
            continue
    os._exit(status)
