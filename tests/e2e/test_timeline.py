"""`batonctl timeline` of a real daemon: what ran is in the picture, across its deaths; and in a real browser."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from batond import ROOT, TIMEOUT_S, Batond, stand_in

from tests.browser import browser
from tests.shell.test_timeline_trace import assert_well_formed

LONG = ("--item-ms", "20")


def timeline(batond: Batond, name: str, *arguments: str) -> Path:
    """The picture under that name."""
    path = batond.folder / name
    command = [sys.executable, "-m", "daemon.cli", "--socket", str(batond.socket), "timeline", "-o", str(path)]
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return path


def trace(batond: Batond, *arguments: str) -> Any:
    """The trace, well-formed."""
    found = json.loads(timeline(batond, "t.json", *arguments).read_text())
    assert_well_formed(found)
    return found["traceEvents"]


def slices(events: Any, category: str) -> dict[str, Any]:
    """The slices of a category by their name, of each the last."""
    return {event["name"]: event for event in events if event["ph"] == "X" and event["cat"] == category}


def test_what_ran_is_in_the_picture_as_it_was(batond: Batond) -> None:
    """The next was prepared while one ran, the one that failed says so, the last still runs; memory lies beneath."""
    batond.submit(
        stand_in("a", batond.folder, *LONG, items=60)
        + stand_in("b", batond.folder, *LONG, items=60)
        + stand_in("bad", batond.folder, "--fail-at", "3", max_attempts=1)
        + stand_in("c", batond.folder, *LONG, items=5000)
    )
    batond.ended("a", "b", "bad")
    batond.event("session.started", session="c")
    events = trace(batond)
    active, standby = slices(events, "active"), slices(events, "standby")
    assert list(active) == ["a", "b", "bad", "c"]
    ready = standby["b: ready warm"]
    assert active["a"]["ts"] < ready["ts"] < active["a"]["ts"] + active["a"]["dur"]
    assert active["a"]["args"]["outcome"] == "done"
    assert active["bad"]["args"]["outcome"] == "failed"
    assert active["c"]["args"]["open"]
    assert "open" not in active["b"]["args"]
    (handover,) = [event for event in events if event["ph"] == "i" and event["name"] == "a → b"]
    told = batond.event("handover.completed", session="b")
    assert handover["args"]["gap_s"] == told["gap_s"]
    gap_us = active["b"]["ts"] - active["a"]["ts"] - active["a"]["dur"]
    assert gap_us <= round(told["gap_s"] * 1e6) + 1
    counters = [event for event in events if event["ph"] == "C" and event["name"] == "memory taken (bytes)"]
    during = [each for each in counters if active["a"]["ts"] <= each["ts"] <= active["c"]["ts"]]
    assert during, "the memory while they ran is there"
    assert all(each["args"]["others"] > 0 for each in during)


def test_a_daemon_that_was_killed_leaves_a_hole_in_the_picture(batond: Batond) -> None:
    batond.submit(stand_in("a", batond.folder, *LONG, items=100) + stand_in("b", batond.folder, *LONG, items=2000))
    batond.ended("a")
    batond.event("session.started", session="b")
    batond.kill()
    batond.start()
    batond.event("session.adopted", session="b")
    events = trace(batond)
    (hole,) = [event for event in events if event["ph"] == "X" and event["name"] == "no daemon"]
    ran = slices(events, "active")["b"]
    assert ran["ts"] <= hole["ts"], "it was last heard of when it began, or later"
    assert hole["ts"] + hole["dur"] < ran["ts"] + ran["dur"], "it went on while nobody watched"
    assert ran["args"]["adopted"]
    assert batond.stop() == 0
    batond.start()
    holes = [event for event in trace(batond) if event["ph"] == "X" and event["name"] == "no daemon"]
    assert len(holes) == 2, "a daemon that stopped was not there either"


def test_the_page_of_a_real_daemon_opens_in_a_browser(batond: Batond) -> None:
    batond.submit(stand_in("a", batond.folder, *LONG, items=60) + stand_in("b", batond.folder, *LONG, items=60))
    batond.ended("a", "b")
    path = timeline(batond, "t.html", "--since", "1h")
    with browser() as chromium:
        chromium.open(path)
        assert "2\nsessions" in chromium.text("#figures")
        assert "1 of 1\nready before they were needed" in chromium.text("#figures")
        assert chromium.said() == []
        assert [url for url in chromium.asked_for() if not url.startswith("data:")] == [path.resolve().as_uri()]
