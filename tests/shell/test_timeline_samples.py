"""Memory over time: what is kept of it, how little that is, and how it goes with the rest of the record."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from daemon import database, register, samples
from daemon.config import History
from daemon.register import Register
from daemon.results import Sample
from daemon.samples import Sampler
from daemon.store import RecordError, Store
from states.events import Progress
from states.snapshot import Reading, State, World
from states.work import Session
from tests.core import worlds
from tests.shell.control_stage import PATIENCE_S
from tests.shell.recorded_life import GIB, START, Life
from tests.shell.timeline_stage import DAY, pieces, sample

MIB = 1 << 20


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    made = Life(tmp_path / "state")
    yield made
    made.store.close()


class Watched:
    """A sampler that is shown worlds, and what it wrote."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.kept: list[Sample] = []
        self.signs = 0  # that the daemon is there
        self.full = False
        self.written = asyncio.Event()
        self.refused = asyncio.Event()
        self.sampler = Sampler(lambda: self.world, self._keep)

    def _keep(self, found: Iterable[Sample], *, ended: bool = False) -> bool:
        if not self.full:
            self.kept += found
            self.signs += 1
            if self.kept:
                self.written.set()
        else:
            self.refused.set()
        return not self.full

    async def show(self, world: World) -> None:
        """Look at a world as the daemon does: once what is in hand is done."""
        self.world = world
        self.sampler.look_soon()
        self.sampler.look_soon()
        await asyncio.sleep(0)

    def shown(self, *worlds: World) -> list[Sample]:
        """What is kept of these worlds, each shown once, as fast as can be."""

        async def show_all() -> None:
            for world in worlds:
                await self.show(world)
            self.sampler.end()

        asyncio.run(show_all())
        return self.kept


def with_free(world: World, free: int) -> World:
    lane = world.lanes["cpu"]
    return replace(world, lanes={"cpu": replace(lane, readings=(Reading(0.0, 8 * GIB, free),))})


def test_a_sample_tells_whose_the_memory_is(life: Life) -> None:
    life.submit("a")
    generation = life.run_to(10)
    life.feed(Progress(0.0, generation, 11, 11, 100, 300 * MIB))
    (kept,) = Watched(life.world).shown(life.world)
    assert (kept.lane, kept.total_bytes, kept.free_bytes) == ("cpu", 8 * GIB, 8 * GIB)
    assert (kept.active_bytes, kept.standby_bytes, kept.retiring_bytes, kept.wanted_bytes) == (300 * MIB, 0, 0, 0)


def test_what_waits_for_memory_is_told_with_what_it_needs(life: Life) -> None:
    short = with_free(life.world, GIB)
    short = replace(short, lanes={"cpu": replace(short.lanes["cpu"], readings=(Reading(0.0, 8 * GIB, GIB),) * 2)})
    waiting = replace(short, queue=(Session("big", 1.0, stated_bytes=4 * GIB, total=100, stepwise=False),))
    (kept,) = Watched(waiting).shown(waiting)
    assert kept.wanted_bytes == 4 * GIB


def test_figures_that_move_are_kept_once_a_second_and_a_new_state_at_once(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = life.world
    little, much = with_free(world, 8 * GIB - 70 * MIB), with_free(world, 4 * GIB)
    now = [1000.0]
    monkeypatch.setattr(samples.time, "monotonic", lambda: now[0])
    watched = Watched(world)

    async def later(seconds: float, world: World) -> int:
        now[0] += seconds
        await watched.show(world)
        return len(watched.sampler._waiting)

    async def run() -> None:
        assert await later(0.0, world) == 1
        assert await later(0.9, much) == 1, "a second has not gone by"
        assert await later(0.2, much) == 2
        assert await later(5.0, with_free(much, 4 * GIB - 70 * MIB)) == 2, "less than a hundredth"
        draining = replace(much, lanes={"cpu": replace(much.lanes["cpu"], state=State.DRAINING)})
        assert await later(0.001, draining) == 3, "at once"
        assert await later(0.1, with_free(draining, GIB)) == 4, "closely, while it hands over"
        assert await later(30.0, with_free(draining, GIB)) == 4
        assert await later(31.0, with_free(draining, GIB)) == 5, "a sign each minute"

    asyncio.run(run())
    assert little != world


def test_nothing_is_written_while_a_lane_hands_over(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "WRITE_S", 0.001)
    swapping = replace(life.world, lanes={"cpu": replace(life.world.lanes["cpu"], state=State.SWAPPING)})
    watched = Watched(swapping)

    async def run() -> None:
        chore = asyncio.create_task(watched.sampler.write())
        await watched.show(swapping)
        looked = asyncio.Semaphore(0)

        def world() -> World:
            looked.release()
            return watched.world

        watched.sampler._world = world
        for _ in range(5):
            await looked.acquire()
        assert watched.kept == []
        await watched.show(life.world)
        await watched.written.wait()
        chore.cancel()

    asyncio.run(run())
    assert [each.lane for each in watched.kept][:1] == ["cpu"]


def test_that_the_daemon_is_there_is_written_though_nothing_moves(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a daemon that was killed was last seen is where the picture says that none was there."""
    monkeypatch.setattr(samples, "WRITE_S", 0.001)
    monkeypatch.setattr(samples, "SEEN_S", 1e9)
    watched = Watched(life.world)
    looked = asyncio.Event()

    def world() -> World:
        looked.set()
        return watched.world

    watched.sampler._world = world

    async def look(times: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(times):
                looked.clear()
                await looked.wait()

    async def run() -> None:
        chore = asyncio.create_task(watched.sampler.write())
        await look(5)
        assert watched.signs == 1, "when it began; the next is not due"
        monkeypatch.setattr(samples, "SEEN_S", 0.0)
        await look(5)
        assert watched.signs > 1
        watched.world = replace(life.world, lanes={"cpu": replace(life.world.lanes["cpu"], state=State.SWAPPING)})
        await look(1)
        before = watched.signs
        await look(5)
        assert watched.signs == before, "not while a lane hands over"
        chore.cancel()

    asyncio.run(run())
    assert watched.kept == []


def test_what_cannot_be_written_is_tried_again_and_bounded(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "WRITE_S", 0.001)
    watched = Watched(life.world)
    watched.full = True
    assert watched.sampler._waiting.maxlen == samples.WAITING

    async def run() -> None:
        chore = asyncio.create_task(watched.sampler.write())
        await watched.show(life.world)
        for _ in range(2):
            watched.refused.clear()
            await watched.refused.wait()
        assert watched.kept == []
        watched.full = False
        await watched.written.wait()
        chore.cancel()

    asyncio.run(run())


def test_a_full_record_is_no_alarm_of_its_own(life: Life) -> None:
    """The decisions' alarm says it already; one a second would drown it."""
    told: list[object] = []
    register = Register(life.store, Path, told.append)
    with closing(sqlite3.connect(life.store.folder / "batond.db", isolation_level=None)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        assert not register.keep_samples([sample(START)])
        with pytest.raises(RecordError, match="cannot record memory over time"):
            life.store.samples.keep([sample(START)], START)
    assert told == []
    assert register.keep_samples([sample(START)])
    assert register.keep_samples([sample(START)])
    (lives,) = [piece.lives for piece in pieces(life, START, START + 36500 * DAY) if piece.lives]
    assert len(lives) == 1, "one daemon, however often it tried"


def test_a_record_of_the_schema_before_gets_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr(database, "MIGRATIONS", database.MIGRATIONS[:2])
        with closing(Store.open(tmp_path / "old")):
            pass
    with closing(Store.open(tmp_path / "old")) as store:
        store.samples.keep([sample(START)], START)
        assert [piece for piece in store.past.pieces(START, START + DAY) if "samples" in piece]


def test_when_a_daemon_began_is_known_within_a_stretch(life: Life) -> None:
    life.store.samples.keep([], START)
    with closing(Store.open(life.store.folder.with_name("later"))) as other:
        assert other.samples.began(START, START + DAY) == ()
    assert life.store.samples.began(START, START + DAY) == (START,)
    assert life.store.samples.began(START + timedelta(seconds=1), START + DAY) == ()
    assert life.store.samples.began(START - DAY, START - timedelta(seconds=1)) == ()


def test_samples_go_when_they_are_as_old_as_what_goes(life: Life) -> None:
    old, new = START + DAY, START + 20 * DAY
    life.store.samples.keep([sample(old), sample(new)], new)
    pruned = life.store.prune(5, 1 << 30, new + DAY)
    assert pruned.samples == 1
    assert [each.ts for piece in pieces(life, START, new + DAY) for each in piece.samples] == [new]


def test_samples_go_with_the_decisions_around_them_where_the_record_is_too_large(life: Life) -> None:
    for number in range(20):
        life.submit(f"s{number}")
        life.store.samples.keep([sample(life.wall + timedelta(milliseconds=n)) for n in range(100)], life.wall)
    gone = 0
    while (pruned := life.store.prune(30, 0, life.wall)).more:
        gone += pruned.samples
    assert gone + pruned.samples == 2000
    assert [piece.samples for piece in pieces(life, START, life.wall + DAY) if piece.samples] == []
    assert len(life.store.load().queue) == 20


def test_a_lane_samples_cost_little(life: Life) -> None:
    """A hundred bytes each: a day of a sample a second is less than ten megabytes."""
    before = life.store.prune(30, 1 << 40, life.wall).size_bytes
    life.store.samples.keep([sample(START + timedelta(seconds=n), used=n) for n in range(5000)], START)
    assert (life.store.prune(36500, 1 << 40, life.wall).size_bytes - before) / 5000 < 120


def waiting_for_memory() -> World:
    """Nobody computes; what comes next could not climb: somebody else holds the memory, for as long as they like."""
    return worlds.world(worlds.lane(state=State.SWAPPING, standby=worlds.IMPORTED))


def test_while_a_lane_waits_for_memory_that_others_hold_samples_are_written(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "WRITE_S", 0.001)
    watched = Watched(waiting_for_memory())

    async def run() -> None:
        chore = asyncio.create_task(watched.sampler.write())
        await watched.show(watched.world)
        async with asyncio.timeout(PATIENCE_S):
            await watched.written.wait()
        chore.cancel()

    asyncio.run(run())
    assert [each.lane for each in watched.kept][:1] == ["cpu"]


def test_the_journal_is_written_back_while_a_lane_waits_for_memory_and_not_while_it_hands_over(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register, "CHECKPOINT_INTERVAL_S", 0.001)
    life.store.checkpoint()
    file = life.store.folder / "batond.db"
    life.store.samples.keep([sample(START, used=n) for n in range(5000)], START)
    before = file.stat().st_size
    waits = waiting_for_memory()
    swapping = replace(waits, lanes={"cpu": replace(waits.lanes["cpu"], standby=worlds.waiting())})
    shown = [swapping]
    looks: list[World] = []

    def world() -> World:
        looks.append(shown[0])
        return shown[0]

    async def until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():  # noqa: ASYNC110 - a file tells nobody that it grew
                await asyncio.sleep(0.001)

    async def run() -> None:
        chore = asyncio.create_task(Register(life.store, Path, print).tidy(lambda: History(days=36500), world))
        await until(lambda: len(looks) > 5)
        assert file.stat().st_size == before
        shown[0] = waits
        await until(lambda: file.stat().st_size > before)
        chore.cancel()

    asyncio.run(run())
