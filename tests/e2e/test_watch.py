"""`batonctl watch` beside a real daemon: sessions that hand over, a stand-in GPU, a daemon that is killed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from batond import ROOT, TIMEOUT_S, Batond, stand_in
from gpu_house import EARLY_S, FOR_EVER, GIB, gpu_house, stranger

from tests.shell.watching import watching

SLOW = ("--item-ms", "20")


def test_it_shows_a_handover_as_it_happens(batond: Batond) -> None:
    with watching(batond.socket, columns=120, rows=40) as watcher:
        watcher.shows("nothing is queued")
        batond.submit(
            stand_in("first", batond.folder, *SLOW, items=200, lead=EARLY_S)
            + stand_in("second", batond.folder, *SLOW, items=FOR_EVER)
        )
        watcher.shows("active   first", "/200", "left")
        watcher.shows("standby  second", "●●●", "warm")
        watcher.shows("active   second", "handover.completed", "after first, gap ")
        (told,) = (row for row in watcher.screen.lines if "handover.completed" in row)
        assert "×" not in told, "every event is told once"
        watcher.press("q")
        assert watcher.ended() == 0
        watcher.given_back()
    batond.ctl("cancel", "second")
    batond.ended("second")


def test_it_outlives_a_daemon_that_is_killed(batond: Batond) -> None:
    batond.submit(stand_in("long", batond.folder, *SLOW, items=FOR_EVER))
    batond.event("session.started", session="long")
    with watching(batond.socket) as watcher:
        watcher.shows("active   long")
        batond.kill()
        watcher.shows("batond is not there since", "looking for it", "active   long")
        batond.start()
        watcher.until(lambda screen: "batond is not there" not in "".join(screen.lines), "the daemon again")
        watcher.shows("active   long", "session.adopted")
        watcher.press("\x03")
        assert watcher.ended() == 130
        watcher.given_back()
    batond.ctl("cancel", "long")
    batond.ended("long")


def test_the_memory_of_a_gpu_is_shown_by_its_holders_with_what_the_next_one_needs(tmp_path: Path) -> None:
    with gpu_house(tmp_path) as house, stranger(house.gpus, 2 * GIB):
        house.batond.submit(
            house.program("big", 3, "--item-ms", "20", items=FOR_EVER, lead=EARLY_S)
            + house.program("next", 4, items=10)
        )
        with watching(house.batond.socket) as watcher:
            watcher.shows("█ big 3.0 GiB", "░ others 2.0 GiB", "3.0 GiB of 8.0 GiB free")
            watcher.shows("└─ next needs 4.0 GiB ─┘")
            watcher.press("q")
            assert watcher.ended() == 0
        (lane,) = house.batond.ctl("status")["lanes"]
        assert lane["memory"]["next"] == {
            "session": "next",
            "tier": "warm",
            "needed_bytes": 4 * GIB,
            "fits": False,
        }
        house.batond.ctl("cancel", "big", "next")
        house.batond.ended("big", "next")


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_picture_in_the_documents_can_be_drawn_again(tmp_path: Path) -> None:
    """It has what it is to show, and nothing of the machine that it was drawn on."""
    drawn = tmp_path / "watch.svg"
    subprocess.run((sys.executable, "docs/pictures/watch.py", str(drawn)), cwd=ROOT, check=True, timeout=2 * TIMEOUT_S)
    for text in (drawn.read_text(), (ROOT / "docs/pictures/watch.svg").read_text()):
        assert all(each in text for each in ("digits-cnn", "speech-features", "●●●", "└─", "handover.completed"))
        assert "/tmp" not in text
        assert str(ROOT) not in text


def test_the_measurement_of_its_cost_runs(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    command = (sys.executable, "-m", "bench.watch", "--small", "--out", str(out))
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=2 * TIMEOUT_S)
    figures = json.loads(out.read_text())["watch"]["figures"]
    assert set(figures["watcher_core_percent"]) == {"80x24", "200x60"}
    assert all(each > 0 for each in figures["daemon_core_percent"].values())
