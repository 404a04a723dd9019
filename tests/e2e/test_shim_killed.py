"""The whole daemon when a `run` session's parent process dies, before or after the program, the daemon there or not."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from batond import TIMEOUT_S, Batond, alive, stand_in, wait_gone


def whole(batond: Batond, name: str, items: int) -> None:
    """Every row once, and the session told done once."""
    assert batond.rows(name) == list(range(items))
    assert len(batond.told("session.finished", session=name)) == 1
    assert batond.told("count.mismatched") == []


def shim_and_program(batond: Batond, name: str) -> tuple[int, int]:
    (shim,) = batond.recorded(name)
    (program,) = psutil.Process(shim).children()
    return shim, program.pid


def once(batond: Batond, script: str, **keys: object) -> None:
    """Submit a program that says nothing; it leaves a mark when it begins."""
    table = {"name": "once", "run": ["sh", "-c", f"echo begun >> marks; {script}"], "cwd": str(batond.folder)} | keys
    batond.submit("[[session]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()))
    batond.event("session.started", session="once")


def marks(batond: Batond) -> list[str]:
    return (batond.folder / "marks").read_text().split()


def test_a_session_whose_shim_was_killed_is_tried_again_when_its_program_is_gone(batond: Batond) -> None:
    batond.submit(stand_in("a", batond.folder, "--item-ms", "20", items=150))
    batond.event("session.started", session="a")
    shim, program = shim_and_program(batond, "a")
    os.kill(shim, signal.SIGKILL)
    retried = batond.event("session.retried", session="a")
    assert retried["kind"] == "crash"
    assert "killed by signal 9" in retried["reason"]
    assert not alive(program)
    batond.ended("a")
    whole(batond, "a", 150)


def test_what_left_the_group_of_a_killed_shim_is_gone_before_its_session_begins_again(batond: Batond) -> None:
    """In a session of its own it would go on writing beside the next attempt."""
    script = "(setsid sh -c 'echo $$ >> strays; while :; do echo $$ >> beats; sleep 0.01; done' &); exec sleep 1000"
    once(batond, script, max_attempts=2)
    strays = batond.folder / "strays"
    _until(lambda: strays.exists() and (batond.folder / "beats").exists())
    (first,) = strays.read_text().split()
    os.kill(batond.recorded("once")[0], signal.SIGKILL)
    batond.event("session.started", times=2, session="once")
    assert not alive(int(first))
    _until(lambda: len(strays.read_text().split()) == 2)
    beats = (batond.folder / "beats").read_text().split()
    assert beats[-1] != first
    assert batond.told("session.retried", session="once")


def test_a_shim_that_is_killed_while_no_daemon_is_there_leaves_nothing_that_writes(batond: Batond) -> None:
    """The next daemon goes on at the cursor, and no attempt was lost by it."""
    batond.submit(stand_in("a", batond.folder, "--item-ms", "20", items=150, max_attempts=1))
    batond.event("session.started", session="a")
    _until(lambda: len(batond.rows("a")) > 10)
    shim, program = shim_and_program(batond, "a")
    batond.kill()
    os.kill(shim, signal.SIGKILL)
    wait_gone(program)
    batond.start()
    batond.ended("a")
    whole(batond, "a", 150)


def test_an_adopted_shim_that_is_killed_is_a_crash_like_any(batond: Batond) -> None:
    batond.submit(stand_in("a", batond.folder, "--item-ms", "20", items=300))
    batond.event("session.started", session="a")
    shim, program = shim_and_program(batond, "a")
    batond.kill()
    batond.start()
    batond.event("session.adopted", session="a")
    os.kill(shim, signal.SIGKILL)
    batond.event("session.retried", session="a")
    assert not alive(program)
    batond.ended("a")
    whole(batond, "a", 300)


def test_a_program_that_died_before_its_daemon_and_one_after_are_told_alike(batond: Batond) -> None:
    """The reason is the one that its parent kept, when nobody was there to hear it."""
    once(batond, "while [ ! -e go ]; do sleep 0.02; done; echo the reason >&2; exit 3", max_attempts=1)
    (shim,) = batond.recorded("once")
    batond.kill()
    (batond.folder / "go").touch()
    wait_gone(shim)
    batond.start()
    failed = batond.event("session.failed", session="once")
    assert (failed["kind"], failed["reason"]) == ("program", "the program exited with status 3: the reason")
    batond.ctl("retry", "once")
    batond.wait(lambda event: event["event"] == "session.failed" and event is not failed)
    again = batond.told("session.failed", session="once")[-1]
    assert (again["kind"], again["reason"]) == (failed["kind"], failed["reason"])
    assert marks(batond) == ["begun", "begun"]


def test_an_end_that_a_daemon_did_not_live_to_hear_of_is_in_the_record(batond: Batond) -> None:
    """It was stopped (not to run again) when the program ended, and killed: the worker's own word was never read."""
    once(batond, "while [ ! -e go ]; do sleep 0.02; done")
    (shim,) = batond.recorded("once")
    batond.process.send_signal(signal.SIGSTOP)
    (batond.folder / "go").touch()
    _until(lambda: not alive(shim))
    batond.kill()
    batond.start()
    batond.event("session.finished", session="once")
    assert marks(batond) == ["begun"]


@pytest.mark.parametrize("record", ["none", "torn", "older", "no-room"])
def test_an_end_that_nobody_can_tell_of_is_an_attempt_more(batond: Batond, record: str) -> None:
    """Where the record says nothing, or is another worker's, the session runs again: twice is better than never."""
    once(batond, "while [ ! -e go ]; do sleep 0.02; done; sleep 0.2")
    (shim,) = batond.recorded("once")
    exits = batond.folder / "state" / "exits"
    path = exits / "1.json"
    if record == "no-room":
        path.with_name("1.json.partial").symlink_to("/dev/full")
    batond.kill()
    (batond.folder / "go").touch()
    wait_gone(shim)
    if record == "no-room":
        assert list(exits.iterdir()) == []
    else:
        kept = json.loads(path.read_text())
        assert kept["pid"] == shim
        _spoil(path, record)
    batond.start()
    batond.event("session.finished", session="once")
    assert marks(batond) == ["begun", "begun"]
    batond.event("worker.exited", session="once")


def _spoil(path: Path, how: str) -> None:
    text = path.read_text()
    if how == "none":
        path.unlink()
    elif how == "torn":
        path.write_text(text[: len(text) // 2])
    else:
        path.write_text(json.dumps(json.loads(text) | {"pid": 1}))


def test_a_standby_that_leaves_its_channel_fails_soon_and_the_queue_goes_on(batond: Batond) -> None:
    """Not after the ten minutes that a preparation may take."""
    quitter = "import os, time; os.closerange(3, 256); time.sleep(1000)"
    batond.submit(
        stand_in("a", batond.folder, "--item-ms", "20", items=100_000, lead=10_000)
        + f'[[session]]\nname = "quitter"\nrun = ["python3", "-S", "-c", "{quitter}"]\nprepare = true\n'
        + stand_in("b", batond.folder, items=5)
    )
    failed = batond.event("session.failed", session="quitter")
    assert failed["kind"] == "program"
    assert "closed its channel to batond before session.ready()" in failed["reason"]
    assert batond.told("session.finished", session="a") == [], "while the running session still ran"
    batond.ctl("cancel", "a")
    batond.ended("a", "b")
    assert batond.rows("a") == list(range(len(batond.rows("a"))))
    whole(batond, "b", 5)


def _until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)
