"""The benchmarks run, in tiny sizes, and every figure is there and sane. How fast anything was, nobody asks."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import document
from bench.__main__ import PARTS

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 900.0
MAY_BE_NEGATIVE = ("delay_s", "lost_s")  # a difference of two noisy figures

Results = dict[str, Any]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What `make bench-smoke` leaves."""
    out = tmp_path_factory.mktemp("bench") / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--small", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: Results = json.loads(out.read_text())
    return found


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every figure, and where it is."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}")
    else:
        yield path, tree


def test_every_part_ran_and_says_where(results: Results) -> None:
    assert set(results) == set(PARTS)
    for part in results.values():
        assert part["small"], "nobody is to take these for figures"
        assert part["took_s"] > 0
        assert part["host"]["cores"] >= 1


def test_no_figure_is_negative_or_no_number(results: Results) -> None:
    for path, figure in leaves({name: part["figures"] for name, part in results.items()}):
        if isinstance(figure, int | float):
            assert math.isfinite(figure), path
            assert figure >= 0 or any(name in path for name in MAY_BE_NEGATIVE), f"{path} = {figure}"


def test_spreads_are_in_order(results: Results) -> None:
    found = 0

    def check(tree: Any, path: str) -> None:
        nonlocal found
        if isinstance(tree, dict) and "n" in tree:
            found += 1
            assert tree["p05"] <= tree["median"] <= tree["p95"] <= tree["p99"] <= tree["max"], f"{path}: {tree}"
        elif isinstance(tree, dict):
            for key, value in tree.items():
                check(value, f"{path}.{key}")

    check(results, "")
    assert found > 40


def test_batond_and_its_rivals_handed_over(results: Results) -> None:
    gaps = results["gap"]["figures"]["small"]
    assert {"batond", "scripts", "one_process", "thread"} <= set(gaps["gap_s"])
    assert all(each["n"] == 1 for each in gaps["gap_s"].values())
    assert set(results["makespan"]["figures"]["short"]["seconds"]) == {"batond", "one_process"}


def test_the_simulation_lost_no_session(results: Results) -> None:
    for part in results["cluster"]["figures"].values():
        assert sum(part["handovers_by_tier"].values()) == part["sessions"] - part["lanes"]
        assert part["idle_percent"]["bound"] <= part["idle_percent"]["load_after_end"]


def test_the_document_has_a_row_for_every_figure(results: Results, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(document.PAGE.read_text())
    document.write({name: {**part, "small": False} for name, part in results.items()}, page)
    text = page.read_text()
    assert "Not measured yet" not in text
    for title, _ in document.PARTS.values():
        assert f"### {title}\n" in text
    assert text.count("\n| ") > 50
    document.write({name: {**part, "small": True} for name, part in results.items()}, page)
    assert page.read_text().count("Not measured yet") == len(PARTS), "tiny sizes are no figures"
