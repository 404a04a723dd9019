"""Items that fail, left out with `on_error = "skip"`: each named once, its row filled, every other row right."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_peer import Host, Message, Peer
from worker_sessions import manifest, run

pytestmark = pytest.mark.tensorflow

Spec = Callable[..., Message]
BAD = [0, 3, 7, 12, 14, 18]  # of bad.tfrecord, from 18 on all that follows
BAD_TOTAL = 19
FEW = 20_000
FEW_ERRORS = list(range(0, FEW, 997))


def begin(host: Host, session: Message, *, resume: bool = False) -> Peer:
    peer = host.worker()
    peer.assign(session, resume=resume)
    peer.until("ready")
    peer.say("go")
    return peer


def inspected(host: Host, session: Message) -> Message:
    peer = host.worker("inspect")
    peer.say("inspect", specs=[session])
    peer.rest()
    assert host.status(peer.pid) == 0
    return peer.one("inspected")


def errors(session: Message) -> list[Message]:
    return [json.loads(line) for line in (Path(session["output"]) / "errors.jsonl").read_text().splitlines()]


def items(session: Message) -> list[int]:
    return [error["item"] for error in errors(session)]


def check_rows(session: Message, expected: Any, bad: list[int]) -> None:
    """Every row as the model gives it, but for the bad ones."""
    rows = np.load(Path(session["output"]) / "y.npy")
    assert np.flatnonzero(np.isnan(rows).all(axis=1)).tolist() == bad
    good = np.setdiff1d(np.arange(len(rows)), bad)
    np.testing.assert_allclose(rows[good], expected[good], rtol=1e-5, atol=1e-6)
    assert not np.load(Path(session["output"]) / "label.npy")[bad].any()


def test_records_that_are_damaged_in_every_way_are_left_out_and_the_rest_is_read(
    host: Host, world: Path, spec: Spec
) -> None:
    session = spec(input_="bad.tfrecord", on_error="skip", batch_size=4)
    assert inspected(host, session)["total"] == BAD_TOTAL
    peer = run(host, session)
    expected = np.load(world / "affine.y.npy")[:BAD_TOTAL]
    check_rows(session, expected, BAD)
    assert items(session) == BAD
    reasons = {error["item"]: error["reason"] for error in errors(session)}
    assert "Could not parse example" in reasons[0]
    assert "Feature: x (data type: float) is required" in reasons[3]
    assert "Values size: 5 but output shape" in reasons[7]
    assert "its checksum is wrong" in reasons[12]
    assert "its checksum is wrong" in reasons[14]
    assert "cannot be split into records" in reasons[18]
    assert not any("\n" in reason for reason in reasons.values())
    counts = [peer.one("quiesced")["errors"], peer.one("committed")["errors"], manifest(session)["errors"]]
    assert counts == [len(BAD)] * 3
    assert manifest(session)["complete"]


def test_positions_go_on_behind_a_lost_file_and_a_resume_begins_in_either(
    host: Host, world: Path, spec: Spec, tmp_path: Path
) -> None:
    for name, file in (("0", "bad"), ("1", "x-1")):
        (tmp_path / f"{name}.tfrecord").symlink_to(world / f"{file}.tfrecord")
    session = spec(on_error="skip", batch_size=5, input=str(tmp_path / "*.tfrecord"))
    y = np.load(world / "affine.y.npy")
    expected = np.concatenate([y[:BAD_TOTAL], y[20:]])
    run(host, session)
    check_rows(session, expected, BAD)
    folder = Path(session["output"])
    for cursor, before in ((11, 3), (23, 6)):
        crashed = manifest(session) | {"cursor": cursor, "errors": before, "complete": False}
        (folder / "session.json").write_text(json.dumps(crashed))
        np.lib.format.open_memmap(folder / "y.npy", "r+")[cursor:] = 0
        peer = run(host, session | {"batch_size": 4}, resume=True)
        assert next(message for message in peer.heard if message["type"] == "progress")["done"] == cursor + 4
        check_rows(session, expected, BAD)
        assert items(session) == BAD


def test_without_skip_the_same_file_is_refused_or_fails(host: Host, spec: Spec) -> None:
    refused = inspected(host, spec(input_="cut.tfrecord"))
    assert refused["error"]["key"] == "input"
    taken = inspected(host, spec(input_="cut.tfrecord", on_error="skip"))
    assert (taken["error"], taken["total"]) == (None, 20)
    for name in ("garbage.tfrecord", "wide.tfrecord", "empty.tfrecord"):  # nothing in it is the model's
        assert inspected(host, spec(input_=name, on_error="skip"))["error"]["key"] == "input", name


def test_the_item_that_makes_the_model_raise_is_found_also_in_batches_of_fixed_size(
    host: Host, world: Path, spec: Spec
) -> None:
    """NaN, zero and false stand for it in outputs of each kind."""
    session = spec("flagged", "spoilt.npy", on_error="skip")
    peer = run(host, session)
    (error,) = errors(session)
    assert error["item"] == 37
    assert "a negative pixel" in error["reason"]
    check_rows(session, np.load(world / "spoilt.y.npy"), [37])
    count, positive = (np.load(Path(session["output"]) / f"{name}.npy") for name in ("count", "positive"))
    assert np.flatnonzero(count == 0).tolist() == [37]
    assert (positive.dtype, positive[36:39].tolist()) == (np.bool_, [True, False, True])
    assert [message["errors"] for message in peer.heard if message["type"] == "progress"][-1] == 1


def test_errors_are_named_once_though_the_session_was_killed_and_resumed(host: Host, world: Path, spec: Spec) -> None:
    session = spec("checked", "few.npy", on_error="skip", batch_size=1)
    peer = begin(host, session)
    peer.until("progress", cursor=1, errors=1)
    os.kill(peer.pid, signal.SIGKILL)
    host.status(peer.pid)
    before = manifest(session)
    assert 0 < before["cursor"] < FEW
    kept = [item for item in FEW_ERRORS if item < before["cursor"]]
    assert (before["errors"], items(session)[: len(kept)]) == (len(kept), kept)
    with (Path(session["output"]) / "errors.jsonl").open("a") as file:  # what was written, but not yet counted
        file.write('{"item":19999,"reason":"from before the crash"}\n{"item":199')
    peer = run(host, session | {"batch_size": 512}, resume=True)
    assert items(session) == FEW_ERRORS
    check_rows(session, np.load(world / "few.y.npy"), FEW_ERRORS)
    assert peer.one("committed")["errors"] == len(FEW_ERRORS)


def test_errors_that_are_missing_are_not_resumed_over(host: Host, spec: Spec) -> None:
    session = spec("checked", "spoilt.npy", on_error="skip")
    run(host, session)
    folder = Path(session["output"])
    (folder / "session.json").write_text(json.dumps(manifest(session) | {"cursor": 48, "complete": False}))
    (folder / "errors.jsonl").unlink()
    failed = run(host, session, status=1, resume=True).one("failed")
    assert failed["kind"] == "output"
    assert "'errors.jsonl' does not hold the errors that session.json says" in failed["reason"]


def test_more_errors_than_allowed_fail_the_session_where_it_stands(host: Host, world: Path, spec: Spec) -> None:
    """A higher number goes on from there; the same one fails again, and computes nothing."""
    session = spec("checked", "few.npy", on_error="skip", batch_size=100, max_errors=2)
    for _ in range(2):
        peer = run(host, session, status=1, resume=True)
        failed = peer.one("failed")
        assert failed["kind"] == "input"
        assert "max_errors = 2" in failed["reason"]
        assert "/out/errors.jsonl" in failed["reason"]
        assert (manifest(session)["cursor"], manifest(session)["errors"]) == (2000, 3)
        assert items(session) == FEW_ERRORS[:3]
        assert "quiesced" not in peer.types()
    assert [message["type"] for message in peer.heard if message["type"] == "progress"] == []
    assert inspected(host, session | {"max_errors": 30})["cursor"] == 2000
    run(host, session | {"max_errors": 30})
    assert items(session) == FEW_ERRORS
    check_rows(session, np.load(world / "few.y.npy"), FEW_ERRORS)


def test_errors_before_the_first_result_are_kept_and_resumed(host: Host, world: Path, spec: Spec) -> None:
    """Until then nobody knows what a row looks like: there is a manifest without outputs."""
    session = spec("checked", "late.npy", on_error="skip", batch_size=1)
    peer = begin(host, session)
    peer.until("progress", done=5)
    peer.say("drain")
    peer.rest()
    assert host.status(peer.pid) == 0
    cursor = peer.one("committed")["cursor"]
    assert (manifest(session)["outputs"], manifest(session)["errors"]) == ([], cursor)
    assert items(session) == list(range(cursor))
    run(host, session | {"batch_size": 50}, resume=True)
    assert items(session) == list(range(600))
    check_rows(session, np.load(world / "late.y.npy"), list(range(600)))


def test_a_session_of_errors_only_fails(host: Host, spec: Spec) -> None:
    session = spec("checked", "none.npy", on_error="skip", batch_size=4)
    failed = run(host, session, status=1).one("failed")
    assert failed["kind"] == "input"
    assert "every one of its 8 items is an error" in failed["reason"]
    assert items(session) == list(range(8))


def test_what_no_item_is_to_blame_for_fails_before_go(host: Host, spec: Spec) -> None:
    session = spec("whole", on_error="skip")
    peer = host.worker()
    peer.assign(session)
    peer.rest()
    assert host.status(peer.pid) == 1
    assert "output 'mean' is a single value" in peer.one("failed")["reason"]


def test_a_new_run_forgets_the_errors_of_the_last(host: Host, spec: Spec) -> None:
    session = spec("checked", "spoilt.npy", on_error="skip")
    run(host, session)
    assert items(session) == [37]
    run(host, session | {"model": spec("affine")["model"], "overwrite": True})
    assert not (Path(session["output"]) / "errors.jsonl").exists()
    assert manifest(session)["errors"] == 0
