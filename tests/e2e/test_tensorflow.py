"""The whole daemon with real TensorFlow sessions on real files; every row is compared with the model's own."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batond import Batond

pytestmark = pytest.mark.tensorflow


def session(batond: Batond, name: str, model: Path, input_: Path | str, **keys: Any) -> str:
    """A `[[session]]` table whose output lies in the daemon's folder."""
    table = {"name": name, "model": str(model), "input": str(input_), "output": str(batond.folder / name)}
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in (table | {"batch_size": 8} | keys).items())
    return "[[session]]\n" + "".join(lines)


def output(batond: Batond, name: str, tensor: str) -> Any:
    return np.load(batond.folder / name / f"{tensor}.npy")


def test_sessions_of_every_kind_are_relayed_and_every_row_is_right(tensorflow: Batond, models: Path) -> None:
    """SavedModel and .keras, .npy and TFRecord; each next one is prepared beside the one before."""
    batond = tensorflow
    batond.submit(
        session(batond, "long", models / "affine", models / "many.npy")
        + session(batond, "keras", models / "functional.keras", models / "x.npy")
        + session(batond, "records", models / "affine", f"{models}/x-*.tfrecord")
        + session(batond, "fixed", models / "fixed", models / "x.npy")
    )
    batond.ended("long", "keras", "records", "fixed")
    np.testing.assert_allclose(output(batond, "long", "y"), np.load(models / "many.y.npy"), rtol=1e-5, atol=1e-6)
    for tensor in ("a", "b"):
        expected = np.load(models / f"functional.{tensor}.npy")
        np.testing.assert_allclose(output(batond, "keras", tensor), expected, rtol=1e-5, atol=1e-6)
    for name in ("records", "fixed"):
        np.testing.assert_allclose(output(batond, name, "y"), np.load(models / "affine.y.npy"), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(output(batond, name, "label"), np.load(models / "affine.label.npy"))
    assert {event["from_session"] for event in batond.told("handover.completed")} >= {"long", "keras", "records"}
    assert batond.told("count.mismatched") == []


def test_sessions_are_relayed_without_a_fork_server_too(tmp_path: Path, models: Path) -> None:
    """Each worker is an interpreter of its own; the same rows come out."""
    with Batond(tmp_path, "--launcher", "exec") as batond:
        batond.submit(
            session(batond, "first", models / "affine", models / "x.npy")
            + session(batond, "second", models / "functional.keras", models / "x.npy")
        )
        batond.ended("first", "second")
        np.testing.assert_allclose(output(batond, "first", "y"), np.load(models / "affine.y.npy"), rtol=1e-5, atol=1e-6)
        expected = np.load(models / "functional.a.npy")
        np.testing.assert_allclose(output(batond, "second", "a"), expected, rtol=1e-5, atol=1e-6)


def test_the_daemon_itself_never_imports_tensorflow(tensorflow: Batond) -> None:
    maps = Path(f"/proc/{tensorflow.process.pid}/maps").read_text()
    assert "tensorflow" not in maps
    assert "numpy" not in maps


def test_a_swap_mid_session_leaves_every_row_right(tensorflow: Batond, models: Path) -> None:
    """The old session goes back at its cursor, and later completes."""
    batond = tensorflow
    batond.submit(
        session(batond, "swapped", models / "affine", models / "many.npy", batch_size=2, lead=0)
        + session(batond, "between", models / "functional.keras", models / "x.npy")
    )
    batond.event("session.started", session="swapped")
    batond.ctl("swap")
    batond.ended("between", "swapped")
    handover = batond.event("handover.completed", from_session="swapped")
    assert 0 < handover["items_done"] < 20_000
    assert handover["items_in"] == handover["items_done"] + handover["items_returned"]
    again = batond.event("session.started", session="swapped", times=2)
    assert again["cursor"] == handover["items_done"]
    np.testing.assert_allclose(output(batond, "swapped", "y"), np.load(models / "many.y.npy"), rtol=1e-5, atol=1e-6)


def test_a_killed_worker_resumes_and_every_row_is_right(tensorflow: Batond, models: Path) -> None:
    batond = tensorflow
    batond.submit(session(batond, "killed", models / "affine", models / "many.npy", batch_size=2))
    batond.event("session.started", session="killed")
    (pid,) = batond.recorded("killed")
    os.kill(pid, signal.SIGKILL)
    assert "signal 9" in batond.event("session.retried", session="killed")["reason"]
    batond.ended("killed")
    np.testing.assert_allclose(output(batond, "killed", "y"), np.load(models / "many.y.npy"), rtol=1e-5, atol=1e-6)


def test_a_killed_daemon_does_not_interrupt_the_running_session(tensorflow: Batond, models: Path) -> None:
    """The next daemon adopts its worker: the same process computes every row, and all of them are right."""
    batond = tensorflow
    batond.submit(session(batond, "adopted", models / "affine", models / "many.npy", batch_size=2))
    batond.event("session.started", session="adopted")
    (pid,) = batond.recorded("adopted")
    batond.kill()
    batond.start()
    batond.event("session.adopted", session="adopted")
    assert batond.recorded("adopted") in ([pid], [])
    batond.ended("adopted")
    assert len(batond.told("session.started", session="adopted")) == 1
    np.testing.assert_allclose(output(batond, "adopted", "y"), np.load(models / "many.y.npy"), rtol=1e-5, atol=1e-6)


def test_what_is_wrong_is_said_at_submit(tensorflow: Batond, models: Path) -> None:
    """One clear line each, which names the session and the key; nothing is queued."""
    batond = tensorflow
    (batond.folder / "taken").mkdir(exist_ok=True)
    (batond.folder / "taken" / "file").touch()
    cases = [
        (session(batond, "s", models / "nowhere", models / "x.npy"), "model", "cannot find"),
        (session(batond, "s", models / "no_model", models / "x.npy"), "model", "SavedModel"),
        (session(batond, "s", models / "garbage.keras", models / "x.npy"), "model", "garbage.keras"),
        (
            session(batond, "s", models / "affine", models / "x.npy", signature="predict"),
            "signature",
            "serving_default",
        ),
        (session(batond, "s", models / "affine", models / "wide.npy"), "input", "5"),
        (session(batond, "s", models / "affine", models / "double.npy"), "input", "float64"),
        (session(batond, "s", models / "affine", models / "empty.npy"), "input", ""),
        (session(batond, "s", models / "affine", models / "cut.npy"), "input", ""),
        (session(batond, "s", models / "affine", models / "cut.tfrecord"), "input", ""),
        (session(batond, "s", models / "affine", models / "nothing.npy"), "input", "cannot find"),
        (session(batond, "s", models / "affine", models / "x.npy", output=str(batond.folder / "taken")), "output", ""),
        (session(batond, "s", models / "affine", models / "x.npy", output=str(models / "x.npy" / "out")), "output", ""),
        (session(batond, "s", models / "affine", models / "x.npy", device="gpu"), "device", "cpu"),
        (session(batond, "s", models / "affine", models / "x.npy", batchsize=3), "batchsize", "batch_size"),
        (session(batond, "s", models / "affine", models / "x.npy", after=["nobody"]), "after", "nobody"),
        (session(batond, "s", models / "affine", models / "x.npy") * 2, "name", ""),
        (
            session(batond, "s", models / "affine", models / "x.npy", after=["t"])
            + session(batond, "t", models / "affine", models / "x.npy", after=["s"]),
            "after",
            "",
        ),
        ("[[session]\n", "sessions.toml", ""),
    ]
    before = batond.ctl("status")
    for text, key, words in cases:
        said = batond.submit(text, status=1)
        assert key in said, (said, key)
        assert words in said, (said, words)
        assert "Traceback" not in said
    assert batond.ctl("status")["queue"] == before["queue"] == []


def test_what_fails_later_is_recorded_with_its_reason_and_the_queue_goes_on(tensorflow: Batond, models: Path) -> None:
    """A model that raises at item k, an input damaged inside, a model that disappears before its turn."""
    batond = tensorflow
    shutil.copytree(models / "affine", batond.folder / "fleeting", dirs_exist_ok=True)
    batond.ctl("pause")
    batond.submit(
        session(batond, "raises", models / "checked", models / "spoilt.npy")
        + session(batond, "damaged", models / "affine", models / "damaged.tfrecord")
        + session(batond, "gone", batond.folder / "fleeting", models / "x.npy", max_attempts=1)
        + session(batond, "fine", models / "affine", models / "x.npy")
    )
    shutil.rmtree(batond.folder / "fleeting")
    batond.ctl("resume")
    batond.ended("raises", "damaged", "gone", "fine")
    raised = batond.event("session.failed", session="raises")
    assert raised["item"] == 32  # the first item of the batch that holds item 37
    assert "negative pixel" in raised["reason"]
    assert batond.event("session.failed", session="damaged")["kind"] == "input"
    assert "fleeting" in batond.event("session.failed", session="gone")["reason"]
    assert batond.told("session.finished", session="fine")
    for name in ("raises", "damaged", "gone"):
        shown = batond.ctl("show", name)["session"]
        assert shown["state"] == "failed"
        assert len(shown["reason"].splitlines()) == 1
        assert "Traceback" in batond.ctl("logs", name)["text"] or name == "gone"
