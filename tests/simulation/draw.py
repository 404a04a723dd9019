"""A plan from a seed. The only place of the simulation where chance decides what a world is like."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from states.snapshot import Limits
from states.work import Lead, Tier
from tests.simulation.plan import Job, Kind, LanePlan, Mishap, Plan, Point, Stage, Tells, Trouble, Wish

GIB = 1 << 30
MIB = 1 << 20
LIMITS = Limits(
    prepare_timeout_s=20.0,
    start_timeout_s=8.0,
    stall_timeout_s=12.0,
    drain_timeout_s=8.0,
    commit_timeout_s=8.0,
    pause_timeout_s=60.0,
    exit_timeout_s=4.0,
    grace_s=1.0,
    backoff_s=1.0,
    backoff_cap_s=8.0,
    headroom_bytes=GIB // 4,
    memory_alarm_s=5.0,
)
PATIENCE_S = 15.0  # how long a worker looks for a daemon

_STAGED = [Kind.DIE] * 6 + [Kind.HANG, Kind.FREEZE, Kind.SLOW] + [Kind.FAIL, Kind.FAIL, Kind.FAIL_FOR_GOOD]
_LINES = [Kind.LATE, Kind.DOUBLE]
_WHOLE = (
    [Kind.NO_ROOM] * 4
    + [Kind.LEAK] * 4
    + [Kind.DEAF, Kind.DEAF, Kind.STUBBORN, Kind.UNDYING, Kind.UNDYING, Kind.EARLY, Kind.UNBORN]
)
_WORLDLY = (
    [Kind.RESTART] * 8
    + [Kind.FOREIGN] * 3
    + [Kind.HOST, Kind.UNREADABLE] * 2
    + [Kind.DISK_FULL, Kind.DEVICE, Kind.STOP, Kind.KILL]
)


def draw(seed: str) -> Plan:
    """The plan of a seed: always the same."""
    chance = Random(seed)
    lanes = _lanes(chance)
    jobs = _jobs(chance, chance.randint(12, 40), lanes)
    length = 3.5 * len(jobs) / len(lanes)
    wildness = chance.choice([0.0, 0.2, 0.5, 1.0])
    return Plan(
        seed=seed,
        lanes=lanes,
        jobs=jobs,
        mishaps=tuple(
            each for _ in range(round(wildness * len(jobs))) for each in _mishaps(chance, chance.choice(jobs))
        ),
        troubles=tuple(_trouble(chance, lanes, length) for _ in range(chance.randint(0, round(12 * wildness)))),
        wishes=tuple(
            _wish(chance, lanes, jobs, length) for _ in range(chance.randint(0, round((wildness + 0.1) * len(jobs))))
        ),
        limits=LIMITS,
        calm_at=length + 10.0,
        patience_s=PATIENCE_S,
        quiet_s=chance.choice([1.0, 1.0, 2.0, 5.0]),
        waiting_s=0.2,
        host_bytes=chance.choice([6, 12, 32]) * GIB if lanes[0].has_own_memory else 0,
    )


def _lanes(chance: Random) -> tuple[LanePlan, ...]:
    """The host's processors, or GPUs of one kind."""
    if chance.random() < 0.2:
        total = chance.choice([8, 12, 16]) * GIB
        return (LanePlan("cpu", "cpu", None, total, (Tier.IMPORTED, Tier.WARM), 256 * MIB, 0.0),)
    context = chance.randint(100, 600) * MIB
    return tuple(_gpu(chance, number, context) for number in range(chance.choice([1, 1, 1, 2, 2, 3])))


def _gpu(chance: Random, number: int, context: int) -> LanePlan:
    return LanePlan(
        name=f"gpu{number}",
        device="gpu",
        index=number,
        total=chance.choice([8, 12, 16]) * GIB,
        tiers=(Tier.IMPORTED, Tier.STAGED, Tier.WARM),
        imported_bytes=0,
        lag_s=chance.choice([0.0, 0.3, 1.5]),
        context_bytes=context,
        idle_bytes=chance.choice([0, 0, 50, 300]) * MIB,
        tells=chance.choice([Tells.BYTES, Tells.BYTES, Tells.NAMES, Tells.NOTHING]),
    )


@dataclass(frozen=True)
class _Model:
    """What all sessions of one model have in common."""

    profile: str
    hold_bytes: int
    guess_device_bytes: int
    guess_bytes: int
    host_bytes: int
    early: float
    gaps: float


def _model(chance: Random, number: int, *, cpu: bool) -> _Model:
    hold = chance.choice([GIB // 2, GIB, 2 * GIB, 4 * GIB, 5 * GIB])
    host = round(hold * chance.choice([0.3, 0.5, 0.6]))
    error = chance.choice([1.0, 1.0, 1.2, 1.5])
    return _Model(
        profile=f"m{number}",
        hold_bytes=hold,
        guess_device_bytes=round(hold * chance.choice([0.3, 0.8, 1.0, 1.2, 1.5, 3.0])),
        guess_bytes=round(error * hold) if cpu else round(error * host * chance.choice([1.0, 1.0, 1.0, 1.0, 0.6])),
        host_bytes=host,
        early=chance.choice([0.5, 0.8, 1.0, 1.0, 1.0, 1.0]),
        gaps=chance.choice([1.0, 1.05, 1.1]),
    )


def _jobs(chance: Random, count: int, lanes: tuple[LanePlan, ...]) -> tuple[Job, ...]:
    models = [_model(chance, number, cpu=not lanes[0].has_own_memory) for number in range(5)]
    at_once = chance.random() < 0.5
    jobs: list[Job] = []
    at = 0.0
    for number in range(count):
        at = round(at + (0.0 if at_once else chance.expovariate(1 / 2.5)), 3)
        job = _job(chance, number, at, chance.choice(models), jobs, lanes)
        if jobs and chance.random() < 0.06:
            job = replace(chance.choice(jobs), id=job.id, at=at, waits_for=(), again=True)
        jobs.append(job)
    return tuple(jobs)


def _stated(chance: Random, job: Job, *, cpu: bool) -> int | None:
    """What a person stated of its need: of one that a limit holds, perhaps too little; of a program seldom a lie."""
    if cpu:
        return None if job.stepwise else job.guess_bytes
    if job.stepwise:
        whole = job.hold_bytes + 640 * MIB
        return chance.choice([None] * 7 + [whole, round(whole * 1.3), round(whole * 0.5)])
    share = chance.choice([None, None, 1.0, 1.0, 1.3, 1.3, 0.6] if job.id[-1] in "05" else [None, 1.0, 1.3])
    return None if share is None else round(job.hold_bytes * share)


def _job(
    chance: Random,
    number: int,
    at: float,
    model: _Model,
    earlier: list[Job],
    lanes: tuple[LanePlan, ...],
) -> Job:
    cpu = not lanes[0].has_own_memory
    program = chance.random() < 0.08
    prepared_program = not program and not cpu and chance.random() < 0.12
    items = 1 if program else chance.choice([0, 1, 10, 100, 100, 1000])
    batches = 1 if program else chance.randint(1, 8)
    seconds = chance.choice([0.2, 1.0, 2.0, 3.0, 5.0])
    waits_for = (chance.choice(earlier).name,) if earlier and chance.random() < 0.15 else ()
    lead = chance.choice([Lead()] * 6 + [Lead(seconds=1.0), Lead(fraction=0.5), Lead(fraction=0.9), Lead(seconds=30.0)])
    job = Job(
        id=f"j{number}",
        name=f"s{number}",
        at=at,
        items=items,
        batch=max(1, -(-items // batches)),
        item_s=seconds / max(1, items),
        load_s=chance.choice([0.1, 0.5, 1.0, 3.0]),
        commit_s=chance.choice([0.01, 0.1, 0.8]),
        checkpoint=0 if program else chance.choice([0, 1, 1, 2]),
        hold_bytes=model.hold_bytes,
        guess_bytes=model.guess_bytes,
        profile=f"run-{number}" if program else f"run-{model.profile}" if prepared_program else model.profile,
        guess_device_bytes=model.guess_device_bytes,
        early=1.0 if cpu else model.early,
        gaps=model.gaps,
        host_bytes=0 if cpu else model.host_bytes,
        known=not program and chance.random() < 0.8,
        told_total=not program and chance.random() < 0.5,
        priority=chance.choice([0, 0, 0, 0, 1]),
        device=chance.choice(["any"] * 5 + [lane.device for lane in lanes]),
        lead=lead,
        waits_for=waits_for,
        resumable=not program,
        prepares=not program,
        stepwise=not program and not prepared_program,
        max_attempts=chance.choice([1, 2, 3, 3]),
        own_record=chance.random() < 0.5,
    )
    return replace(job, stated_bytes=_stated(chance, job, cpu=cpu))


def _mishap(chance: Random, job: Job) -> Mishap:
    kind = chance.choice(chance.choice([_STAGED, _STAGED, _LINES, _LINES, _WHOLE]))
    if kind in {Kind.HANG, Kind.FREEZE, Kind.EARLY} and not job.resumable:
        kind = Kind.DIE  # a program that says nothing may compute for ever: it is a person who would end it
    stage = chance.choice(list(Stage))
    if kind in {Kind.FAIL, Kind.FAIL_FOR_GOOD}:
        stage = chance.choice([Stage.LOADING, Stage.COMPUTING, Stage.QUIESCED])
    if kind is Kind.NO_ROOM:
        stage = chance.choice([Stage.COMPUTING, Stage.QUIESCED])
    if kind in {Kind.DEAF, Kind.STUBBORN, Kind.UNDYING, Kind.EARLY, Kind.UNBORN, Kind.LEAK}:
        stage = Stage.COMPUTING if kind is Kind.EARLY else Stage.BORN
    seconds = chance.choice([0.05, 0.5, 2.0]) if kind in {Kind.LATE, Kind.DOUBLE} else chance.choice([1.0, 6.0, 20.0])
    return Mishap(kind, job.id, chance.choice([0, 0, 0, 1, 2]), stage, round(chance.random(), 3), seconds)


def _mishaps(chance: Random, job: Job) -> list[Mishap]:
    """One, and with one that has to be ended by force perhaps others that make it harder."""
    first = _mishap(chance, job)
    if first.kind not in {Kind.HANG, Kind.FREEZE, Kind.DEAF} or chance.random() < 0.3:
        return [first]
    harder = chance.choice([(Kind.STUBBORN,), (Kind.STUBBORN, Kind.UNDYING)])
    return [first, *(replace(first, kind=kind) for kind in harder)]


def _trouble(chance: Random, lanes: tuple[LanePlan, ...], length: float) -> Trouble:
    kind, lane = chance.choice(_WORLDLY), chance.choice(lanes)
    seconds = chance.choice([0.3, 0.3, 1.0, 5.0, 25.0])
    if kind is Kind.DISK_FULL:
        seconds = chance.choice([0.3, 1.0, 5.0, 40.0])  # the last is longer than any time limit
    return Trouble(
        kind=kind,
        at=round(chance.uniform(0.0, length), 3),
        seconds=seconds,
        lane=lane.name,
        size=round((32 * GIB if kind is Kind.HOST else lane.total) * chance.choice([0.05, 0.2, 0.5, 0.9, 1.0])),
        point=chance.choice(list(Point)),
    )


def _wish(chance: Random, lanes: tuple[LanePlan, ...], jobs: tuple[Job, ...], length: float) -> Wish:
    verb = chance.choice(["cancel", "swap", "swap", "swap_to", "pause", "resume", "resume", "drain", "move", "move"])
    return Wish(
        at=round(chance.uniform(0.0, length), 3),
        verb=verb,
        lane=chance.choice(lanes).name,
        name=chance.choice(jobs).name if verb in {"cancel", "swap_to", "move"} else "",
        other=chance.choice(["", "", "last", chance.choice(jobs).name]) if verb == "move" else "",
        force=chance.random() < 0.3,
    )
