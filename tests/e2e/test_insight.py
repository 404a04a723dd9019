"""The whole daemon answers: why, plan and explain, with real workers; what was predicted is held against what came."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
from batond import ROOT, TIMEOUT_S, Batond, stand_in

ITEM_MS = ("--item-ms", "10")


def printed(batond: Batond, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "daemon.cli", "--socket", str(batond.socket), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def predicted(batond: Batond, name: str) -> dict[str, Any]:
    """The plan's runs by session, once the end of this one is predicted."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        runs = {run["session"]: run for run in batond.ctl("plan")["runs"]}
        if runs[name]["end"]["at"] is not None:
            return runs
    raise AssertionError(f"the end of {name} is not predicted")


def test_the_same_work_again_is_predicted_and_the_prediction_is_judged(batond: Batond) -> None:
    """Two programs take turns, three times each: by then their runs and handovers are known, and said to be."""
    for _ in range(3):
        batond.submit("".join(stand_in(name, batond.folder, *ITEM_MS, items=100) for name in ("a", "b")))
        batond.ended("a", "b")
        batond.ctl("list", "--all")
        seen = len(batond.told("session.finished"))
        for name in ("a", "b"):
            (batond.folder / f"{name}.rows").unlink()
        batond.events.clear()
        assert seen >= 2
    text = stand_in("long", batond.folder, *ITEM_MS, items=6000) + "".join(
        stand_in(name, batond.folder, *ITEM_MS, items=100) for name in ("a", "b")
    )
    path = batond.folder / "more.toml"
    path.write_text(text)
    dry = batond.ctl("submit", "--dry-run", str(path))
    assert batond.ctl("list")["sessions"] == []
    assert [run["session"] for run in dry["plan"]["runs"]] == ["long", "a", "b"]
    ends = {run["session"]: run["end"]["at"] for run in dry["plan"]["runs"]}
    assert ends["long"] is None  # it never ran

    batond.submit(text)
    batond.event("session.started", session="long")
    why = batond.ctl("why", "a")["answers"][0]
    assert why["name"] == "a"
    known = predicted(batond, "long")  # by its own pace, as soon as it has one
    assert known["a"]["start"]["at"] is not None
    assert known["b"]["end"]["at"] is not None
    batond.ctl("swap")
    batond.ended("a", "b")
    checked = batond.event("prediction.checked", session="a")
    assert checked["predicted_s"] > 0.5
    assert checked["error_s"] == pytest.approx(checked["run_s"] - checked["predicted_s"], abs=1e-5)
    handover = batond.event("handover.checked", session="a")
    explained = batond.ctl("explain", str(handover["seq"]))["handovers"][0]
    assert explained["from_session"] == "long"
    assert explained["gap_s"] == batond.event("handover.completed", session="a")["gap_s"]
    assert explained["because"]
    assert "long → a" in printed(batond, "explain", "a")
    assert "predicted" in printed(batond, "show", "a")
    assert batond.ctl("plan")["score"]["judged"] >= 2


def test_predictions_outlive_a_restart_of_the_daemon(batond: Batond) -> None:
    for _ in range(2):
        batond.submit(stand_in("a", batond.folder, *ITEM_MS, items=50))
        batond.ended("a")
        (batond.folder / "a.rows").unlink()
        batond.events.clear()
    assert batond.stop() == 0
    batond.start()
    path = batond.folder / "again.toml"
    path.write_text(stand_in("a", batond.folder, *ITEM_MS, items=50))
    (run,) = batond.ctl("submit", "--dry-run", str(path))["plan"]["runs"]
    assert run["end"]["at"] is not None
    assert run["end"]["margin_s"] is not None


def test_a_failed_session_says_what_would_make_it_run(batond: Batond) -> None:
    batond.submit(stand_in("bad", batond.folder, "--fail-at", "3", max_attempts=1))
    batond.ended("bad")
    said = printed(batond, "why", "bad")
    assert "item 3 cannot be computed" in said
    assert "mend the program" in said
    assert "batonctl retry bad" in said


def test_a_gap_that_passed_without_a_daemon_is_said_to_be_that(batond: Batond) -> None:
    batond.submit(stand_in("a", batond.folder, *ITEM_MS, items=300) + stand_in("b", batond.folder, items=3))
    batond.event("session.started", session="a")
    batond.kill()
    deadline = time.monotonic() + TIMEOUT_S
    while len(batond.rows("a")) < 300:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(5.0)  # the absence that is to be explained; a preparation of b is much shorter
    batond.start()
    batond.event("handover.checked", session="b")
    (handover,) = batond.ctl("explain", "b")["handovers"]
    assert handover["gap_s"] > 5.0, "from its last item, that no daemon saw, and not from this daemon's start"
    assert "of it passed before this batond began" in handover["because"][0]
    assert batond.event("session.finished", session="a")["seconds"] >= 3.0  # 300 items of 10 ms


def test_what_made_a_gap_is_named_and_not_blamed_on_the_lead_or_the_queue(batond: Batond) -> None:
    """The first is cancelled while the second is prepared; the third cannot be prepared before the second ends."""
    batond.submit(
        stand_in("first", batond.folder, *ITEM_MS, items=6000, lead=600)
        + stand_in("second", batond.folder, *ITEM_MS, "--prepare-ms", "3000", items=100)
        + stand_in("third", batond.folder, "--prepare-ms", "300", items=3, prepare=False)
    )
    batond.event("standby.started", session="second")
    batond.ctl("cancel", "first")
    batond.ended("second", "third")
    (cut,) = batond.ctl("explain", "second")["handovers"]
    assert cut["because"][0] == "first ended before its last item: it was cancelled"
    assert any(line.startswith("second had been prepared for ") for line in cut["because"])
    assert not any("its lead was" in line for line in cut["because"])
    (last,) = batond.ctl("explain", "third")["handovers"]
    assert "it computes as soon as it is started" in last["because"][0]
    assert not any("queued" in line for line in last["because"])
    for handover in (cut, last):
        parts = [handover[key] for key in ("told_s", "waited_s", "recorded_s", "begun_s")]
        assert sum(parts) == pytest.approx(handover["gap_s"], abs=1e-4)
        assert handover["device_waited_s"] <= handover["waited_s"] + 1e-6


def test_the_plan_has_the_tier_that_comes_beside_a_program_that_is_not_prepared(batond: Batond) -> None:
    text = stand_in("e", batond.folder, "--item-ms", "20", items=150, prepare=False)
    text += stand_in("f", batond.folder, *ITEM_MS, items=20)
    tiers = []
    for _ in range(3):
        batond.submit(text)
        batond.ended("e", "f")
        tiers.append(batond.event("handover.completed", from_session="e", session="f")["tier"])
        for name in ("e", "f"):
            (batond.folder / f"{name}.rows").unlink()
        batond.events.clear()
    dry = batond.ctl("submit", "--dry-run", str(batond.folder / "sessions.toml"))
    (planned,) = (run for run in dry["plan"]["runs"] if run["session"] == "f")
    assert tiers == ["warm"] * 3
    assert planned["tier"] == "warm"
    assert planned["unknown"] == []
    assert planned["end"]["at"] is not None
