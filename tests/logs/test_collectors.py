"""rsyslog and syslog-ng, Debian's packages and units, read a real journal as examples/logs has it: both in one run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.logs import packages
from tests.logs.conforming import assert_conforming
from tests.systemd.machine import OWN, Machine, stand_in

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "logs"
INSTALLED = {"rsyslog": "/etc/rsyslog.d/10-batond.conf", "syslog-ng": "/etc/syslog-ng/conf.d/batond.conf"}
PROGRAM = {"rsyslog": "rsyslogd", "syslog-ng": "syslog-ng"}
COLLECTED = "/var/log/batond.jsonl"
LONG = 8 << 10  # bytes: more than rsyslog takes of a message by itself
RAISES = """
def f(depth):
    try:
        assert depth < 12
        f(depth + 1)
    except Exception as error:
        raise ValueError("x" * 900) from error
f(0)
"""
STORY = {"session.queued", "standby.started", "standby.ready", "session.started"}

Event = dict[str, Any]


@pytest.fixture(params=["rsyslog", "syslog-ng"])
def collector(request: pytest.FixtureRequest, machine: Machine) -> Iterator[str]:
    """One of them, with our file in its folder and started as `apt-get install` leaves it; its name."""
    name: str = request.param
    if (reason := packages.why_not(PROGRAM[name])) is not None:
        pytest.skip(reason)
    machine.write(INSTALLED[name], (EXAMPLES / f"{name}-batond.conf").read_text("utf-8"))
    machine.systemctl("enable", "--now", f"{name}.service")
    yield name
    machine.systemctl("disable", "--now", f"{name}.service")
    machine.run("rm", "-f", COLLECTED)


def lines(text: str) -> list[Event]:
    """The events in it; the last line may be on its way still."""
    return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]


def of(events: list[Event], session: str) -> list[Event]:
    return [event for event in events if event.get("session") == session]


def test_it_passes_on_the_whole_story_of_a_session(machine: Machine, collector: str) -> None:
    """The very lines that the journal has, each once and in their order; a long traceback, too."""
    machine.mark()
    first, second, raises = (f"{which}-by-{collector}" for which in ("first", "second", "raises"))
    program = {"name": raises, "run": [OWN, "-c", RAISES], "max_attempts": 1}
    table = "[[session]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in program.items())
    machine.submit(stand_in(first) + stand_in(second) + table)
    machine.event("session.failed", session=raises)
    emitted = machine.log()

    def collected() -> list[Event]:
        return lines(machine.read(COLLECTED))

    machine.until(lambda: len(of(collected(), raises)) >= len(of(emitted, raises)), f"{raises} in {COLLECTED}")
    assert_conforming(collected())
    for session, end in ((first, "session.finished"), (second, "session.finished"), (raises, "session.failed")):
        story = of(collected(), session)
        assert story == of(emitted, session)
        assert {event["event"] for event in story} >= STORY | {end}
    (traceback,) = (event for event in of(collected(), raises) if event["event"] == "worker.traceback")
    assert len(traceback["trace"]) > LONG
