"""Thousands of handovers of worlds from seeds keep every promise; bugs that are planted are found and made small."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from states import events as ev
from states import facts, fate, gate, pauses, policy
from states import readings as memory
from states.draft import Draft
from states.snapshot import Fate, Lane, Limits, Reading, Worker
from states.triggers import Trigger
from tests.core.scenario import written
from tests.simulation import simulation as world
from tests.simulation.__main__ import explained, figures
from tests.simulation.draw import draw
from tests.simulation.minimise import minimise, tried
from tests.simulation.plan import Kind, Plan
from tests.simulation.simulation import Report, Simulation
from tests.simulation.telling import scenario

HANDOVERS = 2000
FIRST_SEED = 10_600
TRIES = 250  # worlds in which a planted bug has to show

Patch = Callable[[pytest.MonkeyPatch], None]


def test_two_thousand_handovers(capsys: pytest.CaptureFixture[str]) -> None:
    """Every session ends once, every row is there once, nobody computes beside another, nothing is stuck."""
    whole, runs, began = Report("all"), 0, time.monotonic()
    while whole.handovers < HANDOVERS:
        outcome = tried(draw(str(FIRST_SEED + runs)))
        assert outcome.law is None, f"seed {FIRST_SEED + runs}: {outcome.error}"
        whole.add(outcome.simulation.report)
        runs += 1
    with capsys.disabled():
        print("\n" + figures(whole, runs, time.monotonic() - began))
    struck = " ".join(whole.faults)
    assert [kind for kind in Kind if kind.value not in struck] == [], "a kind of fault never struck"
    assert whole.adopted > 0


def test_a_seed_gives_one_world() -> None:
    """The same seed twice: the same decisions, to the last field."""
    plan = next(plan for plan in map(draw, map(str, range(100))) if plan.troubles and plan.mishaps)
    runs = [Simulation(plan), Simulation(plan)]
    for run in runs:
        run.run()
    assert runs[0].trace == runs[1].trace
    assert draw(plan.seed) == plan


# Bugs, planted


def settles_at_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session comes back at what was computed, not at what is durable."""
    settle = fate.settle

    def planted(draft: Draft, worker: Worker, status: int | None, reason: str) -> None:
        settle(draft, replace(worker, cursor=worker.done), status, reason)

    monkeypatch.setattr(fate, "settle", planted)


def last_batch_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is told to go when the last batch is begun."""

    def planted(draft: Draft, lane: Lane, worker: Worker) -> Trigger | None:
        said = ev.Quiesced(draft.at, worker.generation, draft.at, worker.total or worker.done, 0)
        return facts._quiesced(draft, lane, worker, said)

    monkeypatch.setattr(facts, "_last_batch", planted)


def restores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new daemon starts what the old one left running."""
    monkeypatch.setattr(world, "restore", lambda world, *_: world)


def believes_old_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reading was too early to show counts as free."""
    monkeypatch.setattr(gate, "unseen", lambda *_: 0)
    monkeypatch.setattr(facts, "_with_unreturned", lambda reading, _: reading)


def forgets_that_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that is done is settled again when its worker exits."""
    settle = fate.settle
    monkeypatch.setattr(
        fate, "settle", lambda draft, worker, *rest: settle(draft, replace(worker, settled=False), *rest)
    )


def drains_cost_an_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain that was asked for is a failure."""
    settle = fate.settle

    def planted(draft: Draft, worker: Worker, status: int | None, reason: str) -> None:
        settle(draft, replace(worker, fate=Fate.RETRY) if worker.fate is Fate.REQUEUE else worker, status, reason)

    monkeypatch.setattr(fate, "settle", planted)


def never_escalates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines pass, and nobody is late."""
    monkeypatch.setattr(policy, "overdue", lambda *_: ())


def takes_a_full_disk_for_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has no room to write is ended when its time is over."""
    monkeypatch.setattr(pauses, "pause", lambda *_: None)


def starts_only_twelve(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the twelfth worker no lane takes a session any more."""
    may_start = policy.may_start
    monkeypatch.setattr(policy, "may_start", lambda world, lane: world.generation < 12 and may_start(world, lane))


def ignores_reservations(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is free now is given out, whatever was promised to whom."""

    def planted(readings: tuple[Reading, ...], limits: Limits, *_: object) -> int | None:
        recent = readings[-limits.readings :]
        return min(each.free for each in recent) if len(recent) == limits.readings else None

    monkeypatch.setattr(gate, "_room", planted)


def believes_that_ends_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an ended worker had counts as free at once."""
    monkeypatch.setattr(
        facts,
        "_with_unreturned",
        lambda reading, worker: replace(reading, free=min(reading.total, reading.free + worker.reserved)),
    )


def ignores_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    """The active session has all that it will ever have."""
    monkeypatch.setattr(gate, "growth", lambda *_: 0)


def does_not_ask_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker takes memory of its device alone."""
    monkeypatch.setattr(gate, "_host_has_room", lambda *_: True)


def ignores_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a device said last is so until it says something else."""
    monkeypatch.setattr(memory, "file_unread", lambda *_: None)


PLANTED: list[tuple[Patch, set[str]]] = [
    (settles_at_done, {"cursor"}),
    (last_batch_is_the_end, {"two compute", "count", "handover"}),
    (restores_nothing, {"forgotten", "two writers", "two compute"}),
    (believes_old_readings, {"gate", "memory"}),
    (forgets_that_it_ended, {"ended twice", "record", "invariants"}),
    (drains_cost_an_attempt, {"attempt", "untroubled"}),
    (never_escalates, {"busy", "stuck"}),
    (takes_a_full_disk_for_a_stall, {"attempt", "untroubled"}),
    (starts_only_twelve, {"stuck"}),
    (ignores_reservations, {"gate", "memory"}),
    (believes_that_ends_free, {"gate", "memory"}),
    (ignores_growth, {"gate", "memory"}),
    (does_not_ask_the_host, {"host"}),
    (ignores_unread, {"unread"}),
]


def found(plant: Patch, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, str]:
    """The first world that shows the planted bug, and the law it breaks."""
    plant(monkeypatch)
    for seed in range(TRIES):
        outcome = tried(draw(str(seed)))
        if outcome.law is not None:
            return outcome.simulation.plan, outcome.law
    pytest.fail(f"nothing found in {TRIES} worlds")


@pytest.mark.parametrize(("plant", "laws"), PLANTED, ids=[plant.__name__ for plant, _ in PLANTED])
def test_a_planted_bug_is_found(plant: Patch, laws: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known to be wrong breaks the law that is meant to hold it."""
    _, law = found(plant, monkeypatch)
    assert law in laws


def test_a_find_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few sessions and next to no faults are left, and the world still breaks the same law."""
    plan, law = found(last_batch_is_the_end, monkeypatch)
    small = minimise(plan, law)
    assert tried(small).law == law
    assert 5 * len(small.jobs) <= len(plan.jobs)
    assert len(small.mishaps) + len(small.troubles) + len(small.wishes) <= 1
    assert f"seed {plan.seed}: {law}" in explained(small, law)


def test_a_run_is_a_scenario() -> None:
    """What no daemon's death interrupts can be said as a scenario; the core decides there what it decided here."""
    plans = (draw(str(seed)) for seed in range(100))
    plan = next(plan for plan in plans if not plan.troubles and plan.mishaps and plan.wishes)
    plan = plan.without_jobs({job.id for job in plan.jobs if job.again})
    simulation = Simulation(plan)
    report = simulation.run()
    text = scenario(simulation, "none")
    assert text is not None
    answered = written(text)
    assert answered.count("· handover.completed") == report.handovers
    assert answered.count("· session.finished") == report.ends["done"]
    assert answered.count("· standby.started") == sum(simulation.started.values())
