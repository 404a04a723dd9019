"""Starts worker processes: forked from a server that has TensorFlow imported, or in an interpreter of their own.

Knows neither the protocol nor when a session is due. Fork or exec: a started process is the same.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from daemon import inspectors
from daemon.config import Problems
from daemon.interpreters import unfit
from daemon.launchers import PACKAGES, ForkServer, execute, inherited, own_environment
from daemon.processes import CannotStartError, Process
from daemon.sessionfile import DeviceAssignment, SessionSpec

SERVE: Final = "daemon.worker.main:serve"
INSPECT: Final = "daemon.worker.main:inspect"
PRELOAD: Final = ("daemon.worker.batch", "daemon.worker.inspector")  # TensorFlow, and all that the two entries need
DEATHS_LIMIT: Final = 3  # of fork servers, before no other is started
# It needs the standard library and baton.py only, so -S (no site-packages): it is up in 40 ms. Where batond's packages
# are, goes neither into the environment nor onto the path of the program that it starts.
RUN_SHIM: Final = (
    f"import sys; sys.path.append({str(PACKAGES)!r}); from daemon.worker import shim; sys.exit(shim.main())"
)


class Nursery:
    """Where workers come from. One for the daemon's life."""

    def __init__(
        self,
        directory: Path,
        *,
        exits: Path | None = None,
        say: Callable[[str], None],
        use_fork_server: bool = True,
        preload: tuple[str, ...] = PRELOAD,
    ) -> None:
        """directory: private and writable, for the library, exit records, the server's log.

        exits: the folder of the exit records, one daemon's own. say: told once of what is degraded.
        """
        self._directory = directory
        self._say = say
        self._preload = preload
        self._server: ForkServer | None = None
        self._forks = use_fork_server
        self._deaths = 0
        self._closed = False
        self._warming = asyncio.Lock()
        self._library = _install_library(directory / "lib")
        self.exit_records = exits or directory / "exits"
        self.exit_records.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def forks(self) -> bool:
        """Whether built-in workers are forked, as far as is known."""
        return self._forks

    @property
    def server_pid(self) -> int | None:
        """The fork server's process; None where there is none."""
        return self._server.pid if self._server is not None and self._server.alive else None

    async def warm(self) -> None:
        """Have the fork server import TensorFlow now, rather than when the first worker is due."""
        await self._living_server()

    async def start(
        self, spec: SessionSpec, device: DeviceAssignment, generation: int, channel: socket.socket, log_fd: int
    ) -> Process:
        """A process for the session, on its end of the channel. Both descriptors stay the caller's.

        Raises CannotStartError.
        """
        visible = _device_environment(device)
        if spec.run is not None:
            record = self.exit_records / f"{generation}.json"
            environment = {**inherited(), **visible, "BATON_FD": str(channel.fileno())}
            command = (sys.executable, "-S", "-P", "-c", RUN_SHIM, str(record), str(self._library))
            process = await execute(command, environment, channel, log_fd)
            process.exited.add_done_callback(lambda _: self._heard_of(record))
            return process
        return await self._built_in(SERVE, (), visible, channel, log_fd)

    async def inspect(self, specs: list[SessionSpec], *, lower: Callable[[Process], None]) -> list[dict[str, Any]]:
        """What only TensorFlow can tell of built-in sessions, or a program's Python of itself: one answer each.

        lower: called with each process that is started for it. What is in an answer: daemon/worker/inspector.py.
        """

        async def start(channel: socket.socket, output_fd: int) -> Process:
            process = await self._built_in(INSPECT, ("inspect",), {"CUDA_VISIBLE_DEVICES": ""}, channel, output_fd)
            lower(process)
            return process

        models = [spec for spec in specs if spec.run is None]
        of_models = iter(await inspectors.answers(models, start, self._directory / "inspections"))
        of_programs = iter(await _inspect_programs([spec for spec in specs if spec.run is not None]))
        return [next(of_models) if spec.run is None else next(of_programs) for spec in specs]

    def _heard_of(self, record: Path) -> None:
        """The exit record is for a daemon that was not there; from `close` on, that is the next one."""
        if not self._closed:
            record.unlink(missing_ok=True)

    def close(self) -> None:
        """Let the fork server end. Living workers go on, and their exit records stay."""
        self._closed = True
        self._forks = False
        if self._server is not None:
            self._server.close()

    async def _built_in(
        self, entry: str, arguments: tuple[str, ...], visible: dict[str, str], channel: socket.socket, log_fd: int
    ) -> Process:
        server = await self._living_server()
        if server is not None:
            with suppress(CannotStartError):  # an interpreter of its own does as well, only later
                return await server.fork(entry, visible, channel, log_fd)
        command = (sys.executable, "-P", "-u", "-X", "faulthandler", "-m", "daemon.worker", *arguments)
        environment = {**own_environment(), **visible, "BATON_FD": str(channel.fileno())}
        return await execute(command, environment, channel, log_fd)

    async def _living_server(self) -> ForkServer | None:
        """The fork server, started where it is not there; None where there is to be none."""
        async with self._warming:
            if not self._forks or (self._server is not None and self._server.alive):
                return self._server if self._forks else None
            if self._server is not None:
                self._deaths += 1
            why = await self._start_server()
            if self._server is not None and self._forks:
                return self._server
            if self._forks:
                self._forks = False
                self._say(
                    f"cannot use the fork server: {why}; each worker imports TensorFlow itself, which takes seconds"
                )
            return None

    async def _start_server(self) -> str | None:
        """Set `_server` to a living one, or to None and say why: one that cannot be, or too many that died."""
        why: str | None = f"it died {self._deaths} times"
        self._server = None
        while self._forks and self._deaths < DEATHS_LIMIT and self._server is None:
            server = self._server = ForkServer(self._preload, self._directory / "forkserver.log")
            try:
                why = await server.start()
                if why is not None:
                    return why
            except (CannotStartError, OSError) as error:  # also no descriptor left, or its log cannot be written
                self._deaths += 1
                why = str(error)
            finally:
                if not server.alive:
                    self._server = None
        return why


async def _inspect_programs(specs: list[SessionSpec]) -> list[dict[str, Any]]:
    """One answer each. Sessions of one Python and one environment ask it once; one Python is asked after the other."""
    told: dict[tuple[str, tuple[tuple[str, str], ...]], str | None] = {}
    answers: list[dict[str, Any]] = []
    for spec in specs:
        wrong = None
        if spec.python is not None:
            question = (spec.python, tuple((spec.env or {}).items()))
            if question not in told:
                told[question] = await asyncio.to_thread(unfit, spec.python, {**inherited(), **(spec.env or {})})
            wrong = told[question]
        answers.append({"error": None if wrong is None else {"key": "python", "reason": wrong}})
    return answers


def _device_environment(device: DeviceAssignment) -> dict[str, str]:
    """What shows a process its device and no other: NVML and CUDA count devices differently, so by UUID."""
    if device.kind == "cpu":
        return {"CUDA_VISIBLE_DEVICES": ""}
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": device.uuid or str(device.index),
    }


def _install_library(directory: Path) -> Path:
    """A folder that holds baton.py and nothing else: the rest of batond's packages are none of a program's business.

    Raises Problems; not where it lies there already, so that a later start needs no room for it.
    """
    found = importlib.util.find_spec("baton")
    assert found is not None
    assert found.origin is not None
    library, partial = directory / "baton.py", directory / ".baton.py.partial"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not library.exists() or library.read_bytes() != Path(found.origin).read_bytes():
            shutil.copyfile(found.origin, partial)
            partial.replace(library)
    except OSError as error:
        with suppress(OSError):  # it takes room where there is little; the error above is the one to tell
            partial.unlink()
        why = f"cache_dir: cannot put baton.py into {directory}: {error.strerror}"
        raise Problems([f"{why}; free some space there, or name another folder"]) from error
    return directory
