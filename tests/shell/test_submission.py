"""By what a worker knows its own output: every attempt of a session has one name for it, and no two sessions have."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from daemon.database import DATABASE
from tests.shell.control_stage import Line, Stage, done, ended, submit


def test_a_retry_is_the_same_submission_and_a_session_submitted_anew_another(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage, Line(stage.path) as line:

        def submission(name: str) -> str:
            with closing(sqlite3.connect(f"file:{stage.folder / 'state' / DATABASE}?mode=ro", uri=True)) as record:
                sql = "SELECT core FROM sessions WHERE name = ? ORDER BY id DESC"
                return str(json.loads(record.execute(sql, (name,)).fetchone()[0])["submission"])

        submit(line, "bad", "good")
        stage.until(ended("bad"))
        stage.until(ended("good"))
        first = submission("bad")
        assert len({first, submission("good"), ""}) == 3
        stage.crew.frozen = True
        submit(line, "busy")
        done(line, "retry", name="bad")
        assert submission("bad") == first
        done(line, "cancel", names=["bad"])
        submit(line, "bad")
        assert submission("bad") not in (first, "")
        assert stage.bugs == []
