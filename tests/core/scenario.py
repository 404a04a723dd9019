"""Scenarios of the core: read, run through `step`, written with what came of them. Compares nothing.

A scenario is a text. What is not indented says what is so and what happens; what is indented is the core's answer:
`·` what is told, `>` what is asked for, `!` why it is refused, and then each lane that changed, with its reason, its
workers, and the queue. After an answer comes a tick, as the loop posts one; what follows from it stands below `tick`.

    # Comments stay where they are.
    lane cpu 16G                     a lane with its memory (options: device, index, tiers, imported)
    limit stall_timeout_s 60         one of `Limits`
    learned a@cpu prepared=3 alone=1 peak=2G
    given 0  queue a                 as `at`, and the answer is not written down
    show                             the lanes and the queue
    at 0     queue a total=100 need=2G   (options: priority, order, device, lead, after, attempts, cursor; no-resume, …)
    at 1     ready a                 a worker speaks; `a#1` is the one of generation 1
    at 2..9  a computes 10/s         a report every second; only what follows from one is written down
    wait                             to the next deadline of the world, as the loop does
"""

from __future__ import annotations

import shlex
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from states import events as ev
from states.decision import Decision
from states.lifecycle import step
from states.notes import (
    HandoverCompleted,
    SessionCancelled,
    SessionFailed,
    SessionFinished,
    SessionQueued,
)
from states.policy import next_deadline
from states.snapshot import Lane, Reading, Worker, World, invariants
from states.work import Lead, Profile, Session, Tier
from tests.core.telling import figure, lane_lines, queued, size, told

INDENT = "        "
FOLLOWING = 20  # ticks after one event: more than that would never end


def written(text: str) -> str:
    """The scenario with its answers as the core gives them today."""
    play = Play()
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(" "):
            continue
        lines.append(line)
        if not line or line.startswith("#"):
            continue
        try:
            lines += [(INDENT + answer).rstrip() for answer in play.read(line)]
        except Exception as error:
            error.add_note(f"in line {number}: {line}")
            raise
    return "\n".join(lines) + "\n"


class Play:
    """A world in the course of a scenario."""

    def __init__(self) -> None:
        self.world = World({})
        self.at = 0.0
        self.names: dict[str, int] = {}  # the last worker of each session
        self.submitted: set[str] = set()
        self.ended: Counter[str] = Counter()
        self.shown: dict[str, list[str]] = {}

    def read(self, line: str) -> Iterator[str]:
        """One line that is not indented; the lines of its answer."""
        first, *words = shlex.split(line)
        match first:
            case "lane":
                self._lane(*words)
            case "limit":
                self._limit(*words)
            case "learned":
                self._learned(*words)
            case "wait":
                due = next_deadline(self.world)
                assert due is not None, "nothing waits for time alone"
                yield f"it is {figure(due)}"
                yield from self._take([ev.Tick(due)])
            case "show":
                self.shown = {}
                yield from self._changes()
            case "given":
                deque(self._happens(*words), maxlen=0)
            case "at":
                yield from self._happens(*words)
            case _:
                raise ValueError(f"no line of a scenario begins with {first}")

    # What is so

    def _lane(self, name: str, memory: str, *words: str) -> None:
        options = _options(words)
        tiers = tuple(Tier[each.upper()] for each in options.get("tiers", "imported,warm").split(","))
        index = int(options["index"]) if "index" in options else None
        full = Reading(0.0, size(memory), size(memory))
        readings = (full,) * self.world.limits.readings if memory != "0" else ()
        lane = Lane(
            name,
            options.get("device", "cpu"),
            index,
            tiers=tiers,
            imported_bytes=size(options.get("imported", "0")),
        )
        self.world = replace(self.world, lanes={**self.world.lanes, name: replace(lane, readings=readings)})

    def _limit(self, name: str, value: str) -> None:
        whole = name == "readings"
        number: float = int(value) if whole else size(value) if name.endswith("_bytes") else float(value)
        changed: dict[str, Any] = {name: number}
        self.world = replace(self.world, limits=replace(self.world.limits, **changed))

    def _learned(self, key: str, *words: str) -> None:
        options = _options(words)
        profile = Profile(
            _floats(options.get("prepared")), _floats(options.get("alone")), size(options.get("peak", "0"))
        )
        self.world = replace(self.world, profiles={**self.world.profiles, key: profile})

    # What happens

    def _happens(self, when: str, *words: str) -> Iterator[str]:
        start, _, end = when.partition("..")
        assert float(start) >= self.at, f"it is {self.at} already"
        self.at = float(start)
        if end:
            yield from self._computes(self.at, float(end), *words)
        else:
            yield from self._take(self._events(*words))

    def _events(self, verb: str, *words: str) -> list[ev.Event]:
        plain = [word for word in words if "=" not in word]
        options = _options(words)
        if verb == "memory":
            lane = self.world.lanes[plain[0]]
            total = size(options["of"]) if "of" in options else lane.readings[-1].total
            held = tuple((self.names[who], size(what)) for who, what in _pairs(options.get("held", "")))
            foreign = tuple(
                ev.Holder(int(pid), "python3", None if what == "?" else size(what))
                for pid, what in _pairs(options.get("foreign", ""))
            )
            return [ev.Memory(self.at, lane.name, total, size(free), held, foreign) for free in plain[1:]]
        if verb == "host":
            return [ev.HostMemory(self.at, size(options["of"]), size(free)) for free in plain]
        if verb == "unread":
            return [ev.Unread(self.at, plain[0], " ".join(plain[1:]))]
        if verb == "queue":
            return [ev.Queued(self.at, self._session(plain[0], set(plain[1:]), options))]
        if verb in COMMANDS:
            return [COMMANDS[verb](self.at, plain, options)]
        worker, generation = self._worker(plain[0])
        return [FACTS[verb](self.at, generation, worker, plain[1:], options)]

    def _session(self, name: str, flags: set[str], options: dict[str, str]) -> Session:
        lead = options.get("lead", "")
        share, seconds = (float(lead[:-1]) / 100, None) if lead.endswith("%") else (None, float(lead) if lead else None)
        return Session(
            name=name,
            order=float(options.get("order", len(self.submitted) + 1)),
            priority=int(options.get("priority", 0)),
            device=options.get("device", "any"),
            profile=options.get("profile", name),
            guess_bytes=size(options.get("host", options.get("need", "1G"))),
            guess_device_bytes=size(options.get("need", "1G")),
            least_bytes=size(options.get("least", "0")),
            stated_bytes=size(options["states"]) if "states" in options else None,
            total=int(options["total"]) if "total" in options else None,
            cursor=int(options.get("cursor", 0)),
            max_attempts=int(options.get("attempts", 3)),
            lead=Lead(seconds, share),
            waits_for=frozenset(options["after"].split(",")) if "after" in options else frozenset(),
            resumable="no-resume" not in flags,
            prepares="no-prepare" not in flags,
            stepwise=not flags & {"no-prepare", "program"},
        )

    def _worker(self, name: str) -> tuple[Worker | None, int]:
        said, _, number = name.partition("#")
        generation = int(number) if number else self.names[said]
        for lane in self.world.lanes.values():
            for worker in lane.workers():
                if worker.generation == generation:
                    assert worker.session.name == said, f"worker {generation} is {worker.session.name}'s"
                    return worker, generation
        return None, generation

    def _computes(self, start: float, end: float, name: str, verb: str, rate: str) -> Iterator[str]:
        assert verb == "computes", verb
        worker, generation = self._worker(name)
        assert worker is not None
        seconds, done = int(end - start), worker.done
        for second in range(seconds + 1):
            self.at = start + second
            items = done + round(float(rate.removesuffix("/s")) * second)
            answer = list(self._take([ev.Progress(self.at, generation, items, items, worker.total)], silent=True))
            if answer:
                yield from (f"it is {figure(self.at)}", *answer)
        yield from self._changes()

    def _take(self, events: list[ev.Event], *, silent: bool = False) -> Iterator[str]:
        """The events, each followed by ticks for as long as one matters."""
        for event in events:
            self.at = event.at
            decision = self._step(event)
            yield from told(decision)
            mattered = decision.matters
            for _ in range(FOLLOWING):
                if not decision.matters or decision.refused is not None:
                    break
                decision = self._step(ev.Tick(self.at))
                if decision.matters:
                    yield from ("tick", *told(decision))
            else:
                raise AssertionError("each tick brings about another")
            if mattered or not silent:
                yield from self._changes()

    def _step(self, event: ev.Event) -> Decision:
        decision = step(self.world, event)
        self.world = decision.after
        for lane in self.world.lanes.values():
            for worker in lane.workers():
                self.names[worker.session.name] = max(self.names.get(worker.session.name, 0), worker.generation)
        self._hold_laws(decision)
        return decision

    def _hold_laws(self, decision: Decision) -> None:
        """What must be so in every scenario, whatever its file says."""
        assert not invariants(self.world), f"{invariants(self.world)} after {decision.event}"
        alive = {worker.generation for lane in self.world.lanes.values() for worker in lane.workers()}
        assert {effect.generation for effect in decision.effects} <= alive, decision.effects
        for note in decision.notes:
            match note:
                case SessionQueued(session=session, reason="submitted"):
                    self.submitted.add(session.name)
                case SessionFinished(session=name) | SessionFailed(session=name) | SessionCancelled(session=name):
                    self.ended[name] += 1
                    assert self.ended[name] == 1, f"{name} ended twice"
                case HandoverCompleted():
                    assert note.items_in == note.items_done + note.items_returned + note.items_abandoned, note
        here = {session.name for session in self.world.queue}
        here |= {w.session.name for lane in self.world.lanes.values() for w in lane.workers() if not w.settled}
        assert here == self.submitted - set(self.ended), f"lost or doubled: {here ^ (self.submitted - set(self.ended))}"

    def _changes(self) -> Iterator[str]:
        """The lanes and the queue, as far as they are not as they were shown last."""
        now = {name: lane_lines(self.world, lane, self.at) for name, lane in self.world.lanes.items()}
        now["queue"] = ["queue: " + ("; ".join(queued(each, self.at) for each in self.world.queue) or "empty")]
        for place, lines in now.items():
            if lines != self.shown.get(place, ["queue: empty"]):
                yield from lines
        self.shown = now


# What is said, as values


def _floats(text: str | None) -> tuple[float, ...]:
    return tuple(float(each) for each in text.split(",")) if text else ()


def _options(words: tuple[str, ...] | list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words if "=" in word)


def _pairs(text: str) -> list[tuple[str, str]]:
    """`a:5G,b:3G`, as pairs."""
    return [(first, second) for first, _, second in (each.partition(":") for each in text.split(",") if each)]


def _whole(options: dict[str, str], name: str, otherwise: int | None) -> int | None:
    return int(options[name]) if name in options else otherwise


def _quiesced(at: float, generation: int, worker: Worker | None, _: list[str], said: dict[str, str]) -> ev.Event:
    total = None if worker is None else worker.total
    done = _whole(said, "done", total) or 0
    left = _whole(said, "remaining", None if total is None else total - done)
    return ev.Quiesced(at, generation, float(said.get("ended", at)), done, left)


def _ready(at: float, generation: int, worker: Worker | None, words: list[str], said: dict[str, str]) -> ev.Event:
    tier = Tier[words[0].upper()] if words else worker.aim if worker else Tier.WARM
    seconds = float(said.get("seconds", 0 if worker is None else at - worker.since))
    return ev.Ready(
        at,
        generation,
        tier,
        seconds,
        _whole(said, "total", None),
        size(said.get("peak", "0")),
        size(said.get("tensors", "0")),
    )


def _progress(at: float, generation: int, worker: Worker | None, words: list[str], said: dict[str, str]) -> ev.Event:
    done = int(words[0])
    total = _whole(said, "of", None if worker is None else worker.total)
    return ev.Progress(at, generation, done, _whole(said, "durable", done) or 0, total, size(said.get("rss", "0")))


def _committed(at: float, generation: int, worker: Worker | None, words: list[str], said: dict[str, str]) -> ev.Event:
    cursor = int(words[0]) if words else 0 if worker is None else worker.done
    return ev.Committed(
        at,
        generation,
        cursor,
        size(said.get("peak", "0")),
        device_peak_bytes=size(said.get("tensors", "0")),
    )


Fact = Callable[[float, int, Worker | None, list[str], dict[str, str]], ev.Event]
FACTS: dict[str, Fact] = {
    "hello": lambda at, who, _, __, said: ev.Hello(at, who, _whole(said, "cursor", 0) or 0),
    "ready": _ready,
    "started": lambda at, who, _, __, said: ev.Promoted(at, who, float(said.get("began", at))),
    "progress": _progress,
    "last_batch": lambda at, who, _, __, ___: ev.LastBatch(at, who),
    "paused": lambda at, who, _, words, __: ev.Paused(at, who, words[0]),
    "resumed": lambda at, who, _, __, ___: ev.Resumed(at, who),
    "quiesced": _quiesced,
    "committed": _committed,
    "failed": lambda at, who, _, words, said: ev.Failed(at, who, words[0], words[1], _whole(said, "item", None)),
    "exits": lambda at, who, _, words, said: ev.Exited(
        at, who, None if words[0] == "unseen" else int(words[0]), said.get("why", "")
    ),
}

Command = Callable[[float, list[str], dict[str, str]], ev.Event]
COMMANDS: dict[str, Command] = {
    "tick": lambda at, _, __: ev.Tick(at),
    "cancel": lambda at, words, _: ev.Cancel(at, words[0]),
    "swap": lambda at, words, said: ev.Swap(at, words[0], said.get("to"), "force" in words),
    "pause": lambda at, words, _: ev.Pause(at, words[0]),
    "resume": lambda at, words, _: ev.Resume(at, words[0]),
    "drain": lambda at, words, _: ev.DrainLane(at, words[0]),
    "move": lambda at, words, said: ev.Move(at, words[0], said.get("before"), "last" in words),
    "stop": lambda at, _, __: ev.Stop(at),
    "kill": lambda at, _, __: ev.Kill(at),
    "device_lost": lambda at, words, _: ev.DeviceLost(at, words[0], words[1]),
    "device_back": lambda at, words, _: ev.DeviceBack(at, words[0]),
}
