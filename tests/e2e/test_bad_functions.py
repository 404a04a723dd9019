"""A session file through the whole daemon, of which some functions exit, crash or raise what cannot be printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from batond import Batond

pytestmark = pytest.mark.tensorflow

FEED = r"""
import os

def good():
    return [[0.0] * 4] * 3

def exits():
    print("no such split")
    os._exit(9)

def raises():
    raise FileNotFoundError("no '\udcff' \x1b[1m here")
"""
NAMES = ("good", "exits", "again", "raises")


def session(name: str, models: Path) -> str:
    function = "good" if name == "again" else name
    model = models / "affine"
    return f'[[session]]\nname = "{name}"\nmodel = "{model}"\ninput = "fed:{function}"\noutput = "out/{name}"\n'


def test_each_bad_function_of_a_file_is_one_line_and_the_good_ones_run_without_them(
    tensorflow: Batond, models: Path
) -> None:
    (tensorflow.folder / "fed.py").write_text(FEED)
    said = tensorflow.submit("".join(session(name, models) for name in NAMES), status=1)
    assert "nothing was queued, for 2 problems" in said
    kept = tensorflow.folder / "cache" / "inspections"
    (log,) = kept.iterdir()
    exits, raises = json.loads(said)["error"]["data"]["problems"]
    ended = f"ended with status 9; it printed last: no such split; mend that (all of that: {log})"
    assert exits == f"exits: input: cannot read 'fed:exits': the process that opened it {ended}"
    raised = r"FileNotFoundError: no '\udcff' \x1b[1m here; mend it"
    assert raises == f"raises: input: cannot read 'fed:raises': calling it raised {raised}"
    assert log.read_text() == "no such split\n"
    tensorflow.submit(session("good", models) + session("again", models))
    tensorflow.ended("good", "again")
    assert len(tensorflow.told("session.finished")) == 2
    assert list(kept.iterdir()) == [log], "what goes well leaves nothing"
