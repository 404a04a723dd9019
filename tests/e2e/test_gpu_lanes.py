"""Which GPU a session gets, end to end: by number, by UUID, any; and what is refused when it is submitted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from batond import ROOT, TIMEOUT_S, Batond
from gpu_house import CARD, FOR_EVER, GIB, GpuHouse, gpu_house
from test_tensorflow import session

from tests.nvml_stand_in import Gpu, uuid

TWO = (CARD, Gpu(1, 8 * GIB))


def test_each_session_gets_the_device_it_names_and_any_the_one_that_is_free_first(tmp_path: Path) -> None:
    with gpu_house(tmp_path, *TWO) as house:
        house.batond.submit(
            house.program("a", 5, items=FOR_EVER, device="gpu:1")
            + house.program("b", 5, items=FOR_EVER, device=uuid(0))
            + house.program("c", 5)
            + house.program("d", 5, device="gpu")
            + house.program("e", 5, device="gpu:0")
            + house.program("f", 5, device=uuid(1))
        )
        for name, index in (("a", 1), ("b", 0)):
            assert house.batond.event("session.started", session=name)["lane"] == f"gpu{index}"
            assert house.claim(name)["uuid"] == uuid(index), "that is all that its process sees"
        house.batond.ctl("cancel", "a")
        house.all_done(c=40, d=40, f=40)
        assert not house.batond.told("session.started", session="e"), "its device is taken"
        house.batond.ctl("cancel", "b")
        house.all_done(e=40)
        for name, index in (("c", 1), ("d", 1), ("e", 0), ("f", 1)):
            assert house.claim(name)["uuid"] == uuid(index)
            assert house.claim(name)["free"] == 8 * GIB


def refused(house: GpuHouse, text: str) -> str:
    """The one line that a person is told of what is wrong."""
    path = house.batond.folder / "sessions.toml"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "daemon.cli", "--socket", str(house.batond.socket), "submit", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    heading, line = done.stderr.splitlines()
    assert heading.endswith("nothing was queued, for one problem")
    return line


def test_what_no_gpu_here_can_be_is_refused_in_one_line_that_says_what_there_is(tmp_path: Path) -> None:
    with gpu_house(tmp_path, *TWO) as house:
        there = (f"gpu0 ({uuid(0)})", f"gpu1 ({uuid(1)})")
        for device in ("gpu:7", uuid(7), "cpu"):
            line = refused(house, house.program("a", 5, device=device))
            for part in ("device", device, *there):
                assert part in line
        line = refused(house, house.program("a", 5, memory="five"))
        for part in ("memory", "five", "GiB"):
            assert part in line
        line = refused(house, house.program("a", 5, memory="9GiB", device="gpu:1"))
        for part in ("a: memory", "9.0 GiB", "gpu1 has 8.0 GiB"):
            assert part in line
        assert "gpu0" not in line, "it may not run there"
        line = refused(house, house.program("a", 5, memory=8 * GIB))
        for part in ("a: memory", "8.0 GiB", "256 MiB are kept free", "gpu0 has 8.0 GiB", "gpu1 has 8.0 GiB"):
            assert part in line
        assert house.batond.ctl("list")["sessions"] == []


@pytest.mark.tensorflow
def test_a_gpu_that_tensorflow_does_not_see_fails_the_session_with_one_clear_line(tmp_path: Path, models: Path) -> None:
    """NVML shows the stand-in GPU, CUDA does not: nothing is computed on the CPU in silence."""
    with gpu_house(tmp_path) as house:
        batond: Batond = house.batond
        batond.submit(session(batond, "a", models / "affine", models / "x.npy", max_attempts=1))
        failed = batond.event("session.failed", session="a")
        assert f"cannot use GPU {uuid(0)}: TensorFlow sees 0 GPUs where it should see that one" in failed["reason"]
        assert "tensorflow[and-cuda]" in failed["reason"]
        assert "\n" not in failed["reason"]
