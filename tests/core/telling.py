"""What a scenario says of a decision and of a world, as lines. Reads nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from enum import Enum
from typing import Any

from states.decision import Decision
from states.effects import Force
from states.notes import CommandRefused, LaneMoved, ProfileLearned, SessionQueued
from states.reasons import reason
from states.snapshot import Fate, Lane, Worker, World
from states.work import Session

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def told(decision: Decision) -> Iterator[str]:
    if decision.refused is not None:
        yield f"! {decision.refused}"
    for note in decision.notes:
        match note:
            case CommandRefused():
                pass
            case LaneMoved():
                yield f"· {note.lane} {note.from_state} → {note.to_state} by {note.cause} when {note.guard or 'always'}"
            case SessionQueued(session=session):
                yield f"· {note.event} {session.name}: {note.reason}"
            case ProfileLearned(profile=learned):
                times = f"prepared={_seconds(learned.prepared_s)} alone={_seconds(learned.alone_s)}"
                yield f"· {note.event} {note.key} {times} peak={bytes_(learned.peak_bytes)}"
            case _:
                yield f"· {note.event} {_values(note)}"
    for effect in decision.effects:
        yield f"> {type(effect).__name__} {_values(effect)}"


def _values(record: Any) -> str:
    """The fields of a note or an effect: the session's name and generation first, the lane left out where one is."""
    words: list[str] = []
    for field in fields(record):
        value = getattr(record, field.name)
        match field.name:
            case "lane":
                continue
            case "session":
                words.append(value.name if isinstance(value, Session) else value)
            case "generation":
                words.append(f"#{value}")
            case _ if value is None:
                continue
            case name:
                words.append(f"{name}={bytes_(value) if name.endswith('_bytes') else figure(value)}")
    return " ".join(words)


def lane_lines(world: World, lane: Lane, at: float) -> list[str]:
    marks = [
        "paused" if lane.held else "",
        "a swap is asked for" if lane.swap_asked else "",
        f"reserved: {lane.reserved}" if lane.reserved else "",
    ]
    extra = "".join(f", {mark}" for mark in marks if mark)
    lines = [f"{lane.name} {lane.state.value}{extra}: {reason(world, lane, at)}"]
    roles = [("active", lane.active), ("standby", lane.standby)]
    roles += [("retiring", each) for each in lane.retiring] + [("leaving", each) for each in lane.leaving]
    return lines + [f"  {role} {_worker_line(worker)}" for role, worker in roles if worker is not None]


def _worker_line(worker: Worker) -> str:
    parts = [f"{worker.session.name} #{worker.generation} {worker.phase.value}"]
    if worker.phase.value in {"loading", "ready"}:
        parts[0] += f" ({(worker.tier or worker.aim).label if worker.phase.value == 'ready' else worker.aim.label})"
        parts.append("low priority" if worker.low_priority else "normal priority")
    else:
        parts.append(f"{worker.done} of {'?' if worker.total is None else worker.total}, {worker.cursor} durable")
    parts.append(f"reserved {bytes_(worker.reserved)}")
    if worker.paused is not None:
        parts.append(f"paused: {worker.paused}")
    if worker.settled:
        parts.append("its session has ended")
    elif worker.fate is not Fate.COMPLETE:
        parts.append(f"then {worker.fate.value}")
    if worker.trouble is not None:
        parts.append(f"{worker.trouble.kind}: {worker.trouble.reason}")
    if worker.forced is not None:
        parts.append(f"told to go by {worker.forced.value}")
    for word, limit in (("until", worker.deadline), ("stalled at", worker.stall_at)):
        if limit is not None:
            parts.append(f"{word} {figure(limit)}")
    return ", ".join(parts)


def queued(session: Session, at: float) -> str:
    line = session.name
    if session.cursor:
        line += f" from {session.cursor}"
    if session.attempt:
        line += f", attempt {session.attempt + 1} of {session.max_attempts}"
    if session.out_of_memory:
        line += ", alone on a device"
    if session.not_before > at:
        line += f", not before {figure(session.not_before)}"
    if session.waits_for:
        line += f", after {', '.join(sorted(session.waits_for))}"
    return line


def size(text: str) -> int:
    """Bytes of `16G`, `300M`, `12`."""
    return int(float(text[:-1]) * UNITS[text[-1]]) if text[-1] in UNITS else int(text)


def _seconds(samples: tuple[float, ...]) -> str:
    return ",".join(figure(sample) for sample in samples) or "none"


def bytes_(number: int) -> str:
    """`16G` of bytes, as `size` reads them."""
    unit = next((unit for unit in "GMK" if number and abs(number) >= UNITS[unit]), "")
    return f"{round(number / UNITS[unit], 3):g}{unit}" if unit else str(number)


def figure(value: object) -> str:
    """A value as a scenario spells it."""
    if isinstance(value, Enum):
        return str(value.value) if isinstance(value, Force) else value.name.lower()
    if isinstance(value, float):
        return f"{round(value, 3):.12g}"
    if isinstance(value, str):
        return f"'{value}'" if " " in value else value
    return str(value)
