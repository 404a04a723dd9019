"""Scenarios: conversations with the core, compared word for word with what it says today (see `scenario`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from states.table import TRANSITIONS
from tests.core.scenario import written
from tests.core.watching import spelt, watched

FOLDER = Path(__file__).parent / "scenarios"
FILES = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path, pytestconfig: pytest.Config) -> None:
    """The core answers as the file says; with --rewrite-scenarios, the file says what the core answers."""
    said = path.read_text(encoding="utf-8")
    now = written(said)
    if pytestconfig.getoption("--rewrite-scenarios"):
        path.write_text(now, encoding="utf-8")
    else:
        assert now.splitlines() == said.splitlines()


def test_every_scenario_says_what_it_shows() -> None:
    """Its first line is one sentence for a reader who looks for something; and the folder was found."""
    assert len(FILES) >= 30
    for path in FILES:
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith("# "), path
        assert first.endswith("."), path


def test_the_scenarios_take_every_row() -> None:
    """A row that is new, or that nothing takes any more, is told in some conversation."""
    with watched() as taken:
        for path in FILES:
            written(path.read_text(encoding="utf-8"))
    assert [spelt(row) for place, row in enumerate(TRANSITIONS) if not taken[place]] == []
