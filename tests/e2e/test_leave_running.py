"""A daemon that ends and leaves its sessions running: they go on, for the next one, or until their patience is over."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batond import HASTE, ROOT, TIMEOUT_S, Batond, alive, stand_in, wait_gone

LONG = ("--item-ms", "20")


def leave(batond: Batond, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`batonctl shutdown --leave-running`, as a person or a script calls it."""
    command = [sys.executable, "-m", "daemon.cli", "--socket", str(batond.socket), "shutdown", "--leave-running"]
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def wait_for_rows(batond: Batond, name: str, count: int) -> None:
    until = time.monotonic() + TIMEOUT_S
    while len(batond.rows(name)) < count:
        assert time.monotonic() < until, f"{name} has {len(batond.rows(name))} rows, and goes on no more"
        time.sleep(0.02)


def test_the_running_session_goes_on_and_the_next_daemon_adopts_it(batond: Batond) -> None:
    """No item is computed twice, no attempt is charged; the standby ends, and is prepared again."""
    batond.submit(stand_in("a", batond.folder, *LONG, items=500) + stand_in("b", batond.folder, items=5))
    started = batond.event("session.started", session="a")
    batond.event("standby.ready", session="b")
    (running,), (prepared,) = batond.recorded("a"), batond.recorded("b")
    answer = batond.ctl("shutdown", "--leave-running")
    assert answer["left_running"] == ["a"]
    assert answer["waits_for"] == []
    assert abs(datetime.fromisoformat(answer["back_by"]) - datetime.now(UTC) - timedelta(seconds=60)).seconds < 60
    assert batond.process.wait(TIMEOUT_S) == 0
    stopped = batond.event("daemon.stopped")
    assert (stopped["left_running"], stopped["left"]) == (1, 1)
    assert alive(running)
    assert not alive(prepared)
    assert not (batond.folder / "state" / "batond.db-wal").exists(), "the record is written back, and closed"
    assert batond.recorded("b") == [], "nothing is left of the standby"
    there = len(batond.rows("a"))
    wait_for_rows(batond, "a", there + 20)  # nobody watches, and it computes
    assert there + 20 < 500

    batond.start()
    adopted = batond.event("session.adopted", session="a")
    assert adopted["generation"] == started["generation"]
    assert batond.recorded("a") == [running]
    batond.ended("a", "b")
    assert batond.rows("a") == list(range(500))
    assert batond.rows("b") == list(range(5))
    assert len(batond.told("session.started", session="a")) == 1
    assert len(batond.told("standby.ready", session="b")) == 2
    assert batond.told("session.retried") == []
    assert [event["attempt"] for event in batond.told("session.started")] == [1, 1]
    handover = batond.event("handover.completed", from_session="a")
    assert (handover["items_done"], handover["items_returned"]) == (500, 0)


def test_a_person_is_told_what_goes_on_and_until_when_and_may_start_the_next_one_at_once(batond: Batond) -> None:
    batond.submit(stand_in("a", batond.folder, *LONG, items=200))
    batond.event("session.started", session="a")
    done = leave(batond)
    batond.start()  # the command returns when the daemon is gone: the state directory is free
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first == "batond ends; one session goes on without it: a"
    assert second.startswith("start batond again by ")
    batond.ended("a")
    assert batond.rows("a") == list(range(200))


def test_without_a_session_it_ends_as_ever(batond: Batond) -> None:
    done = leave(batond)
    assert (done.returncode, done.stdout, done.stderr) == (0, "batond ends\n", "")
    assert batond.process.wait(TIMEOUT_S) == 0
    assert batond.event("daemon.stopped")["left_running"] == 0


def test_one_that_is_just_being_started_ends(batond: Batond) -> None:
    """It is in the queue of the next daemon, once, and uncharged."""
    batond.submit(stand_in("a", batond.folder, "--prepare-ms", "500", items=10))
    batond.event("standby.started", session="a")
    assert leave(batond).returncode == 0
    assert batond.process.wait(TIMEOUT_S) == 0
    stopped = batond.event("daemon.stopped")
    assert (stopped["left_running"], stopped["left"]) == (0, 1)
    assert [pid for pid in batond.workers() if alive(pid)] == []
    batond.start()
    batond.ended("a")
    assert batond.rows("a") == list(range(10))
    assert batond.event("session.started", session="a")["attempt"] == 1
    assert batond.told("worker.found") == []


def test_a_signal_meanwhile_does_not_end_what_is_left_running(batond: Batond) -> None:
    """As a service manager sends one when its command to stop has returned. A submission in hand keeps batond there."""
    batond.submit(stand_in("a", batond.folder, *LONG, items=500))
    batond.event("session.started", session="a")
    (running,) = batond.recorded("a")
    (batond.folder / "m.keras").write_text("weights")
    np.save(batond.folder / "x.npy", np.zeros((4, 2), np.float32))
    text = '[[session]]\nname = "m"\nmodel = "m.keras"\ninput = "x.npy"\noutput = "m"\n'
    params = {"text": text, "base": str(batond.folder)}
    with socket.socket(socket.AF_UNIX) as slow, socket.socket(socket.AF_UNIX) as asks:
        slow.connect(str(batond.socket))
        slow.sendall(request("submit", params))  # its model is looked into by a process that imports TensorFlow
        asks.connect(str(batond.socket))
        asks.sendall(request("shutdown", {"leave_running": True}))
        batond.event("daemon.stopping")
        batond.process.send_signal(signal.SIGTERM)
        batond.process.send_signal(signal.SIGINT)  # two of a kind might come as one
        assert batond.process.wait(TIMEOUT_S) == 0
    assert alive(running)
    batond.start()
    batond.event("session.adopted", session="a")
    batond.ended("a")
    assert batond.rows("a") == list(range(500))


def request(method: str, params: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"


def test_a_daemon_that_drains_already_leaves_nothing_running(batond: Batond) -> None:
    batond.submit(stand_in("deaf", batond.folder, "--ignore-drain", *LONG, items=100_000))
    batond.event("session.started", session="deaf")
    batond.ctl("shutdown")
    batond.event("daemon.stopping")
    assert "cannot leave the sessions running: batond is stopping" in batond.ctl(
        "shutdown", "--leave-running", status=1
    )
    batond.ctl("shutdown", "--now")
    assert batond.process.wait(TIMEOUT_S) == 0


def test_now_and_leave_running_are_two_wishes(batond: Batond) -> None:
    done = leave(batond, "--now")
    assert done.returncode == 2
    assert "not both" in done.stderr
    assert batond.process.poll() is None


def test_a_program_that_ends_in_that_very_moment_is_run_once(batond: Batond) -> None:
    """Whether the daemon that goes still hears of it or the next one finds its exit record."""
    marks = batond.folder / "marks"
    names = [f"s{number}" for number in range(12)]
    batond.submit(
        "".join(
            f'[[session]]\nname = "{name}"\nrun = ["sh", "-c", "sleep 0.{number}; echo {name} >> {marks}"]\n'
            for number, name in enumerate(names)
        )
    )
    for name in names[::3]:
        batond.event("session.started", session=name)
        assert leave(batond).returncode == 0
        batond.start()
    batond.ended(*names)
    assert sorted(marks.read_text().split()) == sorted(names)


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Batond]:
    """A daemon whose workers look for the next one for a second only."""
    with Batond(tmp_path, "--launcher", "exec", settings="adoption_timeout_s = 1.0\n" + HASTE) as daemon:
        yield daemon


@pytest.mark.parametrize("how", ["killed", "left"])
def test_a_worker_whose_patience_is_over_drains_and_its_session_resumes(hasty: Batond, how: str) -> None:
    """It commits what it has, and exits; the next daemon begins where it stopped, and charges nothing."""
    hasty.submit(stand_in("a", hasty.folder, *LONG, "--commit-every", "7", items=1000))
    hasty.event("session.started", session="a")
    (running,) = hasty.recorded("a")
    wait_for_rows(hasty, "a", 10)
    if how == "killed":
        hasty.kill()
    else:
        assert leave(hasty).returncode == 0
    wait_gone(running)
    done = hasty.rows("a")
    assert done == list(range(len(done)))
    assert 10 <= len(done) < 1000
    hasty.start()
    again = hasty.event("session.started", times=2, session="a")
    assert (again["cursor"], again["attempt"]) == (len(done), 1)
    hasty.ended("a")
    assert hasty.rows("a") == list(range(1000))
    assert hasty.told("session.retried") == []


def test_a_daemon_waits_for_a_recorded_worker_as_long_as_is_configured(tmp_path: Path) -> None:
    """And a little longer; then it ends it: nothing may start on the lane before."""
    settings = "adoption_timeout_s = 1.0\n" + HASTE
    with Batond(tmp_path, "--launcher", "exec", settings=settings) as batond:
        batond.submit(stand_in("a", batond.folder, *LONG, items=300))
        batond.event("session.started", session="a")
        (running,) = batond.recorded("a")
        batond.kill()
        os.kill(running, signal.SIGSTOP)  # it cannot come back by itself
        batond.start()
        batond.event("worker.found", session="a")
        waited = batond.event("worker.escalated", session="a")["reason"]
        assert int(waited.split()[-2]) < 60, waited
        batond.ended("a")
        assert batond.rows("a") == list(range(300))


@pytest.mark.tensorflow
def test_a_forked_tensorflow_worker_goes_on_too_and_its_rows_are_whole(tmp_path: Path, models: Path) -> None:
    """Its fork server ends with the daemon. Nobody can tell any more how it ends, and nobody need."""
    table = {"name": "a", "model": str(models / "affine"), "input": str(models / "many.npy"), "batch_size": 1}
    text = "[[session]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    with Batond(tmp_path) as batond:
        batond.submit(f'{text}output = "{tmp_path / "a"}"\n')
        started = batond.event("session.started", session="a")
        assert leave(batond).returncode == 0
        batond.start()
        assert batond.event("session.adopted", session="a")["generation"] == started["generation"]
        batond.ended("a")
        assert len(batond.told("session.finished", session="a")) == 1
        assert len(batond.told("session.started", session="a")) == 1
    np.testing.assert_allclose(np.load(tmp_path / "a" / "y.npy"), np.load(models / "many.y.npy"), rtol=1e-5, atol=1e-6)


def test_a_run_that_two_daemons_took_over_is_as_long_as_it_was(batond: Batond) -> None:
    """What it teaches of the speed is counted from where it began, not from where it was found."""
    batond.submit(stand_in("a", batond.folder, *LONG, "--commit-every", "10", items=500))
    batond.event("session.started", session="a")
    for times, rows in enumerate((50, 150), 1):
        wait_for_rows(batond, "a", rows)
        batond.ctl("shutdown", "--leave-running")
        assert batond.process.wait(TIMEOUT_S) == 0
        batond.start()
        batond.event("session.adopted", session="a", times=times)
    batond.ended("a")
    (run,) = batond.ctl("show", "a")["runs"]
    assert run["items"] == 500
    assert run["run_s"] > 500 * 0.02
