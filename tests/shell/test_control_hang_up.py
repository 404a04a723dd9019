"""Answers that take a while: nobody else waits for them, least of all the workers; who hung up gets none."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon import control, wire
from daemon.control import ControlServer, Handler, Peer, Stream
from daemon.insight import Insight
from daemon.planning import Planner
from daemon.results import EventsResult, VersionResult
from daemon.store import Store
from daemon.wire import Code, Refusal
from states.snapshot import Lane, World
from tests.shell.control_stage import PATIENCE_S, Stage, error_of, request, talk

OTHER_UID = 4711
LINES = 200  # few enough for the socket to hold them all


class Slow:
    """Handlers that answer when `answer` is set; `begun` and `given_up` count."""

    def __init__(self) -> None:
        self.answer = asyncio.Event()
        self.begun = self.given_up = self.answered = 0
        self.table: dict[str, Handler] = {"explain": self.wait, "resume": self.wait, "version": self.version}

    async def wait(self, _params: wire.Params, peer: Peer) -> msgspec.Struct:
        self.begun += 1
        try:
            await self.answer.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        self.answered += 1
        return VersionResult(version="slow", protocol=1, pid=peer.pid)

    async def version(self, _params: wire.Params, peer: Peer) -> VersionResult:
        return VersionResult(version="x", protocol=1, pid=peer.pid)


def serve(where: Path, test: Callable[[Slow], Coroutine[Any, Any, None]]) -> None:
    bugs: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: bugs.append(context))
        slow = Slow()
        async with ControlServer(where, slow.table), asyncio.timeout(PATIENCE_S):
            await test(slow)

    asyncio.run(main())
    assert bugs == []


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - a count tells nobody that it grew
        await asyncio.sleep(0.01)


async def another_is_missed(path: Path, slow: Slow) -> None:
    """Somebody else asks after it and hangs up, and that is seen: whoever asked before has been looked at by then."""
    begun, given_up = slow.begun, slow.given_up
    _, writer = await asyncio.open_unix_connection(path)
    writer.write(request("explain"))
    await until(lambda: slow.begun == begun + 1)
    writer.close()
    await until(lambda: slow.given_up == given_up + 1)


@pytest.fixture(autouse=True)
def looked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "HUNG_UP_LOOK_S", 0.01)


def test_an_answer_that_nobody_waits_for_is_made_no_further(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def test(slow: Slow) -> None:
        one = request("explain", 1).strip()
        for lines in (request("explain"), request("explain") * 50, b"[" + b",".join([one] * 50) + b"]\n"):
            slow.begun = slow.given_up = 0
            _, writer = await asyncio.open_unix_connection(path)
            writer.write(lines)
            await until(lambda: slow.begun == 1)
            writer.close()
            await until(lambda: slow.given_up == 1)
            assert (await talk(path, request("version")))[0]["result"]["version"] == "x"
            assert slow.begun == 1, "nor is any other that it had asked for"

    serve(path, test)


def test_who_only_says_no_more_is_answered(tmp_path: Path) -> None:
    """`echo … | socat - UNIX-CONNECT:…` closes its half of the connection, and reads on."""
    path = tmp_path / "s"

    async def test(slow: Slow) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(request("explain"))
        writer.write_eof()
        await until(lambda: slow.begun == 1)
        await another_is_missed(path, slow)
        slow.answer.set()
        assert json.loads(await reader.readline())["result"]["version"] == "slow"
        writer.close()

    serve(path, test)


def test_what_acts_is_done_though_nobody_waits_for_its_answer(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def test(slow: Slow) -> None:
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(request("resume"))
        await until(lambda: slow.begun == 1)
        writer.close()
        await another_is_missed(path, slow)
        slow.answer.set()
        await until(lambda: slow.answered == 1)
        assert slow.given_up == 1, "the other"

    serve(path, test)


def test_a_plan_is_asked_for_outside_any_batch(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(stage.path))
        client.sendall(b"[" + b",".join([request("plan").strip(), request("version").strip()]) + b"]\n")
        plan, version = json.loads(client.makefile("rb").readline())
        assert error_of(plan) is Code.INVALID_REQUEST
        assert "outside any batch" in plan["error"]["message"]
        assert version["result"]["version"]


def test_whoever_may_only_look_has_one_plan_made_at_a_time(tmp_path: Path) -> None:
    """Plans are made one after the other: many of theirs would stand before those of who may act."""
    looks = Peer(1, OTHER_UID, OTHER_UID, frozenset({OTHER_UID}), may_act=False)
    other = Peer(1, OTHER_UID + 1, OTHER_UID, frozenset({OTHER_UID}), may_act=False)
    acts = Peer(1, 0, 0, frozenset({0}), may_act=True)
    world = World(lanes={"cpu": Lane("cpu")})

    async def ask(store: Store) -> None:
        planner = Planner(lambda: world, store.predictions)
        plan = Insight(world=lambda: world, store=store, planner=planner).plan
        async with planner._one:  # somebody's is in the making
            first, *others = [asyncio.create_task(plan(wire.PlanParams(), who)) for who in (looks, other, acts, acts)]
            second = asyncio.create_task(plan(wire.PlanParams(), looks))
            with pytest.raises(Refusal, match="user id 4711") as refused:
                await asyncio.wait_for(second, PATIENCE_S)
            assert refused.value.code is Code.REFUSED
            first.cancel()  # it hung up
            await asyncio.wait([first])
            again = asyncio.create_task(plan(wire.PlanParams(), looks))
        await asyncio.gather(again, *others)
        await plan(wire.PlanParams(), looks)

    with closing(Store.open(tmp_path)) as store:
        asyncio.run(ask(store))


class Told:
    """A stream whose lines are all there already; `turns` are the event loop's when each was asked for."""

    def __init__(self) -> None:
        self.turn = 0
        self.turns: list[int] = []
        self.table: dict[str, Handler] = {"events": self.events}

    async def events(self, _params: wire.Params, _peer: Peer) -> Stream:
        return Stream(EventsResult(seq=0), self._lines())

    async def _lines(self) -> AsyncGenerator[dict[str, Any], None]:
        for seq in range(LINES):
            self.turns.append(self.turn)
            yield {"seq": seq}

    def count(self) -> None:
        self.turn += 1
        asyncio.get_running_loop().call_soon(self.count)


def test_a_long_past_is_told_between_what_workers_say(tmp_path: Path) -> None:
    """As long as the socket has room, nothing in a line of a stream waits by itself."""
    told = Told()

    async def main() -> list[Any]:
        told.count()
        async with ControlServer(tmp_path / "s", told.table), asyncio.timeout(PATIENCE_S):
            return await talk(tmp_path / "s", request("events"), answers=LINES + 1)

    assert [each["params"]["seq"] for each in asyncio.run(main())[1:]] == list(range(LINES))
    assert len(set(told.turns)) == LINES
