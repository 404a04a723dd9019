"""`batonctl show` of a session that failed: the reason, then the traceback, then nothing that a terminal would obey."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from daemon.ctl import screen, screen_show
from daemon.results import Failure, Row, ShowResult

TS = "2026-03-01T12:00:00.000000Z"
RETRIED = {"event": "session.retried", "attempt": 1, "kind": "crash", "reason": "was killed by SIGSEGV"}
FAILED = {"event": "session.failed", "attempt": 2, "kind": "program", "reason": "ValueError: item 3"}
TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 3, in f\n    g()\nValueError: item 3'


def shown(capsys: pytest.CaptureFixture[str], failure: Failure | None, *events: dict[str, Any]) -> list[str]:
    """The lines that are printed after the session's events."""
    history = tuple({"ts": TS, "level": "info", "lane": "cpu", "session": "s", "seq": 1, **each} for each in events)
    row = Row(name="s", state="failed", reason="ValueError: item 3", attempt=2, max_attempts=3)
    screen_show.show_session(ShowResult(session=row, spec={}, history=history, log_path=None, failure=failure))
    lines = capsys.readouterr().out.splitlines()
    last = max((index for index, line in enumerate(lines) if "session." in line), default=len(lines) - 1)
    return lines[last + 1 :]


def test_the_reason_is_first_and_then_the_whole_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, Failure(attempt=2, log_tail=f"epoch 1\n{TRACEBACK}\nnoise\n", traceback=TRACEBACK), FAILED)
    assert lines == [
        "",
        "attempt 2 failed (program): ValueError: item 3",
        "its last traceback:",
        *TRACEBACK.split("\n"),
    ]


def test_without_a_traceback_it_is_what_was_printed_last(capsys: pytest.CaptureFixture[str]) -> None:
    tail = "".join(f"line {number}\n" for number in range(100)) + "\n"
    lines = shown(capsys, Failure(attempt=2, log_tail=tail, traceback=None), FAILED)
    assert lines[2:] == ["what it printed last:", *(f"line {number}" for number in range(80, 100))]
    lines = shown(capsys, Failure(attempt=2, log_tail=" \n", traceback=None), FAILED)
    assert lines[2:] == ["it printed nothing"]


def test_each_attempt_has_its_line_where_there_were_several(capsys: pytest.CaptureFixture[str]) -> None:
    failure = Failure(attempt=1, log_tail="", traceback=None)
    started = {"event": "session.started", "attempt": 2}
    lines = shown(capsys, failure, RETRIED, started, {"event": "session.finished"})
    when = screen.clock(datetime.fromisoformat(TS))
    assert lines == [
        "",
        f"attempt 1  {when}  failed (crash): was killed by SIGSEGV",
        f"attempt 2  {when}  done",
        "",
        "attempt 1 failed (crash): was killed by SIGSEGV",
        "it printed nothing",
    ]
    lines = shown(capsys, failure, RETRIED, FAILED)
    assert lines[1:3] == [
        f"attempt 1  {when}  failed (crash): was killed by SIGSEGV",
        f"attempt 2  {when}  failed (program): ValueError: item 3",
    ]


def test_one_whose_event_is_out_of_the_history_is_shown_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, Failure(attempt=2, log_tail="", traceback=TRACEBACK), {"event": "session.queued"})
    assert lines[1:3] == ["attempt 2 failed", "its last traceback:"]


def test_a_session_that_did_not_fail_has_nothing_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, None, {"event": "session.finished"}) == []


def test_what_a_terminal_would_obey_does_not_get_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Colours, titles, moved cursors, bells, links, text that runs backwards; and of a bar that was drawn again and
    again only the last state."""
    tail = "\n".join(
        [
            "\x1b[1m\x1b[31mred\x1b[0m and \x1b]0;a title\x07bold",
            "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ \x1b[2J\x1b[Hhome\x07",
            "\r 10 %\r 50 %\r100 %\r",
            "back\x08\x08\x08\x08forth",
            "tab\there \x9b31m \u202egnp.exe [bold]no markup[/bold] :smile:",
            "\x1b",
            "\x00\x01 end",
        ]
    )
    lines = shown(capsys, Failure(attempt=2, log_tail=tail, traceback=None), FAILED)[3:]
    assert lines == [
        "red and bold",
        "link home",
        "100 %",
        "forth",
        "tab     here  31m  gnp.exe [bold]no markup[/bold] :smile:",
        "",
        "   end",
    ]


def test_a_line_without_end_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = shown(capsys, Failure(attempt=2, log_tail="x" * 16384, traceback=None), FAILED)[3:]
    assert line == "x" * 1000 + "… (15384 more characters; --json has them all)"
