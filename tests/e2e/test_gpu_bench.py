"""The benchmark of a GPU runs, small, on a stand-in, and every figure is there; without a GPU it says so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from batond import ROOT, TIMEOUT_S
from gpu_house import CARD, GIB

from tests import nvml_stand_in

LAG_S = 0.2


def bench(environment: Mapping[str, str], *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bench" / "gpu.py"), *map(str, options)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=ROOT
    )


def is_spread(figures: dict[str, Any], count: int) -> bool:
    return figures["n"] == count and 0 < figures["median"] <= figures["p95"]


def test_every_figure_of_the_benchmark_is_measured(tmp_path: Path) -> None:
    gpus = nvml_stand_in.build(tmp_path)
    if gpus is None:
        pytest.skip("needs a C compiler")
    gpus.show(CARD, f"lag {LAG_S}")
    out = tmp_path / "new" / "gpu.json"
    small = ("--rounds", 2, "--gaps", 2, "--handovers", 3, "--items", 60, "--out", out)
    done = bench(gpus.environment(), "--holder", "stand-in", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(out.read_text())
    assert figures["device"]["stand_in"], "nobody is to take these for a real GPU's"
    assert figures["device"]["free_bytes"] == 8 * GIB
    assert figures["context_bytes"] == 256 << 20
    assert is_spread(figures["reading"]["memory_us"], 500)
    assert is_spread(figures["reading"]["with_processes_us"], 500)
    for end in ("exit", "sigkill"):
        release = figures["release"][end]
        assert is_spread(release["after_end_s"], 2)
        assert is_spread(release["after_ask_s"], 2)
        assert release["after_ask_s"]["median"] >= LAG_S
        assert release["not_back_in_30_s"] == 0
    parts = {"fits": figures["programs"]["fits_beside"], "alone": figures["programs"]["does_not_fit"]}
    for part, count, share in ((parts["fits"], 2, 0.3), (parts["alone"], 2, 0.6), (figures["filled"], 3, 0.45)):
        assert part["handovers"] == count
        assert sum(gaps["n"] for gaps in part["gap_s"].values()) == count
        assert all(is_spread(gaps, gaps["n"]) for gaps in part["gap_s"].values())
        assert part["stated_bytes"] == int(8 * GIB * share)
        assert (part["out_of_memory"], part["failed"], part["retried"]) == (0, 0, 0)
    (unprepared,) = parts["alone"]["gap_s"].items()
    assert unprepared[0] == "none", "two of them do not fit: none is prepared beside another"
    assert unprepared[1]["median"] >= LAG_S, "the memory came back only then"
    assert figures["tensorflow"] == {"skipped": "the GPU is a stand-in"}
    table = done.stdout.splitlines()
    assert len(table) >= 12
    assert all(line.startswith("| ") and line.endswith(" |") and line.count(" | ") == 1 for line in table)
    assert "| out of memory | 0 in 3 handovers on the filled card |" in table


def test_where_there_is_no_gpu_the_benchmark_says_so_in_one_line(tmp_path: Path) -> None:
    gpus = nvml_stand_in.build(tmp_path)
    if gpus is None:
        pytest.skip("needs a C compiler")
    gpus.show("init 9")
    for options in ((), ("--lane", "gpu3")):
        done = bench(gpus.environment(), *options)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "bench/gpu.py: no GPU: NVIDIA's driver is not loaded; see `nvidia-smi`\n"
    gpus.show(CARD)
    done = bench(gpus.environment(), "--lane", "gpu3")
    assert (done.returncode, done.stderr) == (1, "bench/gpu.py: no lane gpu3; there are gpu0\n")
