"""The library a session's own script imports. One file, standard library only; decides nothing of its own.

    import baton

    with baton.session() as session:            # outside batond: a no-op that prints nothing
        model = load()                          # prepares while the other session still runs
        session.ready()                         # blocks until the device is yours
        for batch in session.track(batches):    # progress, drain, cancel; len() or total= gives the end
            ...

`Session` is for scripts, and `Session.keras_callback` for those that call Keras' `fit`. `Channel` is the protocol below
(docs/worker-protocol.md), for workers that are prepared in more than one step. Runs in any Python from 3.9 on.
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
    from types import ModuleType, TracebackType
    from typing import Any, Final, NoReturn, TypeVar

    T = TypeVar("T")

__all__ = ["Channel", "Failure", "KerasCheckpoint", "KerasFit", "Session", "session"]

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
        self._total_told: int | None = None
        self.errors = 0  # of the items done, those that were skipped and gave no result; told with them
        self.device_peak: Callable[[], int] = _unknown_bytes  # of the device's own memory; told with `peak_bytes`
        self.began_at: float | None = None
        self.ended_at: float | None = None
        self.remaining: int | None = None
        self._since = time.monotonic()
        os.register_at_fork(after_in_child=self._let_go)
        self.hello()
        _load_what_ends_threads()
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
            if message is None and not self._going and not self._ours():
                return  # the daemon is not gone: the program closed its channel, and `ready` will say so
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
        self._total_told = self.total
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

        remaining: items not computed; None: what the total leaves, if that is known. A report that is still owed goes
        out before it only where it tells another total: the counts are here, too, and the next session waits for this.
        """
        with self._sending:
            if self._progress_owed and self.total != self._total_told:
                self._send_progress()
            self._progress_owed = False
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
        self._total_told = self.total
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
        self._fit: KerasFit | None = None

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

    def keras_callback(self, model: Any, *, checkpoint: str | os.PathLike[str] | None = None) -> Any:
        """A callback for the one `model.fit(...)` of this block: its steps are the items. See `KerasFit`.

        model: of Keras 3, also as `tf.keras`; without a checkpoint of Keras 2 too.
        checkpoint: a folder of its own, where the model's state is kept at the end of each epoch and at a drain, so
        that the session resumes there. Without one, a session that was drained in its fit begins anew.

        Raises Failure where the checkpoint cannot be gone on from.
        """
        keras = _keras_of(model)
        kind = type("KerasFitCallback", (KerasFit, keras.callbacks.Callback), {})
        self._fit = kind(self, None if self._channel is None or checkpoint is None else KerasCheckpoint(checkpoint))
        return self._fit

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
        if self._fit is not None:  # before it is told: who is submitted anew would find it finished, and train nothing
            self._fit.forget()
        channel.committed(done)


class KerasFit:
    """What `Session.keras_callback` makes, together with the `Callback` of the model's own Keras.

    Steps are reported as items, of `epochs` × steps in all (of steps that Keras does not know, once the first epoch
    has counted them). On a drain the fit ends after the step in flight, by `stop_training`.

    With a checkpoint, a fit that is begun again with `initial_epoch=callback.initial_epoch` loads the model and its
    optimizer, and passes over the steps of its first epoch that are in them already: their batches are read, and not
    trained on. The other callbacks are called for these too.

    Outside batond it does nothing but tell `finished`.
    """

    params: dict[str, Any]  # these two are set by Keras
    model: Any

    def __init__(self, session: Session, checkpoint: KerasCheckpoint | None) -> None:
        """checkpoint: what is kept; None: nothing."""
        super().__init__()
        self._session = session
        self._checkpoint = checkpoint
        self._epoch = self.initial_epoch = 0 if checkpoint is None else checkpoint.epoch
        self._passing = 0 if checkpoint is None else checkpoint.step  # steps of the first epoch to pass over
        self._steps: int | None = None  # of an epoch
        self._done = self._epoch_began = 0  # steps trained in all; what that was before this epoch's first
        self._step = 0  # steps of this epoch, those passed over included
        self._begun = False  # its first epoch
        self._left = False  # before its end, on a drain
        self.finished = False  # the fit came to its own end: to the last epoch's, or another callback stopped it

    def forget(self) -> None:
        """Remove what is kept: the session is done."""
        if self._checkpoint is not None:
            self._checkpoint.remove()

    def on_train_begin(self, logs: object = None) -> None:  # noqa: ARG002 - Keras passes it, here and below
        """Load what is kept, and wait for the device."""
        self._steps = self.params.get("steps")
        if self._checkpoint is not None:
            self._checkpoint.load(self.model, self._steps, self._session.cursor)
            self._done, self._steps = self._checkpoint.done, self._steps or self._checkpoint.steps
        self._session.ready(None if self._steps is None else self._steps * self.params["epochs"])
        if self._checkpoint is not None:  # more than batond knows of, where the process died in between
            self._session.progress(self._done)
            self._session.commit(self._done)

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        """Know where this epoch begins among all steps."""
        if self._checkpoint is not None and not self._begun and epoch != self.initial_epoch:
            raise Failure(
                "program",
                f"cannot resume: the fit began at epoch {epoch}, and its checkpoint is at epoch "
                f"{self.initial_epoch}; have it call fit(initial_epoch=callback.initial_epoch)",
            )
        self._begun = True
        if self._checkpoint is None and self._done == 0:
            self._done = epoch * (self._steps or 0)  # the program resumes by itself
        self._epoch, self._epoch_began, self._step = epoch, self._done - self._passing, 0
        if self._passing:
            _pass_over(self.model, self._passing)
        self._tell()

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:  # noqa: ARG002
        """Count up to step `batch` of this epoch. On a drain, keep the model and end the fit."""
        step = batch + 1 if self._steps is None else min(batch + 1, self._steps)  # the last call may hold fewer steps
        self._step = step
        if step > self._passing:
            self._passing = 0
            self._done = self._epoch_began + step
            self._tell()
        if self._session.draining and not self._at_the_end(step):
            if not self._passing:
                self._keep(self._epoch, step)
            self._left = True
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        """Keep the model. (An epoch that a drain cut short ends too, for Keras.)"""
        if self._left:
            return
        if self._checkpoint is not None and self._step < self._passing:
            raise self._checkpoint.useless(f"it is at step {self._passing} of an epoch that ended at {self._step}")
        self._passing, self._steps = 0, self._step
        self._keep(epoch + 1, 0)

    def on_train_end(self, logs: object = None) -> None:  # noqa: ARG002
        """Tell whether it came to its own end."""
        self.finished = not self._left
        if self.finished:
            self._session.progress(self._done, self._done)

    def _at_the_end(self, step: int) -> bool:
        return step == self._steps and self._epoch + 1 == self.params["epochs"]

    def _tell(self) -> None:
        epochs = self.params["epochs"] - self._epoch  # this one included
        total = None if self._steps is None else self._epoch_began + epochs * self._steps
        self._session.progress(self._done, total)

    def _keep(self, epoch: int, step: int) -> None:
        if self._checkpoint is None:
            return
        if step == self._steps:
            epoch, step = epoch + 1, 0
        self._checkpoint.save(self.model, epoch, step, self._steps, self._done)
        self._session.commit(self._done)


class KerasCheckpoint:
    """A folder with a model's weights, optimizer and random states, and how far it was trained; or nothing yet.

    `state.json` names the file of the weights, and is replaced by rename when that is durable: whenever the process
    dies, the folder holds the one state or the other.
    """

    STATE: Final = "state.json"

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Look what is there. Raises Failure where it is none of ours."""
        self.folder = os.path.abspath(folder)  # noqa: PTH100 - pathlib is slow to import, here and below
        self.epoch = self.step = self.done = 0  # the next step to train: its epoch, its place there, its place in all
        self.steps: int | None = None  # of an epoch
        self._weights: str | None = None
        self._seeds: list[Any] = []  # the random states, which a file of weights does not hold
        try:
            with open(self._path(self.STATE), "rb") as file:  # noqa: PTH123
                state = json.load(file)
            self.epoch, self.step, self.done = (_count(key, state[key]) for key in ("epoch", "step", "done"))
            self.steps = None if state["steps"] is None else _count("steps", state["steps"])
            self._weights, self._seeds = str(state["weights"]), list(state["seeds"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise self.useless(f"its {self.STATE} cannot be read ({error!r})") from None

    def load(self, model: Any, steps: int | None, cursor: int) -> None:
        """Give the model what is kept, and check that it belongs to a fit of so many steps an epoch.

        cursor: the steps that batond knows to be kept.
        """
        keras, version = _keras_of(model), _version_of(model)
        if version < 3 or keras.config.backend() != "tensorflow":
            raise Failure(
                "program",
                "cannot keep a checkpoint: that takes Keras 3 on TensorFlow; call keras_callback without one",
            )
        if self.done < cursor:
            raise self.useless(f"it ends at step {self.done}, and {cursor} steps were kept there")
        if self.step and self.steps is not None and steps is not None and self.steps != steps:
            raise self.useless(f"its epochs have {self.steps} steps, and those of this fit {steps}")
        if self.step % int(model.steps_per_execution):
            raise self.useless(f"it is at step {self.step}, and this fit takes {model.steps_per_execution} at once")
        if self._weights is None:
            return
        if not model.built:
            raise Failure("program", "cannot resume: the model has no weights yet; give it an Input, or build it")
        if model.optimizer is not None and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        try:
            model.load_weights(self._path(self._weights))
            for variable, seed in zip(_seeds_of(model), self._seeds):  # noqa: B905 - strict= came with Python 3.10
                variable.assign(seed)
        except (OSError, ValueError, KeyError) as error:  # damaged, or of another model
            raise self.useless(f"its weights do not fit this model ({error})") from None

    def save(self, model: Any, epoch: int, step: int, steps: int | None, done: int) -> None:
        """Keep the model as it is now: durable when this returns."""
        weights = f"{done}.weights.h5"
        if done == self.done and self._weights is not None:  # nothing was trained since
            weights = self._weights
        seeds = [variable.numpy().tolist() for variable in _seeds_of(model)]
        state = {"epoch": epoch, "step": step, "steps": steps, "done": done, "weights": weights, "seeds": seeds}
        try:
            os.makedirs(self.folder, exist_ok=True)  # noqa: PTH103
            if weights != self._weights:
                model.save_weights(self._path(weights), overwrite=True)
                _sync(self._path(weights))
            with open(self._path(self.STATE + ".partial"), "w") as file:  # noqa: PTH123
                json.dump(state, file)
            _sync(self._path(self.STATE + ".partial"))
            os.replace(self._path(self.STATE + ".partial"), self._path(self.STATE))  # noqa: PTH105
            _sync(self.folder)
            self._weights, self.done = weights, done
            self._remove_weights(but=weights)
        except OSError as error:
            raise Failure("output", f"cannot write the checkpoint {self.folder}: {error}") from None

    def remove(self) -> None:
        """Leave nothing of ours, in an order that leaves no half of it to be gone on from."""
        if self._weights is None:
            return
        os.unlink(self._path(self.STATE))  # noqa: PTH108
        self._remove_weights(but=None)
        try:
            os.rmdir(self.folder)  # noqa: PTH106
        except OSError:  # it holds what is not ours
            return

    def _remove_weights(self, but: str | None) -> None:
        for name in os.listdir(self.folder):  # noqa: PTH208
            if name.endswith(".weights.h5") and name != but and name[: -len(".weights.h5")].isdigit():
                os.unlink(self._path(name))  # noqa: PTH108

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)  # noqa: PTH118

    def useless(self, why: str) -> Failure:
        """What to raise where a fit cannot go on from it."""
        return Failure(
            "input", f"cannot go on from the checkpoint {self.folder}: {why}; remove it and submit the session anew"
        )


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


def _keras_of(model: Any) -> ModuleType:
    """The Keras that the model was made by: `keras`, or `tf_keras` beside it; it is imported, since the model is."""
    for kind in type(model).__mro__:
        package = kind.__module__.partition(".")[0]
        if kind.__name__ == "Model" and package in ("keras", "tf_keras"):
            return sys.modules[package]
    raise Failure("program", f"cannot follow the fit of a {type(model).__name__}: it is no model of Keras")


def _version_of(model: Any) -> int:
    return int(_keras_of(model).__version__.partition(".")[0])


def _seeds_of(model: Any) -> list[Any]:
    """The states of the model's random generators: neither weights nor metrics."""
    others = {id(variable) for variable in (*model.weights, *model.metrics_variables)}
    return [variable for variable in model.variables if id(variable) not in others]


def _pass_over(model: Any, steps: int) -> None:
    """Have the next `fit` loop read so many steps' batches without training on them.

    The loop calls `model.train_function` for each, with the iterator of the batches.
    """
    train, passed = model.train_function, 0

    def read(batches: Iterator[object]) -> dict[str, float]:
        nonlocal passed
        for _ in range(min(int(model.steps_per_execution), steps - passed)):
            next(batches)
            passed += 1
        if passed >= steps:
            model.train_function = train
        return {}

    model.train_function = read


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


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


def _load_what_ends_threads() -> None:
    """The library by which glibc ends the reader thread, should that run when the interpreter goes.

    glibc loads it only then, and aborts the process where no descriptor is left to open it with.
    """
    import ctypes  # only here: outside batond nobody waits for it

    try:
        ctypes.CDLL("libgcc_s.so.1")
    except OSError:  # another C library, which needs none
        return


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
