"""Devices as readings: the real pynvml against a stand-in library, host memory against real cgroup files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from daemon import devices, hostmemory
from daemon.devices import Devices
from states.events import Memory
from states.work import Tier
from tests import nvml_stand_in
from tests.nvml_stand_in import StandIn

GIB = 1 << 30
READ = """
from daemon.devices import Devices
import msgspec
found = Devices()
"""


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    stand_in = nvml_stand_in.build(tmp_path_factory.mktemp("nvml"))
    if stand_in is None:
        pytest.skip("needs a C compiler")
    return stand_in


def test_each_gpu_is_a_lane_with_its_uuid_and_three_tiers(gpus: StandIn) -> None:
    gpus.state.write_text(f"gpu 0 {16 * GIB} {GIB} 0\ngpu 1 {8 * GIB} 0 0\n")
    lanes = gpus.run(
        READ + "print(json.dumps([[l.name, l.device, l.index, l.uuid, [t.label for t in l.tiers], l.imported_bytes]"
        " for l in found.discover()]))"
    )
    tiers = ["imported", "staged", "warm"]
    assert lanes == [
        ["gpu0", "gpu", 0, "GPU-00000000-0000-0000-0000-000000000000", tiers, 0],
        ["gpu1", "gpu", 1, "GPU-00000000-0000-0000-0000-000000000001", tiers, 0],
    ]


def test_a_reading_follows_the_gpu(gpus: StandIn) -> None:
    gpus.state.write_text(f"gpu 0 {16 * GIB} {GIB} 0\n")
    first, second = gpus.run(
        READ + "gpu = found.device('gpu0'); first = gpu.read(1.5)\n"
        f"state.write_text('gpu 0 {16 * GIB} {9 * GIB} 0\\n')\n"
        "print(json.dumps([[type(r).__name__, r.at, r.lane, r.total, r.free] for r in (first, gpu.read(2.5))]))"
    )
    assert first == ["Memory", 1.5, "gpu0", 16 * GIB, 15 * GIB]
    assert second == ["Memory", 2.5, "gpu0", 16 * GIB, 7 * GIB]


@pytest.mark.parametrize(("status", "words"), [(15, "fell off the bus"), (16, "must be reset"), (9, "no driver")])
def test_a_gpu_that_is_lost_says_why_and_what_to_do(gpus: StandIn, status: int, words: str) -> None:
    gpus.state.write_text(f"gpu 0 {16 * GIB} 0 0\n")
    name, lane, reason = gpus.run(
        READ + f"gpu = found.device('gpu0'); state.write_text('gpu 0 {GIB} 0 {status}\\n'); lost = gpu.read(1.0)\n"
        "print(json.dumps([type(lost).__name__, lost.lane, lost.reason]))"
    )
    assert (name, lane) == ("DeviceLost", "gpu0")
    assert words in reason
    assert reason.startswith("Stand-in GPU 0 ")


def test_a_gpu_that_does_not_answer_once_reads_as_full_with_its_last_total(gpus: StandIn) -> None:
    gpus.state.write_text(f"gpu 0 {16 * GIB} 0 0\n")
    read = gpus.run(
        READ + "gpu = found.device('gpu0'); gpu.read(1.0); state.write_text('gpu 0 1 0 999\\n'); m = gpu.read(2.0)\n"
        "print(json.dumps([type(m).__name__, m.total, m.free]))"
    )
    assert read == ["Memory", 16 * GIB, 0]


def test_a_gpu_without_memory_of_its_own_reads_the_host(gpus: StandIn) -> None:
    gpus.state.write_text("gpu 0 0 0 3\n")
    total, free = gpus.run(READ + "m = found.device('gpu0').read(1.0); print(json.dumps([m.total, m.free]))")
    assert total == hostmemory.read().total
    assert 0 < free <= total


@pytest.mark.parametrize(("answer", "words"), [(9, "driver is not loaded"), (18, "differ in version"), (4, "may not")])
def test_where_nvml_cannot_be_used_the_lane_is_the_cpu_and_the_reason_is_told(
    gpus: StandIn, answer: int, words: str
) -> None:
    gpus.state.write_text(f"init {answer}\n")
    lanes, why = gpus.run(READ + "print(json.dumps([[l.name for l in found.discover()], found.why_no_gpu]))")
    assert lanes == ["cpu"]
    assert words in why
    assert "\n" not in why


def test_a_gpu_lost_before_the_start_is_no_lane(gpus: StandIn) -> None:
    gpus.state.write_text(f"gpu 0 {GIB} 0 15\n")
    lanes, why = gpus.run(READ + "print(json.dumps([[l.name for l in found.discover()], found.why_no_gpu]))")
    assert lanes == ["cpu"]
    assert "GPU 0 fell off the bus" in why


def test_the_listing_names_the_gpu_its_driver_and_its_bytes(gpus: StandIn) -> None:
    gpus.state.write_text(f"gpu 0 {16 * GIB} {GIB} 0\n")
    (listing,) = gpus.run(READ + "print(json.dumps(msgspec.to_builtins(found.listing())))")
    assert listing["name"] == "Stand-in GPU 0"
    assert listing["driver"] == "999.42"
    assert (listing["total_bytes"], listing["free_bytes"], listing["used_bytes"]) == (16 * GIB, 15 * GIB, GIB)
    assert listing["trouble"] is None


def test_without_nvidia_s_library_the_cpu_is_the_one_lane() -> None:
    found = Devices()
    (lane,) = found.discover()
    assert (lane.name, lane.device, lane.tiers) == ("cpu", "cpu", (Tier.IMPORTED, Tier.WARM))
    assert found.why_no_gpu is not None
    assert "install NVIDIA's driver" in found.why_no_gpu
    (read,) = found.read(3.0)
    assert isinstance(read, Memory)
    assert 0 < read.free <= read.total <= psutil.virtual_memory().total
    found.close()


@pytest.mark.tensorflow
def test_the_figure_for_an_imported_tensorflow_is_near_what_one_takes() -> None:
    code = "import tensorflow\nfor line in open('/proc/self/status'):\n    if 'RssAnon' in line: print(line.split()[1])"
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run((sys.executable, "-c", code), env=environment, capture_output=True, text=True, check=True)
    measured = int(done.stdout) * 1024
    assert measured < devices.IMPORTED_BYTES < 2 * measured


# Host memory


def _tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_tightest_limit_from_our_group_to_the_root_counts_version_2(tmp_path: Path) -> None:
    _tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/system.slice/batond.service\n",
            "cg/system.slice/memory.max": f"{2 * GIB}\n",
            "cg/system.slice/memory.current": f"{GIB}\n",
            "cg/system.slice/memory.stat": f"anon 1\ninactive_file {GIB // 2}\n",
            "cg/system.slice/batond.service/memory.max": "max\n",
            "cg/system.slice/batond.service/memory.current": f"{GIB}\n",
        },
    )
    read = hostmemory.read(tmp_path / "proc", tmp_path / "cg")
    assert read.total == 2 * GIB
    assert read.free == GIB + GIB // 2, "the file cache that can be dropped counts as free"


def test_version_1_and_a_path_that_is_the_host_s(tmp_path: Path) -> None:
    _tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu:/x\n3:memory:/docker/0123\n0::/\n",
            "cg/memory/memory.limit_in_bytes": f"{GIB}\n",
            "cg/memory/memory.usage_in_bytes": f"{GIB // 4}\n",
            "cg/memory/memory.stat": "total_inactive_file 0\n",
        },
    )
    read = hostmemory.read(tmp_path / "proc", tmp_path / "cg")
    assert (read.total, read.free) == (GIB, GIB - GIB // 4)


def test_a_group_over_its_limit_has_nothing_free(tmp_path: Path) -> None:
    _tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a\n",
            "cg/a/memory.max": f"{GIB}\n",
            "cg/a/memory.current": f"{2 * GIB}\n",
        },
    )
    assert hostmemory.read(tmp_path / "proc", tmp_path / "cg").free == 0


@pytest.mark.parametrize("limit", ["max", str((1 << 63) - 4096)])
def test_no_limit_is_the_machine(tmp_path: Path, limit: str) -> None:
    _tree(
        tmp_path,
        {"proc/self/cgroup": "0::/a\n", "cg/a/memory.max": limit + "\n", "cg/a/memory.current": "1\n"},
    )
    assert hostmemory.read(tmp_path / "proc", tmp_path / "cg").total == psutil.virtual_memory().total


def test_without_cgroups_it_is_the_machine(tmp_path: Path) -> None:
    assert hostmemory.read(tmp_path, tmp_path).total == psutil.virtual_memory().total
