"""The control methods: each by its name, and those that give orders. Their rights and forms are `wire`'s.

Between a check of the world and the command that rests on it nothing is awaited that could let another command in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, MutableMapping
from datetime import datetime
from typing import Protocol

from daemon import results, views, wire
from daemon.control import Handler, Peer
from daemon.feed import Feed
from daemon.insight import Insight
from daemon.inspection import Inspection
from daemon.looking import Crew, Devices, Looking, known
from daemon.loop import Loop
from daemon.planning import Planner
from daemon.reload import Refused, Reloaded
from daemon.sessionfile import SessionSpec
from daemon.store import Store
from daemon.submissions import Inspect, Submissions
from daemon.wire import Code, Refusal
from states.events import Cancel, DrainLane, Kill, Move, Pause, Resume, Stop, Swap
from states.snapshot import Lane, World


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


class Handlers:
    """The methods of `methods.METHODS`, by name in `table`. All run on the event loop's thread."""

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
        """specs: as `Submissions` takes them."""
        self._loop = loop
        self._store = store
        self._leave = leave
        self._reload = reload
        looking = Looking(loop=loop, store=store, feed=feed, crew=crew, devices=devices, daemon=daemon)
        planner = Planner(lambda: loop.world, store.predictions)
        submissions = Submissions(
            loop=loop, store=store, inspect=inspect, specs=specs, renamed=looking.forget, plan=planner.plan
        )
        self.table: Mapping[str, Handler] = {
            **looking.table,
            **submissions.table,
            **Inspection(inspect).table,
            **Insight(world=lambda: loop.world, store=store, planner=planner).table,
            "cancel": self.cancel,
            "move": self.move,
            "swap": self.swap,
            "drain": self.drain,
            "pause": self.pause,
            "resume": self.resume,
            "reload": self.reload,
            "shutdown": self.shutdown,
        }

    @property
    def _world(self) -> World:
        return self._loop.world

    async def cancel(self, params: wire.CancelParams, _peer: Peer) -> results.CancelResult:
        """End sessions; one that is unknown stops all."""
        for name in params.names:
            known(self._store, name)
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
                known(self._store, name)
        await self._command(Move(time.monotonic(), params.name, before=params.before, last=params.last))
        return results.MoveResult(name=params.name, place=views.place(self._world, params.name))

    async def swap(self, params: wire.SwapParams, _peer: Peer) -> results.SwapResult:
        """Hand a lane over."""
        lane = self._lane("swap", params.lane)
        if params.to is not None:
            known(self._store, params.to)
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
