"""A session that overwrites the output of an earlier one, and is killed when it may have begun: no old row is its."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from batond import Batond, stand_in
from test_tensorflow import output, session

pytestmark = pytest.mark.tensorflow


def test_killed_when_it_is_told_to_go_it_begins_anew(tensorflow: Batond, models: Path) -> None:
    batond = tensorflow
    expected = np.load(models / "affine.y.npy")
    batond.submit(session(batond, "again", models / "affine", models / "x.npy"))
    batond.ended("again")
    np.lib.format.open_memmap(batond.folder / "again" / "y.npy", "r+")[:] = 7
    batond.submit(
        stand_in("before", batond.folder, items=1_000_000, lead=86_400)
        + session(batond, "again", models / "affine", models / "x.npy", overwrite=True)
    )
    batond.event("standby.ready", session="again", tier="warm", times=2)
    (pid,) = batond.recorded("again")
    os.kill(pid, signal.SIGSTOP)  # it will not see what it is told
    batond.ctl("cancel", "before")
    batond.event("worker.exited", session="before")  # and so the other one was told to go
    os.kill(pid, signal.SIGKILL)
    assert "signal 9 while going" in batond.event("session.retried", session="again")["reason"]
    assert (output(batond, "again", "y") == 7).all(), "nothing was written, so nothing was to be destroyed"
    batond.event("session.finished", session="again", times=2)
    np.testing.assert_allclose(output(batond, "again", "y"), expected, rtol=1e-5, atol=1e-6)
