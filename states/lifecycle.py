"""`step`: one event in, one decision out. The only importer of `transitions`, which is the engine of the table.

An exception out of `step` is a bug of ours, never a state of the world.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, assert_never

from transitions import Machine

from states import commands, facts, policy, readings
from states.decision import Decision
from states.draft import Draft
from states.events import (
    Cancel,
    Committed,
    DeviceBack,
    DeviceLost,
    DrainLane,
    Event,
    Exited,
    Failed,
    Hello,
    HostMemory,
    Kill,
    LastBatch,
    Memory,
    Move,
    Pause,
    Paused,
    Progress,
    Promoted,
    Queued,
    Quiesced,
    Ready,
    Resume,
    Resumed,
    Stop,
    Swap,
    Tick,
    Unread,
)
from states.notes import CommandRefused, LaneMoved
from states.snapshot import State, World
from states.table import TRANSITIONS, Row
from states.triggers import Trigger


def step(world: World, event: Event) -> Decision:
    """Decide what follows from one event. Pure: the same world and event give the same decision."""
    draft = Draft(world, event)
    why = _refusal(world, event)
    if why is not None:
        note = CommandRefused(type(event).__name__, why)
        return Decision(world, world, event, notes=(note,), refused=why)
    for lane, trigger in _file(draft, event):
        draft.name = lane
        pull(draft, trigger)
    _forget_stale_relays(draft)
    return Decision(world, draft.world, event, tuple(draft.notes), tuple(draft.effects))


def pull(draft: Draft, trigger: Trigger) -> Row | None:
    """Ask the table about a trigger of the lane in hand; the row that was taken, or None."""
    before = draft.lane
    if not any(all(guard(draft) for guard in row.when) for row in _ROWS[before.state, trigger]):
        return None  # as nearly always, when the time is told or progress is: the engine would ask in vain
    fired = _Fired()
    _ENGINE.events[trigger.name].trigger(draft, fired=fired)
    row = fired.row
    if row is not None and draft.state is not before.state:
        worker = draft.lane.active or draft.lane.standby or before.active or before.standby
        moved = LaneMoved(
            lane=draft.name,
            from_state=before.state.value,
            to_state=draft.state.value,
            cause=trigger.value,
            guard=row.guard,
            session=worker.session.name if worker else None,
            waited_s=max(0.0, draft.at - before.since),
        )
        draft.notes.insert(fired.told, moved)  # before what the row's own actions tell
    return row


class _Fired:
    """Which row the engine took, and how much had been told before it."""

    def __init__(self) -> None:
        self.row: Row | None = None
        self.told = 0


def _holds(guard: Callable[[Draft], bool], data: Any) -> bool:
    return guard(data.model)  # the engine calls with its own EventData


def _fire(row: Row, data: Any) -> None:
    draft: Draft = data.model
    fired: _Fired = data.kwargs["fired"]
    fired.row, fired.told = row, len(draft.notes)
    for action in row.then:
        action(draft)


def _engine() -> Machine:
    machine = Machine(model=None, states=State, initial=State.IDLE, auto_transitions=False, send_event=True)
    for row in TRANSITIONS:
        for trigger in row.on:
            machine.add_transition(
                trigger.name,
                list(row.from_),
                row.to,
                conditions=[partial(_holds, guard) for guard in row.when],
                after=[partial(_fire, row)],
            )
    return machine


_ENGINE: Any = _engine()
_ROWS = {
    (state, trigger): tuple(row for row in TRANSITIONS if state in row.from_ and trigger in row.on)
    for state in State
    for trigger in Trigger
}


def _refusal(world: World, event: Event) -> str | None:
    match event:
        case Queued() | Cancel() | Swap() | Pause() | Resume() | DrainLane() | Move():
            return commands.refusal(world, event)
        case _:
            return None


def _file(draft: Draft, event: Event) -> Iterator[tuple[str, Trigger]]:
    """File the event in the books; the lanes whose table is to be asked, and about what."""
    match event:
        case Queued():
            yield from commands.file_queued(draft, event)
        case Tick():
            draft.queue = policy.due(draft.queue, draft.at)
            for name, lane in draft.before.lanes.items():
                yield name, Trigger.STALLED if policy.stalled(lane, draft.at) else Trigger.TICK
        case Memory():
            yield from readings.file_memory(draft, event)
        case HostMemory():
            yield from readings.file_host(draft, event)
        case Unread():
            readings.file_unread(draft, event)
        case (
            Hello()
            | Ready()
            | Promoted()
            | Progress()
            | LastBatch()
            | Paused()
            | Resumed()
            | Quiesced()
            | Committed()
            | Failed()
            | Exited()
        ):
            yield from facts.file_worker(draft, event)
        case Cancel():
            yield from commands.file_cancel(draft, event)
        case Swap():
            yield event.lane, Trigger.SWAP
        case Pause() | Resume() | DrainLane():
            yield from commands.file_hold(draft, event)
        case Move():
            commands.file_move(draft, event)
        case Stop() | Kill():
            draft.stopping = True
            for name in draft.lanes:
                yield name, Trigger.STOP if isinstance(event, Stop) else Trigger.KILL
        case DeviceLost() | DeviceBack():
            yield from readings.file_device(draft, event)
        case _:
            assert_never(event)


def _forget_stale_relays(draft: Draft) -> None:
    """A lane that is idle because nothing is due hands over from nobody: what comes later is a new beginning."""
    for name, lane in draft.lanes.items():
        if lane.relay is None or lane.state not in {State.IDLE, State.STOPPED}:
            continue
        if lane.held or draft.stopping or policy.head(draft.world, lane, draft.at) is None:
            draft.lanes[name] = replace(lane, relay=None)
