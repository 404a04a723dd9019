"""The daemon put together: what is made, in which order it starts, what a signal does, in which order it ends."""

from __future__ import annotations

import asyncio
import gc
import grp
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from daemon import adoption, views
from daemon.adoption import Reception
from daemon.config import Config
from daemon.control import ControlServer
from daemon.departure import Departure
from daemon.devices import Devices
from daemon.feed import Feed
from daemon.forecasts import Forecasts
from daemon.handlers import Handlers
from daemon.logs import Log
from daemon.loop import Loop, RecordFailed
from daemon.messages import Rejoin
from daemon.notify import Manager
from daemon.nursery import Nursery
from daemon.perform import Performer
from daemon.readings import Readings
from daemon.records import Loaded, WorkerRecord
from daemon.register import Register
from daemon.reload import Refused, Reloaded, Reloader, hangup_reloads
from daemon.samples import Sampler
from daemon.sessionfile import SessionSpec
from daemon.store import RecordError, Store
from daemon.stories import (
    DaemonStarted,
    DaemonStopped,
    DaemonStopping,
    LauncherFellBack,
    RecordResumed,
    SessionUnreadable,
    StoreSetAside,
    Story,
    WorkerFound,
    WorkerTurnedAway,
)
from daemon.stories import RecordFailed as RecordFailedStory
from daemon.supervision import Supervision
from daemon.transcript import Transcript
from daemon.workers import Alive, Crew
from states.decision import Decision
from states.effects import Effect
from states.events import Cancel, Event, Exited, Kill, Queued, Stop
from states.notes import Note, SessionCancelled, SessionFailed, SessionFinished, StandbyStarted
from states.restore import Remnant, restore
from states.snapshot import Lane, State, World, find

WORKER_SOCKET: Final = "workers.sock"
TRANSCRIPT: Final = "transcript.json"
REJOIN_MARGIN_S: Final = 10.0  # a worker that gave up has this long to drain
KILL_WAIT_S: Final = 10.0  # after a second signal, for the killed to be gone
LEAVE_WAIT_S: Final = 5.0  # as long for a standby, where the others are left running
ENDED = (SessionFinished, SessionFailed, SessionCancelled)


class Service:
    """One daemon, from its start to its end. `run` is its whole life."""

    def __init__(
        self,
        config: Config,
        store: Store,
        log: Log,
        manager: Manager,
        reread: Callable[[], Config],
        given: socket.socket | None,
    ) -> None:
        """manager: who started the daemon. reread: reads the configuration again. given: a socket that listens
        already, for clients; None: it is made.
        """
        self._config = config
        self._manager = manager
        self._given = given
        self._reloader = Reloader(reread, self._configure, self._tell)
        self._store = store
        self._register = Register(store, lambda name: self._crew.log_path(name), self._tell)
        self._forecasts = Forecasts(store.predictions, self._register.note, self._tell)
        self._sampler = Sampler(lambda: self._loop.world, self._register.keep_samples)
        self._log = log
        self._specs: dict[str, SessionSpec] = {}
        self._started_at = time.monotonic()
        self._stop_asked_at = self._started_at
        self._stop_reason = "shutdown"
        self._missed: list[Event] = []
        self._awaited: dict[int, WorkerRecord] = {}  # found alive, and not seen to end
        self._signals = 0
        self._forced = asyncio.Event()
        self._departure: Departure | None = None
        self._departing = asyncio.Event()

    async def run(self) -> int:
        """Serve until told to stop; 0 when every session was drained, 1 when some were ended by force."""
        found = self._load()
        self._devices = Devices(found.gpus, {record.lane for record in self._store.workers()})
        self._register.note(lambda: self._store.keep_gpus(self._devices.discover()))
        async with AsyncExitStack() as ending:
            self._readings = Readings(
                self._devices,
                pace=lambda: self._config.memory,
                world=lambda: self._loop.world,
                owners=lambda: {worker.pid: worker.generation for worker in self._crew.alive()},
                post=self._read,
            )
            ending.callback(self._readings.close)
            nursery = Nursery(
                self._config.cache_dir,
                exits=self._exits,
                say=self._fell_back,
                use_fork_server=self._config.launcher != "exec",
            )
            ending.callback(nursery.close)
            self._crew = Crew(
                nursery,
                self._post,
                self._config.log_dir,
                born=self._register.worker_started,
                trimmed=lambda session, cut_bytes: self._transcript.trimmed(session, cut_bytes),
                rejoin=self._rejoin,
            )
            ending.callback(self._crew.close)
            self._transcript = Transcript(
                self._crew.log_path,
                self._log.emit,
                self._config.state_dir / TRANSCRIPT,
                wanted=self._config.log.workers,
            )
            ending.callback(self._transcript.close)
            self._feed = Feed(found.seq)
            self._loop = self._make_loop(found)
            ending.callback(self._loop.close)
            self._supervision = Supervision(self._manager, self._loop)
            await ending.enter_async_context(self._control(nursery))
            reception = Reception(self._worker_socket, self._crew, self._turned_away)
            ending.callback(reception.close)
            reception.open()
            self._take_signals()
            self._tell_started()
            chores = [
                asyncio.create_task(chore)
                for chore in (
                    self._readings.watch(),
                    nursery.warm(),
                    self._register.tidy(lambda: self._config.history, lambda: self._loop.world),
                    self._sampler.write(),
                    self._supervision.run(),
                )
            ]
            ending.push_async_callback(_end, chores)
            for fact in self._missed:
                self._post(fact)
            for session in self._loop.world.queue:
                if session.cancelled:  # somebody was promised its end, and its worker is gone
                    self._loop.post(Cancel(time.monotonic(), session.name))
            self._loop.start()
            ending.callback(self._readings.close)
            await self._readings.start(self._config.limits.readings)
            gc.collect()
            gc.freeze()  # what is there by now stays: else a full collection, 20 to 50 ms, may fall into a handover
            self._supervision.ready()
            await self._until_stopped(chores)
        self._sampler.end()
        self._tell_stopped()
        return 1 if self._forced.is_set() else 0

    # Putting together

    def _load(self) -> Loaded:
        found = self._store.load()
        self._specs.update(found.specs)
        if self._store.set_aside is not None:
            self._tell(StoreSetAside(str(self._store.set_aside.path), self._store.set_aside.reason))
        for name, reason in found.unreadable:
            self._tell(SessionUnreadable(name, reason))
        return found

    def _make_loop(self, found: Loaded) -> Loop:
        now = time.monotonic()
        lanes = {lane.name: replace(lane, since=now, held=lane.name in found.held) for lane in self._devices.discover()}
        world = World(
            lanes=lanes,
            queue=tuple(replace(session, not_before=0.0, queued_at=now) for session in found.queue),
            profiles=found.profiles,
            limits=self._config.limits,
            generation=found.generation,
        )
        return Loop(
            restore(world, self._remnants(found, lanes), now, self._config.adoption_timeout_s + REJOIN_MARGIN_S),
            record=self._record,
            tell=self._tell_decision,
            perform=self._unless_departing(Performer(self._crew, self._specs, lanes)),
            blocked=lambda why: self._tell(RecordFailedStory(why)),
            unblocked=lambda decisions, waited_s: self._tell(RecordResumed(decisions, waited_s)),
        )

    @property
    def _worker_socket(self) -> Path:
        return self._config.state_dir / WORKER_SOCKET

    @property
    def _rejoin(self) -> Rejoin:
        return Rejoin(socket=str(self._worker_socket), seconds=self._config.adoption_timeout_s)

    @property
    def _exits(self) -> Path:
        return self._config.state_dir / "exits"

    def _remnants(self, found: Loaded, lanes: Mapping[str, Lane]) -> list[Remnant]:
        """The workers that an earlier daemon left, alive or with an exit record; each is heard of from here on."""
        sessions = {session.name: session for session in found.queue}
        remnants: list[Remnant] = []
        for left in adoption.left_behind(self._store.workers(), self._exits):
            record, session = left.record, sessions.get(left.record.session)
            self._tell(WorkerFound(record.session, record.generation, record.pid, left.story))
            if session is None or record.lane not in lanes:
                left.kill()  # its session has ended, or its device is gone
                self._register.worker_gone(record.generation)
                continue
            if not record.promoted:
                left.kill()  # it has begun nothing, and at its low priority may be slow to see that it is alone
            remnants.append(Remnant(record.lane, session, record.generation, record.promoted))
            self._transcript.resume(record.session, record.lane, record.generation)
            if left.process is not None:
                who = Alive(record.session, record.generation, record.lane, record.pid, record.started)
                self._crew.expect(who, left.process)
                self._awaited[record.generation] = record
            else:
                self._missed += left.facts(time.monotonic())
        kept = {remnant.generation for remnant in remnants}
        for record in self._store.workers():
            if record.generation not in kept:
                self._register.worker_gone(record.generation)
        return remnants

    def _turned_away(self, reason: str) -> None:
        self._tell(WorkerTurnedAway(reason))

    def _control(self, nursery: Nursery) -> ControlServer:
        async def inspect(specs: list[SessionSpec]) -> list[dict[str, Any]]:
            return await nursery.inspect(specs, lower=self._crew.lower)

        handlers = Handlers(
            loop=self._loop,
            store=self._store,
            feed=self._feed,
            crew=self._crew,
            devices=self._readings,
            inspect=inspect,
            specs=self._specs,
            daemon=views.Daemon(version("batond"), os.getpid(), self._started_at),
            leave=self._leave,
            reload=self._reload,
        )
        control = self._config.control
        gid = None if control.group is None else grp.getgrnam(control.group).gr_gid
        return ControlServer(self._given or control.socket, handlers.table, gid, mode=control.mode, tell=self._tell)

    # Telling and recording

    def _tell(self, story: Note | Story, seq: int | None = None, at: datetime | None = None) -> None:
        moment = at or datetime.now(UTC)
        self._log.emit(story, seq, moment)
        if hasattr(self, "_feed"):
            self._feed.tell(story, seq, moment)

    def _tell_decision(self, decision: Decision, seq: int | None, recorded_at: float) -> None:
        moment = datetime.now(UTC)
        if decision.after.stopping and not decision.before.stopping:
            self._stop_asked_at = time.monotonic()
            self._supervision.stopping()
            busy = [worker.session.name for lane in decision.before.lanes.values() for worker in lane.workers()]
            self._tell(DaemonStopping(self._stop_reason, tuple(busy)), seq, moment)
        self._readings.look(decision.after)
        self._sampler.look_soon()
        for note in decision.notes:
            self._tell(note, seq, moment)
            if isinstance(note, StandbyStarted):
                self._transcript.begin(note.session, note.lane, note.generation)
            self._register.keep_output(note)
            if isinstance(note, ENDED):
                self._specs.pop(note.session, None)
        self._forecasts.heard(decision, seq, recorded_at)

    def _record(self, decision: Decision) -> int:
        specs: dict[str, SessionSpec] = {}
        if isinstance(decision.event, Queued) and decision.refused is None:
            specs = {session.name: self._specs[session.name] for session in decision.event.sessions}
        try:
            return self._store.record(decision, datetime.now(UTC), specs)
        except RecordError as error:
            raise RecordFailed(str(error)) from error

    def _post(self, event: Event) -> None:
        if isinstance(event, Exited):
            self._transcript.ended(event.generation)
        if self._departure is not None and self._departure.withholds(event):
            if isinstance(event, Exited):
                self._register.worker_gone(event.generation)
            return
        if isinstance(event, Exited):
            record = self._awaited.pop(event.generation, None)
            exited = None if record is None else adoption.exit_of(record, self._exits)
            for fact in () if exited is None else exited.facts(event.at):
                self._loop.post(fact)
            found = find(self._loop.world, event.generation)
            if event.status != 0 and found is not None and found[0].device == "gpu":
                # It may have failed because its device did: that is to be known before its end is judged.
                self._readings.before(found[0].name, lambda: self._loop.post(replace(event, at=time.monotonic())))
                return
        self._loop.post(event)

    def _read(self, event: Event) -> None:
        self._loop.post(event)
        self._sampler.look_soon()

    def _fell_back(self, reason: str) -> None:
        self._tell(LauncherFellBack(self._config.launcher, "exec", reason))

    def _tell_started(self) -> None:
        config = self._config
        self._tell(
            DaemonStarted(
                version=version("batond"),
                pid=os.getpid(),
                lanes=tuple(self._loop.world.lanes),
                sessions=len(self._loop.world.queue),
                launcher=config.launcher,
                state_dir=str(config.state_dir),
                socket=str(config.control.socket),
                config=None if config.source is None else str(config.source),
                no_gpu=self._devices.why_no_gpu or self._devices.unopened,
            )
        )

    def _tell_stopped(self) -> None:
        """The last word. Sessions that were left running are not in the queue, those of a killed standby are again."""
        queued, left_running = len(self._loop.world.queue), 0
        if self._departure is not None:
            queued += len(self._departure.handed_back)
            left_running = len(self._departure.sessions)
        self._tell(DaemonStopped(time.monotonic() - self._stop_asked_at, queued, left_running))
        self._supervision.stopped(queued, left_running)

    # Ending

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        if hangup_reloads():
            loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        else:
            loop.add_signal_handler(signal.SIGHUP, self._signalled, signal.SIGHUP)

    def _hung_up(self) -> None:
        with suppress(Refused):  # which the log tells, and there is nobody else to tell
            self._reload()

    def _reload(self) -> Reloaded:
        if self._loop.world.stopping or self._departure is not None:
            raise self._reloader.refused("cannot reload: batond is stopping")
        self._supervision.reloading()
        try:
            return self._reloader.reload(self._config)
        finally:
            self._supervision.ready()

    def _configure(self, config: Config) -> None:
        self._config = config
        self._crew.rejoin = self._rejoin
        self._log.set_level(config.log.level)
        self._transcript.wanted = config.log.workers
        self._loop.configure(config.limits)

    def _signalled(self, number: signal.Signals) -> None:
        if self._departure is not None:
            self._departure.hasten()  # it ends already, and is not to take with it what it leaves
        elif self._signals == 0 and not self._loop.world.stopping:
            self._stop_reason = number.name
            self._loop.post(Stop(time.monotonic()))
        else:
            self._end_by_force()
        self._signals += 1

    def _end_by_force(self) -> None:
        self._forced.set()
        self._loop.post(Kill(time.monotonic()))
        self._crew.kill_all()  # also where nothing can be recorded, and so nothing decided

    def _leave(self) -> Departure:
        """Begin to end without the sessions that run. They go on from this moment: nothing more is asked of a worker.

        What those say until the end is still decided on, and recorded; what the decisions ask for is left undone, as
        by a daemon that is killed between the two.
        """
        if self._departure is None:
            back_by = datetime.now(UTC) + timedelta(seconds=self._config.adoption_timeout_s)
            self._departure = Departure.from_world(self._loop.world, back_by)
            self._stop_asked_at = time.monotonic()
            self._supervision.stopping()
            self._tell(DaemonStopping("shutdown, and its sessions go on", ()))
            self._departure.begin(self._crew)
            self._departing.set()
        return self._departure

    def _unless_departing(self, perform: Callable[[Effect], None]) -> Callable[[Effect], None]:
        def performed(effect: Effect) -> None:
            if self._departure is None:
                perform(effect)

        return performed

    async def _departed(self) -> None:
        await self._departing.wait()
        assert self._departure is not None
        await self._departure.over(LEAVE_WAIT_S)

    async def _until_stopped(self, chores: list[asyncio.Task[None]]) -> None:
        stopped = asyncio.ensure_future(self._loop.until(_stopped))
        forced = asyncio.ensure_future(self._forced.wait())
        departed = asyncio.ensure_future(self._departed())
        watched: set[asyncio.Future[Any]] = {stopped, forced, departed, *chores}
        while not (stopped.done() or forced.done() or departed.done()):
            done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            watched -= done
            for each in done:
                each.result()  # a bug, in a decision or a chore, ends the daemon here
        if forced.done() and not stopped.done():
            await asyncio.wait({stopped}, timeout=KILL_WAIT_S)
        for each in (stopped, forced, departed):
            each.cancel()


async def _end(chores: list[asyncio.Task[None]]) -> None:
    for chore in chores:
        chore.cancel()
    await asyncio.gather(*chores, return_exceptions=True)


def _stopped(world: World) -> bool:
    lanes = world.lanes.values()
    return world.stopping and all(lane.state is State.STOPPED and not any(lane.workers()) for lane in lanes)
