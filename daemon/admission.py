"""Whether sessions may be queued, and what they are to the core. Pure: reads no file but links, asks nobody."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from daemon.sessionfile import SessionSpec, stated_bytes, to_lead
from daemon.sessionpaths import around
from daemon.views import live_names, live_workers
from states import gate, reasons
from states.snapshot import World
from states.work import Session

EndOf = Callable[[str], str | None]  # how a session that is not live ended: done, failed, cancelled; None: unknown


def problems(
    specs: Sequence[SessionSpec], world: World, live: Mapping[str, SessionSpec], end_of: EndOf
) -> Iterator[str]:
    """Everything for which these sessions cannot be queued now. `live`: the specs of the live sessions."""
    if world.stopping:
        yield "batond is stopping, and takes no sessions"
        return
    theirs, ours = _outputs(live.values()), _outputs(specs)
    names = {spec.name for spec in specs}
    whereabouts = _whereabouts(world)
    coming = names | whereabouts.keys()
    for spec in specs:
        if (where := whereabouts.get(spec.name)) is not None:
            yield f"{spec.name}: name: a session of that name is {where}; choose another, or wait for its end"
        for name in spec.after:
            if (wrong := _dependency(name, coming, end_of)) is not None:
                yield f"{spec.name}: after: {wrong}"
        yield from misfits((to_session(spec, {}, 0.0, frozenset()),), world)
        if not any(lane.takes(spec.device) for lane in world.lanes.values()):
            there = ", ".join(f"{lane.name} ({lane.uuid or lane.device})" for lane in world.lanes.values())
            yield f"{spec.name}: device: no lane has the device {spec.device}; the lanes are {there}"
    for real, spec in ours.items():
        if (other := theirs.get(real)) is not None and other.name != spec.name:
            alive = f"the output of {other.name}, which has not ended"
            yield f"{spec.name}: output: {spec.output} is {alive}; give each its own"
        if (outer := around(real, theirs)) is not None:
            alive = f"the output of {outer.name}, which has not ended"
            yield f"{spec.name}: output: {spec.output} is inside {outer.output}, {alive}; give each its own"
    for real, other in theirs.items():
        if (outer := around(real, ours)) is not None:
            alive = f"the output of {other.name}, which has not ended"
            yield f"{outer.name}: output: {other.output}, {alive}, is inside {outer.output}; give each its own"


def misfits(sessions: Iterable[Session], world: World) -> Iterator[str]:
    """The sessions that have no room on any lane, however empty: by what was measured, stated, or is surely so."""
    for session in sessions:
        lanes = [lane for lane in world.lanes.values() if lane.takes(session.device) and not lane.lost]
        if lanes and not any(gate.can_ever_fit(world, lane, session) for lane in lanes):
            key = "memory" if session.stated_bytes is not None else "model" if session.stepwise else "run"
            yield f"{session.name}: {key}: {reasons.never_fits(world, lanes, session)}; make it smaller"


def _outputs(specs: Iterable[SessionSpec]) -> dict[str, SessionSpec]:
    """Sessions by the real paths of their outputs, as far as they have one."""
    return {os.path.realpath(spec.output): spec for spec in specs if spec.output is not None}


def _whereabouts(world: World) -> dict[str, str]:
    """Where each live session is, in words."""
    places = {session.name: "queued" for session in world.queue}
    return places | {worker.session.name: f"on lane {lane.name}" for lane, worker in live_workers(world)}


def _dependency(name: str, coming: Collection[str], end_of: EndOf) -> str | None:
    if name in coming:
        return None
    end = end_of(name)
    if end is None:
        return f"no session {name} is in this file, live, or done"
    if end != "done":
        return f"{name} {'failed' if end == 'failed' else f'was {end}'}; batonctl retry {name} first, or take it out"
    return None


def waits_for(spec: SessionSpec, names: set[str], world: World) -> frozenset[str]:
    """The sessions of `after` that are still to come; `names`: those queued together with it."""
    coming = names.union(live_names(world)) if spec.after else names
    return frozenset(name for name in spec.after if name in coming)


def to_session(
    spec: SessionSpec,
    found: Mapping[str, Any],
    order: float,
    waiting: frozenset[str],
    *,
    submission: str = "",
    cursor: int | None = None,
    begun: bool = False,
) -> Session:
    """The session as the core takes it. `found`: the inspector's answer, empty where it was not asked.

    `submission`: as `Session` has it. `cursor` and `begun` are those of an earlier run, where the record has one; else
    the inspection tells.
    """
    resumable = spec.run is None or spec.prepare
    resume_at = (found.get("cursor") or 0 if cursor is None else cursor) if resumable else 0
    return Session(
        name=spec.name,
        order=order,
        submission=submission,
        priority=spec.priority,
        device=spec.device,
        profile=_profile(spec, found),
        guess_bytes=found.get("need_bytes") or 0,
        guess_device_bytes=found.get("device_bytes") or 0,
        least_bytes=found.get("weights_bytes") or 0,
        stated_bytes=stated_bytes(spec),
        total=found.get("total"),
        cursor=resume_at,
        max_attempts=spec.max_attempts,
        lead=to_lead(spec),
        waits_for=waiting,
        resumable=resumable,
        prepares=resumable,
        stepwise=spec.run is None,
        begun=begun or resume_at > 0,
    )


def _profile(spec: SessionSpec, found: Mapping[str, Any]) -> str:
    """Under which key what is learned of its model is kept; empty: under the session's name."""
    if spec.run is not None:
        parts = [*spec.run, spec.cwd or ""]
        parts += [] if spec.python is None else ["python", spec.python]
        parts += [f"{name}={value}" for name, value in sorted((spec.env or {}).items())]
        digest = hashlib.sha256("\0".join(parts).encode(errors="surrogateescape"))
        return f"run-{digest.hexdigest()[:32]}"
    fingerprint = found.get("fingerprint")
    if not fingerprint:
        return ""
    return f"{fingerprint}/{spec.batch_size}/tensorflow-{found.get('tensorflow') or 'unknown'}"
