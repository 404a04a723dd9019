"""The gate on a device with memory of its own, in tables: needs by tier, limits of pools, what can never fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from states import gate, policy
from states.estimate import CONTEXT_BYTES, IMPORTED_BYTES
from states.events import Exited, Holder, HostMemory, Memory
from states.lifecycle import step
from states.snapshot import Lane, Phase, Reading, State, Trouble, World
from states.work import Profile, Session, Tier
from tests.core.worlds import GIB, LIMITS, MIB, lane, readings, session, worker, world

TIERS = (Tier.IMPORTED, Tier.STAGED, Tier.WARM)
GPU = lane("gpu0", device="gpu", index=0, tiers=TIERS, imported_bytes=0, readings=readings(8, 8, total=8))
GUESSED = session(guess_bytes=5 * GIB, guess_device_bytes=2 * GIB)
PROGRAM = session("p", stepwise=False, guess_bytes=0)
CONTEXT = {"context@gpu": Profile(peak_bytes=400 * MIB)}


def learned(peak: int = 0, host: int = 0) -> dict[str, Profile]:
    return {"s@gpu": Profile(peak_bytes=peak, host_peak_bytes=host)}


NEEDS: list[tuple[str, Session, dict[str, Profile], Tier, int]] = [
    ("imported it takes nothing of the device", GUESSED, {}, Tier.IMPORTED, 0),
    ("staged it takes the context", GUESSED, {}, Tier.STAGED, CONTEXT_BYTES),
    ("as it was measured", GUESSED, CONTEXT, Tier.STAGED, 400 * MIB),
    ("warm: the context, and what its files tell", GUESSED, {}, Tier.WARM, CONTEXT_BYTES + 2 * GIB),
    ("what is stated is all of it", replace(GUESSED, stated_bytes=3 * GIB), {}, Tier.WARM, 3 * GIB),
    ("what was measured is all of it", replace(GUESSED, stated_bytes=3 * GIB), learned(4 * GIB), Tier.WARM, 4 * GIB),
    (
        "a guess asks for nine tenths of the device at the most",
        replace(GUESSED, guess_device_bytes=9 * GIB),
        {},
        Tier.WARM,
        int(7.2 * GIB) - LIMITS.headroom_bytes,
    ),
    ("of a program nothing is guessed", PROGRAM, {}, Tier.WARM, 0),
]


@pytest.mark.parametrize(("why", "wanted", "profiles", "tier", "size"), NEEDS, ids=[row[0] for row in NEEDS])
def test_need(why: str, wanted: Session, profiles: dict[str, Profile], tier: Tier, size: int) -> None:
    assert gate.need(world(GPU, profiles=profiles), GPU, wanted, tier) == size


HOST_NEEDS: list[tuple[str, Session, dict[str, Profile], Tier, int]] = [
    ("importing costs host memory", GUESSED, {}, Tier.IMPORTED, IMPORTED_BYTES),
    ("then what its files tell", GUESSED, {}, Tier.STAGED, 5 * GIB),
    ("and what was measured", GUESSED, learned(host=2 * GIB), Tier.WARM, 2 * GIB),
    ("of a program nothing is known", PROGRAM, {}, Tier.WARM, 0),
]


@pytest.mark.parametrize(("why", "wanted", "profiles", "tier", "size"), HOST_NEEDS, ids=[row[0] for row in HOST_NEEDS])
def test_host_need(why: str, wanted: Session, profiles: dict[str, Profile], tier: Tier, size: int) -> None:
    assert gate.host_need(world(GPU, profiles=profiles), GPU, wanted, tier) == size


def test_on_the_cpu_host_memory_is_asked_once() -> None:
    """The lane's own reading is of the host: no second question, and no limit for a pool."""
    cpu = lane(readings=readings(3, 3))
    assert gate.host_need(world(cpu), cpu, GUESSED, Tier.WARM) == 0
    assert gate.pool_limit(world(cpu), cpu, GUESSED) is None


def test_a_gpu_that_shares_the_hosts_memory_is_asked_once() -> None:
    shared = replace(GPU, shares_memory=True, imported_bytes=IMPORTED_BYTES)
    assert gate.need(world(shared), shared, replace(GUESSED, guess_bytes=GIB), Tier.WARM) == 3 * GIB
    assert gate.need(world(shared), shared, GUESSED, Tier.IMPORTED) == IMPORTED_BYTES
    assert gate.host_need(world(shared), shared, GUESSED, Tier.WARM) == 0


POOLS: list[tuple[str, Session, int | None]] = [
    ("its need less the context", GUESSED, 2 * GIB),
    ("what is stated less the context", replace(GUESSED, stated_bytes=3 * GIB), 3 * GIB - CONTEXT_BYTES),
    ("never next to nothing", replace(GUESSED, stated_bytes=GIB // 2), gate.LEAST_LIMIT_BYTES),
    (
        "nine tenths of the device, once it ran out",
        replace(GUESSED, out_of_memory=1),
        int(7.2 * GIB) - GIB - CONTEXT_BYTES,
    ),
    ("a program has none", PROGRAM, None),
]


@pytest.mark.parametrize(("why", "wanted", "size"), POOLS, ids=[row[0] for row in POOLS])
def test_pool_limit(why: str, wanted: Session, size: int | None) -> None:
    assert gate.pool_limit(world(GPU), GPU, wanted) == size


def test_a_second_try_asks_for_what_no_other_process_holds() -> None:
    """And waits for it: what the session before it has not given back yet is not missing for good."""
    again = replace(GUESSED, out_of_memory=1)
    shared = replace(GPU, foreign=(Holder(4121, "python3", 2 * GIB), Holder(4122, "python3", None)))
    whole = int(7.2 * GIB) - GIB - 2 * GIB
    assert gate.pool_limit(world(shared), shared, again) == whole - CONTEXT_BYTES
    for free, tier in ((5.2, Tier.WARM), (5.1, Tier.STAGED)):
        here = replace(shared, readings=readings(free, free, total=8))
        assert gate.fitting_tier(world(here), here, again) is tier


EVER: list[tuple[str, Session, dict[str, Profile], bool]] = [
    ("a guess refuses nothing", replace(GUESSED, guess_device_bytes=90 * GIB), {}, True),
    ("what its weights alone weigh does", replace(GUESSED, least_bytes=7 * GIB + 1), {}, False),
    ("exactly the device less the headroom", replace(GUESSED, stated_bytes=7 * GIB), {}, True),
    ("a byte more", replace(GUESSED, stated_bytes=7 * GIB + 1), {}, False),
    ("what was measured has run there, however near to all of it", GUESSED, learned(8 * GIB), True),
    ("but not where its weights are more by now", replace(GUESSED, least_bytes=8 * GIB), learned(GIB), False),
]


@pytest.mark.parametrize(("why", "wanted", "profiles", "fits"), EVER, ids=[row[0] for row in EVER])
def test_can_ever_fit(why: str, wanted: Session, profiles: dict[str, Profile], fits: bool) -> None:
    here = world(GPU, queue=(wanted,), profiles=profiles)
    assert gate.can_ever_fit(here, GPU, wanted) is fits
    assert (policy.head(here, GPU, 0.0) is not None) is fits, "one that never fits is left to the other lanes"


def test_before_it_was_read_anything_may_fit() -> None:
    unread = replace(GPU, readings=())
    assert gate.can_ever_fit(world(unread), unread, replace(GUESSED, stated_bytes=1 << 50))


@pytest.mark.parametrize("peak", [7.5, 8.0, 8.5])
def test_what_takes_nearly_all_of_a_device_begins_when_it_is_empty(peak: float) -> None:
    """And is given all that it took: nothing is begun beside it."""
    profiles = learned(int(peak * GIB))
    assert gate.fitting_tier(world(GPU, profiles=profiles), GPU, GUESSED) is Tier.WARM
    assert gate.given(world(GPU, profiles=profiles), GPU, GUESSED, Tier.WARM) >= int(peak * GIB)
    taken = replace(GPU, active=worker(reserved=GIB // 2))
    assert gate.fitting_tier(world(taken, profiles=profiles), taken, GUESSED) is not Tier.WARM


LIARS: list[tuple[str, float, float, bool]] = [
    ("it holds more than it was given, and what was promised is not there", 4.5, 3.0, True),
    ("what was promised is there", 4.5, 3.5, False),
    ("it holds what it was given", 4.0, 3.0, False),
]


@pytest.mark.parametrize(("why", "held", "free", "grows"), LIARS, ids=[row[0] for row in LIARS])
def test_a_standby_that_took_what_was_promised_is_ended(why: str, held: float, free: float, grows: bool) -> None:
    here = replace(
        GPU,
        readings=readings(free, free, total=12),
        active=worker(reserved=4 * GIB, held_bytes=GIB // 2),
        standby=worker(reserved=4 * GIB, held_bytes=int(held * GIB), phase=Phase.READY, spawned_at=0.0),
    )
    assert gate.grows_into_standby(world(here), here) is grows


def host(*free: float) -> tuple[Reading, ...]:
    return tuple(Reading(float(at), 64 * GIB, int(each * GIB)) for at, each in enumerate(free, 1))


HOSTS: list[tuple[str, tuple[Reading, ...], dict[str, Any], Tier | None]] = [
    ("the host has room for all of it", host(6, 6), {}, Tier.WARM),
    ("only for an imported process", host(5.9, 5.9), {}, Tier.IMPORTED),
    ("for nothing", host(1, 1), {}, None),
    ("one reading is no reading", host(60), {}, None),
    ("where it is not read it is not asked", (), {}, Tier.WARM),
    (
        "what a session on another GPU may still take is not free",
        host(10, 10),
        {"active": worker(host_reserved=6 * GIB, rss_bytes=GIB)},
        Tier.IMPORTED,
    ),
    (
        "what it took is in the reading",
        host(6, 6),
        {"active": worker(host_reserved=6 * GIB, rss_bytes=6 * GIB)},
        Tier.WARM,
    ),
    (
        "what one is still taking is not",
        host(10, 10),
        {"standby": worker(host_reserved=5 * GIB, phase=Phase.LOADING)},
        Tier.IMPORTED,
    ),
]


@pytest.mark.parametrize(("why", "seen", "fields", "tier"), HOSTS, ids=[row[0] for row in HOSTS])
def test_the_hosts_memory_is_asked_for_all_lanes(
    why: str, seen: tuple[Reading, ...], fields: dict[str, Any], tier: Tier | None
) -> None:
    other = replace(GPU, name="gpu1", index=1, **fields)
    here = replace(world(GPU, other), host=seen)
    assert gate.fitting_tier(here, GPU, GUESSED) is tier


def running(**fields: Any) -> Lane:
    return replace(GPU, state=State.RUNNING, active=worker(reserved=4 * GIB, **fields), idle_bytes=GIB // 2)


def read(here: World, free: float, **told: Any) -> World:
    return step(here, Memory(9.0, "gpu0", 8 * GIB, int(free * GIB), **told)).after


def test_what_the_device_tells_of_a_worker_is_what_it_holds() -> None:
    after = read(world(running()), 5, held=((1, 2 * GIB),))
    active = after.lanes["gpu0"].active
    assert active is not None
    assert active.held_bytes == 2 * GIB
    assert gate.growth(after.lanes["gpu0"]) == 2 * GIB


def test_where_it_tells_nothing_the_difference_to_the_empty_device_is() -> None:
    """8 GiB, half a GiB of which was taken when nobody was there, 5 free: 2.5 are the one worker's, a program's."""
    active = read(world(running(session=PROGRAM)), 5).lanes["gpu0"].active
    assert active is not None
    assert active.held_bytes == 5 * GIB // 2


def test_one_of_unknown_need_may_take_all() -> None:
    here = replace(GPU, active=worker(reserved=0, session=PROGRAM, held_bytes=GIB))
    assert gate.growth(here) == 8 * GIB
    assert gate.fitting_tier(world(here), here, GUESSED) is Tier.IMPORTED


def test_the_host_that_runs_short_costs_one_standby_at_a_time() -> None:
    """Half of the headroom is gone, in readings made since it was begun: it is ended, its session goes back."""
    lanes = [
        replace(
            GPU,
            name=f"gpu{index}",
            index=index,
            state=State.PRELOADING,
            active=worker(generation=2 * index + 1, session=session(f"a{index}"), phase=Phase.COMPUTING, stall_at=99.0),
            standby=worker(generation=2 * index + 2, session=session(f"b{index}"), phase=Phase.LOADING, deadline=99.0),
        )
        for index in (0, 1)
    ]
    here = replace(world(*lanes), host=host(0.4, 0.4), generation=4)
    after = step(here, HostMemory(9.0, 64 * GIB, int(0.4 * GIB))).after
    assert [after.lanes[name].state for name in ("gpu0", "gpu1")] == [State.NEARING_END, State.PRELOADING]


def test_where_the_device_tells_of_nobody_nothing_is_learned_of_a_program() -> None:
    """A stranger's memory may be in the difference: what it seems to hold counts now, and is not kept."""
    active = read(world(running(session=PROGRAM)), 2).lanes["gpu0"].active
    assert active is not None
    assert active.held_bytes > 5 * GIB
    assert active.peak_bytes == 0


def test_as_many_readings_are_kept_as_must_agree() -> None:
    here = replace(world(replace(GPU, readings=())), limits=replace(LIMITS, readings=20))
    for _ in range(20):
        here = read(here, 8)
    assert gate.spare(here.lanes["gpu0"], here.limits) == 8 * GIB


def test_what_a_standby_took_too_much_is_its_need_from_then_on() -> None:
    """It is ended for the room, and begun again only where there is as much as it really takes."""
    liar = replace(PROGRAM, stated_bytes=3 * GIB)
    lane_ = running(held_bytes=GIB)
    standby = worker(generation=2, session=liar, reserved=3 * GIB, phase=Phase.READY, tier=Tier.WARM, spawned_at=0.5)
    here = replace(world(replace(lane_, state=State.PRELOADING, standby=standby)), generation=2)
    for _ in range(2):
        here = read(here, 2, held=((1, GIB), (2, 5 * GIB)))
    assert here.lanes["gpu0"].state is State.NEARING_END
    assert gate.need(here, here.lanes["gpu0"], liar, Tier.WARM) == 5 * GIB


@pytest.mark.parametrize("unread", [None, "NVML has not answered for 2 s"])
def test_what_fails_while_its_device_cannot_be_read_is_tried_again(unread: str | None) -> None:
    """Where it can be read, a program's own failure is one for good."""
    active = worker(session=PROGRAM, stall_at=99.0, trouble=Trouble("program", "exited with status 1"))
    here = replace(world(replace(GPU, state=State.RUNNING, active=active, unread=unread)), generation=1)
    after = step(here, Exited(9.0, 1, 1)).after
    assert [each.attempt for each in after.queue] == ([] if unread is None else [1])


def test_a_standby_is_given_what_the_pool_it_was_started_with_may_take() -> None:
    """Its need was learned to be less meanwhile; the limit of a pool is fixed when it is made."""
    standby = worker(session=GUESSED, reserved=0, pool_bytes=5 * GIB, phase=Phase.READY, tier=Tier.STAGED)
    here = world(GPU, profiles=learned(2 * GIB) | CONTEXT)
    assert gate.given(here, GPU, GUESSED, Tier.WARM, standby) == 5 * GIB + 400 * MIB
    assert gate.given(here, GPU, GUESSED, Tier.WARM) == 2 * GIB
