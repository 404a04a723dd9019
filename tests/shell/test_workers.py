"""The crew with real processes: their words as facts in order, their faults and their ends."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from daemon import messages
from daemon import workers as workers_module
from daemon.channel import Channel
from daemon.sessionfile import SessionSpec
from states.effects import Force
from states.events import Committed, Exited, Failed, Hello, Paused, Progress, Promoted, Quiesced, Ready
from states.work import Tier
from tests.fake_worker import rows
from tests.shell.crew_scene import Scene, in_loop, program_of

IN_ORDER = ["Hello", "Ready", "Promoted", "LastBatch", "Quiesced", "Committed", "Exited"]


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


# One life


@pytest.mark.parametrize("prepare", [True, False])
@in_loop
async def test_a_whole_life_is_told_in_order_and_leaves_every_row(tmp_path: Path, prepare: bool) -> None:
    before = time.monotonic()
    async with Scene(tmp_path) as scene:
        worker = await scene.running(1, "--items", "30", "--out", str(tmp_path / "rows"), prepare=prepare)
        assert (worker.session, worker.generation) == ("s", 1)
        exited = await scene.fact(Exited, 1)
        assert exited.status == 0
        assert scene.names(1) == IN_ORDER
        committed = await scene.fact(Committed, 1)
        quiesced = await scene.fact(Quiesced, 1)
        began = await scene.fact(Promoted, 1)
        ready = await scene.fact(Ready, 1)
        assert ready.tier is Tier.WARM
        assert ready.total == (30 if prepare else None)
        assert committed.cursor == 30
        assert (quiesced.done, quiesced.remaining) == (30, 0)
        stamps = [fact.at for fact in scene.of(1)]
        assert stamps == sorted(stamps)
        assert before < began.began_at <= quiesced.ended_at <= time.monotonic()
        assert scene.crew.alive() == ()
    assert rows(tmp_path / "rows") == list(range(30))


@in_loop
async def test_a_session_that_is_drained_and_resumed_leaves_each_item_once(tmp_path: Path) -> None:
    flags = ("--items", "300", "--item-ms", "2", "--out", str(tmp_path / "rows"))
    async with Scene(tmp_path) as scene:
        await scene.running(1, *flags)
        await scene.fact(Progress, 1, lambda progress: progress.done > 20)
        scene.crew.drain(1, cancelled=False)
        quiesced = await scene.fact(Quiesced, 1)
        committed = await scene.fact(Committed, 1)
        assert (await scene.fact(Exited, 1)).status == 0
        assert quiesced.remaining is not None
        assert 0 < quiesced.remaining == 300 - committed.cursor
        scene.fake(2, *flags, cursor=committed.cursor)
        await scene.fact(Ready, 2)
        scene.crew.go(2)
        assert (await scene.fact(Exited, 2)).status == 0
        assert (await scene.fact(Committed, 2)).cursor == 300
    assert rows(tmp_path / "rows") == list(range(300))


@in_loop
async def test_a_worker_killed_at_its_work_leaves_each_item_once_after_it_is_resumed(tmp_path: Path) -> None:
    flags = ("--items", "40", "--item-ms", "10", "--out", str(tmp_path / "rows"))
    async with Scene(tmp_path) as scene:
        await scene.running(1, *flags, "--die-at", "33")
        assert (await scene.fact(Exited, 1)).status == 128 + 9
        failed = await scene.fact(Failed, 1)
        assert failed.kind == "internal"
        assert "killed by SIGKILL" in failed.reason
        cursor = max(fact.cursor for fact in scene.of(1) if isinstance(fact, Progress))
        assert cursor in (10, 15, 20, 25, 30), "it may be behind: reports are 20 a second"
        scene.fake(2, *flags, cursor=cursor)
        await scene.fact(Ready, 2)
        scene.crew.go(2)
        assert (await scene.fact(Exited, 2)).status == 0
    assert rows(tmp_path / "rows") == list(range(40))


@in_loop
async def test_the_last_words_come_before_the_exit_also_of_one_that_was_being_read_slowly(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        BARE + "say(**hello)\nfor n in range(600): say(type='progress', done=n, cursor=0)\n"
        "say(type='quiesced', at=1.0, done=600); say(type='committed', cursor=600)\n"
    )
    async with Scene(tmp_path) as scene:
        scene.crew.nursery = Bare(script)
        scene.start(SessionSpec(name="s"))
        await scene.fact(Exited, 1)
        assert scene.names(1) == ["Hello", "Quiesced", "Committed", "Exited"]
        assert max(fact.done for fact in scene.of(1) if isinstance(fact, Progress)) == 599


@in_loop
async def test_a_full_disk_and_the_items_that_were_skipped_are_told(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        BARE + "say(**hello, errors=1); say(type='paused', reason='no space left on /out')\n"
        "say(type='progress', done=4, cursor=2, errors=2); say(type='resumed')\n"
        "say(type='quiesced', at=1.0, done=9, errors=3); say(type='committed', cursor=9, errors=3)\n"
    )
    async with Scene(tmp_path) as scene:
        scene.crew.nursery = Bare(script)
        scene.start(SessionSpec(name="s"))
        await scene.fact(Exited, 1)
        assert scene.names(1) == ["Hello", "Paused", "Resumed", "Quiesced", "Committed", "Exited"]
        assert (await scene.fact(Paused, 1)).reason == "no space left on /out"
        kinds = (Hello, Progress, Quiesced, Committed)
        assert [fact.errors for fact in scene.of(1) if isinstance(fact, kinds)] == [1, 2, 3, 3]


@in_loop
async def test_go_is_on_the_wire_when_the_call_returns() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours, take=print, fault=print, ended=print)
    channel.send(messages.Go())
    assert theirs.recv(100, socket.MSG_DONTWAIT) == b'{"type":"go"}\n'
    channel.close()
    theirs.close()


@in_loop
async def test_lines_that_do_not_fit_the_socket_at_once_arrive_whole_and_in_order(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    channel = Channel(ours, take=print, fault=print, ended=print)
    spec = SessionSpec(name="s", run=("x" * 900_000,))
    assign = messages.Assign(
        session="s", generation=1, tier="warm", cursor=0, resume=False, device={"kind": "cpu"}, spec=spec  # type: ignore[arg-type]
    )  # fmt: skip
    channel.send(assign)
    channel.send(messages.Cancel())
    heard = b""
    while heard.count(b"\n") < 2:
        heard += await asyncio.get_running_loop().sock_recv(theirs, 1 << 20)
    first, second, _ = heard.split(b"\n")
    assert json.loads(first)["spec"]["run"] == ["x" * 900_000]
    assert json.loads(second) == {"type": "cancel"}
    channel.close()
    theirs.close()


# Faults


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--garbage", "broke the protocol: the line '\\x00\\\\xff"),
        ("--unknown-type", "Invalid value 'surprise'"),
        ("--oversized-line", "a line of more than 1 MiB"),
    ],
)
@in_loop
async def test_a_broken_protocol_is_told_and_ends_the_worker_alone(tmp_path: Path, flag: str, words: str) -> None:
    async with Scene(tmp_path) as scene:
        await scene.running(2, "--items", "100000")
        scene.fake(1, flag)
        failed = await scene.fact(Failed, 1)
        assert failed.kind == "internal"
        assert words in failed.reason
        assert len(failed.reason) < 2001
        exited = await scene.fact(Exited, 1)
        assert exited.status not in (0, None)
        assert "Exited" not in scene.names(2)


BARE = """
import json, os, socket
line = socket.socket(fileno=int(os.environ['BATON_FD']))
assigned = json.loads(line.makefile('rb').readline())
mine = {key: assigned[key] for key in ('session', 'generation')}
hello = dict(mine, type='hello', protocol=1, pid=1, phase='ready')
say = lambda **message: line.sendall(json.dumps(message).encode() + b'\\n')
"""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("hello['generation'] = 6; say(**hello)", "it says that it is s, generation 6"),
        ("hello['session'] = 'other'; say(**hello)", "it says that it is other, generation 1"),
        ("hello['protocol'] = 2; say(**hello)", "it speaks version 2 of the protocol, the daemon 1"),
        ("say(type='last_batch')", "lastbatch before hello"),
        ("say(**hello); say(type='progress', done=-1, cursor=0)", "Expected `int` >= 0"),
        ("say(**hello); say(type='progress', done=0)", "missing required field `cursor`"),
        ("[say(**hello) for _ in range(9000)]", "more than 1000 lines other than progress"),
        ("say(**hello); line.close()", "closed its channel"),
    ],
)
@in_loop
async def test_what_no_worker_may_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str) -> None:
    """Without a shim between: a program that is started as a built-in worker is."""
    monkeypatch.setattr(workers_module, "SILENT_EXIT_S", 0.1)
    script = tmp_path / "worker.py"
    script.write_text(BARE + code + "\nimport signal; signal.pause()\n")

    async with Scene(tmp_path) as scene:
        scene.crew.nursery = Bare(script)
        scene.start(SessionSpec(name="s"))
        failed = await scene.fact(Failed, 1)
        assert failed.kind == "internal"
        assert words in failed.reason
        assert (await scene.fact(Exited, 1)).status == -15


class Bare:
    """Starts a script where the nursery would start a built-in worker."""

    def __init__(self, script: Path) -> None:
        self.script = script

    async def start(self, spec: Any, device: Any, generation: int, channel: socket.socket, log_fd: int) -> Any:
        from daemon.launchers import execute

        environment = {**os.environ, "BATON_FD": str(channel.fileno())}
        return await execute((sys.executable, "-S", str(self.script)), environment, channel, log_fd)


@in_loop
async def test_times_a_worker_makes_up_are_put_between_its_start_and_now(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(BARE + "say(**hello); say(type='started', at=1e300); say(type='quiesced', at=-5.0, done=0)\n")
    before = time.monotonic()
    async with Scene(tmp_path) as scene:
        scene.crew.nursery = Bare(script)
        scene.start(SessionSpec(name="s"))
        await scene.fact(Exited, 1)
        assert before < (await scene.fact(Promoted, 1)).began_at < time.monotonic()
        assert before < (await scene.fact(Quiesced, 1)).ended_at < time.monotonic()


@in_loop
async def test_a_flood_is_bounded_and_costs_the_others_nothing(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        await scene.running(2, "--items", "100000", "--item-ms", "5")
        scene.fake(1, "--flood")
        await scene.fact(Hello, 1)
        began = time.monotonic()
        before = len([fact for fact in scene.of(2) if isinstance(fact, Progress)])
        await scene.fact(Progress, 1, lambda progress: progress.at > began + 2.0)
        seconds = time.monotonic() - began
        flood = [fact for fact in scene.of(1) if isinstance(fact, Progress)]
        others = len([fact for fact in scene.of(2) if isinstance(fact, Progress)]) - before
        assert len(flood) <= 21 * seconds + 2, "coalesced to what the protocol promises"
        assert others > 5 * seconds, "the other is heard as before"
        assert [fact.done for fact in flood] == sorted({fact.done for fact in flood})
        channel = scene.crew._living[1].channel
        assert channel is not None
        assert len(channel._incoming) <= (1 << 20) + (1 << 16)
        assert (await scene.end(1)).status == -9


@in_loop
async def test_a_program_that_dies_loading_says_so_through_its_parent(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        scene.fake(1, "--die-loading")
        assert (await scene.fact(Exited, 1)).status == 128 + 9
        assert (await scene.fact(Failed, 1)).reason.startswith("the program was killed by SIGKILL")


@in_loop
async def test_a_program_that_raises_is_told_with_its_own_words(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        await scene.running(1, "--fail-at", "3")
        assert (await scene.fact(Exited, 1)).status == 1
        failed = await scene.fact(Failed, 1)
        assert (failed.kind, failed.reason) == ("program", "ValueError: item 3 cannot be computed")
        assert "ValueError: item 3 cannot be computed" in scene.crew.log_path("s").read_text()


@in_loop
async def test_an_exit_status_after_the_commit_is_still_told(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        await scene.running(1, "--exit-code", "3")
        assert (await scene.fact(Exited, 1)).status == 3
        assert (await scene.fact(Committed, 1)).cursor == 10


@in_loop
async def test_a_worker_that_stays_after_its_commit_is_there_until_it_is_killed(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        await scene.running(1, "--never-exit-after-commit")
        await scene.fact(Committed, 1)
        assert len(scene.crew.alive()) == 1
        assert (await scene.end(1)).status == -9


@in_loop
async def test_a_stalled_worker_ends_by_sigterm_to_its_group(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        await scene.running(1, "--stall-at", "4", "--item-ms", "60")
        await scene.fact(Progress, 1, lambda progress: progress.done == 3)
        scene.crew.end(1, Force.TERM)
        assert (await scene.fact(Exited, 1)).status == 128 + 15
        assert (await scene.fact(Failed, 1)).kind == "internal", "to be tried again: nobody's fault"


@in_loop
async def test_one_that_ignores_drain_and_sigterm_ends_by_sigkill(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        await scene.running(1, "--ignore-drain", "--ignore-sigterm", "--items", "1000000")
        scene.crew.drain(1, cancelled=True)
        scene.crew.end(1, Force.TERM)
        asked = time.monotonic()
        await scene.fact(Progress, 1, lambda progress: progress.at > asked + 0.2)
        assert (await scene.end(1)).status == -9


@in_loop
async def test_asking_a_standby_ends_it_at_once_and_quietly(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        scene.fake(1, prepare=False)
        await scene.fact(Ready, 1)
        scene.crew.end(1, Force.ASK)
        assert (await scene.fact(Exited, 1)).status == 0
        assert scene.names(1) == ["Hello", "Ready", "Exited"]


@in_loop
async def test_a_kill_takes_the_grandchildren_too(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        shim = (await scene.running(1, "--grandchild", str(tmp_path / "pid"), "--stall-at", "0")).pid
        program = program_of(shim)
        grandchild = int((tmp_path / "pid").read_text())
        assert not gone(grandchild)
        await scene.end(1)
        await scene.until(lambda: gone(grandchild) and gone(program))


@in_loop
async def test_what_a_program_leaves_running_ends_with_it(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        await scene.running(1, "--grandchild", str(tmp_path / "pid"))
        assert (await scene.fact(Exited, 1)).status == 0
        assert gone(int((tmp_path / "pid").read_text()))


@in_loop
async def test_kill_all_is_every_worker(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        for generation in (1, 2):
            await scene.running(generation, "--stall-at", "0")
        scene.crew.kill_all()
        assert [(await scene.fact(Exited, generation)).status for generation in (1, 2)] == [-9, -9]


@in_loop
async def test_a_kill_that_comes_before_the_process_still_reaches_it(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        scene.fake(1, "--stall-at", "0")
        scene.crew.end(1, Force.KILL)
        scene.crew.end(1, Force.TERM)
        assert scene.crew.alive() == ()
        assert (await scene.fact(Exited, 1)).status == -9
        assert scene.names(1) == ["Exited"]


@in_loop
async def test_a_start_that_fails_is_an_exit_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("no folder")
    async with Scene(tmp_path) as scene:
        scene.fake(1)
        exited = await scene.fact(Exited, 1)
        assert exited.status is None
        assert exited.reason.startswith("cannot start s: ")
        assert "logs" in exited.reason


@in_loop
async def test_what_is_asked_of_one_that_is_gone_does_nothing(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        crew = scene.crew
        crew.advance(9, Tier.WARM)
        crew.go(9)
        crew.raise_priority(9)
        crew.drain(9, cancelled=False)
        crew.end(9, Force.KILL)
        await asyncio.sleep(0)
        assert scene.facts == []


@in_loop
async def test_no_descriptor_and_no_memory_is_left_of_workers_that_ended(tmp_path: Path) -> None:
    def open_now() -> int:
        return psutil.Process().num_fds()

    async with Scene(tmp_path) as scene:
        await scene.running(1)
        await scene.fact(Exited, 1)
        before = open_now()
        for generation in range(2, 6):
            await scene.running(generation)
            await scene.fact(Exited, generation)
        assert open_now() == before
        assert list(scene.nursery.exit_records.iterdir()) == []
        assert scene.crew._living == {}
        assert scene.crew._tasks == set()
