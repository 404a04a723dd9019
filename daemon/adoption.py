"""The workers of a daemon that is gone: found by the record, listened for, known by pid and generation, taken over.

Nobody is taken at its word: the kernel says which process connects, and the record which one it must be.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon import messages
from daemon.channel import Channel, ProtocolError
from daemon.processes import Process, started
from daemon.records import WorkerRecord
from daemon.workers import Alive, Crew, Ears

PATIENCE_S: Final = 60.0  # how long a worker looks for a daemon; the daemon waits a little longer
ARRIVALS_LIMIT: Final = 64
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: unix(7)


def found_alive(records: Iterable[WorkerRecord]) -> list[tuple[WorkerRecord, Process]]:
    """The recorded workers whose process is still that very one."""
    living: list[tuple[WorkerRecord, Process]] = []
    for record in records:
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(record.pid)
            if started(record.pid) == record.started:
                process = Process(record.pid, pidfd)
                process.orphaned()  # not our child: how it ends nobody will tell
                living.append((record, process))
            else:
                os.close(pidfd)
    return living


@dataclass(eq=False)
class _Arrival:
    """Somebody who connected: a stranger, until it has said who it is and the kernel agrees."""

    pid: int
    uid: int
    channel: Channel | None = None
    ears: Ears | None = None


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
        asyncio.get_running_loop().add_reader(listener, self._arrive)
        self._listener = listener

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
        except OSError:  # it is gone again, or we have no descriptor left: it will come back
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

    def _take(self, arrival: _Arrival, message: messages.FromWorker) -> None:
        if arrival.ears is not None:
            arrival.ears.take(message)
            return
        assert arrival.channel is not None
        try:
            arrival.ears = self._crew.adopt(arrival.channel, self._verified(arrival, message))
        except ProtocolError as error:
            self._turn_away(arrival, str(error))
        else:
            self._arrivals.discard(arrival)

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
        self._refused(why)
        if arrival.channel is not None:
            arrival.channel.send(messages.Drain())
        asyncio.get_running_loop().call_later(1.0, self._dismiss, arrival)

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
        self._arrivals.discard(arrival)
        if arrival.channel is not None and arrival.ears is None:
            arrival.channel.close()
