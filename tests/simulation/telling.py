"""A run told to a person: as a scenario of tests/core where one can say it, else as a trace. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from states import events as ev
from states.decision import Decision
from states.notes import StandbyStarted
from states.snapshot import Limits
from states.work import Session
from tests.core.telling import told
from tests.simulation.plan import Plan
from tests.simulation.simulation import Simulation


def scenario(simulation: Simulation, law: str) -> str | None:
    """The run as a scenario, without the answers; None where no scenario can say it.

    That is: where a daemon dies, the disk is full, or one name is given to two sessions.
    """
    died = sum(isinstance(each, str) for each in simulation.trace) > 1
    if died or simulation.plan.has_full_disk or any(job.again for job in simulation.plan.jobs):
        return None
    lines = [f"# Found by the simulation, seed {simulation.plan.seed}: {law}."]
    lines += _setting(simulation.plan)
    decisions = [each for each in simulation.trace if isinstance(each, Decision)]
    started = [note for each in decisions for note in each.notes if isinstance(note, StandbyStarted)]
    names = {note.generation: note.session for note in started}
    lines += [f"at {each.event.at:.12g} {_words(each.event, names)}" for each in _scripted(decisions)]
    return "\n".join(lines) + "\n"


def trace(simulation: Simulation) -> str:
    """The run, event by event, with what the core made of each that mattered."""
    lines: list[str] = []
    for each in simulation.trace:
        if isinstance(each, str):
            lines.append(each)
        elif each.matters or not isinstance(each.event, ev.Tick | ev.Memory | ev.HostMemory):
            said = [f"{field.name}={getattr(each.event, field.name)}" for field in fields(each.event)[1:]]
            lines.append(f"{each.event.at:.12g} {type(each.event).__name__} {' '.join(said)}")
            lines += [f"    {line}" for line in told(each)]
    return "\n".join(lines) + "\n"


def _setting(plan: Plan) -> Iterator[str]:
    usual = Limits()
    for field in fields(Limits):
        if (value := getattr(plan.limits, field.name)) != getattr(usual, field.name):
            yield f"limit {field.name} {value}"
    for lane in plan.lanes:
        place = "" if lane.index is None else f" index={lane.index}"
        tiers = ",".join(tier.label for tier in lane.tiers)
        yield f"lane {lane.name} 0 device={lane.device}{place} tiers={tiers} imported={lane.imported_bytes}"


def _scripted(decisions: list[Decision]) -> Iterator[Decision]:
    """Without the ticks that a scenario adds by itself, and without those that change nothing."""
    following = False
    for each in decisions:
        is_tick = isinstance(each.event, ev.Tick)
        if not is_tick or (each.matters and not following):
            yield each
        following = each.matters


def _words(event: ev.Event, names: dict[int, str]) -> str:
    match event:
        case ev.Queued():
            return " ".join(_session(each) for each in event.sessions)
        case ev.Tick():
            return "tick"
        case ev.Memory():
            held = ",".join(f"{names.get(number, 'nobody')}:{size}" for number, size in event.held) or None
            foreign = ",".join(f"{each.pid}:{'?' if each.size is None else each.size}" for each in event.foreign)
            told = _option("held", held) + _option("foreign", foreign or None)
            return f"memory {event.lane} {event.free} of={event.total}{told}"
        case ev.HostMemory():
            return f"host of={event.total} {event.free}"
        case ev.Unread():
            return f"unread {event.lane} '{event.reason}'"
        case ev.Cancel():
            return f"cancel {event.name}"
        case ev.Swap():
            return f"swap {event.lane}{_option('to', event.to)}{' force' if event.force else ''}"
        case ev.Pause() | ev.Resume():
            return f"{type(event).__name__.lower()} {event.lane}"
        case ev.DrainLane():
            return f"drain {event.lane}"
        case ev.Move():
            return f"move {event.name}{_option('before', event.before)}{' last' if event.last else ''}"
        case ev.Stop() | ev.Kill():
            return type(event).__name__.lower()
        case ev.DeviceLost():
            return f"device_lost {event.lane} '{event.reason}'"
        case ev.DeviceBack():
            return f"device_back {event.lane}"
        case _:
            return _fact(event, f"{names.get(event.generation, 'nobody')}#{event.generation}")


def _fact(event: ev.FromWorker, who: str) -> str:
    match event:
        case ev.Hello():
            return f"hello {who} cursor={event.cursor}"
        case ev.Ready():
            total = _option("total", event.total)
            return f"ready {who} {event.tier.label} seconds={event.seconds:.12g}{total}{_peaks(event)}"
        case ev.Promoted():
            return f"started {who} began={event.began_at:.12g}"
        case ev.Progress():
            return (
                f"progress {who} {event.done} durable={event.cursor}{_option('of', event.total)} rss={event.rss_bytes}"
            )
        case ev.Paused():
            return f"paused {who} '{event.reason}'"
        case ev.Resumed():
            return f"resumed {who}"
        case ev.LastBatch():
            return f"last_batch {who}"
        case ev.Quiesced():
            left = _option("remaining", event.remaining)
            return f"quiesced {who} ended={event.ended_at:.12g} done={event.done}{left}"
        case ev.Committed():
            return f"committed {who} {event.cursor}{_peaks(event)}"
        case ev.Failed():
            return f"failed {who} {event.kind} '{event.reason}'{_option('item', event.item)}"
        case ev.Exited():
            why = f" 'why={event.reason}'" if event.reason else ""
            return f"exits {who} {'unseen' if event.status is None else event.status}{why}"


def _peaks(event: ev.Ready | ev.Committed) -> str:
    return f" peak={event.peak_bytes} tensors={event.device_peak_bytes}"


def _session(session: Session) -> str:
    lead = session.lead
    share = None if lead.fraction is None else f"{lead.fraction * 100:g}%"
    flags = [] if session.resumable else ["no-resume"]
    flags += [] if session.prepares else ["no-prepare"]
    flags += ["program"] if session.prepares and not session.stepwise else []
    options = {
        "order": session.order,
        "priority": session.priority or None,
        "device": session.device,
        "profile": session.profile,
        "need": session.guess_device_bytes,
        "host": session.guess_bytes,
        "states": session.stated_bytes,
        "total": session.total,
        "cursor": session.cursor or None,
        "attempts": session.max_attempts,
        "lead": share or lead.seconds,
        "after": ",".join(sorted(session.waits_for)) or None,
    }
    said = "".join(_option(key, value) for key, value in options.items())
    return " ".join([f"queue {session.name}{said}", *flags])


def _option(key: str, value: object) -> str:
    return "" if value is None else f" {key}={value:.12g}" if isinstance(value, float) else f" {key}={value}"
