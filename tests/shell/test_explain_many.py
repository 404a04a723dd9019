"""`explain` of many handovers: the record is read once, and the event loop is never held for long."""

from __future__ import annotations

import asyncio
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from daemon import insight, wire
from daemon.control import Peer
from daemon.insight import Insight
from daemon.planning import Planner
from daemon.records import to_text
from daemon.results_insight import ExplainResult
from daemon.store import Store
from states.snapshot import World
from tests.shell.control_stage import Line, Stage, ended, submit


def test_many_are_explained_a_few_at_a_time_and_daemons_lives_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("a", "b", "c", "d")
    with Stage(tmp_path) as stage, Line(stage.path) as line:
        submit(line, *names)
        for name in names:
            stage.until(ended(name))
    monkeypatch.setattr(insight, "EXPLAINED_AT_ONCE", 1)
    statements: list[str] = []
    turns: list[None] = []  # of the event loop

    async def ask(store: Store) -> tuple[ExplainResult, int]:
        loop = asyncio.get_running_loop()

        def turn() -> None:
            turns.append(None)
            loop.call_soon(turn)

        planner = Planner(lambda: World(lanes={}), store.predictions)
        made = Insight(world=lambda: World(lanes={}), store=store, planner=planner)
        loop.call_soon(turn)
        turns.clear()
        answer = await made.explain(wire.ExplainParams(worst=10), Peer(1, 0, 0, frozenset(), may_act=True))
        return answer, len(turns)

    with closing(Store.open(tmp_path / "state")) as store:
        handovers = asyncio.run(ask(store))[0].handovers
        assert len(handovers) == 3
        assert not any("before this batond began" in " ".join(each.because) for each in handovers)
        second = handovers[1]
        within = second.ts - timedelta(seconds=second.gap_s / 4)
        for began in (second.ts - timedelta(days=1), within, second.ts + timedelta(days=1)):
            store._rows("INSERT INTO lives (began_at, seen_at) VALUES (?, ?)", (to_text(began), to_text(began)))
        store._db.set_trace_callback(statements.append)
        again, turned = asyncio.run(ask(store))
    assert turned == 3
    assert len([each for each in statements if "FROM lives" in each]) == 1
    restarted = [each.seq for each in again.handovers if "before this batond began" in " ".join(each.because)]
    assert restarted == [second.seq]
