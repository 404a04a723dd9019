"""The benchmarks run, in tiny sizes, and every figure is there and sane. How fast anything was, nobody asks.

Not run here: the networks of keras.applications, the makespan of the scripts and of task-spooler, and task-spooler at
all where the host has none: `make bench` does.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import __main__ as all_parts
from bench import cost, document
from bench.__main__ import PARTS
from bench.figures import kept

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 900.0
MAY_BE_NEGATIVE = ("delay_s", "lost_s", "later_than_thread_s")  # differences of two noisy figures
SOME_MB = (10.0, 500.0)  # of a daemon; of a fork server, which has TensorFlow
WHERE_TENSORFLOW_IS_MB = (50.0, 2000.0)

# The first cell of each row that a part has at the least.
GAP = {
    "gap, batond",
    "the same, where the standby was ready",
    "ready in time",
    "idle standby, where it was ready",
    "gap, `python a.py && python b.py`",
    "gap, task-spooler",
    "gap, one process, loads after",
    "gap, one process, loads in a thread",
    "batond's median, beside the thread's",
    "the thread had not loaded at the session's end",
}
ROWS = {
    "gap": GAP,
    "smallgap": GAP | {"ready more than two leads early"},
    "cost": {
        "pace while the next is prepared, batond",
        "pace while the next is prepared, one process, loads in a thread",
        "late, batond",
        "idle standby",
    },
    "makespan": {
        "2 short sessions, batond",
        "the same short ones, `python a.py && python b.py`",
        "the same short ones, task-spooler",
        "the same short ones, one process, loads after",
        "the same short ones, computing alone",
    },
    "worker": {"convolutions, TFRecord", "convolutions, JPEG", "dense, JSON lines out"},
    "prediction": {
        f"{kind}: {figure}"
        for kind in (
            "recorded (2 traces, 2 times each)",
            "all (n = 19)",
            *(f"{kind} (n = 3)" for kind in ("steady", "slow first items", "drift", "bursts", "stalls")),
            "unknown total the others cannot predict (n = 3)",
        )
        for figure in ("late", "idle standby, median", "more than two leads early")
    },
    "idle": {
        "one lane, nothing to do",
        "one lane, 50 clients ask for `status`, idle",
        "one lane, 50 clients ask for `status`, one running nine queued",
        "ten stand-in GPUs, nothing to do",
        "ten stand-in GPUs, 50 clients ask for `status`, idle",
        "a bare asyncio server, asked as much",
        "ten lanes, each with 20 reports a second",
        "the fork server beside it, nothing to do",
    },
    "flood": {
        "progress messages swallowed",
        "handovers on another lane that found a standby ready, without them",
        "their gap, without them",
        "handovers on another lane that found a standby ready, with them",
        "their gap, with them",
    },
    "longqueue": {
        "submit 200 sessions",
        "`status` with 50 of the queue",
        "`status` with all of it",
        "`list`, all rows",
        "the first `list` of a daemon",
        "a stop",
        "a restart, without the stop: until it says how many are queued",
        "choose the next, the first is due: processor time",
        "choose the next, only the last is due: processor time",
        "decide, and start it: processor time",
    },
    "startup": {
        "`batonctl status`",
        "`batonctl status --json`",
        "a Python that does nothing",
        "`batond`, until it answers",
    },
    "cluster": {
        "a device waits at a handover, batond",
        "a device waits at a handover, each loaded after the end",
        "a device waits at a handover, only what does not fit beside",
        "batond's gaps",
        "its standbys at a handover",
        "the core, 5 lanes, 60 sessions",
        "the core, one lane",
        "memory of the whole simulation, at the most",
    },
}

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


def figures_of(results: Results) -> Iterator[tuple[str, float]]:
    """Every number that was measured, and where it is."""
    for path, figure in leaves({name: part["figures"] for name, part in results.items()}):
        if isinstance(figure, int | float):
            yield path, figure


def rows(page: str) -> dict[str, list[list[str]]]:
    """The rows of each part's table."""
    parts = page.partition(document.BEGIN)[2].partition(document.END)[0].split("### ")[1:]
    named = {part.title: name for name, part in document.PARTS.items()}
    return {
        named[part.splitlines()[0]]: [
            [cell.strip() for cell in line.strip("|").split(" | ")]
            for line in part.splitlines()
            if line.startswith("| ")
        ][2:]
        for part in parts
    }


def test_every_part_ran_and_says_where(results: Results) -> None:
    assert set(results) == set(PARTS)
    for part in results.values():
        assert part["small"], "nobody is to take these for figures"
        assert part["took_s"] > 0
        assert part["host"]["cores"] >= 1


def test_every_figure_is_what_it_can_be(results: Results) -> None:
    cores = results["idle"]["host"]["cores"]
    seen = set()
    for path, figure in figures_of(results):
        where = f"{path} = {figure}"
        assert math.isfinite(figure), where
        assert figure >= 0 or any(name in path for name in MAY_BE_NEGATIVE), where
        name = path.rpartition(".")[2]
        seen.add(name)
        if name in ("rss_mb", "pss_mb"):
            least, most = WHERE_TENSORFLOW_IS_MB if "fork_server" in path else SOME_MB
            assert least < figure < most, where
        elif "core_percent" in path:
            assert figure <= 100 * cores, where
        elif name.endswith("_percent") or "_percent_" in path:
            assert figure <= 100, where
        elif name.endswith("per_s"):
            assert figure > 0, where
    assert {"rss_mb", "core_percent", "late_percent", "steps_per_s", "answered_per_s"} <= seen


def test_what_was_done_was_done(results: Results) -> None:
    idle, flood = results["idle"]["figures"], results["flood"]["figures"]
    assert flood["swallowed_per_s"]["median"] > 0
    assert set(flood["ready_of_each"].values()) <= set(range(flood["handovers_of_each"] + 1))
    assert flood["handovers_of_each"] == 2
    assert results["longqueue"]["figures"]["restart_s"] > 0
    assert idle["fork_server"]["rss_mb"] > idle["processor_lane"]["rss_mb"], "it has TensorFlow"
    for state in idle["processor_lane"]["status"].values():
        assert state["latency_s"]["n"] > 0
    for part in results["cluster"]["figures"].values():
        assert part["steps_per_s"] > 0
        assert part["steps"] > part["sessions"]


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
    for gaps in (results["gap"]["figures"], results["smallgap"]["figures"]):
        assert {"batond", "scripts", "one_process", "thread"} <= set(gaps["gap_s"])
        assert all(each["n"] == 1 for each in gaps["gap_s"].values())
        assert all(each["median"] > 0 for each in gaps["gap_s"].values())
        assert gaps["handovers"] == gaps["thread_handovers"] == 1
    queue = results["makespan"]["figures"]["short"]
    assert set(queue["seconds"]) == {"batond", "one_process"}
    assert 0 < queue["computing_s"]["median"] < queue["seconds"]["one_process"]["median"]
    assert results["cost"]["figures"]["handovers"] == 1


def test_the_worker_and_the_bare_loop_computed(results: Results) -> None:
    cases = results["worker"]["figures"]["cases"]
    assert set(cases) == ROWS["worker"]
    for name, each in cases.items():
        assert all(value > 0 for value in each.values()), f"{name}: {each}"


def test_the_simulation_lost_no_session(results: Results) -> None:
    for part in results["cluster"]["figures"].values():
        assert sum(part["handovers_by_tier"].values()) == part["sessions"] - part["lanes"]
        assert part["idle_each_s"]["batond"] < part["idle_each_s"]["load_after_end"]


def test_the_document_has_a_row_for_every_figure(results: Results, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(document.PAGE.read_text())
    document.write({name: {**part, "small": False} for name, part in results.items()}, page)
    text = page.read_text()
    assert "Not measured yet" not in text
    found = rows(text)
    assert set(found) == set(ROWS) == set(PARTS) == set(document.PARTS)
    for part, expected in ROWS.items():
        missing = expected - {row[0] for row in found[part]}
        assert not missing, f"{part} has no row of {missing}"
        for row in found[part]:
            assert len(row) == len(document.PARTS[part].columns), f"{part}: {row}"
            assert row[1], f"{part}: nothing was measured: {row}"
    document.write({name: {**part, "small": True} for name, part in results.items()}, page)
    assert page.read_text().count("Not measured yet") == len(PARTS), "tiny sizes are no figures"


def test_figures_of_another_version_are_asked_for_again(results: Results, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(document.PAGE.read_text())
    older = {key: value for key, value in results["longqueue"]["figures"].items() if key != "restart_s"}
    document.write({"longqueue": {**results["longqueue"], "small": False, "figures": older}}, page)
    assert "Not measured yet with 'restart_s': `.venv/bin/python -m bench longqueue`." in page.read_text()


def bench(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, **more)


@pytest.mark.parametrize(
    ("content", "why"),
    [('{"idle":', "is no JSON"), ("[]", "has no figures"), (None, "Is a directory")],
    ids=["half a file", "another file", "a folder"],
)
def test_where_figures_cannot_be_put_nothing_is_measured(tmp_path: Path, content: str | None, why: str) -> None:
    out = tmp_path / "results.json"
    if content is None:
        out.mkdir()
    else:
        out.write_text(content)
    done = bench("prediction", "--out", str(out))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert why in line
    assert content is None or out.read_text() == content


def test_tiny_sizes_take_no_figures_place() -> None:
    done = bench("prediction", "--small", "--out", "bench/out/results.json")
    assert done.returncode == 1
    assert "are not to take the place" in done.stderr


def test_an_interrupted_benchmark_leaves_nothing_running(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "idle", "--out", str(tmp_path / "results.json")]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    running = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("batond-bench-*/s.sock")):
        assert running.poll() is None
        time.sleep(0.05)
    running.terminate()
    _, said = running.communicate(timeout=TIMEOUT_S)
    assert running.returncode == 130
    assert "idle was interrupted" in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    assert not [
        each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(each.info["cmdline"] or ())
    ]


def test_the_pace_beside_a_preparation_is_held_against_the_rest_of_the_session() -> None:
    """Ten items a second, six while the next is prepared; the first two seconds are the session's own doing."""
    pace, done, at = [(0.0, 0)], 0.0, 0.0
    while at < 20.0:
        done += 0.1 if at < 2.0 else 0.6 if 8.0 <= at < 13.0 else 1.0
        at = round(at + 0.1, 1)
        pace.append((at, round(done)))
    (found,) = cost.compared(pace, 8.0, 13.0, small=False)
    assert found["pace"] == pytest.approx(0.6, rel=0.05)
    assert found["lost_s"] == pytest.approx(2.0, rel=0.05)
    assert found["preparing_s"] == 5.0
    assert cost.compared(pace, 0.0, 20.0, small=False) == [], "nothing is left to hold it against"
    assert cost.compared(pace, 8.0, 8.4, small=False) == [], "too short to tell"


def test_a_rank_is_printed_only_where_it_is_not_the_worst() -> None:
    each = {"median": 0.002, "p95": 0.003, "p99": 0.004, "max": 0.005}
    assert document.wide({**each, "n": 100}) == "2.0 ms (p95 3.0 ms, p99 4.0 ms, n = 100)"
    assert document.wide({**each, "n": 99}) == "2.0 ms (p95 3.0 ms, most 5.0 ms, n = 99)"
    assert document.wide({**each, "n": 19}) == "2.0 ms (most 5.0 ms, n = 19)"
    assert document.wide({**each, "n": 1}) == "2.0 ms"
    assert document.slowed({"median": 0.9, "p05": 0.8, "n": 20}) == "0.90 of alone (least 0.80, n = 20)"
    assert document.slowed({"median": 0.9, "p05": 0.8, "n": 21}) == "0.90 of alone (p05 0.80, n = 21)"


def test_a_part_that_fails_has_no_figures_of_an_older_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results.json"
    all_parts._forget(["idle"], out)
    assert capsys.readouterr().err == "bench: failed: idle\n"
    assert not out.exists()
    out.write_text('{"idle": {}, "flood": {}}')
    all_parts._forget(["idle"], out)
    assert capsys.readouterr().err == "bench: failed: idle; its figures of an older run are dropped\n"
    assert kept(out) == {"flood": {}}
