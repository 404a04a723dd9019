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

import json
import os
import select
import sys
import threading
import time
from queue import SimpleQueue

TYPE_CHECKING = False  # typing's own constant would cost its import, half of this module's
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import Any, Final, NoReturn, TypeVar

    T = TypeVar("T")

__all__ = ["Channel", "Failure", "Session", "session"]

PROTOCOL: Final = 1
LINE_LIMIT_BYTES: Final = 1 << 20
REASON_LIMIT_CHARACTERS: Final = 2000
PROGRESS_INTERVAL_S: Final = 0.05  # 20 lines a second, however fast the loop is
REJOIN_INTERVAL_S: Final = 0.2
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
    allows, and is lost for good only then. The methods that send may be called from any thread; none of them
    fails when the daemon is gone.
    """

    def __init__(self, fd: int) -> None:
        """Take over the socket `fd`, wait for the daemon's first line and answer it."""
        os.set_inheritable(fd, False)  # noqa: FBT003 - a program started from here must not keep the line open
        self._fd = fd
        self._buffer = b""
        self._orders: SimpleQueue[str | None] = SimpleQueue()
        self._sending = threading.Lock()
        self._progress_due = 0.0
        self._progress_owed = False
        self._going = False
        self._told = threading.Event()  # a drain or a cancel that `idle` has not seen
        self._paused: str | None = None
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
            try:
                chunk = os.read(self._fd, 65536)
            except OSError:  # a reset, or a descriptor that is none: either way the daemon is gone
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

        until = time.monotonic() + float(rejoin["seconds"])
        while time.monotonic() < until:
            line = socket.socket(socket.AF_UNIX)
            try:
                line.connect(rejoin["socket"])
            except OSError:  # no daemon yet, or one that is not listening yet
                line.close()
                time.sleep(REJOIN_INTERVAL_S)
                continue
            with self._sending:
                os.dup2(line.fileno(), self._fd, inheritable=False)
                line.close()
                self._buffer = b""
                self._hello()
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
        self._write(
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
        self._send("advanced", tier=tier, seconds=time.monotonic() - self._since)

    def ready(self, tier: str, total: int | None = None) -> None:
        """Prepared up to `tier`. The seconds since the order are measured here."""
        self.phase, self.tier = "ready", tier
        self.total = self.total if total is None else total
        seconds = time.monotonic() - self._since
        self._send("ready", tier=tier, seconds=seconds, total=self.total, peak_bytes=_peak_bytes())

    def started(self) -> None:
        """The first item is about to be computed."""
        at = time.monotonic()
        self.phase, self.began_at = "computing", at
        self._send("started", at=at)

    def progress(self, done: int, total: int | None = None, cursor: int | None = None) -> None:
        """`done` items are computed and `cursor` are durable. Goes out at most 20 times a second.

        Never waits: where the daemon does not read, a report is left out, and the next one says as much.
        """
        with self._sending:
            self.done = done
            self.total = self.total if total is None else total
            self.cursor = self.cursor if cursor is None else cursor
            self._progress_owed = True
            if time.monotonic() >= self._progress_due and self._writable():
                self._send_progress()

    def last_batch(self) -> None:
        """No batch follows the one in flight."""
        with self._sending:
            if self._progress_owed:
                self._send_progress()
            self._write("last_batch")

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
            self._write("quiesced", at=self.ended_at, done=self.done, remaining=remaining, errors=self.errors)

    def paused(self, reason: str) -> None:
        """It cannot go on for now, holds its place and tries again: `reason` is one line for a person."""
        with self._sending:
            self._paused = _one_line(reason)
            self._write("paused", reason=self._paused)

    def resumed(self) -> None:
        """What it paused for is over."""
        with self._sending:
            self._paused = None
            self._write("resumed")

    def committed(self, cursor: int) -> None:
        """The output of the first `cursor` items is durable, and the process exits next."""
        self.phase, self.cursor = "committed", cursor
        self._send("committed", cursor=cursor, errors=self.errors, peak_bytes=_peak_bytes())

    def failed(self, kind: str, reason: str, item: int | None = None) -> None:
        """The session cannot go on, and the process exits next, with a status other than 0."""
        self._send("failed", kind=kind, reason=_one_line(reason), item=item)

    def _send(self, type_: str, **fields: object) -> None:
        with self._sending:
            self._write(type_, **fields)

    def _send_progress(self) -> None:
        self._progress_owed = False
        self._progress_due = time.monotonic() + PROGRESS_INTERVAL_S
        self._write(
            "progress",
            done=self.done,
            total=self.total,
            cursor=self.cursor,
            errors=self.errors,
            rss_bytes=_rss_bytes(),
        )

    def _write(self, type_: str, **fields: object) -> None:
        """The whole line or, once the daemon is gone, none of it. The caller holds `_sending`."""
        line = memoryview(json.dumps({"type": type_, **fields}, separators=(",", ":")).encode() + b"\n")
        try:
            while line and self._fd >= 0:
                line = line[os.write(self._fd, line) :]
        except OSError:  # the reader thread sees the same end, and acts on it
            return

    def _writable(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return self._fd >= 0 and bool(poll.poll(0))

    def _let_go(self) -> None:
        """In a forked child (a data loader, say): it neither speaks for the session nor keeps the line open."""
        self._sending = threading.Lock()  # its holder may be a thread that the fork left behind
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Session:
    """One `with baton.session()` block: a session of batond, or nothing at all outside it."""

    def __init__(self, fd: int | None) -> None:
        """fd: the socket that batond handed down, or None outside batond."""
        self._channel = None if fd is None else Channel(fd)
        self._started = False
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

        total: items in all, those before the cursor included. Later calls change nothing.
        """
        if self._channel is None or self._started:
            return
        self._started = True
        tier: str | None = "warm"  # a program prepares in one step, all of it
        while tier is not None:
            self._channel.ready(tier, total)
            tier = self._channel.wait()
        self._channel.started()

    def track(self, iterable: Iterable[T], total: int | None = None) -> Iterator[T]:
        """Yield the items of `iterable`, which begins at `cursor`; report each when the next is asked for.

        Ends early on a drain or a cancel. `total` counts items in all, those before the cursor included;
        without it, what `ready` was told, or else len(iterable), gives the end. Who tracks several iterables
        in turn gives the total of all.
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
            except TypeError:  # a generator, or a data set that does not know
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
        return "program", "the program exited with status {}".format(error.code), None  # noqa: UP032
    kind = "memory" if isinstance(error, MemoryError) else "program"
    text = str(error)
    return kind, type(error).__name__ + (": " + text if text else ""), None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:REASON_LIMIT_CHARACTERS]


def _peak_bytes() -> int:
    """VmHWM, not getrusage's maximum: that one survives an exec, and would be the launcher's."""
    with open("/proc/self/status", "rb") as status:  # noqa: PTH123 - pathlib is slow to import
        for line in status:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _rss_bytes() -> int:
    with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 - as above
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _leave(status: int) -> NoReturn:
    """End the process from any thread: an exception would end the reader thread only."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # none, gone, closed: nothing is lost that could be kept
            continue
    os._exit(status)
