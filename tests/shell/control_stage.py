"""A daemon on a real socket whose workers are acted: real loop, record, feed, handlers and server. Asserts nothing."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from daemon import methods, views, wire
from daemon.control import Bounds, ControlServer, Handler, Peer, Stream
from daemon.departure import Departure
from daemon.devices import Listing, Process
from daemon.feed import Feed
from daemon.forecasts import Forecasts
from daemon.handlers import Handlers
from daemon.loop import Loop
from daemon.reload import Reloaded
from daemon.results import EventsResult, VersionResult
from daemon.sessionfile import SessionSpec
from daemon.store import Store
from daemon.stories import ClientRefused, Story
from daemon.wire import Code
from states.decision import Decision
from states.effects import AdvanceStandby, DrainActive, Effect, EndWorker, Promote, RaiseStandby, StartStandby
from states.events import (
    Committed,
    Event,
    Exited,
    Failed,
    Hello,
    LastBatch,
    Memory,
    Progress,
    Promoted,
    Queued,
    Quiesced,
    Ready,
)
from states.notes import Note
from states.snapshot import Lane, State, World
from states.work import Session, Tier

GIB = 1 << 30
PATIENCE_S = 20.0
T = TypeVar("T")
now = time.monotonic


class Crew:
    """Acts the workers: prepares at once, computes `batch` items each `batch_s`, fails sessions named `bad…`.

    While `frozen` holds nobody computes; `total` is what each session's worker says it has.
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.batch, self.batch_s, self.total = 100, 0.01, 1000
        self.frozen = False
        self.loop: Loop | None = None
        self._sessions: dict[int, Session] = {}
        self._done: dict[int, int] = {}
        self._ending: set[int] = set()

    def log_path(self, session: str) -> Path:
        return self.logs / f"{session}.log"

    def perform(self, effect: Effect) -> None:
        asyncio.get_running_loop().call_soon(self._act, effect)

    def _post(self, event: Any) -> None:
        assert self.loop is not None
        self.loop.post(event)

    def _act(self, effect: Effect) -> None:
        number = effect.generation
        match effect:
            case StartStandby(session=session, tier=tier):
                self._sessions[number], self._done[number] = session, session.cursor
                with self.log_path(session.name).open("a") as log:
                    log.write(f"{session.name} prepares ✓\n")
                self._post(Hello(now(), number, session.cursor))
                self._ready(number, tier)
            case AdvanceStandby(tier=tier):
                self._ready(number, tier)
            case Promote():
                self._post(Promoted(now(), number, now()))
                self._compute(number)
            case DrainActive():
                self._ending.add(number)
            case EndWorker():
                self._exit(number, -15)
            case RaiseStandby():
                pass

    def _ready(self, number: int, tier: Tier) -> None:
        self._post(Ready(now(), number, tier, 0.01, self.total, 100 << 20))

    def _compute(self, number: int) -> None:
        if number not in self._sessions:
            return
        name, done = self._sessions[number].name, self._done[number]
        if name.startswith("bad") and done >= 300:
            self._post(Failed(now(), number, "program", "ValueError: item 300 is\x1b[31m bad", 300))
            self._exit(number, 1)
            return
        if number in self._ending or done >= self.total:
            if done >= self.total:
                self._post(LastBatch(now(), number))
            self._post(Quiesced(now(), number, now(), done, self.total - done))
            self._post(Committed(now(), number, done, 100 << 20))
            self._exit(number, 0)
            return
        if not self.frozen:
            self._done[number] = done = min(self.total, done + self.batch)
            self._post(Progress(now(), number, done, done, self.total, 100 << 20))
        asyncio.get_running_loop().call_later(self.batch_s, self._compute, number)

    def _exit(self, number: int, status: int) -> None:
        if self._sessions.pop(number, None) is not None:
            self._post(Exited(now(), number, status))
            assert self.loop is not None
            for name in [*self.loop.world.lanes] * 2:  # what it held is back
                self._post(Memory(now(), name, 64 * GIB, 64 * GIB))


class Labels:
    """What the stage's devices are called."""

    why_no_gpu = None

    def __init__(self, lanes: Sequence[str]) -> None:
        self._lanes = lanes

    async def listing(self) -> tuple[Listing, ...]:
        return tuple(Listing(lane, "cpu", f"the {lane} of a stage") for lane in self._lanes)

    def owner(self, _process: Process) -> int | None:
        return None


class Stage:
    """The daemon, in a thread with its own event loop, on the socket `path`."""

    def __init__(
        self, folder: Path, *, lanes: Sequence[str] = ("cpu",), gid: int | None = None, bounds: Bounds | None = None
    ) -> None:
        self.folder, self.path = folder, folder / "control.sock"
        self.crew = Crew(folder)
        self.inspected: list[str] = []
        self.bugs: list[dict[str, Any]] = []
        self.told: list[ClientRefused] = []
        self.world: World | None = None
        self._lanes, self._gid, self._bounds = lanes, gid, bounds or Bounds()
        self._ready: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def __enter__(self) -> Stage:
        self._thread.start()
        self._events = self._ready.result(PATIENCE_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._thread.is_alive():
            self._events.call_soon_threadsafe(self._stopped.set)
            self._thread.join(PATIENCE_S)

    async def _main(self) -> None:
        self._stopped = asyncio.Event()
        self.inspection = asyncio.Event()  # cleared, inspections wait
        self.inspection.set()
        events = asyncio.get_running_loop()
        events.set_exception_handler(lambda _, context: self.bugs.append(context))
        store = Store.open(self.folder / "state")
        loaded = store.load()
        specs: dict[str, SessionSpec] = dict(loaded.specs)
        self.feed = feed = Feed(loaded.seq)

        def say(story: Note | Story, seq: int | None) -> None:
            feed.tell(story, seq, datetime.now(UTC))

        forecasts = Forecasts(store.predictions, lambda write: write(), say)

        def tell(decision: Decision, seq: int | None, recorded_at: float) -> None:
            for note in decision.notes:
                say(note, seq)
            forecasts.heard(decision, seq, recorded_at)

        self.loop = Loop(
            World(lanes={name: Lane(name, since=now()) for name in self._lanes}),
            record=lambda decision: store.record(decision, datetime.now(UTC), specs),
            tell=tell,
            perform=self.crew.perform,
            blocked=print,
            unblocked=print,
        )
        self.crew.loop = self.loop
        for name in [*self._lanes, *self._lanes]:
            self.loop.post(Memory(now(), name, 64 * GIB, 64 * GIB))
        for session in loaded.queue:
            self.loop.post(Queued(now(), session))
        handlers = Handlers(
            loop=self.loop,
            store=store,
            feed=feed,
            crew=self.crew,
            devices=Labels(self._lanes),
            inspect=self._inspect,
            specs=specs,
            daemon=views.Daemon("0.1.0", 4711, now()),
            leave=self._leave,
            reload=lambda: Reloaded(("log.level",), "/etc/batond/batond.toml"),
        )
        async with ControlServer(
            self.path, handlers.table, self._gid, mode=0o666, bounds=self._bounds, tell=self.told.append
        ):
            self._ready.set_result(events)
            await self._stopped.wait()
        self.loop.close()
        store.close()

    def _leave(self) -> Departure:
        return Departure.from_world(self.loop.world, datetime(2026, 3, 1, 12, tzinfo=UTC))

    async def _inspect(self, specs: list[SessionSpec]) -> list[Mapping[str, Any]]:
        self.inspected += [spec.name for spec in specs]
        await self.inspection.wait()
        return [
            {"error": {"key": "signature", "reason": "the model has no signature 'predict'"}}
            if spec.signature == "predict"
            else {
                "error": None,
                "total": 1000,
                "cursor": 0,
                "fingerprint": "f00d",
                "need_bytes": GIB,
                "tensorflow": "2",
            }
            for spec in specs
        ]

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of a coroutine that runs on the daemon's event loop."""
        return asyncio.run_coroutine_threadsafe(work(), self._events).result(PATIENCE_S)

    def post(self, event: Event) -> None:
        """Tell the loop a fact."""
        self._events.call_soon_threadsafe(self.loop.post, event)

    def until(self, holds: Callable[[World], bool]) -> None:
        """Wait until something holds of the daemon's world."""
        self.run(lambda: self.loop.until(holds))

    def thaw(self) -> None:
        """Let sessions compute."""
        self.crew.frozen = False


class Line:
    """A raw connection: bytes out, JSON lines in."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(path))
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> Any:
        """The next line, decoded; None at the end."""
        line = self._file.readline()
        return json.loads(line) if line else None

    def ask(self, method: str, **params: Any) -> Any:
        """The whole answer to a request."""
        request = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        self.send(json.dumps(request).encode() + b"\n")
        return self.read()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def session_file(*names: str, **keys: str) -> str:
    """A session file whose sessions are programs that prepare; `keys` are added to each, as TOML values."""
    extra = "".join(f"{key} = {value}\n" for key, value in keys.items())
    return "\n".join(f'[[session]]\nname = "{name}"\nrun = ["true"]\nprepare = true\n{extra}' for name in names)


def request(method: str, identity: object = 1, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": identity, "method": method, "params": params}).encode() + b"\n"


def error_of(answer: Any) -> Code:
    return Code(answer["error"]["code"])


class Quiet:
    """A few handlers of another kind."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.table: dict[str, Handler] = {"version": self.version, "status": self.status, "events": self.events}

    async def version(self, _params: wire.Params, peer: Peer) -> VersionResult:
        return VersionResult(version="x", protocol=1, pid=peer.pid)

    async def status(self, _params: wire.Params, _peer: Peer) -> msgspec.Struct:
        raise ZeroDivisionError("a bug")

    async def events(self, _params: wire.Params, _peer: Peer) -> Stream:
        return Stream(EventsResult(seq=3), self._lines())

    async def _lines(self) -> AsyncGenerator[Mapping[str, Any], None]:
        try:
            yield {"seq": 4}
            await asyncio.Event().wait()
        finally:
            self.ended.set()


def serve(where: Path | socket.socket, test: Callable[[ControlServer, Quiet], Coroutine[Any, Any, None]]) -> list[Any]:
    bugs: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: bugs.append(context.get("exception")))
        quiet = Quiet()
        async with ControlServer(where, quiet.table) as server:
            await test(server, quiet)

    asyncio.run(main())
    return bugs


async def talk(path: Path, *lines: bytes, answers: int = 1) -> list[Any]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.writelines(lines)
    found = [json.loads(await asyncio.wait_for(reader.readline(), 20) or b"null") for _ in range(answers)]
    writer.close()
    return found


def submit(line: Line, *names: str, **keys: str) -> Any:
    return line.ask("submit", text=session_file(*names, **keys), base="/")


def done(line: Line, method: str, **params: Any) -> Any:
    answer = line.ask(method, **params)
    assert "result" in answer, answer
    msgspec.convert(answer["result"], methods.METHODS[method].result)  # it is what was declared
    return answer["result"]


def refused(line: Line, method: str, **params: Any) -> tuple[Code, str, list[str]]:
    error = line.ask(method, **params)["error"]
    return Code(error["code"]), error["message"], error.get("data", {}).get("problems", [])


def running(name: str) -> Any:
    return lambda world: any(
        lane.active and lane.active.session.name == name and lane.state is State.RUNNING
        for lane in world.lanes.values()
    )


def ended(name: str) -> Any:
    return lambda world: name not in views.live_names(world)
