"""The control methods that queue sessions. What is wrong with any session of a file refuses all of it.

Between a check of the world and the command that rests on it nothing is awaited that could let another command in.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from daemon import admission, results, sessionfile, views, wire
from daemon.control import Handler, Peer
from daemon.looking import known
from daemon.loop import Loop
from daemon.results_insight import PlanResult
from daemon.sessionfile import SessionSpec
from daemon.store import Store
from daemon.wire import Code, Refusal
from states.events import Queued
from states.snapshot import World
from states.work import Session

Inspect = Callable[[list[SessionSpec]], Awaitable[Sequence[Mapping[str, Any]]]]
PLANNED = 100  # runs that a dry run tells of


class Plan(Protocol):
    """Makes a plan of so many runs; `more`: sessions that are not queued, as if they were."""

    async def __call__(self, limit: int, skip: int = 0, more: tuple[Session, ...] = ()) -> PlanResult: ...


class Submissions:
    """These methods, by name in `table`. All run on the event loop's thread.

    `specs` holds what was submitted of every live session, by name; whoever records and starts sessions reads it.
    It is written before the session is queued, and taken back where that is refused. `renamed` is told the names
    that other sessions have from now on.
    """

    def __init__(
        self,
        *,
        loop: Loop,
        store: Store,
        inspect: Inspect,
        specs: MutableMapping[str, SessionSpec],
        renamed: Callable[[Iterable[str]], None],
        plan: Plan,
    ) -> None:
        """plan: the queue's future with some sessions that are not in it."""
        self._loop = loop
        self._store = store
        self._inspect = inspect
        self._specs = specs
        self._renamed = renamed
        self._plan = plan
        self.table: Mapping[str, Handler] = {"submit": self.submit, "retry": self.retry}

    @property
    def _world(self) -> World:
        return self._loop.world

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
                spec,
                found.get(spec.name, {}),
                order + index,
                admission.waits_for(spec, names, self._world),
                submission=secrets.token_hex(8),
            )
            for index, spec in enumerate(specs)
        ]
        self._check_fit(params.source, sessions)
        if params.dry_run:
            return await self._in_thought(sessions)
        await self._queue(sessions, specs)
        places = {session.name: place for place, session in enumerate(self._world.queue, 1)}
        return results.SubmitResult(
            sessions=tuple(results.Place(name=spec.name, place=places.get(spec.name, 0)) for spec in specs)
        )

    async def _in_thought(self, sessions: Sequence[Session]) -> results.SubmitResult:
        """Nothing is queued: the places these would have, and the queue's future with them."""
        queue = sorted((*self._world.queue, *sessions), key=lambda each: each.rank)
        places = {session.name: place for place, session in enumerate(queue, 1)}
        plan = await self._plan(PLANNED, 0, tuple(sessions))
        return results.SubmitResult(
            sessions=tuple(results.Place(name=each.name, place=places[each.name]) for each in sessions), plan=plan
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
        """What only TensorFlow, or their Python, can tell of the sessions that wait for no other, by name."""
        names = {spec.name for spec in specs}
        asked = (spec for spec in specs if spec.model is not None or spec.python is not None)
        ripe = [s for s in asked if not admission.waits_for(s, names, self._world)]
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
        first, *more = sessions
        self._renamed(spec.name for spec in specs)
        decision = await self._loop.ask(Queued(time.monotonic(), first, tuple(more)))
        if decision.refused is not None:
            live = views.live_names(self._world)
            for spec in specs:
                if spec.name not in live:
                    del self._specs[spec.name]
            raise Refusal(Code.REFUSED, decision.refused)

    async def retry(self, params: wire.NameParams, _peer: Peer) -> results.RetryResult:
        """Queue an ended session again, at its cursor."""
        record = known(self._store, params.name)
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
            record.spec,
            {"total": record.total, **found},
            order,
            waiting,
            submission=record.core.submission,
            cursor=record.cursor,
            begun=record.core.begun,
        )
        self._check_fit(source, [session])
        await self._queue([session], [record.spec])
        return results.RetryResult(name=record.name, place=views.place(self._world, record.name), cursor=session.cursor)


def _refused(source: str, problems: tuple[str, ...]) -> Refusal:
    count = f"{len(problems)} problems" if len(problems) > 1 else "one problem"
    return Refusal(Code.REFUSED, f"{source}: nothing was queued, for {count}", problems)
