"""examples/programs as they are, in the whole daemon: each to its end, and each swapped out on its way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from batond import ROOT, TIMEOUT_S, Batond, stand_in

LONGER = {
    "sums": (),
    "keras-fit": (('"15"', '"30"'),),
    "pytorch": (('"600"', '"6000"'),),
    "jax": (('"600"', '"6000"'),),
}
NEEDS = {"sums": (), "keras-fit": ("tensorflow", "sklearn"), "pytorch": ("torch", "sklearn"), "jax": ("jax", "sklearn")}
OUT = {"keras-fit": "keras", "pytorch": "pytorch", "jax": "jax"}


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Batond]:
    """A daemon whose `python3` is this interpreter, with a copy of the examples, and of what they read."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    ignored = shutil.ignore_patterns("out", "__pycache__")
    shutil.copytree(ROOT / "examples" / "programs", tmp_path / "examples" / "programs", ignore=ignored)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with Batond(tmp_path, "--launcher", "exec") as daemon:
        yield daemon


@pytest.fixture(params=NEEDS)
def name(request: pytest.FixtureRequest) -> str:
    """A session of the examples; skipped where its packages are not."""
    missing = [package for package in NEEDS[request.param] if find_spec(package) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}: make test-programs")
    return str(request.param)


def submit(house: Batond, name: str, *longer: tuple[str, str]) -> None:
    """Submit that session alone, as it is, or with a word of its arguments replaced so that it takes longer."""
    folder = house.folder / "examples" / "programs"
    text = (folder / "sessions.toml").read_text()
    (table,) = [part for part in text.split("[[session]]")[1:] if f'name = "{name}"' in part]
    for old, new in longer:
        assert old in table
        table = table.replace(old, new)
    (folder / "one.toml").write_text("[[session]]" + table)
    house.ctl("submit", str(folder / "one.toml"))


def check(house: Batond, name: str) -> None:
    """What the session left has to be whole, whatever happened on its way."""
    out = house.folder / "examples" / "programs" / "out"
    if name == "sums":
        docs = house.folder / "docs"
        files = sorted(path for path in docs.rglob("*") if path.is_file())
        lines = (out / "sums").read_text().splitlines()
        assert [line[66:].rpartition("/")[2] for line in lines] == [path.name for path in files]
        sums = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.suffix != ".empty"}
        assert {line[:64] for line in lines} >= set(sums.values())
        return
    accuracy = json.loads((out / OUT[name] / "accuracy.json").read_text())["accuracy"]
    assert accuracy > 0.9
    assert list((out / OUT[name]).glob("checkpoint*")) == [], "what is done needs none"


def test_an_example_runs_to_its_end_as_it_is(house: Batond, name: str) -> None:
    submit(house, name)
    finished = house.event("session.finished", session=name)
    assert finished["items"] > 1
    assert house.told("worker.noise", level="error") == []
    check(house, name)


def test_an_example_that_is_swapped_out_on_its_way_goes_on_where_it_was(house: Batond, name: str) -> None:
    for number in range(150):  # seconds of work, and no room on the disk
        with (house.folder / "docs" / f"{number}.empty").open("w") as file:
            file.truncate(32 << 20)
    submit(house, name, *LONGER[name])
    house.event("session.started", session=name)
    house.submit(stand_in("other", house.folder))
    until = time.monotonic() + TIMEOUT_S
    while house.ctl("show", name)["session"]["done"] == 0:
        assert time.monotonic() < until
    house.ctl("swap")
    house.event("session.finished", session="other")
    handed = house.event("handover.completed", session="other")
    assert (handed["from_session"], handed["items_returned"] > 0) == (name, True)
    house.event("session.finished", session=name)
    assert house.told("count.mismatched") == []
    assert house.told("session.retried") == []
    assert house.rows("other") == list(range(20))
    check(house, name)
