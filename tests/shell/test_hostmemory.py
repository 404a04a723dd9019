"""Host memory as a reading: against real cgroup files, of both versions, and of a machine without any."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from daemon import hostmemory

GIB = 1 << 30


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
