"""The built-in worker, whole sessions: every row right, the protocol in order, as real processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from worker_peer import TIMEOUT_S, Host, Message, Peer

pytestmark = pytest.mark.tensorflow

Spec = Callable[..., Message]
IN_ORDER = ["hello", "advanced", "ready", "started", "last_batch", "quiesced", "committed"]


def finish(host: Host, spec: Message, **assign: object) -> Peer:
    """Run a session from `assign` to the process's end."""
    peer = host.worker()
    peer.assign(spec, **assign)  # type: ignore[arg-type]
    peer.until("ready")
    peer.say("go")
    types = peer.rest()
    assert host.status(peer.pid) == 0, host.log.read_text()
    assert types == IN_ORDER, peer.heard
    return peer


def rows(spec: Message, name: str) -> np.ndarray:
    return np.load(Path(spec["output"]) / f"{name}.npy")


@pytest.mark.parametrize(
    ("model", "input_", "expected"),
    [
        ("affine", "x.npy", {"y": "affine.y", "label": "affine.label"}),
        ("affine", "x-*.tfrecord", {"y": "affine.y", "label": "affine.label"}),
        ("affine", "other.tfrecord", {"y": "affine.y"}),
        ("functional.keras", "x.npy", {"a": "functional.a", "b": "functional.b"}),
        ("functional.keras", "x-*.tfrecord", {"a": "functional.a", "b": "functional.b"}),
        ("exported", "x.npy", {"a": "functional.a", "b": "functional.b"}),
        ("sequential.keras", "x.npy", {"last": "sequential.last"}),
        ("fixed", "x.npy", {"y": "affine.y"}),
        ("mixed", "mixed.tfrecord", {"sum": "mixed.sum"}),
    ],
)
def test_rows_are_those_of_a_direct_call(
    host: Host, world: Path, spec: Spec, model: str, input_: str, expected: dict[str, str]
) -> None:
    session = spec(model, input_)
    finish(host, session)
    for output, file in expected.items():
        np.testing.assert_allclose(rows(session, output), np.load(world / f"{file}.npy"), rtol=1e-5, atol=1e-6)
    manifest = json.loads((Path(session["output"]) / "session.json").read_text())
    assert (manifest["cursor"], manifest["total"], manifest["complete"]) == (50, 50, True)
    assert not list(Path(session["output"]).glob("*.partial"))


def test_of_short_batches_the_last_ones_are_told_together(host: Host, spec: Spec) -> None:
    """The daemon is to be done with the news of the end before the end: not so if it came one batch before."""
    heard = finish(host, spec(input_="many.npy", batch_size=16)).heard
    told = [message["type"] for message in heard].index("last_batch")
    before = heard[told - 1]
    assert before["type"] == "progress"
    assert before["done"] < before["total"] - 2 * 16


def test_bfloat16_is_kept_as_float32(host: Host, world: Path, spec: Spec) -> None:
    session = spec("two", signature="second")
    finish(host, session)
    assert rows(session, "y").dtype == np.float32
    np.testing.assert_array_equal(rows(session, "y"), np.load(world / "half.y.npy"))


def test_a_standby_climbs_and_touches_no_output_before_go(host: Host, spec: Spec) -> None:
    session = spec()
    peer = host.worker()
    peer.assign(session, tier="imported")
    assert peer.until("hello") | {"pid": 0} == {
        "type": "hello",
        "protocol": 1,
        "session": "s",
        "generation": 7,
        "pid": 0,
        "phase": "loading",
        "tier": None,
        "cursor": 0,
        "done": 0,
        "total": None,
        "errors": 0,
        "began_at": None,
        "ended_at": None,
        "remaining": None,
        "paused": None,
        "tensorflow": True,
    }
    assert peer.until("ready")["tier"] == "imported"
    peer.say("advance", tier="warm")
    ready = peer.until("ready")
    assert (ready["tier"], ready["total"]) == ("warm", 50)
    assert ready["peak_bytes"] > 100 << 20
    assert not Path(session["output"]).exists()
    peer.say("go")
    assert peer.rest()[3:] == ["started", "last_batch", "quiesced", "committed"]
    assert peer.one("quiesced")["remaining"] == 0
    assert peer.one("started")["at"] < peer.one("quiesced")["at"] < time.monotonic()
    assert host.status(peer.pid) == 0


def test_the_exec_launcher_runs_the_same_worker(spec: Spec) -> None:
    ours, theirs = socket.socketpair()
    peer = Peer(ours)
    environment = os.environ | {"BATON_FD": str(theirs.fileno()), "TF_CPP_MIN_LOG_LEVEL": "2"}
    with theirs:
        process = subprocess.Popen([sys.executable, "-m", "daemon.worker"], pass_fds=[theirs.fileno()], env=environment)
    peer.assign(spec())
    assert peer.until("hello")["tensorflow"] is False
    peer.until("ready")
    peer.say("go")
    assert peer.rest() == IN_ORDER
    assert process.wait(TIMEOUT_S) == 0


def test_cancel_or_lost_daemon_before_go_ends_a_standby_at_once(host: Host, spec: Spec) -> None:
    for act, status in ((lambda peer: peer.say("cancel"), 0), (lambda peer: peer.hang_up(), 75)):
        session = spec()
        peer = host.worker()
        peer.assign(session)
        peer.until("ready")
        act(peer)
        assert host.status(peer.pid) == status
        assert not Path(session["output"]).exists()


def test_a_lost_daemon_during_preparation_ends_it_at_once(host: Host, spec: Spec) -> None:
    peer = host.worker()
    peer.assign(spec())
    peer.until("hello")
    peer.hang_up()
    assert host.status(peer.pid) == 75


def test_the_host_forks_from_one_thread(host: Host) -> None:
    assert host.threads == 1
