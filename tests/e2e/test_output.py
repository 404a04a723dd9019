"""The log of the whole daemon: what a session prints is told or counted, and so is what the log itself lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from batond import ROOT, TIMEOUT_S, Batond

LINE = "step: loss nan\n"
TRACE = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n    f()\nValueError: no\n'
LINES = 1_000_000
PRINTS = f"""
import sys, time
for part in ({LINE!r} * {LINES}, {LINE!r} * {LINES} + {TRACE!r} + {LINE!r} * 60):
    sys.stdout.write(part)
    sys.stdout.flush()
    time.sleep(2.5)  # it is looked at in between
"""


def test_of_what_a_session_prints_no_byte_is_missing_unsaid(batond: Batond) -> None:
    table = {"name": "loud", "run": [sys.executable, "-S", "-c", PRINTS]}
    batond.submit("[[session]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()))
    batond.event("worker.exited", session="loud")
    log = batond.folder / "logs" / "loud.log"
    assert log.stat().st_size <= 8 << 20, "it was trimmed"
    (trace,) = batond.told("worker.traceback", session="loud")
    assert trace["exception"] == "ValueError: no"
    told = [trace["trace"], *(event["text"] for event in batond.told("worker.output", session="loud"))]
    left_out = sum(event["size_bytes"] for event in batond.told("worker.suppressed", session="loud"))
    assert sum(len(text) + 1 for text in told) + left_out == len(LINE) * (2 * LINES + 60) + len(TRACE)


def test_a_log_that_did_not_get_out_is_what_the_next_one_begins_with(batond: Batond) -> None:
    assert batond.stop() == 0
    unread, into = os.pipe()
    os.close(unread)
    with subprocess.Popen(batond.process.args, cwd=ROOT, stdout=into, start_new_session=True) as deaf:
        os.close(into)
        until = time.monotonic() + TIMEOUT_S
        while not batond.socket.exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        batond.ctl("status")
        deaf.terminate()
    begun = len(batond.events)
    batond.start()
    assert batond.events[begun]["event"] == "log.dropped"
