"""Why a session failed can be seen long after: in the real daemon's record, whatever becomes of its log file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from batond import ROOT, TIMEOUT_S, Batond

# Three attempts, told apart by a file of marks: killed by a signal, killed in silence, raised for good.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
marks = Path(sys.argv[1])
with marks.open("a") as file:
    file.write("x")
attempt = marks.stat().st_size
if attempt == 1:
    print("line of attempt 1")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
if attempt == 2:
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdout.buffer.write(b"\\xff\\x1b[31mred\\x1b[0m\\n" + b"=" * (1 << 20))
sys.stdout.flush()
try:
    {}["shape"]
except KeyError as error:
    raise ValueError("item 3 cannot be computed") from error
"""


def session(folder: Path, name: str, code: str, **keys: Any) -> str:
    path = folder / f"{name}.py"
    path.write_text(code)
    table = {"name": name, "run": [sys.executable, str(path), str(folder / f"{name}.marks")]} | keys
    return "[[session]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


def shown(batond: Batond, name: str) -> str:
    """What a person sees."""
    command = [sys.executable, "-m", "daemon.cli", "--socket", str(batond.socket), "show", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


RAISES = 'print("the same name")\nraise RuntimeError("of today")\n'


def test_a_failed_session_keeps_what_its_worker_printed_last(batond: Batond) -> None:
    """Also when its log is gone, when a later session of its name printed, and under another daemon."""
    batond.submit(session(batond.folder, "a", RAISES.replace("today", "yesterday")))
    batond.ended("a")
    log = Path(batond.ctl("show", "a")["log_path"])
    log.unlink()
    failure = batond.ctl("show", "a")["failure"]
    assert failure["attempt"] == 1
    assert failure["log_tail"].startswith("the same name\nTraceback (most recent call last):\n")
    assert failure["traceback"].endswith("\nRuntimeError: of yesterday")
    assert batond.stop() == 0
    batond.start()
    assert batond.ctl("show", "a")["failure"] == failure
    batond.submit(session(batond.folder, "a", RAISES))
    batond.wait(lambda event: event["event"] == "session.failed" and event["session"] == "a", times=2)
    later = batond.ctl("show", "a")["failure"]
    assert later["log_tail"].count("the same name") == 1
    assert later["traceback"].endswith("\nRuntimeError: of today")


def test_each_attempt_speaks_for_itself(batond: Batond) -> None:
    """A traceback of an earlier attempt is no reason of a later one's death."""
    batond.submit(session(batond.folder, "a", PROGRAM, max_attempts=1))
    batond.event("session.failed", session="a", attempt=1)
    first = batond.ctl("show", "a")["failure"]
    assert first == {"attempt": 1, "log_tail": "line of attempt 1\n", "traceback": None}
    batond.submit(session(batond.folder, "a", PROGRAM, max_attempts=1))
    batond.event("session.failed", times=2, session="a")
    assert batond.ctl("show", "a")["failure"] == {"attempt": 1, "log_tail": "", "traceback": None}
    assert "it printed nothing" in shown(batond, "a")


def test_what_is_seen_is_the_reason_and_then_the_traceback(batond: Batond) -> None:
    """A log of one endless line, of bytes that are no text and of colours: whole in JSON, and harmless on a screen."""
    (batond.folder / "a.marks").write_text("xx")
    batond.submit(session(batond.folder, "a", PROGRAM))
    batond.ended("a")
    failure = batond.ctl("show", "a")["failure"]
    assert len(failure["log_tail"].encode()) == 16 << 10
    head, _, last = failure["traceback"].rpartition("\n")
    assert last == "ValueError: item 3 cannot be computed"
    assert head.startswith("Traceback (most recent call last):")
    assert "KeyError: 'shape'\n\nThe above exception was the direct cause" in head
    lines = shown(batond, "a").splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("attempt 1 failed (program): "))
    assert "ValueError: item 3 cannot be computed" in lines[at]
    assert lines[at + 1 :] == ["its last traceback:", *failure["traceback"].splitlines()]


def test_an_attempt_that_is_tried_again_is_shown_at_once(batond: Batond) -> None:
    """It need not fail for good; and what became of each attempt is told."""
    settings = batond.folder / "batond.toml"
    batond.stop()
    settings.write_text(settings.read_text().replace("backoff_s = 0.1", "backoff_s = 600.0\nbackoff_cap_s = 600.0"))
    with batond:
        batond.submit(session(batond.folder, "a", PROGRAM, max_attempts=3))
        batond.event("session.retried", session="a")
        answer = batond.ctl("show", "a")
        assert answer["session"]["state"] == "queued"
        assert answer["failure"]["log_tail"] == "line of attempt 1\n"
        assert "SIGKILL" in shown(batond, "a").splitlines()[-3]
        assert shown(batond, "a").splitlines()[-1] == "line of attempt 1"
