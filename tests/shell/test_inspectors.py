"""What becomes of an inspection whose process dies, hangs, floods or lies: real processes, without TensorFlow."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon import inspectors, printed
from daemon.launchers import execute, own_environment
from daemon.nursery import Nursery
from daemon.processes import Process
from daemon.sessionfile import SessionSpec
from tests.shell.crew_scene import in_loop
from tests.shell.test_nursery import fork, gone, server, until

INSPECTOR = str(Path(__file__).with_name("odd_inspector.py"))


def specs(*acts: str) -> list[SessionSpec]:
    """Sessions named s0, s1, …; each model is what is done to it, anything else is answered in order."""
    return [SessionSpec(name=f"s{i}", model=act, input="feed:items", output="/o") for i, act in enumerate(acts)]


class Inspection:
    """Starts inspectors, and keeps the processes."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.processes: list[Process] = []

    async def start(self, channel: socket.socket, output_fd: int) -> Process:
        environment = {**own_environment(), "BATON_FD": str(channel.fileno())}
        process = await execute((sys.executable, "-S", INSPECTOR), environment, channel, output_fd)
        self.processes.append(process)
        return process

    async def of(self, *acts: str) -> list[str | None]:
        """What is said of each session; None of a good one."""
        answers = await inspectors.answers(specs(*acts), self.start, self.logs)
        assert [answer["session"] for answer in answers] == [f"s{i}" for i in range(len(acts))]
        for process in self.processes:
            assert process.exited.done(), "each is gone when its answers are told"
        return [answer["error"] and self._line(answer["error"]) for answer in answers]

    def _line(self, error: dict[str, Any]) -> str:
        assert error["key"] == "input", "what it was at"
        assert error["reason"].startswith("cannot read 'feed:items': the process that opened it ")
        assert error["reason"].isprintable()
        return str(error["reason"].partition(" that opened it ")[2])

    def kept(self) -> list[Path]:
        return sorted(self.logs.glob("*"))


@pytest.mark.parametrize(
    ("act", "told"),
    [
        ("exit", "ended with status 9; mend that (it printed nothing)"),
        ("crash", "was killed by SIGSEGV; it printed last: ValueError: no such split; mend that (all of that: LOG)"),
        ("garbage", "gave an answer that cannot be read ("),
        ("another", "gave an answer that cannot be read (it is of session 'x'); mend"),
        ("endless", "gave an answer that cannot be read (Separator is not found"),
        ("close", "ended with status 3; mend"),
        ("noise", r"ended with status 5; it printed last: \x1b[1mnoise\x1b[0m; mend that (all of that: LOG)"),
    ],
)
@in_loop
async def test_a_spec_that_ends_its_inspection_is_blamed_alone(tmp_path: Path, act: str, told: str) -> None:
    """Wherever it stands; the others are answered, by as few processes as it takes."""
    inspection = Inspection(tmp_path / "logs")
    before, wrong, after, last = await inspection.of("good", act, "good", "good")
    assert (before, after, last) == (None, None, None)
    assert wrong is not None
    log, *more = inspection.kept() or [Path("none")]
    assert wrong.replace(str(log), "LOG").startswith(told)
    assert more == []
    assert len(inspection.processes) == 3, "one answers the first, one is ended at its first, one answers the rest"


@in_loop
async def test_each_bad_spec_of_a_file_is_told_as_its_own(tmp_path: Path) -> None:
    inspection = Inspection(tmp_path / "logs")
    told = await inspection.of("exit", "good", "crash", "crash", "good", "close")
    statuses = [re.match(r"(ended with status \d|was killed by SIG[A-Z]+)", line or "") for line in told]
    assert [found and found[0] for found in statuses] == [
        "ended with status 9",
        None,
        "was killed by SIGSEGV",
        "was killed by SIGSEGV",
        None,
        "ended with status 3",
    ]
    assert len(inspection.kept()) == 2, "each process that printed something has a file of its own"


@in_loop
async def test_what_an_earlier_spec_left_behind_is_not_the_later_one_s_fault(tmp_path: Path) -> None:
    """A thread of the first ends the process while it is at the second, which then has a process of its own."""
    inspection = Inspection(tmp_path / "logs")
    assert await inspection.of("later", "waits", "good") == [None, None, None]
    assert len(inspection.processes) == 2


@pytest.mark.parametrize("act", ["hang", "flood"])
@in_loop
async def test_a_spec_that_never_ends_is_blamed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """What it prints without end is kept to a bounded tail, and is nowhere while nothing is wrong."""
    monkeypatch.setattr(inspectors, "SPEC_TIMEOUT_S", 5.0)
    inspection = Inspection(tmp_path / "logs")
    before, wrong, after = await inspection.of("good", act, "good")
    assert (before, after) == (None, None)
    assert wrong is not None
    assert wrong.startswith("gave no answer within 5 s; ")
    assert [file.stat().st_size for file in inspection.kept()] == ([] if act == "hang" else [printed.TAIL_BYTES])


@in_loop
async def test_many_that_hang_do_not_take_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspectors, "ALL_TIMEOUT_S", 0.5)
    answers = await inspectors.answers(specs("hang", "hang", "good"), Inspection(tmp_path).start, tmp_path)
    assert " gave no answer within " in answers[0]["error"]["reason"]
    late = "there was no time left, as the sessions before it took 0 s; submit it by itself"
    assert [answer["error"]["reason"] for answer in answers[1:]] == [
        f"cannot load 'hang': {late}",
        f"cannot load 'good': {late}",
    ]


@in_loop
async def test_what_a_dead_inspector_leaves_behind_is_ended_and_holds_up_nobody(tmp_path: Path) -> None:
    inspection = Inspection(tmp_path / "logs")
    wrong, after = await inspection.of("leave", "good")
    assert after is None
    assert wrong is not None
    (log,) = inspection.kept()
    strays = [int(pid) for pid in log.read_text().split()]
    assert len(strays) == 2
    assert wrong.startswith("ended with status 4; it printed last: ")
    assert [pid for pid in strays if not gone(pid)] == []


@in_loop
async def test_nothing_is_left_on_disk_when_nothing_was_wrong(tmp_path: Path) -> None:
    inspection = Inspection(tmp_path / "logs")
    assert await inspection.of("good", "good") == [None, None]
    assert inspection.kept() == []
    assert len(inspection.processes) == 1


@in_loop
async def test_inspections_side_by_side_keep_what_each_printed(tmp_path: Path) -> None:
    """Two of one name, as two daemons with one cache may have them."""
    inspections = [Inspection(tmp_path / "logs") for _ in range(4)]
    told = await asyncio.gather(*(inspection.of("noise") for inspection in inspections))
    files = {line.partition("all of that: ")[2].rstrip(")") for (line,) in told if line}
    assert len(files) == 4
    assert {str(path) for path in inspections[0].kept()} == files


def test_only_the_newest_logs_are_kept(tmp_path: Path) -> None:
    kept = [printed.keep(tmp_path, "s/1", str(number)) for number in range(printed.KEPT_FILES + 3)]
    assert {file.name for file in tmp_path.iterdir()} == {path.name for path in kept[3:] if path is not None}


CALLED = """
import os, signal, subprocess

ROWS = [[0.0] * 4] * 3

def good():
    return ROWS

def exits():
    print("no such split")
    os._exit(9)

def crashes():
    os.kill(os.getpid(), signal.SIGSEGV)

def closes():
    os.closerange(3, 1 << 12)
    keeps = [open("precious", "a") for _ in range(64)]
    return ROWS

def leaves():
    print(subprocess.Popen(["sleep", "1000"], start_new_session=True).pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.tensorflow
@in_loop
async def test_with_real_tensorflow_each_bad_function_is_told_and_the_others_are_answered(tmp_path: Path) -> None:
    """Also one that puts a file where the answer would go: nothing is written there. And nothing is left running."""
    (tmp_path / "rows.py").write_text(CALLED)
    nursery = Nursery(tmp_path / "n", say=print)
    await nursery.warm()
    async with server(tmp_path) as makers:
        maker = await fork(makers, tmp_path, "save_model")
        maker.tell(str(tmp_path))
        assert await maker.process.exited == 0, maker.log.read_text()
    names = ["good", "exits", "good", "crashes", "closes", "leaves", "good"]
    of = [
        SessionSpec(name=f"s{i}", model=f"{tmp_path}/model", input=f"rows:{name}", output=f"{tmp_path}/{i}")
        for i, name in enumerate(names)
    ]
    answers = await nursery.inspect([msgspec.structs.replace(spec, cwd=str(tmp_path)) for spec in of], lower=print)
    nursery.close()
    told = {name: answer["error"] for name, answer in zip(names, answers, strict=True)}
    assert [answer["total"] for answer in answers if answer["error"] is None] == [3, 3, 3]
    assert {name: error["key"] for name, error in told.items() if error} == dict.fromkeys(
        ("exits", "crashes", "closes", "leaves"), "input"
    )
    reasons = {name: error["reason"].partition(" that opened it ")[2] for name, error in told.items() if error}
    assert reasons["exits"].startswith("ended with status 9; it printed last: no such split; mend that (all of that: /")
    assert reasons["crashes"].startswith(
        "was killed by SIGSEGV; it printed last: Fatal Python error: Segmentation fault; "
    )
    closed = "the session's code closed a file descriptor that is not its own"
    assert reasons["closes"].startswith(f"ended with status 1; it printed last: {closed}; ")
    assert (tmp_path / "precious").read_bytes() == b""
    assert gone(int(re.findall(r"printed last: (\d+);", reasons["leaves"])[0]))


@in_loop
async def test_an_inspection_that_nobody_waits_for_any_more_leaves_no_process(tmp_path: Path) -> None:
    inspection = Inspection(tmp_path / "logs")
    asking = asyncio.create_task(inspection.of("hang"))
    await until(lambda: bool(inspection.processes))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await until(lambda: gone(inspection.processes[0].pid))
