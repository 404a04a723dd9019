"""The loop: one event at a time, recorded before it is acted on, and nothing lost when it cannot be recorded."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from daemon.loop import Loop, RecordFailed
from states.decision import Decision
from states.effects import Effect, Promote, StartStandby
from states.events import (
    Cancel,
    Committed,
    Event,
    Exited,
    LastBatch,
    Memory,
    Progress,
    Promoted,
    Queued,
    Quiesced,
    Ready,
    Stop,
    Tick,
)
from states.snapshot import Lane, State, World
from states.work import Session, Tier

GIB = 1 << 30
now = time.monotonic


class Diary:
    """What the loop did, in order; it can be told to have no room, and to answer an effect at once."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.full = False
        self.answer: Callable[[Effect], None] = lambda effect: None

    def record(self, decision: Decision) -> int:
        if self.full:
            raise RecordFailed("no space left on device")
        self.told.append(f"record {type(decision.event).__name__}")
        return len(self.told)

    def tell(self, decision: Decision, seq: int | None, recorded_at: float) -> None:
        self.told.append(f"tell {type(decision.event).__name__}")

    def perform(self, effect: Effect) -> None:
        self.told.append(f"perform {type(effect).__name__}")
        self.answer(effect)

    def blocked(self, why: str) -> None:
        self.told.append(f"blocked: {why}")

    def unblocked(self, decisions: int, waited_s: float) -> None:
        self.told.append("unblocked")


def run(test: Callable[[Loop, Diary], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        diary = Diary()
        loop = Loop(
            World(lanes={"cpu": Lane("cpu")}),
            record=diary.record,
            tell=diary.tell,
            perform=diary.perform,
            blocked=diary.blocked,
            unblocked=diary.unblocked,
        )
        for _ in range(2):
            loop.post(Memory(now(), "cpu", 8 * GIB, 8 * GIB))
        try:
            await asyncio.wait_for(test(loop, diary), 20)
        finally:
            loop.close()

    asyncio.run(main())


def test_a_decision_is_recorded_then_performed_then_told() -> None:
    async def body(loop: Loop, diary: Diary) -> None:
        decision = await loop.ask(Queued(now(), Session("a", 1)))
        assert decision.refused is None
        assert diary.told == ["record Queued", "perform StartStandby", "tell Queued"]

    run(body)


def test_an_event_posted_by_an_effect_waits_its_turn() -> None:
    async def body(loop: Loop, diary: Diary) -> None:
        def answer(effect: Effect) -> None:
            if isinstance(effect, StartStandby):
                loop.post(Ready(now(), effect.generation, Tier.WARM, 1.0, 10))
                diary.told.append("posted")

        diary.answer = answer
        loop.post(Queued(now(), Session("a", 1)))
        start = diary.told.index("perform StartStandby")
        assert diary.told[start : start + 5] == [
            "perform StartStandby",
            "posted",
            "tell Queued",
            "record Ready",
            "perform Promote",
        ]

    run(body)


def test_the_answer_to_an_event_leaves_in_the_same_turn() -> None:
    async def body(loop: Loop, diary: Diary) -> None:
        loop.post(Queued(now(), Session("a", 1)))
        loop.post(Ready(now(), 1, Tier.WARM, 1.0, 10))
        assert diary.told[-2:] == ["perform Promote", "tell Ready"]  # no await between

    run(body)


def test_progress_that_moves_nothing_is_neither_recorded_nor_told() -> None:
    async def body(loop: Loop, diary: Diary) -> None:
        for event in (Queued(now(), Session("a", 1)), Ready(now(), 1, Tier.WARM, 1.0, 10), Promoted(now(), 1, now())):
            loop.post(event)
        before = list(diary.told)
        loop.post(Progress(now(), 1, 1, 0, 10))
        assert diary.told == before
        active = loop.world.lanes["cpu"].active
        assert active is not None
        assert active.done == 1

    run(body)


def test_a_refusal_is_a_value_and_changes_nothing() -> None:
    async def body(loop: Loop, diary: Diary) -> None:
        before = loop.world
        decision = await loop.ask(Cancel(now(), "nobody"))
        assert decision.refused == "cannot cancel nobody: no session of that name is queued or running"
        assert loop.world is before

    run(body)


def test_what_cannot_be_recorded_is_not_acted_on_and_not_lost() -> None:
    async def body(loop: Loop, diary: Diary) -> None:
        loop.post(Queued(now(), Session("a", 1)))
        diary.full = True
        loop.post(Ready(now(), 1, Tier.WARM, 1.0, 10))
        assert "perform Promote" not in diary.told
        assert diary.told.count("blocked: no space left on device") == 1
        assert loop.unrecorded == "no space left on device"
        refused = await loop.ask(Queued(now(), Session("b", 2)))
        assert refused.refused is not None
        assert "no space left" in refused.refused
        diary.full = False
        await loop.until(lambda world: world.lanes["cpu"].active is not None)
        assert "perform Promote" in diary.told
        assert diary.told.count("unblocked") == 1
        assert loop.unrecorded is None

    run(body)


def test_a_refused_command_leaves_nothing_blocked_once_there_is_room_again() -> None:
    """What could not be recorded was a command, refused at once; the next one is taken, though no fact came between."""

    async def body(loop: Loop, diary: Diary) -> None:
        diary.full = True
        assert (await loop.ask(Queued(now(), Session("a", 1)))).refused is not None
        diary.full = False
        await asyncio.wait_for(_until_taken(loop), 20)
        assert loop.world.lanes["cpu"].standby is not None
        assert diary.told.count("unblocked") == 1

    run(body)


async def _until_taken(loop: Loop) -> None:
    while (await loop.ask(Queued(now(), Session("b", 2)))).refused is not None:
        loop.post(Memory(now(), "cpu", 8 * GIB, 8 * GIB))
        await asyncio.sleep(0.05)


def test_a_record_that_fails_for_long_costs_no_worker_its_time() -> None:
    """What waited is taken as if it came now: no limit that counts from it has passed before anybody could act."""

    async def body(loop: Loop, diary: Diary) -> None:
        loop.post(Queued(now(), Session("a", 1)))
        long_ago = now() - 10_000
        diary.full = True
        loop.post(Ready(long_ago, 1, Tier.WARM, 1.0, 10))
        loop.post(Promoted(long_ago, 1, long_ago))
        loop.post(Tick(long_ago))
        diary.full = False
        await loop.until(lambda world: world.lanes["cpu"].state is State.RUNNING)
        active = loop.world.lanes["cpu"].active
        assert active is not None
        assert active.began_at == long_ago
        assert active.stall_at is not None
        assert active.stall_at > now()
        assert "perform DrainActive" not in diary.told

    run(body)


def test_a_daemon_that_did_not_run_listens_before_it_looks_at_the_time() -> None:
    """It was stopped for longer than a limit: what a worker said meanwhile lies in its socket."""

    async def body(loop: Loop, diary: Diary) -> None:
        loop.world = replace(loop.world, limits=replace(loop.world.limits, stall_timeout_s=0.5))
        for event in (Queued(now(), Session("a", 1)), Ready(now(), 1, Tier.WARM, 1.0, 10), Promoted(now(), 1, now())):
            loop.post(event)
        ours, theirs = socket.socketpair()
        heard = asyncio.get_running_loop().create_future()

        def hear() -> None:  # as a crew does it: what is read is told in a later turn
            ours.recv(1)
            heard.set_result(None)
            asyncio.get_running_loop().call_later(0.01, lambda: loop.post(Progress(now(), 1, 5, 0, 10)))

        asyncio.get_running_loop().add_reader(ours, hear)
        theirs.send(b"x")
        time.sleep(2.0)  # noqa: ASYNC251 - nothing of this process is to run
        await heard
        await loop.until(lambda world: (active := world.lanes["cpu"].active) is not None and active.done == 5)
        assert "perform DrainActive" not in diary.told
        asyncio.get_running_loop().remove_reader(ours)
        ours.close()
        theirs.close()
        await loop.until(lambda world: world.lanes["cpu"].state is State.DRAINING)  # now it really stalls

    run(body)


def test_a_stop_does_not_wait_for_room_on_a_disk() -> None:
    """Nothing new is begun by it; the outputs hold what was done."""

    async def body(loop: Loop, diary: Diary) -> None:
        for event in (Queued(now(), Session("a", 1)), Ready(now(), 1, Tier.WARM, 1.0, 10), Promoted(now(), 1, now())):
            loop.post(event)
        loop.post(Queued(now(), Session("b", 2)))
        diary.full = True
        loop.post(LastBatch(now(), 1))
        await loop.ask(Stop(now()))
        loop.post(Quiesced(now(), 1, now(), 10, 0))
        loop.post(Committed(now(), 1, 10))
        loop.post(Exited(now(), 1, 0))
        assert loop.world.lanes["cpu"].state is State.STOPPED
        assert diary.told.count("perform Promote") == 1

    run(body)


def test_events_do_not_pile_up_while_nothing_can_be_recorded() -> None:
    async def body(loop: Loop, diary: Diary) -> None:
        diary.full = True
        loop.post(Queued(now(), Session("a", 1)))
        kinds: tuple[Callable[[int], Event], ...] = (
            lambda i: Progress(now(), 1, i, 0, 10),
            lambda i: Memory(now(), "cpu", 8 * GIB, 8 * GIB),
            lambda i: Tick(now()),
        )
        for i in range(1000):
            for kind in kinds:
                loop.post(kind(i))
        assert len(loop._inbox) <= 4

    run(body)


def test_time_alone_moves_a_lane() -> None:
    """A queued session whose time has not come is started when it has, without any further event."""

    async def body(loop: Loop, diary: Diary) -> None:
        now = asyncio.get_running_loop().time()
        loop.post(Queued(now, Session("a", 1, not_before=now + 0.2)))
        assert loop.world.lanes["cpu"].state is State.IDLE
        await loop.until(lambda world: world.lanes["cpu"].standby is not None)

    run(body)


def test_a_bug_stops_the_loop_and_carries_the_recent_decisions() -> None:
    async def body(loop: Loop, diary: Diary) -> None:
        def broken(effect: Effect) -> None:
            if isinstance(effect, Promote):
                raise ZeroDivisionError("a bug")

        diary.answer = broken
        loop.post(Queued(now(), Session("a", 1)))
        loop.post(Ready(now(), 1, Tier.WARM, 1.0, 10))
        with pytest.raises(ZeroDivisionError) as caught:
            await loop.until(lambda world: False)
        assert any("Queued; " in note for note in caught.value.__notes__)

    run(body)
