"""An output that is to be overwritten, and a worker that ends at any moment: only rows of its own are gone on from."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from worker_peer import Host, Message, Peer
from worker_sessions import manifest, run

pytestmark = pytest.mark.tensorflow

Spec = Callable[..., Message]
ITEMS = 50
MANY = 20_000
OLD, NEW = "old", "new"  # submissions
STALE = 7.0  # what a row of the old output is made to hold
FIRST_BATCH = 8


def leave_old(host: Host, session: Message, *, cursor: int | None = None) -> None:
    """The output of an earlier submission, told by its stale rows; complete, or with so many of them."""
    folder = Path(session["output"])
    run(host, session, submission=OLD)
    np.lib.format.open_memmap(folder / "y.npy", "r+")[:] = STALE
    if cursor is not None:
        for file in list(folder.glob("*.npy")):
            file.rename(f"{file}.partial")
        (folder / "session.json").write_text(json.dumps(manifest(session) | {"cursor": cursor, "complete": False}))
    assert manifest(session)["submission"] == OLD


def old_is_whole(session: Message) -> bool:
    """Whether nothing of the complete old output was touched."""
    rows = np.load(Path(session["output"]) / "y.npy")
    return bool(manifest(session)["complete"]) and rows.shape[0] == ITEMS and bool((rows == STALE).all())


def check_anew(peer: Peer, session: Message, world: Path) -> None:
    """The worker computed every item, and left all rows."""
    assert next(message for message in peer.heard if message["type"] == "progress")["done"] == FIRST_BATCH
    assert peer.one("committed")["cursor"] == ITEMS
    rows = np.load(Path(session["output"]) / "y.npy")
    np.testing.assert_allclose(rows, np.load(world / "affine.y.npy"), rtol=1e-5, atol=1e-6)
    assert manifest(session)["complete"]
    assert manifest(session)["submission"] == NEW
    assert not list(Path(session["output"]).glob("*.partial"))


@pytest.mark.parametrize("cursor", [None, 24], ids=["complete", "unfinished"])
@pytest.mark.parametrize("told_to_go", [False, True])
def test_killed_before_it_wrote_the_next_attempt_takes_no_row_of_the_old_output(
    host: Host, world: Path, spec: Spec, cursor: int | None, told_to_go: bool
) -> None:
    session = spec(overwrite=True)
    leave_old(host, session, cursor=cursor)
    before = manifest(session)
    peer = host.worker()
    peer.assign(session, submission=NEW)
    peer.until("ready")
    os.kill(peer.pid, signal.SIGSTOP)
    if told_to_go:
        peer.say("go")
    os.kill(peer.pid, signal.SIGKILL)
    assert host.status(peer.pid) == -signal.SIGKILL
    assert manifest(session) == before
    assert cursor is not None or old_is_whole(session)
    check_anew(run(host, session, submission=NEW, resume=told_to_go), session, world)


def test_drained_right_behind_go_the_next_attempt_takes_no_row_of_the_old_output(
    host: Host, world: Path, spec: Spec
) -> None:
    session = spec(overwrite=True, batch_size=1)
    leave_old(host, session)
    peer = host.worker()
    peer.assign(session, submission=NEW)
    peer.until("ready")
    peer.line.sendall(b'{"type":"go"}\n{"type":"drain"}\n')
    peer.rest()
    assert host.status(peer.pid) == 0
    cursor = peer.one("committed")["cursor"]
    assert cursor or old_is_whole(session), "nothing is destroyed for nothing"
    run(host, session, submission=NEW, resume=True)
    rows = np.load(Path(session["output"]) / "y.npy")
    np.testing.assert_allclose(rows, np.load(world / "affine.y.npy"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("room_bytes", [10, 2000], ids=["for no manifest", "for no rows"])
def test_what_could_not_be_begun_is_begun_anew(host: Host, world: Path, spec: Spec, room_bytes: int) -> None:
    session = spec("affine", "many.npy", overwrite=True, batch_size=512)
    run(host, session, submission=OLD)
    before = manifest(session)
    peer = host.worker()
    peer.assign(session, submission=NEW)
    peer.until("ready")
    resource.prlimit(peer.pid, resource.RLIMIT_FSIZE, (room_bytes, room_bytes))
    peer.say("go")
    peer.rest()
    assert host.status(peer.pid) == 1
    assert peer.one("failed")["kind"] == "output"
    left = manifest(session)
    assert left == before if room_bytes == 10 else (left["cursor"], left["complete"]) == (0, False)
    again = run(host, session, submission=NEW, resume=True)
    assert next(message for message in again.heard if message["type"] == "progress")["done"] == 512
    rows = np.load(Path(session["output"]) / "y.npy")
    np.testing.assert_allclose(rows, np.load(world / "many.y.npy"), rtol=1e-5, atol=1e-6)


def test_an_end_amid_the_replacing_leaves_nothing_of_the_old_beside_the_new(
    host: Host, world: Path, spec: Spec
) -> None:
    """The first of the old files is gone, and the next cannot be removed."""
    session = spec(overwrite=True)
    leave_old(host, session)
    folder = Path(session["output"])
    former = {"name": "former", "file": "former.npy", "dtype": "<f4", "shape": [ITEMS]}
    outputs = [*manifest(session)["outputs"], former]
    (folder / "session.json").write_text(json.dumps(manifest(session) | {"outputs": outputs}))
    (folder / "former.npy").touch()
    (folder / "errors.jsonl").write_text('{"item": 3, "reason": "of old"}\n')
    (folder / "y.npy").rename(folder / "aside")
    (folder / "y.npy").mkdir()
    assert run(host, session, submission=NEW, status=1).one("failed")["kind"] == "output"
    assert not (folder / "label.npy").exists()
    left = manifest(session)
    assert (left["submission"], left["cursor"], left["complete"]) == (NEW, 0, False), "it tells of no row that is gone"
    (folder / "y.npy").rmdir()
    (folder / "aside").rename(folder / "y.npy")
    check_anew(run(host, session, submission=NEW, resume=True), session, world)
    assert {file.name for file in folder.iterdir()} == {"session.json", "y.npy", "label.npy"}


def test_a_manifest_that_names_files_elsewhere_is_none(host: Host, world: Path, spec: Spec, tmp_path: Path) -> None:
    session = spec(overwrite=True)
    leave_old(host, session)
    (tmp_path / "mine.npy").touch()
    elsewhere = [{"name": "y", "file": "../mine.npy", "dtype": "<f4", "shape": [ITEMS, 3]}]
    target = Path(session["output"]) / "session.json"
    target.write_text(json.dumps(manifest(session) | {"outputs": elsewhere}))
    check_anew(run(host, session, submission=NEW), session, world)
    assert (tmp_path / "mine.npy").exists()


@pytest.mark.parametrize("resume", [True, False])
def test_its_own_rows_are_gone_on_from_whatever_the_daemon_knows_of_them(
    host: Host, world: Path, spec: Spec, resume: bool
) -> None:
    """A daemon that lost its record in a power cut may not know that the session had begun, nor that it was done."""
    session = spec(input_="many.npy", batch_size=1, overwrite=True)
    peer = host.worker()
    peer.assign(session, submission=NEW)
    peer.until("ready")
    peer.say("go")
    peer.until("progress", cursor=1)
    os.kill(peer.pid, signal.SIGKILL)
    assert host.status(peer.pid) == -signal.SIGKILL
    cursor = manifest(session)["cursor"]
    assert 0 < cursor < MANY
    session |= {"batch_size": 512}
    peer = run(host, session, submission=NEW, resume=resume)
    assert next(message for message in peer.heard if message["type"] == "progress")["done"] == min(cursor + 512, MANY)
    done = run(host, session, submission=NEW, resume=resume)
    assert not [message for message in done.heard if message["type"] == "progress"]
    assert done.one("committed")["cursor"] == MANY
    rows = np.load(Path(session["output"]) / "y.npy")
    np.testing.assert_allclose(rows, np.load(world / "many.y.npy"), rtol=1e-5, atol=1e-6)


def test_unfinished_rows_that_are_gone_on_from_become_the_new_submissions(host: Host, world: Path, spec: Spec) -> None:
    """Else one that is killed between its last commit and its `committed` would find its own output another's."""
    session = spec()
    leave_old(host, session, cursor=24)
    peer = run(host, session, submission=NEW)
    assert next(message for message in peer.heard if message["type"] == "progress")["done"] == 24 + FIRST_BATCH
    assert manifest(session)["submission"] == NEW
    rows = np.load(Path(session["output"]) / "y.npy")
    assert (rows[:24] == STALE).all()
    np.testing.assert_allclose(rows[24:], np.load(world / "affine.y.npy")[24:], rtol=1e-5, atol=1e-6)
    done = run(host, session, submission=NEW, resume=True)
    assert done.one("committed")["cursor"] == ITEMS
