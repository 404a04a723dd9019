"""A timeline in the Trace Event Format, which ui.perfetto.dev opens. Reads no record: see timeline_spans.

A lane is a process; its threads are what is active, standby, retiring, and the lane's states; its memory is counters.
The format: "Trace Event Format", docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count, pairwise
from typing import IO, Any, Final, TypeAlias

import msgspec

from daemon.ctl.timeline_spans import Handover, Role, Span, Timeline, micros
from daemon.results import Sample

Event: TypeAlias = dict[str, Any]
BATOND: Final = 1  # the process that shows when no daemon was there; lanes follow
STATES, ACTIVE, STANDBY, RETIRING = 1, 2, 3, 4  # threads; where several commit at once, each further one has its own
NAMES: Final = {STATES: "states", ACTIVE: "active", STANDBY: "standby", RETIRING: "retiring"}


def write(timeline: Timeline, file: IO[str]) -> None:
    """One JSON object, an event a line."""
    about = {"made by": "batonctl timeline", "since": timeline.since, "until": timeline.until}
    head = {"displayTimeUnit": "ms", "otherData": about}
    file.write(msgspec.json.encode(head).decode()[:-1] + ',"traceEvents":[\n')
    for number, event in enumerate(events(timeline)):
        file.write((",\n" if number else "") + msgspec.json.encode(event).decode())
    file.write("\n]}\n")


def events(timeline: Timeline) -> Iterator[Event]:
    """The events: metadata first, then each lane's in the order of time."""
    yield from _process(BATOND, "batond", 0)
    yield from _thread(BATOND, 1, "no daemon")
    for begin, end in timeline.absent:
        yield _slice(BATOND, 1, "no daemon", "daemon", begin, end, {})
    flows = count(1)
    for pid, lane in enumerate(timeline.lanes, BATOND + 1):
        yield from _process(pid, f"lane {lane}", pid)
        yield from _lane(pid, timeline.only(lane), flows)


def _lane(pid: int, timeline: Timeline, flows: Iterator[int]) -> Iterator[Event]:
    threads = _threads(timeline.spans)
    for tid in sorted({*NAMES, *threads.values()}):
        yield from _thread(pid, tid, NAMES.get(tid) or f"retiring {tid - RETIRING + 1}")
    for state in timeline.states:
        yield _slice(pid, STATES, state.state, "state", state.begin, state.end, {"cause": state.cause or "?"})
    for span in timeline.spans:
        yield _slice(pid, threads[id(span)], _name(span), span.role.value, span.begin, span.end, _arguments(span))
    workers: dict[int, list[Span]] = {}
    for span in timeline.spans:
        workers.setdefault(span.generation, []).append(span)
    active = sorted((span for span in timeline.spans if span.role is Role.ACTIVE), key=lambda span: span.begin)
    before = {new.generation: old for old, new in pairwise(active)}
    for handover in timeline.handovers:
        generation = handover.told["generation"]
        yield from _handover(pid, handover, workers.get(generation, []), before.get(generation), flows)
    said: dict[str, Event] = {}
    for sample in timeline.samples:
        for counter in _counters(pid, sample):
            if said.get(counter["name"]) != counter["args"]:  # it stays what it is until it is said anew
                said[counter["name"]] = counter["args"]
                yield counter


def _threads(spans: Iterable[Span]) -> dict[int, int]:
    """The thread of each span (by its identity): on one thread, slices must not overlap."""
    fixed = {Role.ACTIVE: ACTIVE, Role.STANDBY: STANDBY}
    found: dict[int, int] = {}
    free_at: list[int] = []  # by retiring thread
    for span in sorted(spans, key=lambda each: each.begin):
        if span.role is not Role.RETIRING:
            found[id(span)] = fixed[span.role]
            continue
        number = next((n for n, until in enumerate(free_at) if until <= span.begin), len(free_at))
        free_at[number : number + 1] = [span.end]
        found[id(span)] = RETIRING + number
    return found


def _name(span: Span) -> str:
    if span.role is not Role.STANDBY:
        return span.session
    return f"{span.session}: {'ready' if span.ready else 'to'} {span.tier}"


def _arguments(span: Span) -> Event:
    told = {"session": span.session, "generation": span.generation, **span.told}
    return told | ({"outcome": span.outcome} if span.outcome else {}) | ({"open": True} if span.open else {})


def _handover(pid: int, handover: Handover, new: list[Span], old: Span | None, flows: Iterator[int]) -> Iterator[Event]:
    """A mark, and two arrows to the new session's slice: from where it was prepared, and from the old session's."""
    told = handover.told
    name = f"{told['from_session']} → {told['session']}"
    facts = {key: value for key, value in told.items() if key not in ("event", "level")}
    mark = {"ph": "i", "s": "p", "cat": "handover", "name": name, "pid": pid, "tid": ACTIVE, "ts": handover.at}
    yield {**mark, "args": facts}
    begun = next((span for span in new if span.role is Role.ACTIVE), None)
    prepared = max((span for span in new if span.role is Role.STANDBY), key=lambda span: span.begin, default=None)
    for source, tid, what in ((prepared, STANDBY, "promoted"), (old, ACTIVE, "handed over")):
        if source is not None and begun is not None:
            common = {"cat": "handover", "name": what, "id": next(flows), "pid": pid}
            yield {**common, "ph": "s", "tid": tid, "ts": max(source.begin, source.end - 1)}
            yield {**common, "ph": "f", "bp": "e", "tid": ACTIVE, "ts": begun.begin}


def _counters(pid: int, sample: Sample) -> Iterator[Event]:
    ours = sample.active_bytes + sample.standby_bytes + sample.retiring_bytes
    taken = {
        "active": sample.active_bytes,
        "standby": sample.standby_bytes,
        "retiring": sample.retiring_bytes,
        "others": max(0, sample.total_bytes - sample.free_bytes - ours),
    }
    at = micros(sample.ts)
    counter: Event = {"ph": "C", "cat": "memory", "pid": pid, "ts": at}
    yield {**counter, "name": "memory taken (bytes)", "args": taken}
    yield {**counter, "name": "memory free (bytes)", "args": {"free": sample.free_bytes}}
    yield {**counter, "name": "memory wanted (bytes)", "args": {"wanted": sample.wanted_bytes}}


def _slice(pid: int, tid: int, name: str, category: str, begin: int, end: int, arguments: Event) -> Event:
    """A complete event."""
    event = {"ph": "X", "cat": category, "name": name, "pid": pid, "tid": tid, "ts": begin, "dur": end - begin}
    return {**event, "args": arguments}


def _process(pid: int, name: str, place: int) -> Iterator[Event]:
    yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": place}}


def _thread(pid: int, tid: int, name: str) -> Iterator[Event]:
    yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}
    yield {"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": tid}}
