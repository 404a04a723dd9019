"""Devices as readings: the real pynvml against a stand-in library, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from daemon import hostmemory
from daemon.devices import Devices, Read
from states.estimate import IMPORTED_BYTES
from states.work import Tier
from tests import nvml_stand_in
from tests.nvml_stand_in import Gpu, StandIn, uuid

GIB = 1 << 30
OPEN = """
import os, subprocess, sys, time
import msgspec
from daemon import devices
from daemon.devices import Devices
GIB = 1 << 30
found = Devices()
told = lambda what: [type(what).__name__, msgspec.to_builtins(what)]
def say(*what): print(json.dumps(what))
def listed():
    found.device('gpu0')._listed_at = float('-inf')  # as half a second later
    return {each.pid: each for each in found.device('gpu0').read().processes or ()}
"""


@pytest.fixture
def gpus(tmp_path: Path) -> StandIn:
    stand_in = nvml_stand_in.build(tmp_path)
    if stand_in is None:
        pytest.skip("needs a C compiler")
    return stand_in


def listing(gpus: StandIn) -> dict[str, Any]:
    (one,) = gpus.run(OPEN + "print(json.dumps(msgspec.to_builtins(found.listing())))")
    assert isinstance(one, dict)
    return one


# Lanes


def test_each_gpu_is_a_lane_with_its_uuid_its_model_and_three_tiers(gpus: StandIn) -> None:
    gpus.show(Gpu(0, 16 * GIB, GIB, name="A Model"), Gpu(1, 8 * GIB))
    lanes = gpus.run(
        OPEN + "say(*[[l.name, l.device, l.index, l.uuid, l.model, [t.label for t in l.tiers], l.imported_bytes]"
        " for l in found.discover()])"
    )
    tiers = ["imported", "staged", "warm"]
    assert lanes == [
        ["gpu0", "gpu", 0, uuid(0), "A Model", tiers, 0],
        ["gpu1", "gpu", 1, uuid(1), "Stand-in GPU 1", tiers, 0],
    ]


def test_each_mig_instance_is_a_lane_and_the_gpu_itself_is_none(gpus: StandIn) -> None:
    migs = ((1, 4 * GIB, GIB), (3, 2 * GIB, 0))  # 0 and 2 are not made
    gpus.show(Gpu(0, 16 * GIB, utilisation=50, temperature=60, migs=migs), Gpu(1, 8 * GIB))
    lanes, reads, shown = gpus.run(
        OPEN + "lanes = found.discover(); say([[l.name, l.index, l.uuid] for l in lanes],"
        " [[r.total, r.free] for r in (found.device(l.name).read() for l in lanes)],"
        " msgspec.to_builtins(found.listing()[0]))"
    )
    assert lanes == [["gpu0-mig1", 0, uuid(0, 1)], ["gpu0-mig3", 0, uuid(0, 3)], ["gpu1", 1, uuid(1)]]
    assert reads == [[4 * GIB, 3 * GIB], [2 * GIB, 2 * GIB], [8 * GIB, 8 * GIB]]
    assert (shown["utilisation_percent"], shown["temperature_c"], shown["used_bytes"]) == (None, None, GIB)


def test_a_mig_instance_that_is_taken_away_is_lost_once_nvml_is_opened_anew(gpus: StandIn) -> None:
    gpus.show(Gpu(0, 16 * GIB, migs=((0, 4 * GIB, 0),)))
    after = gpus.run(OPEN + "gpus.show(Gpu(0, 16 * GIB)); found.reopen(); say(*told(found.device('gpu0-mig0').read()))")
    assert after[0] == "Lost"
    assert "is not there any more" in after[1]["reason"]


def test_a_gpu_that_vanished_before_the_start_is_no_lane(gpus: StandIn) -> None:
    gpus.show(Gpu(0, GIB, status=15))
    lanes, why = gpus.run(OPEN + "say([l.name for l in found.discover()], found.why_no_gpu)")
    assert lanes == ["cpu"]
    assert "GPU 0 fell off the bus" in why


@pytest.mark.parametrize(("answer", "words"), [(9, "driver is not loaded"), (18, "differ in version"), (4, "may not")])
def test_where_nvml_cannot_be_used_the_lane_is_the_cpu_and_the_reason_is_told(
    gpus: StandIn, answer: int, words: str
) -> None:
    gpus.show(f"init {answer}")
    lanes, why = gpus.run(OPEN + "say([l.name for l in found.discover()], found.why_no_gpu)")
    assert lanes == ["cpu"]
    assert words in why
    assert "\n" not in why


def test_without_nvidia_s_library_the_cpu_is_the_one_lane() -> None:
    found = Devices()
    (lane,) = found.discover()
    assert (lane.name, lane.device, lane.tiers) == ("cpu", "cpu", (Tier.IMPORTED, Tier.WARM))
    assert found.why_no_gpu is not None
    assert "install NVIDIA's driver" in found.why_no_gpu
    read = found.device("cpu").read()
    assert isinstance(read, Read)
    assert 0 < read.free <= read.total <= psutil.virtual_memory().total
    assert not read.own
    found.close()


# Readings


def test_a_reading_follows_the_gpu(gpus: StandIn) -> None:
    gpus.show(Gpu(0, 16 * GIB, GIB))
    first, second = gpus.run(
        OPEN + "gpu = found.device('gpu0'); first = gpu.read(); gpus.show(Gpu(0, 16 * GIB, 9 * GIB))\n"
        "say(*[[r.total, r.free, r.own] for r in (first, gpu.read())])"
    )
    assert first == [16 * GIB, 15 * GIB, True]
    assert second == [16 * GIB, 7 * GIB, True]


def test_a_gpu_without_memory_of_its_own_reads_the_host(gpus: StandIn) -> None:
    gpus.show(Gpu(0, 0, status=3))
    total, free, own = gpus.run(OPEN + "m = found.device('gpu0').read(); say(m.total, m.free, m.own)")
    assert total == hostmemory.read().total
    assert 0 < free <= total
    assert not own


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (15, "Lost", "fell off the bus"),
        (16, "Lost", "must be reset"),
        (28, "Lost", "is not there any more"),
        (9, "Unreadable", "load it again"),
        (18, "Unreadable", "upgraded under batond"),
        (10, "Unreadable", "did not answer"),
        (999, "Unreadable", "Unknown Error"),
        (4, "Unreadable", "may not open"),
        (17, "Unreadable", "has blocked the request"),
    ],
)
def test_a_failure_is_a_loss_or_passes_and_says_what_to_do(gpus: StandIn, status: int, kind: str, words: str) -> None:
    gpus.show(Gpu(0, 16 * GIB))
    name, read, shown = gpus.run(
        OPEN + f"gpus.show(Gpu(0, GIB, status={status})); gpu = found.device('gpu0')\n"
        "say(*told(gpu.read()), found.listing()[0].trouble)"
    )
    assert name == kind
    assert words in read["reason"]
    assert read["reason"].startswith("Stand-in GPU 0 ")
    assert shown == read["reason"], "what is listed says the same"


def test_a_gpu_that_was_lost_is_seen_again_only_after_nvml_is_opened_anew(gpus: StandIn) -> None:
    gpus.show(Gpu(0, GIB))
    kinds = gpus.run(
        OPEN + "gpu = found.device('gpu0'); kind = lambda: type(gpu.read()).__name__\n"
        "kinds = []; gpus.show(Gpu(0, GIB, status=15)); kinds.append(kind())\n"
        "gpus.show(Gpu(0, GIB)); kinds.append(kind()); found.reopen(); kinds.append(kind()); say(*kinds)"
    )
    assert kinds == ["Lost", "Lost", "Read"]


def test_a_driver_that_was_exchanged_says_so_until_it_fits(gpus: StandIn) -> None:
    gpus.show(Gpu(0, GIB))
    bad, good = gpus.run(
        OPEN + "gpu = found.device('gpu0'); gpus.show(Gpu(0, GIB), 'init 18'); found.reopen(); bad = told(gpu.read())\n"
        "gpus.show(Gpu(0, GIB)); found.reopen(); say(bad, told(gpu.read()))"
    )
    assert bad[0] == "Unreadable"
    assert "restart the host if its kernel module is still the old one" in bad[1]["reason"]
    assert good[0] == "Read"


# Who holds memory


def test_processes_are_listed_with_their_bytes_their_names_and_their_kin(gpus: StandIn) -> None:
    gpus.show(Gpu(0, 16 * GIB))
    sizes, name, kin, free = gpus.run(
        OPEN + "child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "gpus.claim(os.getpid(), GIB); gpus.claim(child.pid, 2 * GIB, kind='graphics'); gpu = found.device('gpu0')\n"
        "here = {each.pid: each for each in gpu.read().processes}; its = here[child.pid]\n"
        "out = [[here[os.getpid()].size, its.size], its.name, [child.pid in its.kin, os.getpid() in its.kin],"
        " gpu.read().free]\n"
        "child.kill(); child.wait(); say(*out)"
    )
    assert sizes == [GIB, 2 * GIB]
    assert name == "sleep"
    assert kin == [True, True], "its own session's leader, and a descendant of its parent"
    assert free == 13 * GIB


def test_a_process_s_bytes_may_be_untold(gpus: StandIn) -> None:
    gpus.show(Gpu(0, GIB), "no-bytes")
    sizes = gpus.run(OPEN + "gpus.claim(os.getpid(), 7); say(*[each.size for each in listed().values()])")
    assert sizes == [None]


def test_a_device_may_tell_of_no_processes_at_all(gpus: StandIn) -> None:
    gpus.show(Gpu(0, GIB), "no-lists")
    (processes,) = gpus.run(OPEN + "gpus.claim(os.getpid(), 7); say(found.device('gpu0').read().processes)")
    assert processes is None


def test_an_older_driver_has_the_older_functions_only(gpus: StandIn) -> None:
    lists = [f"error nvmlDeviceGet{kind}RunningProcesses_v3 13" for kind in ("Compute", "Graphics", "MPSCompute")]
    newer = ["error nvmlDeviceGetTemperatureV 13", "error nvmlDeviceGetCurrentClocksEventReasons 13"]
    gpus.show(Gpu(0, GIB, temperature=41, reasons=4), *lists, *newer)
    sizes, heat, clocks = gpus.run(
        OPEN + "gpus.claim(os.getpid(), 7); shown = found.listing()[0]\n"
        "say([each.size for each in listed().values()], shown.temperature_c, shown.clocks)"
    )
    assert (sizes, heat, clocks) == ([7], 41, ["power cap"])


def test_a_pid_that_is_not_to_be_seen_has_no_name(gpus: StandIn) -> None:
    gpus.show(Gpu(0, GIB))
    names = gpus.run(
        OPEN + "devices.psutil.Process = lambda pid: (_ for _ in ()).throw(devices.psutil.NoSuchProcess(pid))\n"
        "gpus.claim(os.getpid(), 7); say(*[[each.name, each.kin] for each in listed().values()])"
    )
    assert names == [["?", []]]


def test_who_ended_since_the_list_was_asked_for_is_not_in_it(gpus: StandIn) -> None:
    gpus.show(Gpu(0, GIB))
    before, after = gpus.run(
        OPEN
        + "child = subprocess.Popen(['sleep', '60']); gpus.claim(child.pid, 7); devices.PROCESSES_INTERVAL_S = 1e9\n"
        "gpu = found.device('gpu0'); before = len(gpu.read().processes); child.kill(); child.wait()\n"
        "say(before, len(gpu.read().processes))"
    )
    assert (before, after) == (1, 0)


def test_the_processes_are_not_asked_for_at_every_reading(gpus: StandIn) -> None:
    gpus.show(Gpu(0, GIB))
    (asked,) = gpus.run(
        OPEN + "devices.PROCESSES_INTERVAL_S = 1e9; asked = []; real = devices._processes\n"
        "devices._processes = lambda handle: asked.append(1) or real(handle); gpu = found.device('gpu0')\n"
        "for _ in range(20): gpu.read()\n"
        "say(len(asked))"
    )
    assert asked == 1


def test_memory_of_the_dead_comes_back_late_or_never(gpus: StandIn) -> None:
    """What the stand-in does, so that a test that rests on it may trust it."""
    gpus.show(Gpu(0, GIB), "lag 1e9")
    lagging, leaked, back = gpus.run(
        OPEN + "child = subprocess.Popen(['sleep', '60']); gpus.claim(child.pid, 1000); gpu = found.device('gpu0')\n"
        "used = lambda: (lambda r: r.total - r.free)(gpu.read())\n"
        "assert used() == 1000; child.kill(); child.wait(); lagging = [used(), len(listed())]\n"
        "gpus.show(Gpu(0, GIB), 'leak'); leaked = [used(), len(listed())]; gpus.show(Gpu(0, GIB))\n"
        "say(lagging, leaked, used())"
    )
    assert lagging == [1000, 0]
    assert leaked == [1000, 0]
    assert back == 0


# The listing


def test_the_listing_tells_all_that_is_to_be_known(gpus: StandIn) -> None:
    gpus.show(Gpu(0, 16 * GIB, GIB, capability="9.0", temperature=71, utilisation=98, reasons=0x44), "driver 575.57.08")
    one = listing(gpus)
    assert (one["name"], one["driver"], one["capability"]) == ("Stand-in GPU 0", "575.57.08", "9.0")
    assert (one["total_bytes"], one["free_bytes"], one["used_bytes"]) == (16 * GIB, 15 * GIB, GIB)
    assert (one["utilisation_percent"], one["temperature_c"]) == (98, 71)
    assert one["clocks"] == ["power cap", "hardware thermal slowdown"]
    assert (one["processes"], one["trouble"]) == ([], None)


@pytest.mark.parametrize("answer", [3, 13, 999])
def test_each_figure_that_cannot_be_had_is_left_out(gpus: StandIn, answer: int) -> None:
    functions = ("CudaComputeCapability", "UtilizationRates", "Temperature", "TemperatureV")
    clocks = ("CurrentClocksEventReasons", "CurrentClocksThrottleReasons")
    lists = ("ComputeRunningProcesses", "GraphicsRunningProcesses", "MPSComputeRunningProcesses", "MigMode")
    gpus.show(
        Gpu(0, GIB, temperature=1, utilisation=1, reasons=1),
        *(f"error nvmlDeviceGet{name} {answer}" for name in (*functions, *clocks, *lists)),
    )
    one = listing(gpus)
    names = ("capability", "utilisation_percent", "temperature_c", "clocks", "processes", "trouble")
    assert [one[name] for name in names] == [None] * 6
    assert one["free_bytes"] == GIB


@pytest.mark.parametrize(
    ("capability", "told"),
    [("5.2", True), ("6.0", False), ("8.9", False), ("9.0", False), ("10.0", False), ("12.0", True)],
)
def test_a_gpu_that_tensorflow_has_no_kernels_for_is_told(gpus: StandIn, capability: str, told: bool) -> None:
    gpus.show(Gpu(0, GIB, capability=capability))
    trouble = listing(gpus)["trouble"]
    assert (trouble is not None) is told
    assert not told or f"compute capability {capability}" in trouble


@pytest.mark.tensorflow
def test_the_figure_for_an_imported_tensorflow_is_near_what_one_takes() -> None:
    code = "import tensorflow\nfor line in open('/proc/self/status'):\n    if 'RssAnon' in line: print(line.split()[1])"
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run((sys.executable, "-c", code), env=environment, capture_output=True, text=True, check=True)
    measured = int(done.stdout) * 1024
    assert measured < IMPORTED_BYTES < 2 * measured
