"""lnav with the format file: each query of docs/logs.md gives rows of a real log."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import pytest

from tests.logs import lnav_format, packages
from tests.logs.asked import queries
from tests.logs.conforming import assert_conforming
from tests.logs.make_sample import SAMPLE

ROOT = Path(__file__).resolve().parents[2]


def test_the_format_file_is_as_the_schema_has_it() -> None:
    assert lnav_format.FORMAT.read_text("utf-8") == lnav_format.made(), "run `python -m tests.logs.lnav_format`"


def test_the_sample_conforms_to_the_schema() -> None:
    """Else the queries would be asked of a log as no daemon writes it any more."""
    assert_conforming(json.loads(line) for line in SAMPLE.read_text("utf-8").splitlines())


def test_each_question_has_both_answers() -> None:
    assert len(queries("sh")) == 10
    assert queries("sh").keys() == queries("sql").keys()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home where the format is installed as the document says."""
    if (reason := packages.why_not("lnav")) is not None:
        pytest.skip(reason)
    home = tmp_path_factory.mktemp("home")
    subprocess.run([lnav(), "-i", str(lnav_format.FORMAT)], env=environment(home), check=True, timeout=60)
    return home


def lnav() -> str:
    return str(packages.program("lnav"))


def environment(home: Path) -> dict[str, str]:
    return packages.libraries() | {"HOME": str(home), "TERM": "dumb", "LANG": "C.UTF-8"}


def ask(home: Path, query: str) -> list[dict[str, str]]:
    done = subprocess.run(
        [lnav(), "-n", "-c", f";{' '.join(query.split())}", "-c", ":write-csv-to -", str(SAMPLE)],
        env=environment(home),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "error" not in done.stderr, done.stderr
    return list(csv.DictReader(done.stdout.splitlines()))


@pytest.mark.parametrize("question", queries("sql"))
def test_lnav_answers(home: Path, question: str) -> None:
    rows = ask(home, queries("sql")[question])
    assert rows
    assert all(any(value not in ("", "<NULL>") for value in row.values()) for row in rows)


def test_what_lnav_answers_is_what_the_log_says(home: Path) -> None:
    lines = [json.loads(line) for line in SAMPLE.read_text("utf-8").splitlines()]
    finished = [line["items"] for line in lines if line["event"] == "session.finished"]
    (row,) = ask(home, queries("sql")["How many items a day?"])
    assert (int(row["sessions"]), int(row["items"])) == (len(finished), sum(finished))
    started = ask(home, queries("sql")["When was the daemon started again, and had it ended in order?"])
    assert [row["ended"] for row in started][1:] == ["daemon.started"], "it was killed"
