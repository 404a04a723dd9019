"""The wall clock jumps, by a day and back, under a real daemon: nothing that is decided looks at it."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from batond import ROOT, Batond, Event, stand_in

DAY_S = 86400


class WallClock:
    """The daemon's, `seconds` ahead of the host's."""

    def __init__(self, folder: Path) -> None:
        self.library = folder / "fake_clock.so"
        source = ROOT / "tests" / "fake_clock.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(self.library), str(source), "-ldl"], check=True)
        self.file = folder / "clock"
        self.jump(0)

    def jump(self, seconds: int) -> None:
        anew = self.file.with_suffix(".new")
        anew.write_text(str(seconds))
        anew.rename(self.file)


def day(event: Event) -> int:
    """Whole days that a line's time is ahead of the host's."""
    ahead = datetime.fromisoformat(event["ts"]) - datetime.now(UTC)
    return round(ahead / timedelta(days=1))


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_jump_of_the_wall_clock_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = WallClock(tmp_path)
    monkeypatch.setenv("LD_PRELOAD", str(clock.library))
    monkeypatch.setenv("FAKE_CLOCK", str(clock.file))
    batond = Batond(tmp_path, "--launcher", "exec")
    with batond:
        monkeypatch.undo()  # what the test starts itself lives in the present
        names = ("a", "b", "c", "d")
        batond.submit("".join(stand_in(name, tmp_path, "--item-ms", "20", items=100) for name in names))
        for number, seconds in enumerate((DAY_S, -DAY_S, 2 * DAY_S), 1):
            started = batond.event("session.started", times=number)
            clock.jump(seconds)
            told = batond.event("session.finished", session=started["session"])
            assert day(told) == seconds / DAY_S, "the daemon's own clock did not jump"
        batond.ended(*names)
        for name in names:
            assert batond.rows(name) == list(range(100))
        assert len(batond.told("session.finished")) == len(names)
        trouble = ("worker.escalated", "session.retried", "standby.discarded", "count.mismatched", "session.adopted")
        assert [event for event in batond.events if event["event"] in trouble] == []
        handovers = batond.told("handover.completed")
        assert len(handovers) == len(names) - 1
        assert all(0.0 <= each["gap_s"] < 600 for each in handovers)
        assert all(0.0 <= each["seconds"] < 600 for each in batond.told("session.finished"))
