"""The control methods that only look: at the world, the record, the devices and the worker logs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from daemon import results, tail, views, wire
from daemon.control import Handler, Peer, Stream
from daemon.devices import Listing, Process
from daemon.feed import Feed, Listener
from daemon.logs import line
from daemon.loop import Loop
from daemon.store import SessionRecord, Store
from daemon.wire import Code, Refusal
from states.snapshot import World

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


def known(store: Store, name: str) -> SessionRecord:
    """The record of a session that is kept. Raises Refusal."""
    record = store.session(name)
    if record is None:
        raise Refusal(Code.NOT_FOUND, f"there is no session {name}; batonctl list --all shows all that are kept")
    return record


def _said(moment: datetime) -> str:
    """A time in the zone of whoever named it."""
    return moment.isoformat(" ", "seconds")


class Looking:
    """These methods, by name in `table`. All run on the event loop's thread."""

    def __init__(
        self, *, loop: Loop, store: Store, feed: Feed, crew: Crew, devices: Devices, daemon: views.Daemon
    ) -> None:
        self._loop = loop
        self._store = store
        self._feed = feed
        self._crew = crew
        self._devices = devices
        self._daemon = daemon
        self._submitted: dict[str, datetime] = {}
        self.table: Mapping[str, Handler] = {
            "status": self.status,
            "list": self.list_sessions,
            "show": self.show,
            "logs": self.logs,
            "devices": self.devices,
            "events": self.events,
            "timeline": self.timeline,
            "version": self.version,
        }

    def forget(self, names: Iterable[str]) -> None:
        """Other sessions have these names from now on."""
        for name in names:
            self._submitted.pop(name, None)

    @property
    def _world(self) -> World:
        return self._loop.world

    def _now(self) -> views.Now:
        return views.Now(time.monotonic(), datetime.now(UTC))

    async def version(self, _params: wire.Params, _peer: Peer) -> results.VersionResult:
        """Which daemon this is."""
        return results.VersionResult(version=self._daemon.version, protocol=wire.PROTOCOL, pid=self._daemon.pid)

    async def status(self, params: wire.StatusParams, _peer: Peer) -> results.StatusResult:
        """The lanes and the queue."""
        world, unrecorded = self._world, self._loop.unrecorded
        return views.status(world, self._daemon, self._feed.seq, self._now(), unrecorded, params.queue)

    async def list_sessions(self, params: wire.ListParams, _peer: Peer) -> results.ListResult:
        """Rows of live sessions, then of ended ones."""
        states = set(params.states)
        if params.names:
            rows = {row.name: row for row in self._live_rows(set(params.names))}
            found = [rows[name] if name in rows else self._ended_row(name) for name in dict.fromkeys(params.names)]
            return results.ListResult(
                sessions=tuple(row for row in found if row is not None and (not states or row.state in states))
            )
        queued = not states or "queued" in states  # else no row of a long queue is made, to be thrown away
        chosen = [row for row in self._live_rows(queued=queued) if not states or row.state in states]
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
        record = known(self._store, params.name)
        live = next(iter(self._live_rows({params.name})), None)
        log = self._crew.log_path(params.name)
        return results.ShowResult(
            session=live or views.ended_row(record),
            spec=msgspec.to_builtins(record.spec),
            history=tuple(line(entry.note, entry.seq, entry.ts) for entry in self._store.history(params.name)),
            log_path=str(log) if log.exists() else None,
            failure=views.failure(self._store.log_tails.of(record.id)),
            runs=tuple(views.run_view(run) for run in self._store.predictions.runs_of(record.id)),
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
        known(self._store, params.name)
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

    async def timeline(self, params: wire.TimelineParams, _peer: Peer) -> Stream:
        """A stretch of the record."""
        for moment in (params.since, params.until):
            if moment is not None and not 1970 <= moment.year < 9999:
                wrong = f"timeline: batond cannot have run at {_said(moment)}; name a time since 1970"
                raise Refusal(Code.INVALID_PARAMS, wrong)
        now = datetime.now(UTC)
        until = params.until or now
        since = params.since or self._store.past.usual_beginning(until)
        if since >= until:
            end = f"ends {_said(until)}" if params.until else "ends now"
            wrong = f"timeline: a stretch that {end} cannot begin {_said(since)}; give an earlier since"
            raise Refusal(Code.INVALID_PARAMS, wrong)
        return Stream(results.TimelineResult(since=since, until=until, now=now), self._stretch(since, until))

    async def _stretch(self, since: datetime, until: datetime) -> AsyncGenerator[Mapping[str, Any], None]:
        for piece in self._store.past.pieces(since, until):
            yield piece

    def _live_rows(self, only: set[str] | None = None, *, queued: bool = True) -> list[results.Row]:
        """Rows of live sessions. The record knows when each was submitted: the core counts from the daemon's start."""
        if not self._submitted.keys() >= set(views.live_names(self._world)):
            self._submitted = self._store.submitted()
        return views.live_rows(self._world, self._now(), self._submitted, only, queued=queued)

    def _ended_row(self, name: str) -> results.Row | None:
        record = self._store.session(name)
        return None if record is None else views.ended_row(record)
