"""What a reading of memory, or its absence, changes in the books: of a lane's device, of the host. Moves no lane."""

from __future__ import annotations

from collections.abc import Iterator

from states import gate, waits
from states.draft import Draft
from states.estimate import POOL_SLACK, context_bytes, learn_peak
from states.events import DeviceBack, DeviceLost, HostMemory, Memory, Unread
from states.notes import DeviceChanged, DeviceRead, DeviceUnread, ProfileLearned
from states.snapshot import Lane, Phase, Reading, Worker, context_key
from states.triggers import Trigger
from states.work import Tier

KEPT_READINGS = 8


def _kept(draft: Draft) -> int:
    return max(KEPT_READINGS, draft.limits.readings)


def file_memory(draft: Draft, event: Memory) -> Iterator[tuple[str, Trigger]]:
    """File a reading of a lane's device."""
    lane = draft.lanes.get(event.lane)
    if lane is None:
        return
    draft.name = lane.name
    reading = Reading(event.at, event.total, event.free)
    draft.change(readings=(*lane.readings, reading)[-_kept(draft) :], foreign=event.foreign)
    if lane.unread is not None:
        draft.change(unread=None)
        draft.note(DeviceRead(lane.name, event.at - lane.unread_at))
    if not any(True for _ in lane.workers()):
        draft.change(idle_bytes=event.total - event.free)
    elif lane.has_own_memory:
        _note_holdings(draft, event, reading)
    waits.look(draft)
    yield lane.name, Trigger.ACTIVE_GROWS if gate.grows_into_standby(draft.world, draft.lane) else Trigger.MEMORY


def file_host(draft: Draft, event: HostMemory) -> Iterator[tuple[str, Trigger]]:
    """File a reading of the host's memory. Where it runs short, one standby at a time makes room."""
    draft.host = (*draft.host, Reading(event.at, event.total, event.free))[-_kept(draft) :]
    for name, lane in draft.lanes.items():
        if lane.has_own_memory and gate.grows_into_standby(draft.world, lane):
            yield name, Trigger.ACTIVE_GROWS
            return


def file_unread(draft: Draft, event: Unread) -> None:
    """File that a lane's device gives no reading: what it gave before proves nothing any more."""
    lane = draft.lanes.get(event.lane)
    if lane is None or lane.lost is not None:
        return
    draft.name = lane.name
    draft.change(readings=())
    if lane.unread != event.reason:
        draft.change(unread=event.reason, unread_at=lane.unread_at if lane.unread is not None else event.at)
        draft.note(DeviceUnread(lane.name, event.reason))


def file_device(draft: Draft, event: DeviceLost | DeviceBack) -> Iterator[tuple[str, Trigger]]:
    """File the loss or the return of a lane's device."""
    lane = draft.lanes.get(event.lane)
    if lane is None or (lane.lost is None) is isinstance(event, DeviceBack):
        return
    draft.name = lane.name
    lost = event.reason if isinstance(event, DeviceLost) else None
    draft.change(lost=lost, readings=(), unread=None, foreign=(), wait=None, idle_bytes=0)
    draft.note(DeviceChanged(lane.name, lost is None, lost or "the device can be used again"))
    yield lane.name, Trigger.DEVICE_BACK if lost is None else Trigger.DEVICE_LOST


def _note_holdings(draft: Draft, event: Memory, reading: Reading) -> None:
    """What each worker holds of the device, as the device tells, else by what is taken since nobody was there."""
    told = dict(event.held)
    for worker in tuple(draft.lane.workers()):
        held = told.get(worker.generation)
        if held is None and worker is draft.lane.active and gate.shows(reading, worker):
            held = _difference(draft.lane, worker, reading)
            seen = 0  # a stranger that nobody tells of may be in it: it is nothing to be learned
            if worker.session.stepwise:  # a stranger's is in that, and what is not given back yet
                held = min(held, _in_tensors(draft, worker))
        else:
            seen = held or 0  # it was told: nobody else's share is in it
        if held is None:
            continue
        counted = worker.session.stepwise  # by its tensors: see facts
        peak = worker.peak_bytes if counted else max(worker.peak_bytes, seen)
        now = draft.put(worker, held_bytes=held, peak_bytes=peak)
        if now is draft.lane.standby and held > 0:
            _learn_context(draft, now, reading)


def _difference(lane: Lane, worker: Worker, reading: Reading) -> int:
    """Bytes that the active worker holds, where the device does not tell of processes: what nobody else was given."""
    others = sum(max(each.reserved, each.held_bytes) for each in lane.workers() if each is not worker)
    return max(0, reading.total - reading.free - lane.idle_bytes - others)


def _in_tensors(draft: Draft, worker: Worker) -> int:
    """Bytes that a built-in worker has said to have in tensors: so many it holds, and more."""
    context = context_bytes(draft.profiles.get(context_key(draft.lane)))
    return int(max(0, worker.peak_bytes - context) / POOL_SLACK)


def _learn_context(draft: Draft, standby: Worker, reading: Reading) -> None:
    """What a process takes of the device before any weights: seen of one that waits there."""
    if standby.tier is not Tier.STAGED or standby.phase is not Phase.READY or not gate.shows(reading, standby):
        return
    key = context_key(draft.lane)
    known = draft.profiles.get(key)
    if standby.held_bytes > (known.peak_bytes if known else 0):
        draft.learn(key, learn_peak(known, standby.held_bytes))
        draft.note(ProfileLearned(key, draft.profiles[key]))
