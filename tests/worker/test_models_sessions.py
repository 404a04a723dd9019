"""Sessions with every kind of model that people bring: each row is that of the model called directly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from worker_peer import Host, Message, Peer

pytestmark = pytest.mark.tensorflow

Session = Callable[..., Message]
SECOND = {"signature": "twice"}
WITH_CODE = {"safe_mode": False}
KINDS: list[tuple[str, dict[str, object], tuple[str, ...]]] = [
    ("several_signatures", SECOND, ("double", "sign")),
    ("several_inputs", {"input": "x.tfrecord"}, ("sum", "length")),
    ("of_any_rank", {}, ("y",)),
    ("with_slots", {}, ("y",)),
    ("with_slots_and_assets", {}, ("y", "id")),
    ("with_slots_and_content", {}, ("y", "found")),
    ("with_content_alone", {}, ("found",)),
    ("exported", {}, ("output_0",)),
    ("served", {}, ("y",)),
    ("tf1", {}, ("y", "label")),
    ("tf1_main_op", {}, ("y", "id")),
    ("tf1_legacy_init_op", {}, ("y", "id")),
    ("dense.keras", {}, ("last",)),
    ("dense.h5", {}, ("last",)),
    ("parts.h5", {}, ("a", "b")),
    ("keras2.h5", {}, ("last",)),
    ("depthwise.h5", {}, ("last",)),
    ("code.keras", WITH_CODE, ("last",)),
    ("code.h5", WITH_CODE, ("last",)),
]
WHOLE = ("with_slots_and_content", "with_content_alone")  # what nobody can take apart


def assert_rows(shelf: Path, spec: Message, model: str, outputs: tuple[str, ...]) -> None:
    for output in outputs:
        rows = np.load(Path(spec["output"]) / f"{output}.npy")
        expected = np.load(shelf / f"{model}.{output}.npy")
        assert (rows.dtype, rows.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)
        assert np.ptp(rows) > 0


@pytest.mark.parametrize("tiers", [("warm",), ("imported", "staged", "warm")], ids=["at once", "tier by tier"])
@pytest.mark.parametrize(("model", "more", "outputs"), KINDS, ids=[kind[0] for kind in KINDS])
def test_rows_are_those_of_a_direct_call(
    host: Host,
    shelf: Path,
    session: Session,
    tmp_path: Path,
    model: str,
    more: dict[str, object],
    outputs: tuple[str, ...],
    tiers: tuple[str, ...],
) -> None:
    """On a second device, as on a GPU. What can be staged is staged: the log names what cannot."""
    spec = session(model, **{"input_" if key == "input" else key: value for key, value in more.items()})
    before = host.log.stat().st_size
    first, *further = tiers
    peer = host.attached("worker_tiers", "serve_watched", str(tmp_path / "placed.jsonl"))
    peer.assign(spec, tier=first)
    for tier in further:
        peer.until("ready")
        peer.say("advance", tier=tier)
    peer.until("ready")
    peer.say("go")
    peer.rest()
    log = host.log.read_bytes()[before:].decode()
    assert host.status(peer.pid) == 0, log
    assert peer.one("committed")["cursor"] == 50
    assert_rows(shelf, spec, model, outputs)
    assert ("cannot stage the weights" in log) == (model in WHOLE and "staged" in tiers), log
    assert "deprecated" not in log


def test_text_and_rows_of_several_lengths_come_as_they_are(host: Host, tmp_path: Path) -> None:
    status = host.status(host.call("worker_models_watched", "call_texts_and_ragged", str(tmp_path)))
    assert status == 0, host.log.read_text()


def test_a_session_with_after_means_the_version_that_is_there_when_it_is_prepared(
    host: Host, shelf: Path, session: Session
) -> None:
    """Its file names the folder of versions; any other session's names the version already."""
    spec = session("served", after=["trainer"])
    run(host, spec, "serving")
    assert_rows(shelf, spec, "served", ("y",))


def run(host: Host, spec: Message, _why: str) -> Peer:
    peer = host.worker()
    peer.assign(spec)
    peer.until("ready")
    peer.say("go")
    peer.rest()
    assert host.status(peer.pid) == 0, host.log.read_text()
    return peer


# Sessions of TensorFlow 1: closed whatever happens


def noting(host: Host, tmp_path: Path) -> tuple[Peer, Path]:
    notes = tmp_path / "notes"
    return host.attached("worker_models_watched", "serve_noting", str(notes)), notes


@pytest.mark.parametrize("model", ["tf1", "tf1_main_op"])
def test_a_session_is_closed_when_its_rows_are_durable(
    host: Host, session: Session, tmp_path: Path, model: str
) -> None:
    peer, notes = noting(host, tmp_path)
    peer.assign(session(model))
    peer.until("ready")
    peer.say("go")
    peer.rest()
    assert host.status(peer.pid) == 0, host.log.read_text()
    assert notes.read_text().split() == ["opened", "committed", "closed"]


def test_a_session_that_is_drained_is_closed(host: Host, session: Session, tmp_path: Path) -> None:
    peer, notes = noting(host, tmp_path)
    peer.assign(session("tf1"))
    peer.until("ready")
    peer.line.sendall(b'{"type": "go"}\n{"type": "drain"}\n')
    peer.rest()
    assert host.status(peer.pid) == 0, host.log.read_text()
    assert notes.read_text().split() == ["opened", "committed", "closed"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [("no_weights_tf1", "is not a valid checkpoint"), ("cut_weights_tf1", "cannot load"), ("no_assets_tf1", "No such")],
)
def test_a_session_that_cannot_be_loaded_is_closed(
    host: Host, session: Session, tmp_path: Path, model: str, reason: str
) -> None:
    peer, notes = noting(host, tmp_path)
    peer.assign(session(model))
    peer.rest()
    assert host.status(peer.pid) == 1
    failed = peer.one("failed")
    assert (failed["kind"], reason in failed["reason"]) == ("model", True), failed
    assert notes.read_text().split() == ["opened", "closed", "failed"]


@pytest.mark.parametrize("bad", [0, 30], ids=["in the warm-up", "in mid-session"])
def test_a_session_whose_call_fails_is_closed(
    host: Host, shelf: Path, session: Session, tmp_path: Path, bad: int
) -> None:
    x = np.load(shelf / "x.npy")
    x[bad] = 1000
    np.save(tmp_path / "bad.npy", x)
    spec = session("tf1_checks", input=str(tmp_path / "bad.npy"))
    peer, notes = noting(host, tmp_path)
    peer.assign(spec)
    if bad:
        peer.until("ready")
        peer.say("go")
    peer.rest()
    assert host.status(peer.pid) == 1
    failed = peer.one("failed")
    assert failed["kind"] == "model"
    assert "too large a value" in failed["reason"]
    assert notes.read_text().split() == ["opened", "closed", "failed"]
    if bad:
        assert json.loads((Path(spec["output"]) / "session.json").read_text())["cursor"] == 24


def test_items_that_fail_in_a_session_are_skipped_where_that_is_asked_for(
    host: Host, shelf: Path, session: Session, tmp_path: Path
) -> None:
    x = np.load(shelf / "x.npy")
    x[30] = 1000
    np.save(tmp_path / "bad.npy", x)
    spec = session("tf1_checks", input=str(tmp_path / "bad.npy"), on_error="skip")
    peer = run(host, spec, "skip")
    assert peer.one("committed")["errors"] == 1
    rows, expected = np.load(Path(spec["output"]) / "y.npy"), np.load(shelf / "tf1_checks.y.npy")
    assert np.isnan(rows[30]).all()
    np.testing.assert_allclose(np.delete(rows, 30, 0), np.delete(expected, 30, 0), rtol=1e-5)


def test_a_session_computes_on_its_device(host: Host, shelf: Path) -> None:
    status = host.status(host.call("worker_models_watched", "place_session", str(shelf / "tf1")))
    assert status == 0, host.log.read_text()
