"""A short campaign against each socket: every promise of tests/fuzz holds, and nothing is left of those who came."""

from __future__ import annotations

import pytest

from tests.fuzz.campaign import fuzz

SEED = 1
RSS_GROWTH_KIB = 16 << 10  # caches of a process this young; what leaks by the frame is seen in a long campaign


@pytest.mark.parametrize(("socket", "frames"), [("control", 1000), ("workers", 400)])
def test_hostile_peers(socket: str, frames: int, capsys: pytest.CaptureFixture[str]) -> None:
    figures = fuzz(socket, frames, SEED)
    with capsys.disabled():
        print(f"\n{figures.table()}")
    first, last = figures.vitals[0], figures.vitals[-1]
    assert (last.descriptors, last.tasks) == (first.descriptors, first.tasks)
    assert figures.rss_growth_kib < RSS_GROWTH_KIB
    assert figures.whole.frames >= frames
