"""When devices are read, and what is posted: stand-in GPUs, the real pynvml, thread and core (readings_stage.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import nvml_stand_in
from tests.nvml_stand_in import Gpu, StandIn

GIB = 1 << 30


@pytest.fixture
def gpus(tmp_path: Path) -> StandIn:
    stand_in = nvml_stand_in.build(tmp_path)
    if stand_in is None:
        pytest.skip("needs a C compiler")
    stand_in.show(Gpu(0, 16 * GIB))
    return stand_in


def played(gpus: StandIn, scene: str) -> Any:
    return gpus.run(f"from tests.shell.readings_stage import play, {scene}\nplay({scene}, gpus)")


def test_start_gives_the_first_readings_of_device_and_host(gpus: StandIn) -> None:
    assert played(gpus, "beginning")[:4] == ["Memory", "HostMemory", "Memory", "HostMemory"]


def test_a_workers_processes_are_its_own_and_others_are_foreign(gpus: StandIn) -> None:
    """Where the bytes of one of its processes are not told, nothing is said of what it holds."""
    held, foreign, untold, sizes = played(gpus, "holders")
    assert held == [[7, 3]]
    assert foreign == [[True, "sleep", 4]]
    assert untold == []
    assert sizes == [None]


def test_a_lost_gpu_is_told_once_and_comes_back(gpus: StandIn) -> None:
    assert played(gpus, "lost_and_back") == ["Memory", "DeviceLost", "DeviceBack", "Memory"]


def test_an_unreadable_gpu_is_told_once_and_reads_again(gpus: StandIn) -> None:
    (reason,) = played(gpus, "unreadable_and_back")
    assert "cannot be read" in reason


def test_a_call_that_hangs_is_told_blocks_nothing_and_is_not_waited_for(gpus: StandIn) -> None:
    """It hangs for longer than this test may take: the process would not end with it."""
    reason, listed = played(gpus, "hanging")
    assert "has not answered" in reason
    assert "has not answered" in listed


def test_a_lane_that_waits_for_memory_is_read_often_and_no_other(gpus: StandIn) -> None:
    often, quiet = played(gpus, "waiting")
    assert often > 3 * quiet


def test_of_an_idle_lane_only_what_is_new_is_posted(gpus: StandIn) -> None:
    quiet, changed, quiet_again, working = played(gpus, "idle")
    assert (quiet, changed, quiet_again) == (0, 1, 0)
    assert working >= 10


def test_a_costly_reading_is_not_made_more_often(gpus: StandIn) -> None:
    """A twentieth of a second, a hundred times, is more than the quiet interval."""
    often, quiet = played(gpus, "costly")
    assert often <= quiet + 2


def test_what_a_reading_that_was_asked_for_tells_is_posted_before(gpus: StandIn) -> None:
    assert "DeviceLost" in played(gpus, "asked")


def test_lanes_are_gpus_and_mig_instances_by_their_uuids(gpus: StandIn) -> None:
    found = played(gpus, "by_uuid")
    assert found[:3] == found[3:]
