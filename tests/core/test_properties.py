"""Whole worlds from a seed: lanes, workers that obey or not, people who change their minds; what holds of them all."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from states import events as ev
from states.decision import Decision
from states.effects import Promote, StartStandby
from states.lifecycle import step
from states.notes import (
    CountMismatched,
    HandoverCompleted,
    SessionCancelled,
    SessionFailed,
    SessionFinished,
    SessionQueued,
    SessionStarted,
    StandbyAdvanced,
    StandbyStarted,
)
from states.snapshot import Lane, Limits, World, find
from states.work import Session, Tier
from tests.core.processes import Process, Step
from tests.core.search import at_rest, check
from tests.core.watching import watched

GIB = 1 << 30
LIMITS = Limits(headroom_bytes=GIB // 4)
SETTLING = 4000  # events after which a world that is left in peace must have come to rest
PLENTY = 1 << 50

lanes = st.sampled_from(["cpu", "gpu0"])
numbers = st.integers(0, 30)


class Daemon(RuleBasedStateMachine):
    """The core with everything around it played by the fake world."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 0.0
        self.world = World({})
        self.processes: dict[int, Process] = {}
        self.totals: dict[str, tuple[int, bool]] = {}
        self.queued: list[str] = []
        self.ended: Counter[str] = Counter()
        self.back: set[str] = set()  # in the queue since they were begun last
        self.deaf = False

    @initialize(count=st.integers(1, 2), sessions=st.integers(0, 5))
    def begin(self, count: int, sessions: int) -> None:
        gpu = Lane("gpu0", device="gpu", index=0, tiers=(Tier.IMPORTED, Tier.STAGED, Tier.WARM))
        both = {"cpu": Lane("cpu", imported_bytes=GIB // 2), "gpu0": gpu}
        self.world = World(dict(list(both.items())[:count]), limits=LIMITS)
        for name in self.world.lanes:
            for _ in range(LIMITS.readings):
                self.tell(ev.Memory(self.at, name, 12 * GIB, 12 * GIB))
        for number in range(sessions):
            self.queue(0, 10_000, number != 2, 2 + number, "any", "plain", None)
        self.standbys_speak(3)

    # What happens

    @rule(
        priority=st.integers(0, 1),
        total=st.sampled_from([0, 1, 100, 10_000]),
        known=st.booleans(),
        size=st.integers(1, 6),
        device=st.sampled_from(["any", "any", "cpu"]),
        sort=st.sampled_from(["plain", "plain", "plain", "program", "one-shot"]),
        after=st.none() | numbers,
    )
    def queue(
        self, priority: int, total: int, known: bool, size: int, device: str, sort: str, after: int | None
    ) -> None:
        name = f"s{len(self.queued)}"
        waits_for: frozenset[str] = frozenset()
        live = [each for each in self.queued if not self.ended[each]]
        if after is not None and live:
            waits_for = frozenset({live[after % len(live)]})
        session = Session(
            name,
            order=float(len(self.queued)),
            priority=priority,
            device=device,
            guess_bytes=size * GIB,
            max_attempts=2,
            waits_for=waits_for,
            resumable=sort != "one-shot",
            prepares=sort != "program",
            stepwise=sort != "program",
        )
        self.totals[name] = (total, known)
        if self.tell(ev.Queued(self.at, session)).refused is None:
            self.queued.append(name)

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 3.0, 11.0, 130.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.at += seconds
        self.tell(ev.Tick(self.at))

    @rule(lane=lanes, free=st.sampled_from([0, 3, 7, 30, 30]), times=st.integers(1, 2))
    def memory(self, lane: str, free: int, times: int) -> None:
        for _ in range(times):
            self.at += 0.01
            self.tell(ev.Memory(self.at, self._lane(lane), 30 * GIB, free * GIB))

    @precondition(lambda self: self.processes)
    @rule(which=numbers, word=numbers)
    def speak(self, which: int, word: int) -> None:
        self._speak(self._process(which), word)

    @precondition(lambda self: self.processes)
    @rule(count=st.integers(2, 8))
    def all_speak(self, count: int) -> None:
        for word in range(count):
            self.at += 0.3
            for process in list(self.processes.values()):
                self._speak(process, 0 if word else 1)

    @precondition(lambda self: self.processes)
    @rule(count=st.integers(1, 4))
    def standbys_speak(self, count: int) -> None:
        """What is prepared gets on, what computes takes its time."""
        for word in range(count):
            self.at += 0.3
            for process in list(self.processes.values()):
                if process.step in {Step.BORN, Step.LOADING, Step.WAITING}:
                    self._speak(process, word)

    @precondition(lambda self: self.processes)
    @rule(which=numbers, how=st.sampled_from(["dies", "model", "memory", "again"]))
    def misbehave(self, which: int, how: str) -> None:
        process = self._process(which)
        if how == "again":
            if process.last is not None:
                self.tell(process.last)
            return
        g = process.generation
        event: ev.FromWorker = ev.Exited(self.at, g, -9) if how == "dies" else ev.Failed(self.at, g, how, "bad luck")
        process.said(event)
        self.tell(event)

    @rule()
    def grow_deaf(self) -> None:
        self.deaf = not self.deaf

    # What people ask for

    @precondition(lambda self: any(lane.active for lane in self.world.lanes.values()))
    @rule(lane=lanes, to=st.none() | numbers, force=st.booleans())
    def swap(self, lane: str, to: int | None, force: bool) -> None:
        names = [session.name for session in self.world.queue]
        name = None if to is None or not names else names[to % len(names)]
        self.tell(ev.Swap(self.at, self._lane(lane), name, force))

    @precondition(lambda self: self.queued)
    @rule(which=numbers)
    def cancel(self, which: int) -> None:
        live = [name for name in self.queued if not self.ended[name]] or ["nobody"]
        self.tell(ev.Cancel(self.at, live[which % len(live)]))

    @precondition(lambda self: len(self.world.queue) > 1)
    @rule(name=numbers, before=st.none() | numbers, last=st.booleans())
    def move(self, name: int, before: int | None, last: bool) -> None:
        names = [session.name for session in self.world.queue] or ["nobody"]
        mover, other = names[name % len(names)], None if before is None else names[before % len(names)]
        decision = self.tell(ev.Move(self.at, mover, other, last))
        order = [session.name for session in decision.after.queue]
        if decision.refused is None and other is not None:
            assert order.index(mover) + 1 == order.index(other), "it stands right before the other"

    @rule(lane=lanes, kind=st.sampled_from([ev.Pause, ev.Resume, ev.Resume, ev.DrainLane]))
    def hold(self, lane: str, kind: type[ev.Pause | ev.Resume | ev.DrainLane]) -> None:
        self.tell(kind(self.at, self._lane(lane)))

    @precondition(lambda self: len(self.queued) > 4)
    @rule(lane=lanes, lost=st.booleans())
    def device(self, lane: str, lost: bool) -> None:
        lane = self._lane(lane)
        self.tell(ev.DeviceLost(self.at, lane, "Xid 79") if lost else ev.DeviceBack(self.at, lane))

    @precondition(lambda self: len(self.queued) > 7)
    @rule(kill=st.booleans())
    def stop(self, kill: bool) -> None:
        self.tell(ev.Kill(self.at) if kill else ev.Stop(self.at))

    # How it goes on

    def tell(self, event: ev.Event) -> Decision:
        """One event, and a tick where the loop would post one; everything that must hold of a decision is asked."""
        decision = self._step(event)
        if decision.matters and decision.refused is None:
            for _ in range(10):
                if not self._step(ev.Tick(self.at)).matters:
                    break
            else:
                raise AssertionError("ten ticks at one moment, and it is not settled")
        return decision

    def _step(self, event: ev.Event) -> Decision:
        with watched():
            decision = step(self.world, event)
        assert step(self.world, event) == decision, "the same world and event give the same decision"
        check(decision)
        for note in decision.notes:
            self._noted(decision, note)
        self.world = decision.after
        for effect in decision.effects:
            if isinstance(effect, StartStandby):
                total, known = self.totals[effect.session.name]
                assert find(self.world, effect.generation) is not None
                self.processes[effect.generation] = Process(effect, total, known=known, deaf=self.deaf)
                continue
            process = self.processes[effect.generation]
            assert process.lane == effect.lane
            if isinstance(effect, Promote):
                rivals = [
                    other for other in self.processes.values() if other.lane == process.lane and other is not process
                ]
                assert not any(other.go and other.step in {Step.WAITING, Step.COMPUTING} for other in rivals)
                assert process.aim is self.world.lanes[process.lane].top
            process.told(effect)
        self.processes = {g: process for g, process in self.processes.items() if process.step is not Step.GONE}
        return decision

    def _noted(self, decision: Decision, note: object) -> None:
        match note:
            case SessionFinished() | SessionFailed() | SessionCancelled():
                self.ended[note.session] += 1
            case HandoverCompleted():
                parts = (note.items_done, note.items_returned, note.items_abandoned)
                assert note.items_in == sum(parts)
                assert min(parts) >= 0
                if self.ended[note.from_session] and note.from_session not in self.back:
                    assert note.items_returned == 0, "a session that ended in its worker's hands gives nothing back"
            case SessionQueued(session=session):
                self.back.add(session.name)
            case SessionStarted():
                self.back.discard(note.session)
            case CountMismatched():
                raise AssertionError("these workers count right")
            case StandbyStarted() | StandbyAdvanced():
                self._gate(decision, note)
            case _:
                pass

    def _gate(self, decision: Decision, note: StandbyStarted | StandbyAdvanced) -> None:
        """The memory gate, worked out anew: every reading leaves room for the need and the headroom."""
        was, lane = decision.before.lanes[note.lane], decision.after.lanes[note.lane]
        worker = next(each for each in lane.workers() if each.generation == note.generation)
        held = 0
        if isinstance(note, StandbyAdvanced):
            assert was.standby is not None
            held = was.standby.reserved
        others = sum(max(each.reserved, each.held_bytes) for each in lane.workers() if each is not worker) + held
        if was.has_own_memory and note.tier == "imported":
            assert note.need_bytes == 0  # nothing of the device is taken
            return
        grows = max(0, lane.active.reserved - lane.active.held_bytes) if lane.active else 0
        if was.has_own_memory and lane.active and not lane.active.reserved:
            grows = lane.readings[-1].total  # of one whose need is not known
        recent = lane.readings[-LIMITS.readings :]
        assert len(recent) == LIMITS.readings
        for reading in recent:
            room = min(reading.free - grows, reading.total - others)
            assert room >= note.need_bytes - held + LIMITS.headroom_bytes, (note, reading)

    def _lane(self, name: str) -> str:
        return name if name in self.world.lanes else "cpu"

    def _process(self, which: int) -> Process:
        return list(self.processes.values())[which % len(self.processes)]

    def _speak(self, process: Process, word: int) -> bool:
        words = list(process.words(self.at))
        if not words:
            return False
        event = words[word % len(words)]
        process.said(event)
        self.tell(event)
        return True

    @invariant()
    def nobody_ends_twice(self) -> None:
        assert all(count == 1 for count in self.ended.values())

    @invariant()
    def every_worker_is_known(self) -> None:
        """The core waits for exactly the processes there are."""
        known = {worker.generation for lane in self.world.lanes.values() for worker in lane.workers()}
        assert known == set(self.processes)

    def teardown(self) -> None:
        """Left in peace, with memory, devices and lanes free, everything queued ends exactly once."""
        for name in self.world.lanes:
            self.tell(ev.DeviceBack(self.at, name))
            self.tell(ev.Resume(self.at, name))
        for turn in range(SETTLING):
            if at_rest(self.world):
                break
            self.at += 2.0
            for name in self.world.lanes:
                self.tell(ev.Memory(self.at, name, PLENTY, PLENTY))
            for process in list(self.processes.values()):
                self._speak(process, turn)
            self.tell(ev.Tick(self.at))
        assert at_rest(self.world), f"not at rest: {self.world}"
        left = {session.name for session in self.world.queue}
        assert left == set() or self.world.stopping
        assert all(self.ended[name] == (name not in left) for name in self.queued)
        super().teardown()


TestDaemon = Daemon.TestCase
TestDaemon.settings = settings(
    max_examples=250,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
