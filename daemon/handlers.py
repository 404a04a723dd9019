"""The control methods: what each asks of the core, the record and the worker logs, and what it answers.

Between a check of the world and the command that rests on it nothing is awaited that could let another command in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from daemon import admission, results, sessionfile, tail, views, wire
from daemon.control import Handler, Peer, Stream
from daemon.devices import Listing, Process
from daemon.feed import Feed, Listener
from daemon.logs import line
from daemon.loop import Loop
from daemon.reload import Refused, Reloaded
from daemon.sessionfile import SessionSpec
from daemon.store import SessionRecord, Store
from daemon.wire import Code, Refusal
from states.events import Cancel, DrainLane, Kill, Move, Pause, Queued, Resume, Stop, Swap
from states.snapshot import Lane, World
from states.work import Session

PAGE = 200  # decisions read at once for the `events` stream
ENDED = ("done", "failed", "cancelled")


class Crew(Protocol):
    """What of the workers is asked here."""

    def log_path(self, session: str) -> Path:
        """Where the session's worker prints to."""
        ...


class Devices(Protocol):
    """What of the devices is asked here."""

    @property
    def why_no_gpu(self) -> str | None:
        """Why there is no GPU, where that is so."""
        ...

    async def listing(self) -> Sequence[Listing]:
        """What is known of each lane's device now."""
        ...

    def owner(self, process: Process) -> int | None:
        """The generation of the worker that a listed process belongs to; None for one that is not ours."""
        ...


class Departure(Protocol):
    """What of an end that leaves sessions running is told here."""

    @property
    def sessions(self) -> tuple[str, ...]:
        """Those that go on."""
        ...

    @property
    def back_by(self) -> datetime:
        """When they give up looking for a daemon."""
        ...


Inspect = Callable[[list[SessionSpec]], Awaitable[Sequence[Mapping[str, Any]]]]


class Handlers:
    """The methods of `wire.METHODS`, by name in `table`. All run on the event loop's thread.

    `specs` holds what was submitted of every live session, by name; whoever records and starts sessions reads it.
    It is written before the session is queued, and taken back where that is refused.
    """

    def __init__(
        self,
        *,
        loop: Loop,
        store: Store,
        feed: Feed,
        crew: Crew,
        devices: Devices,
        inspect: Inspect,
        specs: MutableMapping[str, SessionSpec],
        daemon: views.Daemon,
        leave: Callable[[], Departure],
        reload: Callable[[], Reloaded],
    ) -> None:
        self._loop = loop
        self._store = store
        self._feed = feed
        self._crew = crew
        self._devices = devices
        self._inspect = inspect
        self._specs = specs
        self._daemon = daemon
        self._leave = leave
        self._reload = reload
        self._submitted: dict[str, datetime] = {}
        self.table: Mapping[str, Handler] = {
            "submit": self.submit,
            "status": self.status,
            "list": self.list_sessions,
            "show": self.show,
            "cancel": self.cancel,
            "retry": self.retry,
            "move": self.move,
            "swap": self.swap,
            "drain": self.drain,
            "pause": self.pause,
            "resume": self.resume,
            "logs": self.logs,
            "devices": self.devices,
            "events": self.events,
            "reload": self.reload,
            "shutdown": self.shutdown,
            "version": self.version,
        }

    @property
    def _world(self) -> World:
        return self._loop.world

    def _now(self) -> views.Now:
        return views.Now(time.monotonic(), datetime.now(UTC))

    # Looking

    async def version(self, _params: wire.Params, _peer: Peer) -> results.VersionResult:
        """Which daemon this is."""
        return results.VersionResult(version=self._daemon.version, protocol=wire.PROTOCOL, pid=self._daemon.pid)

    async def status(self, _params: wire.Params, _peer: Peer) -> results.StatusResult:
        """The lanes and the queue."""
        return views.status(self._world, self._daemon, self._feed.seq, self._now(), self._loop.unrecorded)

    async def list_sessions(self, params: wire.ListParams, _peer: Peer) -> results.ListResult:
        """Rows of live sessions, then of ended ones."""
        states = set(params.states)
        if params.names:
            rows = {row.name: row for row in self._live_rows(set(params.names))}
            found = [rows[name] if name in rows else self._ended_row(name) for name in dict.fromkeys(params.names)]
            return results.ListResult(
                sessions=tuple(row for row in found if row is not None and (not states or row.state in states))
            )
        chosen = [row for row in self._live_rows() if not states or row.state in states]
        wanted = [state for state in ENDED if state in states or (params.ended and not states)]
        if not wanted:
            return results.ListResult(sessions=tuple(chosen))
        before = params.before if params.before is not None else 1 << 62
        records = self._store.sessions(wanted, params.limit + 1, before_id=before)  # type: ignore[arg-type]
        ended = [views.ended_row(record) for record in records[: params.limit]]
        return results.ListResult(
            sessions=(*([] if params.before else chosen), *ended),
            next=records[params.limit - 1].id if len(records) > params.limit else None,
        )

    async def show(self, params: wire.NameParams, _peer: Peer) -> results.ShowResult:
        """A session's row, spec and history."""
        record = self._known(params.name)
        live = next(iter(self._live_rows({params.name})), None)
        log = self._crew.log_path(params.name)
        return results.ShowResult(
            session=live or views.ended_row(record),
            spec=msgspec.to_builtins(record.spec),
            history=tuple(line(entry.note, entry.seq, entry.ts) for entry in self._store.history(params.name)),
            log_path=str(log) if log.exists() else None,
            failure=views.failure(self._store.log_tails.of(record.id)),
        )

    async def devices(self, _params: wire.Params, _peer: Peer) -> results.DevicesResult:
        """The lanes' devices."""
        listings = {listing.lane: listing for listing in await self._devices.listing()}
        headroom = self._world.limits.headroom_bytes
        return results.DevicesResult(
            devices=tuple(
                views.device_view(lane, headroom, listings[name], self._devices.owner)
                for name, lane in self._world.lanes.items()
            ),
            no_gpu=self._devices.why_no_gpu,
        )

    async def logs(self, params: wire.LogsParams, _peer: Peer) -> results.LogsResult:
        """A piece of a worker's output."""
        self._known(params.name)
        over = not any(
            worker.session.name == params.name for lane in self._world.lanes.values() for worker in lane.workers()
        ) and params.name not in views.live_names(self._world)
        path = self._crew.log_path(params.name)
        piece = await asyncio.to_thread(tail.read_piece, path, params.offset, params.max_bytes)
        return results.LogsResult(
            text=piece.text, offset=piece.offset, next_offset=piece.next_offset, ended=over and piece.whole
        )

    async def events(self, params: wire.EventsParams, _peer: Peer) -> Stream:
        """Past decisions from the record, then new ones as they are told."""
        if params.since is not None and params.last:
            raise Refusal(Code.INVALID_PARAMS, "events: give since or last, not both")
        seq = self._feed.seq
        since = max(0, seq - params.last) if params.since is None else params.since
        listener = Listener(self._feed) if params.follow and since >= seq else None  # from now, not from the first read
        return Stream(results.EventsResult(seq=seq), self._tell(since, listener, follow=params.follow))

    async def _tell(
        self, since: int, listener: Listener | None, *, follow: bool
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        try:
            if listener is None:
                while page := self._store.decisions(since, PAGE):
                    for decision in page:
                        since = decision.seq
                        for note in decision.notes:
                            yield line(note, decision.seq, decision.ts)
                if not follow:
                    return
                listener = Listener(self._feed)  # at once after the read that found nothing more: none is missed
            async for told in listener.lines():
                yield told
        finally:
            if listener is not None:
                listener.close()

    def _live_rows(self, only: set[str] | None = None) -> list[results.Row]:
        """Rows of live sessions. The record knows when each was submitted: the core counts from the daemon's start."""
        names = views.live_names(self._world)
        known = {name: self._submitted.get(name) or self._known(name).submitted_at for name in names}
        self._submitted = known
        return views.live_rows(self._world, self._now(), known, only)

    def _ended_row(self, name: str) -> results.Row | None:
        record = self._store.session(name)
        return None if record is None else views.ended_row(record)

    def _known(self, name: str) -> SessionRecord:
        record = self._store.session(name)
        if record is None:
            raise Refusal(Code.NOT_FOUND, f"there is no session {name}; batonctl list --all shows all that are kept")
        return record

    # Submitting

    async def submit(self, params: wire.SubmitParams, _peer: Peer) -> results.SubmitResult:
        """Check everything, then queue everything: all sessions of the file, or none."""
        try:
            specs = await asyncio.to_thread(sessionfile.parse, params.text, Path(params.base), source=params.source)
        except sessionfile.Problems as wrong:
            raise _refused(params.source, wrong.problems) from None
        self._check(params.source, specs)
        found = await self._inspected(params.source, specs)
        self._check(params.source, specs)  # once more: the inspection took its time
        names = {spec.name for spec in specs}
        order = views.next_order(self._world)
        sessions = [
            admission.to_session(
                spec, found.get(spec.name, {}), order + index, admission.waits_for(spec, names, self._world)
            )
            for index, spec in enumerate(specs)
        ]
        self._check_fit(params.source, sessions)
        await self._queue(sessions, specs)
        return results.SubmitResult(
            sessions=tuple(results.Place(name=name, place=self._place(name)) for name in (s.name for s in specs))
        )

    def _check(self, source: str, specs: Sequence[SessionSpec]) -> None:
        wrong = tuple(admission.problems(specs, self._world, self._live_specs(), self._end_of))
        if wrong:
            raise _refused(source, wrong)

    def _check_fit(self, source: str, sessions: Sequence[Session]) -> None:
        wrong = tuple(admission.misfits(sessions, self._world))
        if wrong:
            raise _refused(source, wrong)

    def _live_specs(self) -> dict[str, SessionSpec]:
        return {name: self._specs[name] for name in views.live_names(self._world) if name in self._specs}

    def _end_of(self, name: str) -> str | None:
        record = self._store.session(name)
        return None if record is None else record.state

    async def _inspected(self, source: str, specs: Sequence[SessionSpec]) -> dict[str, Mapping[str, Any]]:
        """What only TensorFlow can tell of the sessions that have a model and wait for no other, by name."""
        names = {spec.name for spec in specs}
        ripe = [s for s in specs if s.model is not None and not admission.waits_for(s, names, self._world)]
        if not ripe:
            return {}
        answers = await self._inspect(ripe)
        wrong = [
            f"{spec.name}: {answer['error']['key']}: {answer['error']['reason']}"
            for spec, answer in zip(ripe, answers, strict=True)
            if answer["error"]
        ]
        if wrong:
            raise _refused(source, tuple(wrong))
        return {spec.name: answer for spec, answer in zip(ripe, answers, strict=True)}

    async def _queue(self, sessions: Sequence[Session], specs: Sequence[SessionSpec]) -> None:
        """Queue them all, as one decision: recorded whole, or refused whole."""
        for spec in specs:
            self._specs[spec.name] = spec
            self._submitted.pop(spec.name, None)
        first, *more = sessions
        decision = await self._loop.ask(Queued(time.monotonic(), first, tuple(more)))
        if decision.refused is not None:
            live = views.live_names(self._world)
            for spec in specs:
                if spec.name not in live:
                    del self._specs[spec.name]
            raise Refusal(Code.REFUSED, decision.refused)

    def _place(self, name: str) -> int:
        return views.place(self._world, name) or 0

    async def retry(self, params: wire.NameParams, _peer: Peer) -> results.RetryResult:
        """Queue an ended session again, at its cursor."""
        record = self._known(params.name)
        if record.state not in ("failed", "cancelled"):
            state = "done; submit it again" if record.state == "done" else f"{record.state} and has not ended"
            raise Refusal(Code.REFUSED, f"cannot retry {record.name}: it is {state}")
        source = f"retry {record.name}"
        self._check(source, [record.spec])
        found = (await self._inspected(source, [record.spec])).get(record.name, {})
        self._check(source, [record.spec])
        waiting = admission.waits_for(record.spec, set(), self._world)
        order = views.next_order(self._world)
        session = admission.to_session(
            record.spec, {"total": record.total, **found}, order, waiting, cursor=record.cursor, begun=record.core.begun
        )
        self._check_fit(source, [session])
        await self._queue([session], [record.spec])
        return results.RetryResult(name=record.name, place=self._place(record.name), cursor=session.cursor)

    # Acting

    async def cancel(self, params: wire.CancelParams, _peer: Peer) -> results.CancelResult:
        """End sessions; one that is unknown stops all."""
        for name in params.names:
            self._known(name)
        cancelled: list[str] = []
        refused: list[results.Refused] = []
        for name in dict.fromkeys(params.names):
            why = (await self._loop.ask(Cancel(time.monotonic(), name))).refused
            if why is None:
                cancelled.append(name)
            else:
                refused.append(results.Refused(name=name, reason=why))
        if not cancelled:
            raise Refusal(Code.REFUSED, refused[0].reason, tuple(each.reason for each in refused[1:]))
        return results.CancelResult(cancelled=tuple(cancelled), refused=tuple(refused))

    async def move(self, params: wire.MoveParams, _peer: Peer) -> results.MoveResult:
        """Give a session another place."""
        if params.first + params.last + (params.before is not None) != 1:
            raise Refusal(Code.INVALID_PARAMS, "move: give one of first, last and before")
        for name in (params.name, params.before):
            if name is not None:
                self._known(name)
        await self._command(Move(time.monotonic(), params.name, before=params.before, last=params.last))
        return results.MoveResult(name=params.name, place=self._place(params.name))

    async def swap(self, params: wire.SwapParams, _peer: Peer) -> results.SwapResult:
        """Hand a lane over."""
        lane = self._lane("swap", params.lane)
        if params.to is not None:
            self._known(params.to)
        await self._command(Swap(time.monotonic(), lane.name, to=params.to, force=params.force))
        after = self._world.lanes[lane.name]
        to = after.standby.session.name if after.standby else after.reserved
        return results.SwapResult(
            lane=lane.name, state=after.state.value, session=lane.active.session.name if lane.active else "", to=to
        )

    async def drain(self, params: wire.LaneParams, _peer: Peer) -> results.LanesResult:
        """Pause lanes and put their sessions back."""
        return await self._hold("drain", params, DrainLane)

    async def pause(self, params: wire.LaneParams, _peer: Peer) -> results.LanesResult:
        """Start nothing more on lanes."""
        return await self._hold("pause", params, Pause)

    async def resume(self, params: wire.LaneParams, _peer: Peer) -> results.LanesResult:
        """Let lanes go on."""
        return await self._hold("resume", params, Resume)

    async def reload(self, _params: wire.Params, _peer: Peer) -> results.ReloadResult:
        """Read the configuration again."""
        try:
            reloaded = self._reload()
        except Refused as refused:
            raise Refusal(Code.REFUSED, "the configuration stays as it was", refused.problems) from None
        return results.ReloadResult(changed=reloaded.changed, config=reloaded.source)

    async def shutdown(self, params: wire.ShutdownParams, _peer: Peer) -> results.ShutdownResult:
        """End the daemon."""
        if params.leave_running:
            return self._left_running(params)
        await self._loop.ask(Kill(time.monotonic()) if params.now else Stop(time.monotonic()))
        names = [worker.session.name for _, worker in views.live_workers(self._world)]
        return results.ShutdownResult(waits_for=tuple(names))

    def _left_running(self, params: wire.ShutdownParams) -> results.ShutdownResult:
        if params.now:
            raise Refusal(Code.INVALID_PARAMS, "shutdown: give now or leave_running, not both")
        if self._world.stopping:
            raise Refusal(Code.REFUSED, "cannot leave the sessions running: batond is stopping, and they are draining")
        departure = self._leave()
        return results.ShutdownResult(waits_for=(), left_running=departure.sessions, back_by=departure.back_by)

    async def _hold(
        self, method: str, params: wire.LaneParams, event: type[DrainLane] | type[Pause] | type[Resume]
    ) -> results.LanesResult:
        if params.all and params.lane is not None:
            raise Refusal(Code.INVALID_PARAMS, f"{method}: give a lane or all, not both")
        names = list(self._world.lanes) if params.all else [self._lane(method, params.lane).name]
        for name in names:
            await self._command(event(time.monotonic(), name))
        return results.LanesResult(lanes=tuple(names))

    def _lane(self, method: str, name: str | None) -> Lane:
        lanes = self._world.lanes
        if name is None:
            if len(lanes) != 1:
                raise Refusal(Code.INVALID_PARAMS, f"{method}: name the lane; there are {', '.join(lanes)}")
            return next(iter(lanes.values()))
        if name not in lanes:
            raise Refusal(Code.NOT_FOUND, f"there is no lane {name}; there is {', '.join(lanes)}")
        return lanes[name]

    async def _command(self, event: Move | Swap | DrainLane | Pause | Resume) -> None:
        decision = await self._loop.ask(event)
        if decision.refused is not None:
            raise Refusal(Code.REFUSED, decision.refused)


def _refused(source: str, problems: tuple[str, ...]) -> Refusal:
    count = f"{len(problems)} problems" if len(problems) > 1 else "one problem"
    return Refusal(Code.REFUSED, f"{source}: nothing was queued, for {count}", problems)
