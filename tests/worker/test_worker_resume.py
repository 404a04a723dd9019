"""The built-in worker stopped in the middle, in every way, and resumed from its cursor: each row right."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from worker_peer import Host, Message, Peer
from worker_sessions import manifest

pytestmark = pytest.mark.tensorflow

Spec = Callable[..., Message]
TOTAL = 20_000


def run_some(host: Host, session: Message, *, resume: bool = False) -> Peer:
    """A worker that has begun to compute."""
    peer = host.worker()
    peer.assign(session, resume=resume)
    peer.until("ready")
    peer.say("go")
    peer.until("progress", done=20)
    return peer


def resume_to_the_end(host: Host, world: Path, session: Message, cursor: int, *, told: bool = True) -> None:
    peer = host.worker()
    peer.assign(session | {"batch_size": 512}, cursor=cursor if told else 0, resume=told)
    peer.until("ready")
    peer.say("go")
    peer.rest()
    first = next(message for message in peer.heard if message["type"] == "progress")
    assert first["done"] == min(cursor + 512, TOTAL)
    assert peer.one("committed")["cursor"] == TOTAL
    assert host.status(peer.pid) == 0
    expected = np.load(world / "many.y.npy")
    np.testing.assert_allclose(np.load(Path(session["output"]) / "y.npy"), expected, rtol=1e-5, atol=1e-6)
    assert manifest(session)["complete"]


@pytest.mark.parametrize("order", ["drain", "cancel"])
def test_drained_in_the_middle_then_resumed(host: Host, world: Path, spec: Spec, order: str) -> None:
    session = spec(input_="many.npy", batch_size=1)
    peer = run_some(host, session)
    peer.say(order)
    assert peer.rest() == ["hello", "advanced", "ready", "started", "quiesced", "committed"]
    assert host.status(peer.pid) == 0
    quiesced, committed = peer.one("quiesced"), peer.one("committed")
    assert quiesced["done"] == committed["cursor"] == manifest(session)["cursor"] < TOTAL
    assert quiesced["remaining"] == TOTAL - quiesced["done"]
    assert not (Path(session["output"]) / "y.npy").exists()
    resume_to_the_end(host, world, session, committed["cursor"])


def test_drain_right_behind_go_computes_nothing_it_need_not(host: Host, world: Path, spec: Spec) -> None:
    session = spec(input_="many.npy", batch_size=1)
    peer = host.worker()
    peer.assign(session)
    peer.until("ready")
    peer.line.sendall(b'{"type":"go"}\n{"type":"drain"}\n')
    assert peer.rest()[3:] == ["started", "quiesced", "committed"]
    assert peer.one("committed")["cursor"] <= 1
    assert host.status(peer.pid) == 0
    resume_to_the_end(host, world, session, peer.one("committed")["cursor"])


@pytest.mark.parametrize("resume", [True, False])
def test_a_session_submitted_anew_goes_on_from_its_manifest(host: Host, world: Path, spec: Spec, resume: bool) -> None:
    """Also where the daemon knows nothing of its rows, as it does not look at what waits for other sessions."""
    session = spec(input_="many.npy", batch_size=1)
    peer = run_some(host, session)
    peer.say("drain")
    peer.rest()
    assert host.status(peer.pid) == 0
    cursor = peer.one("committed")["cursor"]
    inspector = host.worker("inspect")
    inspector.say("inspect", specs=[session])
    inspector.rest()
    assert host.status(inspector.pid) == 0
    found = inspector.one("inspected")
    assert (found["error"], found["cursor"]) == (None, cursor)
    resume_to_the_end(host, world, session, cursor, told=resume)


def test_a_lost_daemon_while_computing_commits_and_exits(host: Host, world: Path, spec: Spec) -> None:
    session = spec(input_="many.npy", batch_size=1)
    peer = run_some(host, session)
    peer.hang_up()
    assert host.status(peer.pid) == 0
    cursor = manifest(session)["cursor"]
    assert 20 <= cursor < TOTAL
    resume_to_the_end(host, world, session, cursor)


def test_killed_in_the_middle_then_resumed_from_the_manifest(host: Host, world: Path, spec: Spec) -> None:
    session = spec(input_="many.npy", batch_size=1)
    peer = run_some(host, session)
    claimed = peer.until("progress", cursor=1)["cursor"]  # a commit in the background: no drain led to it
    os.kill(peer.pid, signal.SIGKILL)
    assert host.status(peer.pid) == -signal.SIGKILL
    cursor = manifest(session)["cursor"]
    assert claimed <= cursor < TOTAL
    resume_to_the_end(host, world, session, cursor)


def test_resumed_with_nothing_left_says_all_it_must(host: Host, world: Path, spec: Spec) -> None:
    session = spec(input_="many.npy", batch_size=512)
    for resume in (False, True):
        peer = host.worker()
        peer.assign(session, cursor=TOTAL if resume else 0, resume=resume)
        peer.until("ready")
        peer.say("go")
        assert peer.rest()[3:] == ["started", "last_batch", "quiesced", "committed"]
        assert peer.one("committed")["cursor"] == TOTAL
        assert host.status(peer.pid) == 0
    target = Path(session["output"]) / "session.json"
    target.write_text(target.read_text().replace('"complete": true', '"complete": false'))
    (target.parent / "y.npy").rename(target.parent / "y.npy.partial")  # as after a crash between two renames
    peer = host.worker()
    peer.assign(session, cursor=TOTAL, resume=True)
    peer.until("ready")
    peer.say("go")
    peer.rest()
    assert host.status(peer.pid) == 0
    assert manifest(session)["complete"]
    assert (target.parent / "y.npy").exists()


def test_files_that_could_not_be_made_are_made_by_the_next_attempt(host: Host, world: Path, spec: Spec) -> None:
    session = spec(input_="many.npy", batch_size=512)
    peer = host.worker()
    peer.assign(session)
    peer.until("ready")
    resource.prlimit(peer.pid, resource.RLIMIT_FSIZE, (65536, 65536))
    peer.say("go")
    peer.rest()
    assert peer.one("failed")["kind"] == "output"
    assert host.status(peer.pid) == 1
    assert manifest(session)["cursor"] == 0
    resume_to_the_end(host, world, session, 0)


def test_another_sessions_rows_are_not_resumed(host: Host, spec: Spec) -> None:
    session = spec()
    peer = host.worker()
    peer.assign(session)
    peer.until("ready")
    peer.say("go")
    peer.rest()
    host.status(peer.pid)
    for other, why in (
        (session | {"name": "t"}, "it holds the output of session 's'"),
        (spec("checked"), "its rows are by another version of the model"),
        (spec(input_="spoilt.npy"), "its rows are of another version of the input"),
    ):
        peer = host.worker()
        peer.assign(other, resume=True)
        peer.rest()
        failed = peer.one("failed")
        assert failed["kind"] == "output"
        assert why in failed["reason"]
        assert host.status(peer.pid) == 1
