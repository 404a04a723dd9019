"""docs/sessions-programs.md, word for word: each script is written, each session submitted, and each ends as done."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from batond import ROOT, Batond

PAGE = (ROOT / "docs" / "sessions-programs.md").read_text()
SCRIPTS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
TABLES = dict(re.findall(r'```toml\n(?=\[\[session\]\]\nname = "(\w+)")(.*?)```', PAGE, re.DOTALL))


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Batond]:
    """A daemon whose `python3` is this interpreter."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    with Batond(tmp_path, "--launcher", "exec") as daemon:
        yield daemon


def test_every_block_of_the_page_is_one_that_is_run_here() -> None:
    assert PAGE.count("```python\n") == len(SCRIPTS)
    assert PAGE.count("```toml\n") == len(TABLES)
    assert PAGE.count("```") == 2 * (len(SCRIPTS) + len(TABLES))


def test_what_the_page_shows_is_what_happens(house: Batond) -> None:
    for name, script in SCRIPTS.items():
        (house.folder / name).write_text(script)
    house.submit("\n".join(TABLES.values()))
    for name in TABLES:
        house.event("session.finished", session=name)
    assert (house.folder / "report.txt").read_text().startswith("made at ")
    assert house.event("session.finished", session="count")["items"] == 1000
    assert (house.folder / "squares.txt").read_text().split() == [str(number * number) for number in range(5000)]
    assert house.event("session.finished", session="fit")["items"] == 5 * 128
    assert (house.folder / "fit.keras").exists()
    assert not (house.folder / "fit-checkpoint").exists()
    log = Path(house.ctl("show", "elsewhere")["log_path"]).read_text()
    assert log.startswith("elsewhere ")
    assert log.endswith("['--fast'] nightly\n")


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_outside_batond_each_does_the_same_work(tmp_path: Path, script: str) -> None:
    """With baton.py beside it, as by a copy; it prints what it prints by itself."""
    (tmp_path / script).write_text(SCRIPTS[script])
    (tmp_path / "baton.py").write_bytes((ROOT / "baton.py").read_bytes())
    environment = {key: value for key, value in os.environ.items() if key != "BATON_FD"} | {"MODE": "by hand"}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "fit-checkpoint").exists()


@pytest.mark.parametrize(("option", "seen"), [("-P", True), ("-E", False), ("-I", False)])
def test_which_options_of_python_hide_baton(house: Batond, option: str, seen: bool) -> None:
    """In an environment where nothing of batond is installed."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", house.folder / "x"], check=True)
    (house.folder / "count.py").write_text(SCRIPTS["count.py"])
    house.submit(TABLES["count"].replace('["python3", ', f'["x/bin/python", "{option}", '))
    if seen:
        house.event("session.finished", session="count")
    else:
        assert "No module named 'baton'" in house.event("session.failed", session="count")["reason"]
