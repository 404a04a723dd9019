"""Workers of a fake world: what a process says next, and what it makes of what it is told. Knows no core state."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from states import events as ev
from states.effects import AdvanceStandby, DrainActive, Effect, EndWorker, Force, Promote, StartStandby
from states.work import Tier

READY_BYTES = 1 << 30


class Step(Enum):
    """How far a process is, as it knows itself."""

    BORN = "born"
    LOADING = "loading"
    WAITING = "waiting"
    COMPUTING = "computing"
    QUIESCED = "quiesced"
    COMMITTED = "committed"
    FAILED = "failed"
    GONE = "gone"


class Process:
    """One worker. It keeps to the protocol; whether it heeds what it is told is said by `deaf`."""

    def __init__(self, start: StartStandby, total: int, *, known: bool, deaf: bool) -> None:
        self.lane = start.lane
        self.generation = start.generation
        self.name = start.session.name
        self.aim = start.tier
        self.total = total
        self.known = known  # whether it tells its total
        self.deaf = deaf
        self.begun = start.session.cursor
        self.done = start.session.cursor
        self.step = Step.BORN
        self.go = False
        self.drain = False
        self.asked = False
        self.killed: Force | None = None
        self.last: ev.FromWorker | None = None

    def told(self, effect: Effect) -> None:
        """Take note of what the daemon asks."""
        match effect:
            case EndWorker(force=Force.KILL):
                self.killed = Force.KILL
            case EndWorker(force=force) if not self.deaf:
                self.asked = True
                self.killed = force if force is Force.TERM else self.killed
            case AdvanceStandby():
                assert self.step is Step.WAITING, f"{self.name} is {self.step.value}, and told to prepare further"
                self.aim, self.step = effect.tier, Step.LOADING
            case Promote():
                assert self.step is Step.WAITING, f"{self.name} is {self.step.value}, and told to go"
                self.go = True
            case DrainActive() if not self.deaf:
                self.drain = True
            case _:
                pass

    def words(self, at: float) -> Iterator[ev.FromWorker]:
        """What it may say next; several where batches may be of several sizes. Nothing while it waits."""
        g, told = self.generation, self.total if self.known else None
        if self.killed is not None:
            yield ev.Exited(at, g, -9 if self.killed is Force.KILL else -15)
            return
        if self.asked and not self.go and self.step in {Step.BORN, Step.LOADING, Step.WAITING}:
            yield ev.Exited(at, g, 0)
            return
        match self.step:
            case Step.BORN:
                yield ev.Hello(at, g, self.begun)
            case Step.LOADING:
                yield ev.Ready(at, g, self.aim, 1.0, told, READY_BYTES if self.aim is Tier.WARM else 0)
            case Step.WAITING if self.go:
                yield ev.Promoted(at, g, at)
            case Step.COMPUTING:
                if self.done < self.total and not (self.drain or self.asked):
                    half = self.done + max(1, (self.total - self.done) // 2)
                    yield ev.Progress(at, g, half, self.done, told)
                    yield ev.Progress(at, g, self.total, self.done, told)
                else:
                    left = self.total - self.done
                    yield ev.Quiesced(at, g, at, self.done, left if self.known or not left else None)
            case Step.QUIESCED:
                yield ev.Committed(at, g, self.done)
            case Step.COMMITTED:
                yield ev.Exited(at, g, 0)
            case Step.FAILED:
                yield ev.Exited(at, g, 1)
            case _:
                pass

    def said(self, event: ev.FromWorker) -> None:
        """It has said this."""
        self.last = event
        match event:
            case ev.Hello():
                self.step = Step.LOADING
            case ev.Ready():
                self.step = Step.WAITING
            case ev.Promoted():
                self.step = Step.COMPUTING
            case ev.Progress(done=done):
                self.done = done
            case ev.Quiesced():
                self.step = Step.QUIESCED
            case ev.Committed():
                self.step = Step.COMMITTED
            case ev.Failed():
                self.step = Step.FAILED
            case ev.Exited():
                self.step = Step.GONE
            case _:
                pass
