"""The parent of a `run` program: speaks the worker protocol for it, waits for it, keeps its exit record.

Run by `main` with the record's path as the one argument, and the daemon's socket in BATON_FD: standard library and
baton.py only, no TensorFlow. Decides nothing about the session's fate.

The program gets a socket of its own as BATON_FD. With `prepare = true` it runs at once, and what it says goes up as
it stands. Without, it is started by `go`: the shim has said `hello`, `ready` and `started` for it, gives it its
own `assign` and `go`, and passes on the rest. One that says nothing is one item of work: done when it exits with 0,
ended by SIGTERM when it is to drain. What it leaves running when it exits is killed: it would hold the device.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import baton
from daemon.worker import children

EXIT_CANNOT_START: Final = 127
REJOIN_INTERVAL_MS: Final = 200
UPWARD_SILENT: Final = frozenset({"hello", "advanced", "ready", "started"})  # said by the shim without `prepare`


class Wire:
    """One end of a stream socket: whole lines in, lines out. A lost other end is an end of file, never an error."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.open = True
        self._buffer = b""

    def lines(self) -> list[bytes]:
        """What one read gives; sets `open` to false at the end of file."""
        try:
            chunk = self.sock.recv(1 << 16)
        except OSError:
            chunk = b""
        if not chunk:
            self.open = False
        *whole, self._buffer = (self._buffer + chunk).split(b"\n")
        if len(self._buffer) > baton.LINE_LIMIT_BYTES:  # the daemon is to judge it, not this process to hold it
            whole, self._buffer = [*whole, self._buffer], b""
        return whole

    def first(self) -> dict[str, Any] | None:
        """The first line, waited for; None where there is none."""
        while self.open:
            found = self.lines()
            if found:
                self._buffer = b"\n".join([*found[1:], self._buffer])
                return _parsed(found[0])
        return None

    def waiting(self) -> list[bytes]:
        """Lines that came together with the first."""
        *whole, self._buffer = self._buffer.split(b"\n")
        return whole

    def rejoin(self, path: str) -> bool:
        """Connect anew, to the daemon that listens at `path` by now; False where there is none."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            return False
        self.sock.close()
        self.sock, self.open, self._buffer = sock, True, b""
        return True

    def pass_on(self, line: bytes) -> None:
        """Send a line as it stands."""
        try:
            self.sock.sendall(line + b"\n")
        except OSError:
            return

    def say(self, type_: str, /, **fields: Any) -> None:
        """Send a message."""
        self.pass_on(json.dumps({**fields, "type": type_}, separators=(",", ":")).encode())


class Shim:
    """One program, from `assign` to its exit record."""

    def __init__(self, daemon: Wire, assignment: dict[str, Any], record: Path) -> None:
        """daemon: the worker's end of the daemon's socket, its first line read."""
        self._daemon = daemon
        self._assignment = assignment
        self._spec: dict[str, Any] = assignment["spec"]
        self._record = record
        self._since = time.monotonic()
        self._program: Wire | None = None
        self._pid = 0
        self._status: int | None = None
        self._said: set[str] = set()  # by the program
        self._told: set[str] = set()  # by the daemon: go, drain, cancel
        self._passed: set[str] = set()  # to the daemon, by either
        self._terminated = False  # the program was asked to end by SIGTERM: it understands nothing else
        self._done = self._cursor = int(assignment.get("cursor") or 0)
        self._total: int | None = None
        self._errors = 0
        self._paused: str | None = None
        self._began_at: float | None = None
        self._ended_at: float | None = None
        self._remaining: int | None = None
        self._lost_at: float | None = None  # since when there is no daemon, where one is looked for
        self._log_start = 0
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
        except EarlyEndError as early:
            return early.status
        return self._end(self._status)

    def _hello(self) -> None:
        phase = "loading"
        for word, then in (("started", "computing"), ("quiesced", "draining"), ("committed", "committed")):
            phase = then if word in self._passed else phase
        self._daemon.say(
            "hello",
            protocol=baton.PROTOCOL,
            session=self._assignment["session"],
            generation=self._assignment["generation"],
            pid=os.getpid(),
            phase=phase,
            tier=None if phase == "loading" else "warm",
            cursor=self._cursor,
            done=self._done,
            total=self._total,
            errors=self._errors,
            began_at=self._began_at,
            ended_at=self._ended_at,
            remaining=self._remaining,
            paused=self._paused,
            tensorflow=False,
        )

    def _turn(self) -> None:
        """Wait for something to happen on either side, and act on it."""
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        if self._daemon.open:
            poll.register(self._daemon.sock, select.POLLIN)
        if self._program is not None and self._program.open:
            poll.register(self._program.sock, select.POLLIN)
        for fd, _ in poll.poll(None if self._lost_at is None else REJOIN_INTERVAL_MS):
            if fd == self._wake_r:
                if self._woken() and self._program is None:
                    raise EarlyEndError(children.exit_status(-signal.SIGTERM))
            elif fd == self._daemon.sock.fileno():
                for line in self._daemon.lines():
                    self._from_daemon(line)
                if not self._daemon.open:
                    self._orphaned()
            elif self._program is not None:
                self._from_program(self._program)
        if self._lost_at is not None:
            self._look_for_daemon(self._lost_at)

    # The daemon's side

    def _say(self, type_: str, /, **fields: Any) -> None:
        self._passed.add(type_)
        self._daemon.say(type_, **fields)

    def _ready(self) -> None:
        seconds = time.monotonic() - self._since
        self._daemon.say("ready", tier="warm", seconds=seconds, total=None, peak_bytes=0)

    def _from_daemon(self, line: bytes) -> None:
        message = _parsed(line)
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
            self._began_at = time.monotonic()
            self._say("started", at=self._began_at)
            self._start()
        elif kind == "advance":
            self._since = time.monotonic()
            self._ready()
        elif kind in ("drain", "cancel") and self._program is not None:
            self._program.pass_on(line)
        if kind in ("drain", "cancel") and "hello" not in self._said:
            self._terminate()

    def _orphaned(self) -> None:
        """The daemon is gone. Before `go` there is nothing to keep; later, another one is looked for."""
        if "go" in self._told and self._assignment.get("rejoin"):
            self._lost_at = time.monotonic()
        else:
            self._abandoned()

    def _look_for_daemon(self, lost_at: float) -> None:
        rejoin = self._assignment["rejoin"]
        if self._daemon.rejoin(rejoin["socket"]):
            self._lost_at = None
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
        argv: list[str] = self._spec["run"]
        with contextlib.suppress(OSError):
            self._log_start = os.fstat(2).st_size
        try:
            with theirs:
                child = subprocess.Popen(
                    argv,
                    cwd=self._spec.get("cwd"),
                    env={**os.environ, "BATON_FD": str(theirs.fileno())},
                    pass_fds=(theirs.fileno(),),
                )
        except OSError as error:
            self._daemon.say("failed", kind="program", reason=children.cannot_start(argv, error), item=None)
            raise EarlyEndError(EXIT_CANNOT_START) from None
        child.returncode = 0  # it is waited for here, with all that it may orphan: subprocess is not to wait for it
        self._pid = child.pid
        self._program = Wire(ours)
        self._program.say("assign", **self._assignment)
        if not self._spec["prepare"]:
            self._program.say("go")
        if self._woken() and self._status is None:  # it was for the whole group, and came before the program was in it
            os.kill(self._pid, signal.SIGTERM)

    def _from_program(self, program: Wire) -> None:
        for line in program.lines():
            message = _parsed(line)
            kind = str(message.get("type")) if message else ""
            first = kind not in self._said
            self._said.add(kind)
            if kind == "hello":
                if first and self._terminated:
                    program.say("cancel" if "cancel" in self._told else "drain")
                continue
            if message is not None and kind in ("progress", "quiesced", "committed"):
                self._done = message.get("done", self._done)
                self._cursor = message.get("cursor", self._cursor)
                self._total = message.get("total", self._total)
                self._errors = message.get("errors", self._errors)
            if message is not None and kind in ("paused", "resumed"):
                self._paused = message.get("reason")
            if message is not None and kind == "started":
                self._began_at = message.get("at")
            if message is not None and kind == "quiesced":
                self._ended_at, self._remaining = message.get("at"), message.get("remaining")
            if self._spec["prepare"] and message is not None and kind == "ready":
                # the program's clock began with its first line of batond; what it imported before is preparation too
                self._daemon.say("ready", **{**message, "seconds": time.monotonic() - self._since})
            elif self._spec["prepare"] or kind not in UPWARD_SILENT:
                self._passed.add(kind)
                self._daemon.pass_on(line)

    def _woken(self) -> bool:
        """Bury every child that ended: the program, and what it orphaned. Whether there was a SIGTERM too."""
        numbers = b""
        with contextlib.suppress(BlockingIOError):
            numbers = os.read(self._wake_r, 1 << 16)
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self._pid:
                    self._status = os.waitstatus_to_exitcode(status)
        return signal.SIGTERM in numbers

    # The end

    def _end(self, status: int) -> int:
        """Say what the program left unsaid; the exit status of this process."""
        children.kill_descendants()
        program = self._program
        assert program is not None
        while program.open:  # it has ended, and so has all that could write there: this comes to the end of file
            self._from_program(program)
        asked = bool(self._told & {"drain", "cancel"}) or not self._daemon.open
        if "quiesced" not in self._said and not self._said & {"progress", "last_batch"}:
            self._count(status)
        self._keep(status)
        if "failed" in self._said:
            return children.exit_status(status) or 1
        if self._spec["prepare"] and "go" not in self._told:
            return self._end_early(status, asked=asked)
        if status == 0 or self._terminated:
            self._finish()
            return 0
        if asked and "committed" in self._said:
            return children.exit_status(status)
        self._fail(status)
        return children.exit_status(status)

    def _end_early(self, status: int, *, asked: bool) -> int:
        if asked:
            return 0 if self._daemon.open else baton.EXIT_DAEMON_LOST
        if status == 0:
            reason = (
                "the program ended before the device was its own; have it call session.ready(), or leave out prepare"
            )
            self._daemon.say("failed", kind="program", reason=reason, item=None)
        else:
            self._fail(status)
        return children.exit_status(status) or 1

    def _fail(self, status: int) -> None:
        kind, reason = children.failure(status)
        last = children.last_line(self._log_start)
        self._daemon.say("failed", kind=kind, reason=reason + (f": {last}" if last else ""), item=None)

    def _count(self, status: int) -> None:
        """A program that counts nothing is one item: done, or to be done again."""
        self._done = 1 if status == 0 and not self._terminated else 0
        self._cursor, self._total = self._done, 1

    def _finish(self) -> None:
        """The account of a program that ended as it should, where it has not given it itself."""
        if "quiesced" not in self._said:
            counts = {"done": self._done, "total": self._total, "cursor": self._cursor, "errors": self._errors}
            self._daemon.say("progress", **counts, rss_bytes=0)
            remaining = 0 if self._total is None else max(self._total - self._done, 0)
            self._ended_at, self._remaining = time.monotonic(), remaining
            self._say("quiesced", at=self._ended_at, done=self._done, remaining=remaining, errors=self._errors)
        if "committed" not in self._said:
            peak_bytes = children.peak_bytes_of_children()
            self._say("committed", cursor=self._cursor, errors=self._errors, peak_bytes=peak_bytes)

    def _keep(self, status: int) -> None:
        """Leave the exit record: whole or not at all, for a daemon that was not there."""
        text = json.dumps(
            {
                "session": self._assignment["session"],
                "generation": self._assignment["generation"],
                "pid": os.getpid(),
                "status": status,
                "asked_to_end": self._terminated,
                "done": self._done,
                "cursor": self._cursor,
                "total": self._total,
            }
        )
        partial = self._record.with_name(self._record.name + ".partial")
        try:
            with partial.open("w") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._record)
        except OSError as error:
            sys.stderr.write(f"batond: cannot keep the exit record {self._record}: {error.strerror}\n")


class EarlyEndError(Exception):
    """The session ends before its program does anything: `status` is this process's."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def main() -> int:
    """Serve one session."""
    fd = int(os.environ.pop("BATON_FD"))
    os.set_inheritable(fd, False)  # noqa: FBT003 - the standard library's signature
    children.adopt()
    with socket.socket(fileno=fd) as sock:
        return serve(Wire(sock))


def serve(daemon: Wire) -> int:
    """Read the assignment, and see its program to the end."""
    assignment = daemon.first()
    if assignment is None or assignment.get("type") != "assign":
        return baton.EXIT_DAEMON_LOST
    return Shim(daemon, assignment, Path(sys.argv[1])).run()
