"""The log of the whole daemon: what a session prints is told or counted, and so is what the log itself lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

from batond import ROOT, TIMEOUT_S, Batond

LINE = "step: loss nan\n"
TRACE = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n    f()\nValueError: no\n'
LINES = 1_000_000
PRINTS = f"""
import os, sys, time
for part, seen in (({LINE!r} * {LINES}, "told"), ({LINE!r} * {LINES} + {TRACE!r} + {LINE!r} * 60, "trimmed")):
    sys.stdout.write(part)
    sys.stdout.flush()
    while not os.path.exists(os.path.join(sys.argv[1], seen)): time.sleep(0.01)
"""


def test_of_what_a_session_prints_no_byte_is_missing_unsaid(batond: Batond) -> None:
    """It is looked at in between: while it runs it is told, and its log is cut back where that is over 16 MiB."""
    table = {"name": "loud", "run": [sys.executable, "-S", "-c", PRINTS, str(batond.folder)]}
    batond.submit("[[session]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()))
    batond.event("worker.output", session="loud")
    (batond.folder / "told").touch()
    log = batond.folder / "logs" / "loud.log"
    batond.event("worker.traceback", session="loud")
    wait_for(lambda: log.stat().st_size <= 16 << 20)
    (batond.folder / "trimmed").touch()
    batond.event("worker.exited", session="loud")
    (trace,) = batond.told("worker.traceback", session="loud")
    assert trace["exception"] == "ValueError: no"
    told = [trace["trace"], *(event["text"] for event in batond.told("worker.output", session="loud"))]
    left_out = sum(event["size_bytes"] for event in batond.told("worker.suppressed", session="loud"))
    assert sum(len(text) + 1 for text in told) + left_out == len(LINE) * (2 * LINES + 60) + len(TRACE)


def wait_for(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_log_that_did_not_get_out_is_what_the_next_one_begins_with(batond: Batond) -> None:
    assert batond.stop() == 0
    unread, into = os.pipe()
    os.close(unread)
    with subprocess.Popen(batond.process.args, cwd=ROOT, stdout=into, start_new_session=True) as deaf:
        os.close(into)
        wait_for(batond.socket.exists)
        batond.ctl("status")
        deaf.terminate()
    begun = len(batond.events)
    batond.start()
    assert batond.events[begun]["event"] == "log.dropped"
