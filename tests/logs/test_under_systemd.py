"""batond's log in a real journal: found by its fields, asked as docs/logs.md says, and while the journal is away."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from daemon.stories import EVENTS
from tests.logs import packages
from tests.logs.asked import queries
from tests.logs.conforming import assert_conforming
from tests.logs.make_sample import SAMPLE
from tests.systemd.machine import OWN, Machine, stand_in

LONG = 20_000  # characters of an exception's text: a line of it is cut
JOURNAL = ("systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-journald.service")
FEED = """
import json, sys
from collections import deque
from daemon.journal import Journal, entry
for text in open(sys.argv[1], "rb"):
    told = json.loads(text)
    Journal().write(deque([entry(text.rstrip(), told["level"], told)]))
"""


def program(name: str, code: str, **keys: Any) -> str:
    table = {"name": name, "run": [OWN, "-c", code], "max_attempts": 1} | keys
    return "[[session]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


def ask(machine: Machine, *arguments: str) -> list[dict[str, Any]]:
    machine.run("journalctl", "--sync")
    said = machine.run("journalctl", "-o", "json", "--all", "--no-pager", "-q", *arguments)
    return [json.loads(line) for line in said.splitlines()]


def test_the_journal_finds_events_by_their_fields(machine: Machine) -> None:
    machine.submit(stand_in("first") + stand_in("second"))
    machine.event("session.finished", session="second")
    entries = ask(machine, "BATON_LANE=cpu", "BATON_TO=Swapping")
    assert {entry["BATON_SESSION"] for entry in entries} >= {"first", "second"}
    assert {(entry["BATON_LANE"], entry["BATON_TO"]) for entry in entries} == {("cpu", "Swapping")}
    (finished,) = ask(machine, "BATON_EVENT=session.finished", "BATON_SESSION=first")
    assert finished["PRIORITY"] == "6"
    assert finished["SYSLOG_IDENTIFIER"] == "batond"
    assert finished["_SYSTEMD_UNIT"] == "batond.service"
    assert finished["_TRANSPORT"] == "journal", "an entry, not a line of standard output"
    told = json.loads(finished["MESSAGE"])
    assert (told["items"], str(told["seq"])) == (20, finished["BATON_SEQ"])


def test_a_handover_is_there_with_its_fields(machine: Machine) -> None:
    """Each way that the lane went, and what came of it: fields, priority, and the whole event as the message."""
    machine.submit(stand_in("from") + stand_in("to"))
    machine.event("session.finished", session="to")
    moves = ask(machine, "BATON_LANE=cpu", "BATON_EVENT=lane.moved")
    assert all(before["BATON_TO"] == after["BATON_FROM"] for before, after in pairwise(moves))
    (begun,) = ask(machine, "BATON_FROM=Swapping", "BATON_TO=Running", "BATON_SESSION=to")
    assert begun in moves
    (handover,) = ask(machine, "BATON_LANE=cpu", "BATON_EVENT=handover.completed", "BATON_SESSION=to")
    assert handover["BATON_FROM_SESSION"] == "from"
    for entry in (*moves, handover):
        told = json.loads(entry["MESSAGE"])
        assert_conforming([told])
        assert entry["PRIORITY"] == "6"
        plain = {key: value for key, value in told.items() if isinstance(value, str | int | float)}
        for key in plain.keys() - {"ts", "level"}:
            assert entry[f"BATON_{key.upper()}"] == str(plain[key])


def test_what_a_worker_prints_is_found_by_its_session(machine: Machine) -> None:
    machine.submit(program("loud", f"print('hel' + 'lo', flush=True); raise ValueError('x' * {LONG})"))
    machine.event("session.failed", session="loud")
    (output,) = ask(machine, "BATON_SESSION=loud", "BATON_EVENT=worker.output")
    assert output["BATON_TEXT"] == "hello"
    (traceback,) = ask(machine, "BATON_SESSION=loud", "BATON_EVENT=worker.traceback")
    assert traceback["PRIORITY"] == "4"
    assert json.loads(traceback["MESSAGE"])["exception"].startswith("ValueError: xxx")


def test_a_journal_that_stands_still_holds_nothing_up(machine: Machine) -> None:
    journald = machine.show("MainPID", "systemd-journald.service")
    assert int(journald) > 1
    machine.run("kill", "-STOP", journald)
    try:
        machine.submit("".join(stand_in(f"still{number}", items=5) for number in range(12)))
        machine.until(lambda: machine.ctl("show", "still11")["session"]["state"] == "done", "the last one's end")
    finally:
        machine.run("kill", "-CONT", journald)
    machine.until(lambda: ask(machine, "BATON_EVENT=session.finished", "BATON_SESSION=still11"), "its entry")


def test_a_journal_that_is_restarted_loses_nothing(machine: Machine) -> None:
    """Four times, and once with its sockets: then there is nobody to send to, and the daemon holds all of it back.

    The sockets are closed while nothing is sent: what the kernel holds for a reader that goes away, it drops, unseen.
    What it emitted is what its record has: both are written of the same decision, and only one of them in the journal.
    """
    machine.mark()
    daemon = machine.main_pid()
    begun = machine.ctl("status")["seq"]
    names = [f"restart{number}" for number in range(30)]
    machine.submit("".join(stand_in(name, items=5) for name in names[:15]))

    def done(name: str) -> None:
        machine.until(lambda: machine.ctl("show", name)["session"]["state"] == "done", f"the end of {name}")

    for name in names[3:15:3]:
        done(name)
        machine.systemctl("restart", "systemd-journald.service")
    machine.event("worker.exited", session=names[14])
    machine.systemctl("stop", *JOURNAL)
    machine.submit("".join(stand_in(name, items=5) for name in names[15:]))
    done(names[24])
    machine.systemctl("start", *JOURNAL)
    done(names[-1])
    machine.event("worker.exited", session=names[-1])
    recorded = machine.run("batonctl", "events", "--since", str(begun), "--json").splitlines()
    emitted = [told for told in map(json.loads, recorded) if told["level"] != "debug"]
    last = emitted[-1]["seq"]
    machine.until(lambda: any(told["seq"] == last for told in machine.log()), "the last of them in the journal")
    journaled = [told for told in machine.log() if told["seq"] is None or told["seq"] <= last]
    for told in (*emitted, *journaled):
        del told["ts"]  # of the record, and of the line
    kept = {event.event for event in EVENTS if event.__module__ == "states.notes"}  # others are only told
    assert [told for told in journaled if told["event"] in kept] == emitted
    assert [told["event"] for told in journaled if told["seq"] is None] == [], "as log.dropped is"
    assert {told["session"] for told in journaled if told["event"] == "session.finished"} == set(names)
    assert machine.main_pid() == daemon


def test_a_batond_that_ended_without_a_journal_is_told_of_by_the_next_that_has_one(machine: Machine) -> None:
    """The one between them, which systemd started to log into nothing, neither tells it nor forgets it."""
    machine.mark()
    machine.systemctl("stop", *JOURNAL)
    machine.systemctl("restart", "batond.service")
    machine.systemctl("reset-failed", "systemd-journald.service")  # it has a limit of starts
    machine.systemctl("start", *JOURNAL)
    machine.systemctl("restart", "batond.service")
    assert machine.event("log.dropped")["lines"] >= 2, "daemon.stopping and daemon.stopped"
    machine.event("daemon.started")


def test_every_line_in_the_journal_conforms(machine: Machine) -> None:
    entries = ask(machine, "SYSLOG_IDENTIFIER=batond", "_SYSTEMD_UNIT=batond.service")
    assert len(entries) > 20
    assert_conforming(json.loads(entry["MESSAGE"]) for entry in entries)


@pytest.fixture(scope="module")
def sampled(machine: Machine) -> Machine:
    """With the kept log in its journal too."""
    if (reason := packages.why_not("jq")) is not None:
        pytest.skip(reason)
    machine.write("/srv/sample.jsonl", SAMPLE.read_text("utf-8"))
    machine.run(OWN, "-c", FEED, "/srv/sample.jsonl")
    machine.run("journalctl", "--sync")
    return machine


@pytest.mark.parametrize("question", queries("sh"))
def test_the_journal_answers(sampled: Machine, question: str) -> None:
    said = sampled.run("bash", "-o", "pipefail", "-c", queries("sh")[question])
    assert said.strip()
