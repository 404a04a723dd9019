"""The parent of a `run` program: speaks the worker protocol for it, waits for it, keeps its exit record.

Run by `main` with the record's path and the folder of the programs' baton.py as arguments, and the daemon's socket in
BATON_FD: standard library and baton.py only, no TensorFlow. Decides nothing about the session's fate.

The program gets a socket of its own as BATON_FD, and that folder at the front of its PYTHONPATH. With `prepare = true`
it runs at once, and what it says goes up as it stands. Without, it is started by `go`: the shim has said `hello`,
`ready` and `started` for it, gives it its own `assign` and `go`, and passes on the rest. One that says nothing is one
item of work: done when it exits with 0, ended by SIGTERM when it is to drain. What it leaves running when it exits is
killed: it would hold the device. It does not outlive the shim either: the kernel, and where that cannot the daemon,
ends it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final

import baton
from daemon.worker import children
from daemon.worker.account import Account, Failure
from daemon.worker.lines import Wire, parsed

EXIT_CANNOT_START: Final = 127
REJOIN_INTERVAL_S: Final = 0.2
CLOSED_CHANNEL_S: Final = 3.0  # between the end of a program's channel and its own, where it was to use that
GRACE_S: Final = 10.0  # for a program that prepares: between SIGTERM and SIGKILL, where no daemon sees to that
BACKLOG_BYTES: Final = 1 << 16  # what the daemon may owe to read before its program waits in its own write
UPWARD_SILENT: Final = frozenset({"hello", "advanced", "ready", "started"})  # said by the shim without `prepare`
NEVER_READY: Final = (
    "the program ended before the device was its own; have it call session.ready(), or leave out prepare"
)


class Shim:
    """One program, from `assign` to its exit record."""

    def __init__(self, daemon: Wire, assignment: dict[str, Any], record: Path, library: str) -> None:
        """daemon: the worker's end of the daemon's socket, its first line read. library: the folder of baton.py."""
        self._daemon = daemon
        self._assignment = assignment
        self._spec: dict[str, Any] = assignment["spec"]
        self._record = record
        self._library = library
        cursor = int(assignment.get("cursor") or 0)
        self._account = Account(cursor=cursor, done=cursor)
        self._since = time.monotonic()
        self._program: Wire | None = None
        self._pid = 0
        self._status: int | None = None
        self._told: set[str] = set()  # by the daemon: go, drain, cancel
        self._terminated = False  # the program was asked to end by SIGTERM: it understands nothing else
        self._lost_at: float | None = None  # since when there is no daemon, where one is looked for
        self._look_at = self._looks_since = 0.0
        self._joined_at = float("-inf")
        self._closed_at: float | None = None  # since when a program that was to say or to hear something has no channel
        self._kill_at: float | None = None
        self._given_up = False  # no daemon came: a program that speaks is to drain
        self._log_start = 0
        self._oom_kills = 0  # of the host, when the program was started
        self._wake_r = children.wake_on_child()

    def run(self) -> int:
        """Serve until the program is gone; the exit status of this process."""
        self._hello()
        try:
            if self._spec["prepare"]:
                self._start()
            else:
                self._ready()
            for line in self._daemon.waiting():
                self._from_daemon(line)
            while self._status is None:
                self._turn()
                self._tick(time.monotonic())
            status = self._end(self._status)
        except EarlyEndError as early:
            status = early.status
        self._daemon.finish()
        return status

    def _hello(self) -> None:
        self._daemon.say("hello", **self._account.hello(self._assignment))

    def _turn(self) -> None:
        """Wait for something to happen on either side, and act on it."""
        program = self._program
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        if self._daemon.open:
            poll.register(self._daemon.sock, self._daemon.interest)
        if program is not None and program.open and self._daemon.owed_bytes < BACKLOG_BYTES:
            poll.register(program.sock, program.interest)
        for fd, events in poll.poll(self._patience_ms()):
            if fd == self._wake_r:
                if self._woken() and self._program is None:
                    raise EarlyEndError(children.exit_status(-signal.SIGTERM))
                continue
            wire = self._daemon if fd == self._daemon.sock.fileno() else program
            assert wire is not None
            if events & select.POLLOUT:
                wire.flush()
            if not events & ~select.POLLOUT:
                continue
            if wire is program:
                self._from_program(wire)
            else:
                self._from_daemon_s_end()

    def _patience_ms(self) -> float | None:
        """How long nothing has to be done where nothing happens; None: for ever."""
        due = [at for at in (self._kill_at, self._closed_at and self._closed_at + CLOSED_CHANNEL_S) if at is not None]
        if self._lost_at is not None:
            due.append(self._look_at)
        return max(0.0, min(due) - time.monotonic()) * 1000 + 1 if due else None

    def _tick(self, now: float) -> None:
        """Do what is due."""
        if self._lost_at is not None and now >= self._look_at:
            self._look_for_daemon(self._lost_at)
        if self._closed_at is not None and now >= self._closed_at + CLOSED_CHANNEL_S:
            self._closed_at = None
            self._mute()
        if self._kill_at is not None and now >= self._kill_at and self._status is None:
            self._kill_at = None
            os.kill(self._pid, signal.SIGKILL)

    # The daemon's side

    def _say(self, type_: str, /, **fields: Any) -> None:
        self._account.passed.add(type_)
        self._daemon.say(type_, **fields)

    def _say_failed(self, kind: str, reason: str) -> None:
        self._account.failure = (kind, reason, None)
        self._daemon.say("failed", kind=kind, reason=reason, item=None)

    def _ready(self) -> None:
        seconds = time.monotonic() - self._since
        self._daemon.say("ready", tier="warm", seconds=seconds, total=None, peak_bytes=0)

    def _from_daemon_s_end(self) -> None:
        for line in self._daemon.lines():
            self._from_daemon(line)
        if not self._daemon.open:
            self._orphaned()

    def _from_daemon(self, line: bytes) -> None:
        message = parsed(line)
        kind = str(message.get("type")) if message else ""
        self._told.add(kind)
        if kind in ("drain", "cancel") and self._program is None:
            raise EarlyEndError(0)
        if self._spec["prepare"]:
            if kind == "advance":
                self._since = time.monotonic()
            if self._program is not None:
                self._program.pass_on(line)
        elif kind == "go" and self._program is None:
            self._account.began_at = time.monotonic()
            self._say("started", at=self._account.began_at)
            self._start()
        elif kind == "advance":
            self._since = time.monotonic()
            self._ready()
        elif kind in ("drain", "cancel") and self._program is not None:
            self._program.pass_on(line)
        if kind in ("drain", "cancel") and not self._listens():
            self._terminate()

    def _listens(self) -> bool:
        """Whether the program understands more than a signal: it has spoken, and did not close its channel since."""
        assert self._program is not None
        return "hello" in self._account.said and (self._program.open or "committed" in self._account.said)

    def _orphaned(self) -> None:
        """The daemon is gone. Before `go` there is nothing to keep; later, another one is looked for."""
        if "go" in self._told and self._assignment.get("rejoin"):
            now = time.monotonic()
            steady = now - self._joined_at > baton.STEADY_S  # else it was no daemon, or one without a place for us
            self._looks_since = now if steady else self._looks_since
            self._lost_at, self._look_at = self._looks_since, now + (0.0 if steady else REJOIN_INTERVAL_S)
        else:
            self._abandoned()

    def _look_for_daemon(self, lost_at: float) -> None:
        rejoin = self._assignment["rejoin"]
        self._look_at = time.monotonic() + REJOIN_INTERVAL_S
        if self._daemon.rejoin(rejoin["socket"]):
            self._lost_at, self._joined_at = None, time.monotonic()
            self._hello()
        elif time.monotonic() >= lost_at + float(rejoin["seconds"]):
            self._lost_at = None
            self._abandoned()

    def _abandoned(self) -> None:
        """No daemon is there any more; the program ends as it will.

        One that speaks learns it from its own socket, drains and commits. One that does not goes on to its
        end: the record of that is what the next daemon finds.
        """
        if "go" not in self._told:
            if self._program is None:
                raise EarlyEndError(baton.EXIT_DAEMON_LOST)
            self._terminate()
            self._kill_at = time.monotonic() + GRACE_S
        self._given_up = True
        if self._program is not None:
            with contextlib.suppress(OSError):  # the program closed it
                self._program.sock.shutdown(socket.SHUT_WR)

    def _terminate(self) -> None:
        if self._pid and self._status is None:
            self._terminated = True
            os.killpg(0, signal.SIGTERM)  # this process is of the group, and only notes it

    # The program's side

    def _start(self) -> None:
        """Start the program in this process's group, with a socket of its own."""
        ours, theirs = socket.socketpair()
        python = self._spec.get("python")
        argv: list[str] = [*([python] if python else []), *self._spec["run"]]
        with contextlib.suppress(OSError):
            self._log_start = os.fstat(2).st_size
        self._oom_kills = children.oom_kills()
        try:
            with theirs:
                self._pid = children.start(
                    argv, cwd=self._spec.get("cwd"), environment=self._environment(), channel_fd=theirs.fileno()
                )
        except OSError as error:
            self._say_failed("program", children.cannot_start(argv, error))
            raise EarlyEndError(EXIT_CANNOT_START) from None
        self._program = Wire(ours)
        # it is this process that finds the next daemon: the program has one line, and when that ends, it drains
        self._program.say("assign", **{**self._assignment, "rejoin": None})
        if not self._spec["prepare"]:
            self._program.say("go")
        if self._woken() and self._status is None:  # it was for the whole group, and came before the program was in it
            os.kill(self._pid, signal.SIGTERM)

    def _environment(self) -> dict[str, str]:
        """This process's, what the session adds to it, and the way to baton.py."""
        found = {**os.environ, **(self._spec.get("env") or {})}
        rest = found.get("PYTHONPATH")
        found["PYTHONPATH"] = self._library + os.pathsep + rest if rest else self._library
        return found

    def _from_program(self, program: Wire) -> None:
        for line in program.lines():
            message = parsed(line)
            kind = str(message.get("type")) if message else ""
            first = kind not in self._account.said
            if message is not None:
                self._account.hear(message)
            if kind == "hello":
                if first and self._terminated:
                    program.say("cancel" if "cancel" in self._told else "drain")
                continue
            if self._spec["prepare"] and message is not None and kind == "ready":
                # the program's clock began with its first line of batond; what it imported before is preparation too
                self._daemon.say("ready", **{**message, "seconds": time.monotonic() - self._since})
            elif self._spec["prepare"] or kind not in UPWARD_SILENT:
                self._account.passed.add(kind)
                self._daemon.pass_on(line)
        waits = self._spec["prepare"] and "go" not in self._told
        if not program.open and "committed" not in self._account.said and (waits or self._told & {"drain", "cancel"}):
            self._closed_at = time.monotonic()

    def _mute(self) -> None:
        """A program closed its channel, and goes on: it will hear of no `go`, or did not hear that it is to drain."""
        if self._account.failure is None and not self._told & {"drain", "cancel"}:
            since = "while it waited for the device" if "ready" in self._account.said else "before session.ready()"
            self._say_failed(
                "program",
                f"the program closed its channel to batond {since}, and went on; have it call session.ready() and keep "
                "that channel open (an exec closes it), or leave out prepare",
            )
        self._terminate()
        if "go" not in self._told:
            self._kill_at = time.monotonic() + GRACE_S

    def _woken(self) -> bool:
        """Bury every child that ended: the program, and what it orphaned. Whether there was a SIGTERM too."""
        numbers = b""
        with contextlib.suppress(BlockingIOError):
            numbers = os.read(self._wake_r, 1 << 16)
        self._status = children.buried().get(self._pid, self._status)
        return signal.SIGTERM in numbers

    # The end

    def _end(self, status: int) -> int:
        """Say what the program left unsaid; the exit status of this process."""
        children.kill_descendants()
        program, account = self._program, self._account
        assert program is not None
        while program.open and program.readable():  # all that could write there have ended
            self._from_program(program)
        if not account.counts:
            account.settle(done=status == 0 and not self._terminated)
        told = account.failure is not None
        exit_status, committed = self._verdict(status)
        if committed and "quiesced" not in account.said:
            self._quiesce()
        if "go" in self._told:  # what never had the device has nothing to account for: it is prepared again
            self._keep(status, committed=committed)
        if committed and "committed" not in account.said:
            peak_bytes = children.peak_bytes_of_children()
            self._say("committed", cursor=account.cursor, errors=account.errors, peak_bytes=peak_bytes)
        if account.failure is not None and not told:
            self._say_failed(*account.failure[:2])
        return exit_status

    def _keep(self, status: int, *, committed: bool) -> None:
        problem = self._account.keep(
            self._record, self._assignment, status, asked_to_end=self._terminated, committed=committed
        )
        if problem is not None:
            with contextlib.suppress(OSError):  # the log's disk may be the same full one
                os.write(2, f"batond: {problem}\n".encode(errors="backslashreplace"))

    def _verdict(self, status: int) -> tuple[int, bool]:
        """This process's exit status, and whether the output is durable up to the cursor. Notes a failure."""
        account = self._account
        asked = bool(self._told & {"drain", "cancel"}) or not self._daemon.open
        committed = "committed" in account.said
        if account.failure is not None:
            return children.exit_status(status) or 1, committed
        if self._spec["prepare"] and "go" not in self._told:
            if asked:
                return (0 if self._daemon.open else baton.EXIT_DAEMON_LOST), False
            account.failure = ("program", NEVER_READY, None) if status == 0 else self._failure(status)
            return children.exit_status(status) or 1, False
        if status == 0 or self._terminated:
            return 0, True
        if not (asked and committed):
            account.failure = self._failure(status)
        return children.exit_status(status), committed

    def _failure(self, status: int) -> Failure:
        kind, reason = children.failure(status, children.oom_kills() - self._oom_kills)
        last = children.last_line(self._log_start)
        return kind, reason + (f": {last}" if last else ""), None

    def _quiesce(self) -> None:
        """The account of a program that ended as it should, and has not given it itself."""
        account = self._account
        counts = {"done": account.done, "total": account.total, "cursor": account.cursor, "errors": account.errors}
        self._daemon.say("progress", **counts, rss_bytes=0)
        account.close(cut_short=self._terminated or self._given_up or bool(self._told & {"drain", "cancel"}))
        self._say(
            "quiesced", at=account.ended_at, done=account.done, remaining=account.remaining, errors=account.errors
        )


class EarlyEndError(Exception):
    """The session ends before its program does anything: `status` is this process's."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def main() -> int:
    """Serve one session."""
    fd = int(os.environ.pop("BATON_FD"))
    os.set_inheritable(fd, False)  # noqa: FBT003 - the standard library's signature
    children.adopt()
    with socket.socket(fileno=fd) as sock:
        try:
            return serve(Wire(sock))
        finally:
            children.kill_descendants()  # also after a bug of ours: nothing may go on unseen


def serve(daemon: Wire) -> int:
    """Read the assignment, and see its program to the end."""
    assignment = daemon.first()
    if assignment is None or assignment.get("type") != "assign":
        return baton.EXIT_DAEMON_LOST
    record, library = sys.argv[1:]
    return Shim(daemon, assignment, Path(record), library).run()
