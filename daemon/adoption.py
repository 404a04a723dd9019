"""The workers of a daemon that is gone: found by the record, listened for, known by pid and generation, taken over.

Nobody is taken at its word: the kernel says which process connects, and the record which one it must be.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from daemon import messages
from daemon.channel import Channel, ProtocolError
from daemon.plaintext import one_line
from daemon.processes import Process, started
from daemon.records import WorkerRecord
from daemon.remains import Remains
from daemon.workers import Alive, Crew, Ears
from states.events import Committed, Event, Exited, Failed, Hello, Promoted, Quiesced

REMAINS_TIMEOUT_S: Final = 10.0  # for a killed process to be gone; one that is stuck in the kernel holds up no start
ARRIVALS_LIMIT: Final = 64
HELLO_TIMEOUT_S: Final = 10.0  # from connecting to the first word: the silent take places from those who return
DRAIN_TIMEOUT_S: Final = 1.0  # for one who is turned away to read that it is to drain
ACCEPT_RETRY_S: Final = 1.0
NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
WHY_LIMIT_CHARACTERS: Final = 500
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: unix(7)


class _ExitRecord(msgspec.Struct):
    """What the parent of a `run` program wrote when that ended (daemon/worker/account.py)."""

    session: str
    generation: int
    pid: int
    status: int
    asked_to_end: bool
    done: int
    cursor: int
    total: int | None
    remaining: int | None = None  # also None where the total is not known, and it was told to end before its own end
    errors: int = 0
    committed: bool | None = None  # None: written by a version that did not say
    failure: tuple[messages.FailureKind, str, messages.Count | None] | None = None
    began: float | None = None  # its first item, in seconds since 1970; None where it is not known
    ended: float | None = None  # its last item


@dataclass(frozen=True)
class LeftBehind:
    """A recorded worker that is still there (`process`), or whose program's end was recorded (`exited`)."""

    record: WorkerRecord
    process: Process | None
    exited: _ExitRecord | None = None

    @property
    def story(self) -> str:
        """What is done about it, in words."""
        if self.process is None:
            return "its program ended while no batond watched it; its exit record is taken"
        return "waited for: it goes on, and comes back" if self.record.promoted else "ended: it had begun nothing"

    def kill(self) -> None:
        """End it and its whole group."""
        if self.process is not None:
            self.process.signal_group(signal.SIGKILL)

    def facts(self, now: float) -> list[Event]:
        """What nobody heard of a program that has ended."""
        assert self.exited is not None
        number, end = self.record.generation, self.exited
        ended_at = _then(end.ended, now)
        began_at = min(_then(end.began, now), ended_at)
        facts: list[Event] = [Hello(now, number, end.cursor, end.done, end.total), Promoted(now, number, began_at)]
        committed = end.status == 0 or end.asked_to_end if end.committed is None else end.committed
        if committed:
            facts += [Quiesced(now, number, ended_at, end.done, end.remaining, end.errors)]
            facts += [Committed(now, number, end.cursor, errors=end.errors)]
        if end.failure is not None:
            kind, reason, item = end.failure
            facts.append(Failed(now, number, kind, reason, item))
        elif end.status > 0 and not committed:
            facts.append(Failed(now, number, "program", f"the program exited with status {end.status}"))
        return [*facts, Exited(now, number, end.status)]


def _then(since_epoch: float | None, now: float) -> float:
    """That moment by the clock that says `now`; a moment to come, or none, is now."""
    return now if since_epoch is None else now - max(0.0, time.time() - since_epoch)


def left_behind(records: Collection[WorkerRecord], exits: Path) -> list[LeftBehind]:
    """The recorded workers of which something is left. An exit record goes when its worker is recorded no more."""
    living = {record.generation: (record, process) for record, process in found_alive(records)}
    found = [LeftBehind(record, process) for record, process in living.values()]
    for record in records:
        if record.generation not in living and record.promoted:
            exited = exit_of(record, exits)
            found += [] if exited is None else [exited]
    recorded = {str(record.generation) for record in records}
    for path in exits.glob("*.json"):
        if path.stem not in recorded:
            path.unlink(missing_ok=True)
    return sorted(found, key=lambda each: each.record.generation)


def exit_of(record: WorkerRecord, exits: Path) -> LeftBehind | None:
    """What is left of a worker whose process is gone: the exit record of its program, if it had one."""
    try:
        exited = msgspec.json.decode((exits / f"{record.generation}.json").read_bytes(), type=_ExitRecord)
    except (
        OSError,
        msgspec.DecodeError,
        UnicodeDecodeError,
    ):  # it ended before it could be written: what it left is tried again
        return None
    same = (exited.session, exited.generation, exited.pid) == (record.session, record.generation, record.pid)
    return LeftBehind(record, None, exited) if same else None


def found_alive(records: Iterable[WorkerRecord]) -> list[tuple[WorkerRecord, Process]]:
    """The recorded workers whose process is still that very one. Of one that is not, what it left is ended."""
    living: list[tuple[WorkerRecord, Process]] = []
    for record in records:
        try:
            pidfd = os.pidfd_open(record.pid)
        except ProcessLookupError:
            _end_remains(record)
            continue
        ended = bool(select.select([pidfd], [], [], 0)[0])  # a zombie: nobody has waited for it yet
        if started(record.pid) == record.started and not ended:
            process = Process(record.pid, pidfd)
            process.orphaned()  # not our child: how it ends nobody will tell
            living.append((record, process))
        else:
            os.close(pidfd)
            _end_remains(record)
    return living


def _end_remains(record: WorkerRecord) -> None:
    """What a worker left that died while no daemon watched: gone before its session begins anew."""
    Remains(record.pid, record.started, strays=True).wait_for_end(REMAINS_TIMEOUT_S)


@dataclass(eq=False)
class _Arrival:
    """Somebody who connected: a stranger, until it has said who it is and the kernel agrees."""

    pid: int
    uid: int
    channel: Channel | None = None
    ears: Ears | None = None
    turned_away: bool = False
    patience: asyncio.TimerHandle | None = None


class Reception:
    """The worker socket at `path`: hands those who come back to the crew, and tells all others to drain."""

    def __init__(self, path: Path, crew: Crew, refused: Callable[[str], None]) -> None:
        """refused: told why somebody who came was not taken."""
        self._path = path
        self._crew = crew
        self._refused = refused
        self._listener: socket.socket | None = None
        self._arrivals: set[_Arrival] = set()

    def open(self) -> None:
        """Listen. The state directory is this daemon's alone, so whatever socket is there is a dead daemon's."""
        with suppress(FileNotFoundError):
            self._path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        listener.bind(str(self._path))
        self._path.chmod(0o600)
        listener.listen(ARRIVALS_LIMIT)
        self._listener = listener
        self._listen()

    def _listen(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._arrive)

    def close(self) -> None:
        """Listen no more. Channels that were handed on stay."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            with suppress(FileNotFoundError):
                self._path.unlink()
        for arrival in tuple(self._arrivals):
            self._dismiss(arrival)

    def _arrive(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError as error:  # it is gone again, or we have no descriptor left: it will come back
            if error.errno in NO_ROOM:  # the socket stays readable: looked at again at once, it would take all our time
                asyncio.get_running_loop().remove_reader(self._listener)
                asyncio.get_running_loop().call_later(ACCEPT_RETRY_S, self._listen)
            return
        if len(self._arrivals) >= ARRIVALS_LIMIT:
            sock.close()
            return
        pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        arrival = _Arrival(pid, uid)
        self._arrivals.add(arrival)
        arrival.channel = Channel(
            sock,
            take=lambda message: self._take(arrival, message),
            fault=lambda what: self._fault(arrival, what),
            ended=lambda: self._ended(arrival),
        )
        self._wait(arrival, HELLO_TIMEOUT_S)

    def _wait(self, arrival: _Arrival, seconds: float) -> None:
        """Dismiss it then, unless it has been adopted."""
        if arrival.patience is not None:
            arrival.patience.cancel()
        arrival.patience = asyncio.get_running_loop().call_later(seconds, self._dismiss, arrival)

    def _take(self, arrival: _Arrival, message: messages.FromWorker) -> None:
        if arrival.ears is not None:
            arrival.ears.take(message)
            return
        assert arrival.channel is not None
        if arrival.turned_away:  # said once: it may say more than anybody wants to read
            return
        try:
            arrival.ears = self._crew.adopt(arrival.channel, self._verified(arrival, message))
        except ProtocolError as error:
            self._turn_away(arrival, str(error))
        else:
            self._dismiss(arrival)

    def _verified(self, arrival: _Arrival, message: messages.FromWorker) -> messages.Hello:
        if not isinstance(message, messages.Hello):
            raise ProtocolError(f"{type(message).__name__.lower()} before hello")
        for worker in self._crew.alive():
            if worker.generation == message.generation:
                self._compare(worker, arrival)
                return message
        raise ProtocolError(
            f"it says that it is {message.session}, generation {message.generation}: nobody waits for that"
        )

    def _compare(self, worker: Alive, arrival: _Arrival) -> None:
        if (arrival.pid, started(arrival.pid)) != (worker.pid, worker.started):
            raise ProtocolError(
                f"process {arrival.pid} says that it is {worker.session}, generation {worker.generation}, "
                f"which is process {worker.pid}"
            )
        if arrival.uid not in (os.geteuid(), 0):
            raise ProtocolError(f"process {arrival.pid} is another user's ({arrival.uid})")

    def _turn_away(self, arrival: _Arrival, why: str) -> None:
        """It may compute for a session that is somebody else's now: it is to stop."""
        if arrival.turned_away:
            return
        arrival.turned_away = True
        self._refused(one_line(why, WHY_LIMIT_CHARACTERS))
        if arrival.channel is not None:
            arrival.channel.send(messages.Drain())
        self._wait(arrival, DRAIN_TIMEOUT_S)

    def _fault(self, arrival: _Arrival, what: str) -> None:
        if arrival.ears is not None:
            arrival.ears.fault(what)
        else:
            self._turn_away(arrival, what)

    def _ended(self, arrival: _Arrival) -> None:
        if arrival.ears is not None:
            arrival.ears.ended()
        else:
            self._dismiss(arrival)

    def _dismiss(self, arrival: _Arrival) -> None:
        """It is no arrival any more: hung up on, or the crew's."""
        self._arrivals.discard(arrival)
        if arrival.patience is not None:
            arrival.patience.cancel()
        if arrival.channel is not None and arrival.ears is None:
            arrival.channel.close()
