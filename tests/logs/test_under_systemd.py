"""batond's log in a real journal, and from there through rsyslog and syslog-ng, with the files that are documented."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.logs.asked import queries
from tests.logs.conforming import assert_conforming
from tests.logs.make_sample import SAMPLE
from tests.systemd.machine import OWN, Machine, stand_in

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "logs"
COLLECTED = "/var/log/batond.jsonl"
LONG = 20_000  # characters of an exception's text: more than some collectors take by themselves
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


def test_every_line_in_the_journal_conforms(machine: Machine) -> None:
    entries = ask(machine, "SYSLOG_IDENTIFIER=batond", "_SYSTEMD_UNIT=batond.service")
    assert len(entries) > 20
    assert_conforming(json.loads(entry["MESSAGE"]) for entry in entries)


@pytest.fixture(scope="module")
def sampled(machine: Machine) -> Machine:
    """With the kept log in its journal too."""
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    machine.write("/srv/sample.jsonl", SAMPLE.read_text("utf-8"))
    machine.run(OWN, "-c", FEED, "/srv/sample.jsonl")
    machine.run("journalctl", "--sync")
    return machine


@pytest.mark.parametrize("question", queries("sh"))
def test_the_journal_answers(sampled: Machine, question: str) -> None:
    said = sampled.run("bash", "-o", "pipefail", "-c", queries("sh")[question])
    assert said.strip()


def collected(machine: Machine, session: str) -> list[dict[str, Any]]:
    """What the collector wrote, once it has written of that session's end."""
    ends = f'"session":"{session}"', f'"session": "{session}"'

    def read() -> list[str]:
        lines = machine.read(COLLECTED).splitlines()
        return lines if any("session.failed" in line and any(end in line for end in ends) for line in lines) else []

    return [json.loads(line) for line in machine.until(read, f"the end of {session} in {COLLECTED}")]


def shipped(machine: Machine, session: str) -> None:
    """One session's events come through, whole and once, a long one too."""
    machine.submit(program(session, f"raise ValueError('x' * {LONG})"))
    machine.event("session.failed", session=session)
    lines = [line for line in collected(machine, session) if line.get("session") == session]
    assert_conforming(lines)
    assert [line["event"] for line in lines].count("worker.traceback") == 1
    assert [line["seq"] for line in lines if line["event"] == "session.failed"] == [
        event["seq"] for event in machine.told("session.failed", session=session)
    ]
    machine.run("rm", "-f", COLLECTED)


def test_rsyslog_passes_the_lines_on(machine: Machine) -> None:
    if shutil.which("rsyslogd", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("rsyslog is not installed")
    machine.write("/etc/rsyslog.d/10-batond.conf", (EXAMPLES / "rsyslog-batond.conf").read_text("utf-8"))
    checked = machine.run("rsyslogd", "-N1")
    assert "error" not in checked
    machine.run("systemd-run", "--unit=rsyslogd", "rsyslogd", "-n")
    try:
        shipped(machine, "by-rsyslog")
    finally:
        machine.systemctl("stop", "rsyslogd.service", status=None)


def test_syslog_ng_passes_the_lines_on(machine: Machine) -> None:
    if shutil.which("syslog-ng", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("syslog-ng is not installed")
    machine.write("/etc/syslog-ng/conf.d/batond.conf", (EXAMPLES / "syslog-ng-batond.conf").read_text("utf-8"))
    machine.run("syslog-ng", "--syntax-only")
    machine.run("systemd-run", "--unit=syslog-ngd", "syslog-ng", "-F")
    try:
        shipped(machine, "by-syslog-ng")
    finally:
        machine.systemctl("stop", "syslog-ngd.service", status=None)
