"""The log: every event by its schema, on real pipes, terminals and full disks, and never in the daemon's way."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import resource
import select
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.logs import EVENTS, SCHEMA, Log, fields, json_schema, line, line_type
from daemon.stories import DaemonStopping, LibrarySpoke, LogDropped, RecordFailed
from states.notes import LaneMoved, ProfileLearned, SessionFailed, SessionQueued
from states.work import Lead, Profile, Session

FIXED = ["ts", "level", "event", "lane", "session", "seq", "schema"]
AT = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)
MOVED = LaneMoved("cpu", "Idle", "Preloading", "Queued", "next", "digits", 1.5)

st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False, width=32))
st.register_type_strategy(int, st.integers(-(2**62), 2**62))
notes = {event: st.from_type(event) for event in EVENTS}


def holes(said: list[dict[str, Any]], count: int) -> int:
    """How many holes the log has; each must stand where its lines are missing, and tell how many they are."""
    wanted = found = 0
    for text in said:
        if text["event"] == "log.dropped":
            wanted += text["lines"]
            found += 1
        else:
            assert text["seq"] == wanted
            wanted += 1
    assert wanted == count
    return found


class Pipe:
    """A pipe and what came out of it, read to its end once its writers are gone."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe()

    def lines(self) -> list[dict[str, Any]]:
        os.close(self.into)
        with os.fdopen(self.out, "rb") as said:
            return [json.loads(text) for text in said]


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.event)
def test_every_event_makes_a_line_of_its_schema(event: type[Any]) -> None:
    """With any values: text of any characters, numbers of any size, nothing where nothing may be."""
    wanted = line_type(event)

    @given(notes[event], st.none() | st.integers(1, 2**62), st.datetimes(timezones=st.just(UTC)))
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def check(note: Any, seq: int | None, at: datetime) -> None:
        into = Pipe()
        log = Log(into.into, style="json", level="debug")
        log.emit(note, seq, at)
        assert log.close()
        os.close(into.into)
        with os.fdopen(into.out, "rb") as said:
            text = said.read()
        assert text.count(b"\n") == 1
        msgspec.json.decode(text, type=wanted)
        read = json.loads(text)
        assert list(read)[:7] == FIXED
        assert (read["event"], read["level"], read["schema"]) == (event.event, event.level, SCHEMA)
        assert {key: read[key] for key in fields(note)} == json.loads(json.dumps(fields(note)))
        assert len(fields(note)) + 3 == len(read)

    check()


def test_the_schema_names_every_event_and_is_one_document() -> None:
    schema = json_schema()
    named = {part["properties"]["event"]["enum"][0] for part in schema["$defs"].values()}
    assert named == {event.event for event in EVENTS}
    assert len(EVENTS) == len(named)
    for part in schema["$defs"].values():
        assert part["additionalProperties"] is False
        assert set(part["required"]) == set(part["properties"]) >= set(FIXED)
        assert part["description"]
    assert all(re.fullmatch(r"[a-z]+\.[a-z_]+", name) for name in named)
    json.dumps(schema)


def test_a_line_that_breaks_its_schema_is_caught() -> None:
    sound = line(fields(MOVED), 7, AT)
    wanted = line_type(LaneMoved)
    msgspec.json.decode(json.dumps(sound), type=wanted)
    for wrong in ({"waited_s": "1"}, {"more": 1}, {"event": "lane.held"}, {"level": "debug"}, {"ts": "yesterday"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(json.dumps(sound | wrong), type=wanted)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps({key: sound[key] for key in sound if key != "guard"}), type=wanted)


def test_lines_as_they_are_written_down_in_the_design() -> None:
    assert line(fields(MOVED), 7, AT) == {
        "ts": "2026-03-01T12:30:15.250000Z",
        "level": "info",
        "event": "lane.moved",
        "lane": "cpu",
        "session": "digits",
        "seq": 7,
        "schema": 1,
        "from": "Idle",
        "to": "Preloading",
        "cause": "Queued",
        "guard": "next",
        "waited_s": 1.5,
    }
    session = Session("digits", 3.0, priority=2, total=90, cursor=40, attempt=1, lead=Lead(seconds=3.0))
    assert fields(SessionQueued(session, "handed back", "cpu")) == {
        "event": "session.queued",
        "level": "info",
        "lane": "cpu",
        "session": "digits",
        "reason": "handed back",
        "cursor": 40,
        "total": 90,
        "attempt": 1,
        "priority": 2,
        "device": "any",
    }
    assert fields(ProfileLearned("m@cpu", Profile((0.1 + 0.2,), (), 5))) == {
        "event": "profile.learned",
        "level": "debug",
        "lane": None,
        "session": None,
        "key": "m@cpu",
        "prepared_s": [0.3],
        "alone_s": [],
        "peak_bytes": 5,
        "host_peak_bytes": 0,
    }


def test_a_name_that_is_not_utf8_is_logged_with_escapes(pipe: Pipe) -> None:
    log = Log(pipe.into)
    log.emit(RecordFailed("cannot read caf\udce9"))
    assert log.close()
    assert pipe.lines()[0]["reason"] == "cannot read caf\\udce9"


def test_below_the_level_nothing_is_logged(pipe: Pipe) -> None:
    log = Log(pipe.into, level="warning")
    log.emit(MOVED)
    log.emit(RecordFailed("x"))
    assert log.close()
    assert [said["event"] for said in pipe.lines()] == ["record.failed"]


def test_lines_of_many_threads_stay_whole_and_in_their_order(pipe: Pipe) -> None:
    log = Log(pipe.into)

    def emit(thread: int) -> None:
        for number in range(300):
            log.emit(DaemonStopping(f"{thread}", (str(number),)))

    threads = [threading.Thread(target=emit, args=(number,)) for number in range(4)]
    said: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: said.extend(json.loads(text) for text in os.fdopen(pipe.out, "rb")))
    for thread in (reader, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    assert log.close()
    os.close(pipe.into)
    reader.join()
    for number in range(4):
        assert [int(text["sessions"][0]) for text in said if text["reason"] == str(number)] == list(range(300))


def test_a_pipe_that_nobody_reads_costs_lines_and_no_time(pipe: Pipe) -> None:
    """The daemon's loop goes on; when the reader is back it is told how many lines it missed, and where."""
    log = Log(pipe.into, buffer_bytes=1 << 16)
    for number in range(5000):
        log.emit(MOVED, number)  # if it waited, it would wait for ever
    said: list[dict[str, Any]] = []
    told = threading.Event()

    def read() -> None:
        with os.fdopen(pipe.out, "rb") as lines:
            for text in lines:
                said.append(json.loads(text))
                if said[-1]["event"] == "log.dropped":
                    told.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert told.wait(30)  # without a further event
    log.emit(MOVED, 5000)
    assert log.close(30)
    os.close(pipe.into)
    reader.join()
    assert holes(said, 5001)
    assert {text["level"] for text in said if text["event"] == "log.dropped"} == {"warning"}


def test_closing_does_not_wait_for_a_reader_that_never_comes(pipe: Pipe) -> None:
    log = Log(pipe.into)
    for number in range(3000):
        log.emit(MOVED, number)
    began = time.monotonic()
    assert not log.close(0.2)
    assert time.monotonic() - began < 10
    os.close(pipe.out)  # lets the writer's thread go


def test_a_pipe_whose_reader_is_gone_harms_nobody(pipe: Pipe) -> None:
    log = Log(pipe.into)
    os.close(pipe.out)
    for number in range(20_000):
        log.emit(MOVED, number)
    assert not log.close()
    log.emit(MOVED)
    os.close(pipe.into)


def test_a_pipe_that_was_made_nonblocking_is_written_whole(pipe: Pipe) -> None:
    os.set_blocking(pipe.into, False)
    log = Log(pipe.into)
    for number in range(3000):
        log.emit(MOVED, number)
    said: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: said.extend(json.loads(text) for text in os.fdopen(pipe.out, "rb")))
    reader.start()
    assert log.close(30)
    os.close(pipe.into)
    reader.join()
    assert [text["seq"] for text in said] == list(range(3000))


def test_a_full_disk_costs_lines_until_there_is_room(tmp_path: Path) -> None:
    """In a process of its own, whose files may not grow beyond a limit that is lifted later."""
    code = """
        import os, resource, signal, sys, time
        from daemon import backlog, logs
        from daemon.stories import DaemonStopped
        backlog.RETRY_S = 0.05
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        log = logs.Log(fd, buffer_bytes=20_000)
        for number in range(1000):
            log.emit(DaemonStopped(0.0, number), number)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        deadline = time.monotonic() + 30
        while b"log.dropped" not in open(sys.argv[1], "rb").read() and time.monotonic() < deadline:
            time.sleep(0.02)
        log.emit(DaemonStopped(0.0, 1000), 1000)
        assert log.close(30)
    """
    path = tmp_path / "log"
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(path)], check=True, timeout=60)
    said = [json.loads(text) for text in path.read_text().splitlines()]
    assert holes(said, 1001)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)


def shown(terminal: tuple[int, int], log: Log) -> str:
    ours, theirs = terminal
    assert log.close()
    os.close(theirs)
    text = b""
    while select.select([ours], [], [], 10)[0]:
        try:
            some = os.read(ours, 65536)
        except OSError:  # what a terminal says once its other side is closed
            break
        if not some:
            break
        text += some
    return text.decode()


@pytest.fixture
def in_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts this process into a time zone."""

    def enter(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield enter
    monkeypatch.undo()
    time.tzset()


def test_a_terminal_gets_colours_and_no_empty_fields(
    terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch, in_zone: Callable[[str], None]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    in_zone("Etc/GMT-2")  # two hours east of Greenwich
    log = Log(terminal[1])
    assert log.style == "pretty"
    log.emit(MOVED, 7, AT)
    log.emit(RecordFailed("no space left on device"), None, AT)
    text = shown(terminal, log)
    assert "\x1b[" in text
    first, second = (" ".join(plain.split()) for plain in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines())
    assert first == (
        "2026-03-01 14:30:15.250+02:00 [info ] lane.moved lane=cpu session=digits seq=7 "
        "from=Idle to=Preloading cause=Queued guard=next waited_s=1.5"
    )
    assert second.endswith("[error ] record.failed reason='no space left on device'")


def test_no_color_is_obeyed(terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    log = Log(terminal[1])
    log.emit(MOVED)
    assert "\x1b" not in shown(terminal, log)


def test_what_a_worker_says_cannot_steer_the_terminal(
    terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    log = Log(terminal[1])
    log.emit(SessionFailed("a", "cpu", "program", "\x1b[2J\r\ngone\x9b31m", None, 1))
    log.emit(SessionFailed("a", "cpu", "program", "\x1b[2J\x9b31m", None, 1))
    text = shown(terminal, log)
    assert not re.search(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x80-\x9f]", text)
    assert text.count("\n") == 2
    assert r"reason=\x1b[2J\x9b31m" in text
    assert r"\x1b[2J\r\ngone\x9b31m" in text.replace("\\\\", "\\")


def test_json_can_be_asked_for_on_a_terminal(terminal: tuple[int, int]) -> None:
    log = Log(terminal[1], style="json")
    log.emit(MOVED, 7, AT)
    assert json.loads(shown(terminal, log))["seq"] == 7


def test_a_pipe_gets_json_unless_pretty_is_asked_for(pipe: Pipe) -> None:
    log = Log(pipe.into, style="pretty")
    log.emit(MOVED)
    assert log.close()
    os.close(pipe.into)
    with os.fdopen(pipe.out) as said:
        text = said.read()
    assert "lane.moved" in text
    assert "\x1b" not in text
    assert not text.startswith("{")


def test_what_libraries_say_is_logged_too(pipe: Pipe) -> None:
    kept = logging.root.handlers[:], logging.root.level
    log = Log(pipe.into)
    try:
        log.take_warnings()
        logging.getLogger("asyncio").warning("slow: %s", "x\ny")
        logging.getLogger("asyncio").info("not this")
        logging.getLogger("broken").warning("%d items", "many")
        warnings.warn("old", stacklevel=1)
        try:
            int("inner")
        except ValueError:
            logging.getLogger("lib").exception("outer")
    finally:
        logging.captureWarnings(capture=False)
        logging.root.handlers, level = kept
        logging.root.setLevel(level)
    assert log.close()
    said = pipe.lines()
    assert [(text["event"], text["logger"]) for text in said] == [
        ("library.spoke", "asyncio"),
        ("library.spoke", "py.warnings"),
        ("library.spoke", "lib"),
    ]
    assert said[0]["message"] == "slow: x\ny"
    assert "old" in said[1]["message"]
    assert said[2]["trace"].endswith("literal for int() with base 10: 'inner'")


def test_events_of_the_shell_are_declared_as_the_cores_are() -> None:
    for event in (LogDropped, LibrarySpoke):
        assert event in EVENTS
    for event in EVENTS:
        assert event.level in ("debug", "info", "warning", "error")
        assert event.__dataclass_params__.frozen
        own = set(line_type(event).__struct_fields__) - {"lane", "session", "ts", "level", "seq", "schema"}
        assert not own & {"event", "method_name"}  # what structlog calls its own arguments


def test_an_event_costs_little() -> None:
    """A handover logs some ten of them; what they cost is not to be seen beside its milliseconds."""
    into = os.open(os.devnull, os.O_WRONLY)
    log = Log(into, buffer_bytes=1 << 30)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_utime
    for number in range(2000):
        log.emit(MOVED, number)
    each = (resource.getrusage(resource.RUSAGE_THREAD).ru_utime - before) / 2000
    assert log.close(30)
    os.close(into)
    assert each < 0.001
