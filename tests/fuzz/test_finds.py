"""What fuzzing the worker channel found, each once and small (the control socket: tests/shell/test_client_lines.py)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from states.events import Hello, Memory, Progress, Promoted, Queued, Ready, Tick
from states.lifecycle import step
from states.snapshot import Lane, Limits, World, invariants
from states.work import Session, Tier
from tests.fuzz.frames import Frame
from tests.fuzz.lab import Play
from tests.fuzz.lies import Act, Do, Life, Performance, Say
from tests.fuzz.workers import WorkerPlay

GIB = 1 << 30
HELLO = {"type": "hello", "protocol": 1, "session": "@session", "generation": "@generation", "pid": 1}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[tuple[asyncio.AbstractEventLoop, Play]]:
    loop, play = asyncio.new_event_loop(), WorkerPlay()
    loop.run_until_complete(play.start(tmp_path))
    yield loop, play
    loop.run_until_complete(play.close())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def say(**word: Any) -> Act:
    return Say(Frame("said", json.dumps(word).encode()))


def played(stage: tuple[asyncio.AbstractEventLoop, Play], *acts: Act, status: int = 0) -> None:
    """The liar does these, beside an honest session; every promise holds."""
    loop, play = stage
    evening = Performance((Life(acts, status),), prepares=True, liar_first=True, strangers=())
    assert loop.run_until_complete(play.play(evening)).problem is None


def test_a_program_that_counts_before_it_has_started_can_stall() -> None:
    """It reports, so that it falls silent means something: it had no limit at all, and held its lane for ever."""
    world = World({"cpu": Lane("cpu")}, limits=Limits(stall_timeout_s=600.0))
    for event in (
        *(Memory(at, "cpu", 64 * GIB, 64 * GIB) for at in (0.0, 0.1)),
        Queued(1.0, Session("program", order=1.0, prepares=False)),
        Tick(1.0),
        Hello(1.1, 1),
        Ready(1.2, 1, Tier.WARM, 0.1),
        Progress(1.3, 1, done=5, cursor=5, total=20),
        Promoted(1.4, 1, began_at=1.4),
    ):
        world = step(world, event).after
    assert invariants(world) == []
    active = world.lanes["cpu"].active
    assert active is not None
    assert active.stall_at == pytest.approx(601.4)


@pytest.mark.parametrize("began_at", [1e300, 0.0])
def test_times_made_up_by_one_that_comes_back_break_nobodys_list(
    stage: tuple[asyncio.AbstractEventLoop, Play], began_at: float
) -> None:
    """`list` and `show` turn them into times of day: one that is none would break the whole list."""
    hello = HELLO | {
        "phase": "draining",
        "done": 3,
        "cursor": 3,
        "began_at": began_at,
        "ended_at": 1e300,
        "remaining": 0,
    }
    in_order = (say(**HELLO, phase="loading"), say(type="ready", tier="warm", seconds=0.1, total=20), Do("go"))
    played(stage, *in_order, Do("reborn"), say(**hello), Do("breathe"), Do("look"))


@pytest.mark.parametrize("kind", ["failed", "paused"])
def test_a_reason_is_one_line(stage: tuple[asyncio.AbstractEventLoop, Play], kind: str) -> None:
    """It is shown to people, in a row of a table: a worker's line breaks and colours are not."""
    in_order = (say(**HELLO, phase="loading"), say(type="ready", tier="warm", seconds=0.1, total=20), Do("go"))
    reason = "two\nlines \x1b[31mand red" + "x" * 5000
    word = {"type": kind, "reason": reason} | ({"kind": "program"} if kind == "failed" else {})
    played(stage, *in_order, say(type="started", at=time.monotonic()), say(**word), Do("look"), status=1)


def test_what_is_wrong_with_a_line_is_told_in_one_line(stage: tuple[asyncio.AbstractEventLoop, Play]) -> None:
    played(stage, say(type="\x00\n\x1b[31m" * 10_000), status=1)


def test_bytes_that_are_no_text_are_a_fault_wherever_they_stand(stage: tuple[asyncio.AbstractEventLoop, Play]) -> None:
    """Within a word's type, the reader of JSON says so by an error of another kind."""
    for data in (b'{"type":"\xf2esumed"}', b'{"type":"paused","reason":"\xf2"}', b'{"\xf2":1}', b"\xf2"):
        played(stage, say(**HELLO, phase="loading"), Say(Frame("said", data)), status=1)
