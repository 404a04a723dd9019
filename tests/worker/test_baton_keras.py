"""A Keras fit as a session: real fits in real processes, the test being the daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from keras_programs import EPOCHS
from worker_peer import TIMEOUT_S, Host, Message, Peer

ROOT = Path(__file__).parents[2]
STEPS = 4  # of an epoch
ALL = EPOCHS * STEPS
IN_ORDER = ["hello", "ready", "started", "quiesced", "committed"]

pytestmark = pytest.mark.tensorflow
Fit = Callable[..., tuple[Peer, Any]]


@pytest.fixture
def fit(host: Host, tmp_path: Path) -> Fit:
    """Runs one to its end; drained where it waits for that. What it said, and what it told when it had ended."""

    def run(*, cursor: int = 0, status: int = 0, **options: Any) -> tuple[Peer, Any]:
        peer = host.attached("keras_programs", "train", {"folder": str(tmp_path), **options})
        peer.assign({"name": "s"}, cursor=cursor)
        peer.until("ready")
        peer.say("go")
        if "hold" in options:
            _until_there(tmp_path / "holding")
            peer.say("drain")
        peer.rest()
        assert host.status(peer.pid) == status, host.log.read_text()[-3000:]
        return peer, None if status else json.loads((tmp_path / "told").read_text())

    return run


def _until_there(path: Path) -> None:
    """Wait for a file that a program makes, and remove it."""
    until = time.monotonic() + TIMEOUT_S
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    path.unlink()


def progress(peer: Peer) -> list[tuple[int, int | None, int]]:
    """What was reported: done, total, cursor; each once."""
    said = [(m["done"], m["total"], m["cursor"]) for m in peer.heard if m["type"] == "progress"]
    return list(dict.fromkeys(said))


def test_steps_of_all_epochs_are_the_items(fit: Fit) -> None:
    peer, told = fit()
    assert peer.types() == IN_ORDER
    assert peer.one("ready")["total"] == ALL
    assert progress(peer) == [(done, ALL, 0) for done in range(ALL + 1)]
    assert peer.one("committed")["cursor"] == ALL
    assert (told["trained"], told["finished"]) == (ALL, True)


def test_where_keras_does_not_know_the_steps_the_first_epoch_tells(fit: Fit) -> None:
    peer, _ = fit(unknown=True)
    assert peer.one("ready")["total"] is None
    assert progress(peer)[: STEPS + 1] == [(done, None, 0) for done in range(STEPS + 1)]
    assert progress(peer)[STEPS + 1 :] == [(done, ALL, 0) for done in range(STEPS, ALL + 1)]


def test_steps_that_are_taken_several_at_once_are_counted_as_what_they_are(fit: Fit) -> None:
    peer, told = fit(at_once=3)  # three, then one
    assert [done for done, _, _ in progress(peer)] == [0, 3, 4, 7, 8, 11, 12]
    assert told["trained"] == ALL


def test_a_fit_that_is_drained_ends_after_its_step_and_without_a_checkpoint_begins_anew(fit: Fit) -> None:
    peer, told = fit(hold=6)
    assert peer.types() == IN_ORDER
    assert (told["trained"], told["finished"]) == (6, False)
    quiesced = peer.one("quiesced")
    assert (quiesced["done"], quiesced["remaining"]) == (6, ALL - 6)
    assert peer.one("committed")["cursor"] == 0, "nothing of it is kept"


@pytest.mark.parametrize(
    ("hold", "at_once", "unknown"),
    [(2, 1, False), (4, 1, False), (10, 1, False), (6, 2, False), (2, 1, True), (4, 1, True), (6, 1, True)],
)
def test_a_fit_that_was_drained_and_resumed_ends_as_one_that_never_was(
    fit: Fit, hold: int, at_once: int, unknown: bool
) -> None:
    """The same weights to the last bit, momentum and dropout included; each step trained once, and counted once."""
    options = {"keep": True, "at_once": at_once, "unknown": unknown}
    _, whole = fit(**options)
    assert (whole["finished"], whole["kept"]) == (True, False), "what is done needs no checkpoint"
    peer, first = fit(**options, hold=hold // at_once)
    assert (len(first["seen"]) * at_once, first["finished"], first["kept"]) == (hold, False, True)
    assert peer.one("committed")["cursor"] == peer.one("quiesced")["done"] == hold
    peer, second = fit(**options, cursor=hold)
    assert second["weights"] == whole["weights"] != first["weights"]
    assert (second["trained"], second["finished"], second["kept"]) == (whole["trained"], True, False)
    assert progress(peer)[0][0] == hold
    assert progress(peer)[-1] == (ALL, ALL, ALL)
    assert [done for done, _, _ in progress(peer)] == sorted(done for done, _, _ in progress(peer))


def test_a_fit_that_died_goes_on_behind_its_last_whole_epoch(fit: Fit) -> None:
    """Also where batond knows of less than is kept: it was not told of the last before the end."""
    _, whole = fit(keep=True)
    fit(keep=True, die=STEPS + 3, status=9)
    peer, told = fit(keep=True, cursor=0)
    assert progress(peer)[:2] == [(STEPS, ALL, 0), (STEPS, ALL, STEPS)]
    assert (told["weights"], told["trained"]) == (whole["weights"], ALL)
    assert [epoch for epoch, _ in told["seen"]] == [1] * STEPS + [2] * STEPS


def test_one_that_is_drained_while_it_passes_over_what_it_has_keeps_that(fit: Fit) -> None:
    _, whole = fit(keep=True)
    fit(keep=True, hold=7)
    peer, told = fit(keep=True, hold=1, cursor=7)
    assert (told["trained"], peer.one("committed")["cursor"]) == (7, 7)
    _, told = fit(keep=True, cursor=7)
    assert told["weights"] == whole["weights"]


def test_a_drain_at_the_very_last_step_ends_it_as_done(fit: Fit) -> None:
    peer, told = fit(keep=True, hold=ALL)
    assert (told["finished"], told["kept"]) == (True, False)
    assert peer.one("quiesced")["remaining"] == 0
    assert peer.one("committed")["cursor"] == ALL


def test_one_that_another_callback_stops_is_done_there(fit: Fit) -> None:
    peer, told = fit(early=True, epochs=50)
    assert told["finished"] is True
    done = told["trained"]
    assert done < 50 * STEPS
    assert (peer.one("quiesced")["done"], peer.one("quiesced")["remaining"]) == (done, 0)
    assert peer.one("committed")["cursor"] == done


def test_what_fails_after_the_fit_costs_no_step_of_it(fit: Fit) -> None:
    peer, _ = fit(keep=True, raises=True, status=1)
    assert peer.one("failed")["reason"] == "RuntimeError: after the fit"
    peer, told = fit(keep=True, cursor=ALL)
    assert (told["seen"], told["trained"], told["kept"]) == ([], ALL, False)
    assert peer.types() == IN_ORDER
    assert peer.one("committed")["cursor"] == ALL


@pytest.mark.parametrize(
    ("spoil", "options", "kind", "reason"),
    [
        ("state", {}, "input", "its state.json cannot be read"),
        ("weights", {}, "input", "its weights do not fit this model"),
        ("gone", {}, "input", "it ends at step 0, and 6 steps were kept there"),
        (None, {"initial_epoch": 0}, "program", "have it call fit(initial_epoch=callback.initial_epoch)"),
        (None, {"initial_epoch": 2}, "program", "the fit began at epoch 2, and its checkpoint is at epoch 1;"),
        (None, {"at_once": 4}, "input", "it is at step 2, and this fit takes 4 at once"),
        ("steps", {}, "input", "its epochs have 9 steps, and those of this fit 4"),
        ("further", {"unknown": True}, "input", "it is at step 7 of an epoch that ended at 4"),
    ],
)
def test_what_cannot_be_gone_on_from_is_one_line(
    fit: Fit, host: Host, tmp_path: Path, spoil: str | None, options: dict[str, Any], kind: str, reason: str
) -> None:
    fit(keep=True, hold=6)
    _spoil(tmp_path / "kept", spoil)
    peer = host.attached("keras_programs", "train", {"folder": str(tmp_path), "keep": True} | options)
    peer.assign({"name": "s"}, cursor=6)
    failed = _failure(peer)
    assert failed["kind"] == kind
    assert reason in failed["reason"]
    assert host.status(peer.pid) == 1


def _spoil(kept: Path, how: str | None) -> None:
    state = kept / "state.json"
    if how == "state":
        state.write_text("{")
    elif how == "weights":
        (kept / "6.weights.h5").write_bytes(b"no HDF5")
    elif how == "gone":
        state.unlink()
    elif how == "steps":
        state.write_text(json.dumps(json.loads(state.read_text()) | {"steps": 9}))
    elif how == "further":
        state.write_text(json.dumps(json.loads(state.read_text()) | {"steps": None, "step": 7, "done": 11}))


def _failure(peer: Peer) -> Message:
    while (message := peer.hear()) is not None:
        if message["type"] == "ready":
            peer.say("go")
        elif message["type"] == "failed":
            return message
    raise AssertionError(peer.heard)


def test_a_checkpoint_on_a_full_disk_is_a_failure_to_write(fit: Fit, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "state.json.partial").symlink_to("/dev/full")
    peer, _ = fit(keep=True, status=1)
    assert (peer.one("failed")["kind"], peer.one("committed") if "committed" in peer.types() else None) == (
        "output",
        None,
    )
    assert "cannot write the checkpoint" in peer.one("failed")["reason"]


def test_outside_batond_the_callback_prints_nothing_and_keeps_nothing(tmp_path: Path) -> None:
    """In an interpreter of its own: baton imports no Keras, only looks for the model's."""
    code = f"""
import sys, baton
assert not [name for name in sys.modules if "keras" in name or "tensorflow" in name]
with baton.session() as session:
    import keras_programs
    made = keras_programs.model()
    x, y = keras_programs.rows()
    keep = session.keras_callback(made, checkpoint={str(tmp_path / "kept")!r})
    made.fit(x, y, epochs=2, callbacks=[keep], initial_epoch=keep.initial_epoch, verbose=0)
    assert keep.finished and int(made.optimizer.iterations) == 2
try:
    session.keras_callback(object())
except baton.Failure as error:
    print(error)
"""
    environment = {key: value for key, value in os.environ.items() if key != "BATON_FD"}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'worker'}", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "cannot follow the fit of a object: it is no model of Keras\n"
    assert not (tmp_path / "kept").exists()
