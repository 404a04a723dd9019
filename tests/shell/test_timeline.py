"""`batonctl timeline` as people run it: what it writes, what it says, and what it refuses in one line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import click
import pytest

from daemon.ctl.timeline import ALL, When
from tests.shell.batonctl_runs import BATONCTL, batonctl, ended, environment, out, submitted
from tests.shell.control_stage import PATIENCE_S, Line, Stage
from tests.shell.test_timeline_trace import assert_well_formed


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage
        assert stage.bugs == []


@pytest.fixture
def ran(stage: Stage) -> Stage:
    """A stage on which two sessions ran, one after the other."""
    submitted(stage, "a", "b")
    ended(stage, "a")
    ended(stage, "b")
    return stage


def refused(stage: Stage, *arguments: str, status: int = 1) -> str:
    """What is said on standard error, which is one line."""
    done = batonctl(stage, "timeline", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    return done.stderr


def test_a_trace_is_written_and_said_in_a_line(ran: Stage, tmp_path: Path) -> None:
    said = out(ran, "timeline", "-o", str(tmp_path / "t.json"))
    assert said == (
        f"{tmp_path}/t.json: 2 sessions, 1 handover on 1 lane; "
        "open it at https://ui.perfetto.dev (it stays on your machine)\n"
    )
    assert_well_formed(json.loads((tmp_path / "t.json").read_text()))


def test_a_page_is_written_with_everything_inside(ran: Stage, tmp_path: Path) -> None:
    assert "2 sessions, 1 handover on 1 lane; open it in a browser" in out(
        ran, "timeline", "-o", str(tmp_path / "t.html")
    )
    page = (tmp_path / "t.html").read_text()
    assert len(page) < 6_000_000
    assert 'src="http' not in page
    assert [path.name for path in tmp_path.glob(".t.html*")] == [], "nothing half-made is left"


def test_an_empty_record_is_a_picture_that_says_so(stage: Stage, tmp_path: Path) -> None:
    said = out(stage, "timeline", "-o", str(tmp_path / "t.html"))
    assert "0 sessions, 0 handovers on 0 lanes" in said


def test_a_program_reads_the_record_as_the_socket_tells_it(ran: Stage, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in out(ran, "timeline", "--json", "-o", str(tmp_path / "t.json")).splitlines()]
    assert lines[-1] == {"last": True}
    notes = [note for line in lines for told in line.get("decisions", []) for note in told["notes"]]
    assert {"session.started", "handover.completed"} <= {note["event"] for note in notes}
    assert (tmp_path / "t.json").exists()


def test_a_name_of_another_kind_is_refused_before_anything_is_asked(stage: Stage, tmp_path: Path) -> None:
    wrong = refused(stage, "-o", str(tmp_path / "t.png"))
    assert wrong.endswith("'.png' is not known here; give a name that ends in .html or .json\n")
    wrong = refused(stage, "-o", "/dev/full")
    assert wrong == (
        "batonctl: cannot write /dev/full: its name does not say as what; give a name that ends in .html or .json\n"
    )


def test_a_file_that_cannot_be_written_is_said_and_left_as_it_was(ran: Stage, tmp_path: Path) -> None:
    wrong = refused(ran, "-o", str(tmp_path / "no" / "where" / "t.json"))
    assert wrong == (
        f"batonctl: cannot write {tmp_path}/no/where/t.json: no such file or directory; name another file with -o\n"
    )
    (tmp_path / "folder.json").mkdir()
    assert "is a directory" in refused(ran, "-o", str(tmp_path / "folder.json"), status=2)


def test_a_folder_that_takes_no_file_is_said(ran: Stage) -> None:
    wrong = refused(ran, "-o", "/proc/t.json")
    assert wrong.startswith("batonctl: cannot write /proc/t.json: ")
    assert wrong.count("\n") == 1


def test_what_is_there_already_is_written_to_and_keeps_its_mode(ran: Stage, tmp_path: Path) -> None:
    """As if a shell had written it: a link leads where it leads, a pipe is a pipe, what was private stays so."""
    kept, link = tmp_path / "kept.json", tmp_path / "link.json"
    kept.write_text("before")
    kept.chmod(0o600)
    link.symlink_to(kept)
    out(ran, "timeline", "-o", str(link))
    assert link.is_symlink()
    assert_well_formed(json.loads(kept.read_text()))
    assert kept.stat().st_mode & 0o777 == 0o600
    dangling = tmp_path / "dangling.json"
    dangling.symlink_to(tmp_path / "new.json")
    out(ran, "timeline", "-o", str(dangling))
    assert_well_formed(json.loads((tmp_path / "new.json").read_text()))
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    out(ran, "timeline", "-o", str(pipe))
    reader.join()
    assert pipe.is_fifo()
    assert_well_formed(json.loads(read[0]))


def test_a_device_that_is_full_is_said_and_stays_a_device(ran: Stage, tmp_path: Path) -> None:
    link = tmp_path / "full.json"
    link.symlink_to("/dev/full")
    wrong = refused(ran, "-o", str(link))
    assert wrong == f"batonctl: cannot write {link}: no space left on device; name another file with -o\n"
    assert link.is_symlink()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_in_the_midst_leaves_no_half_of_a_file(tmp_path: Path, number: signal.Signals) -> None:
    """What listens there takes the question and says nothing: the file is begun by then."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        command = (*BATONCTL, "timeline", "-o", str(tmp_path / "t.json"))
        with subprocess.Popen(command, env=environment(path), stderr=subprocess.DEVNULL) as asking:
            client, _ = server.accept()
            with client:
                assert client.recv(1 << 16)
                assert [each for each in tmp_path.iterdir() if each.name.startswith(".t.json.")]
                asking.send_signal(number)
                status = asking.wait(PATIENCE_S)
    assert status == (130 if number is signal.SIGINT else -number)
    assert list(tmp_path.iterdir()) == [path]


def test_a_lane_that_is_not_told_of_is_refused_with_those_that_are(ran: Stage, tmp_path: Path) -> None:
    wrong = refused(ran, "--lane", "gpu7", "-o", str(tmp_path / "t.json"))
    assert wrong == "batonctl: the record of that time tells of no lane gpu7; it tells of cpu\n"
    assert [path.name for path in tmp_path.iterdir() if "t.json" in path.name] == [], "not even a part of it"
    assert "1 lane" in out(ran, "timeline", "--lane", "cpu", "-o", str(tmp_path / "t.json"))


def test_a_time_that_ends_before_it_begins_is_refused(stage: Stage, tmp_path: Path) -> None:
    wrong = refused(stage, "--since", "1h", "--until", "2h", "-o", str(tmp_path / "t.json"))
    assert "cannot begin" in wrong
    assert wrong.count("\n") == 1


def test_without_plotly_a_page_is_refused_in_a_line(ran: Stage, tmp_path: Path) -> None:
    """And a trace is made as ever: it needs nothing that is not there."""
    (tmp_path / "hidden" / "plotly").mkdir(parents=True)
    (tmp_path / "hidden" / "plotly" / "__init__.py").write_text("raise ImportError('hidden')\n")
    path = os.pathsep.join([str(tmp_path / "hidden"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = batonctl(ran, "timeline", "-o", str(tmp_path / "t.html"), PYTHONPATH=path)
    assert done.returncode == 1
    assert done.stderr == (
        "batonctl: cannot make a page: Plotly, which draws it, is not installed here; "
        "install it with `pip install 'batond[timeline]'`, or make a trace: -o FILE.json\n"
    )
    done = batonctl(ran, "timeline", "-o", str(tmp_path / "t.json"), PYTHONPATH=path)
    assert (done.returncode, done.stderr) == (0, "")


def test_commands_that_draw_nothing_import_nothing_that_draws() -> None:
    code = "import sys, daemon.cli; print('plotly' in sys.modules, 'daemon.ctl.timeline_html' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_a_stream_that_was_cut_off_is_no_picture(tmp_path: Path) -> None:
    """What listens there answers and hangs up: half a record is not to be taken for all of it."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1 << 16)
                now = datetime.now().astimezone().isoformat()
                result = {"since": now, "until": now, "now": now}
                client.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode() + b"\n")

        thread = threading.Thread(target=answer)
        thread.start()
        done = batonctl(path, "timeline", "-o", str(tmp_path / "t.json"))
        thread.join()
    assert done.returncode == 3
    assert done.stderr == "batonctl: batond ended before it had told all of its record; try again\n"
    assert not (tmp_path / "t.json").exists()


def test_the_lines_of_the_socket_stay_below_the_limit_and_times_are_checked(ran: Stage) -> None:
    with Line(ran.path) as line:
        for odd in ("2026-01-01T00:00:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00"):
            assert line.ask("timeline", until=odd)["error"]["code"] == -32602
        wrong = line.ask("timeline", since="yesterday")
        assert wrong["error"]["code"] == -32602
    with Line(ran.path) as line:
        result = line.ask("timeline")["result"]
        assert result.keys() == {"since", "until", "now"}
        while not line.read()["params"].get("last"):
            pass
        assert line.read() is None, "and the daemon hangs up"


def when(text: str) -> datetime:
    return When().convert(text, None, None)


def test_times_are_said_in_many_ways() -> None:
    now = datetime.now().astimezone()
    for text, ago in (("90s", 90), ("5m", 300), ("2h", 7200), ("1d", 86400)):
        assert abs((now - when(text)) - timedelta(seconds=ago)) < timedelta(seconds=60)
    today = when("today")
    assert (today.hour, today.minute, today.second) == (0, 0, 0)
    assert today.utcoffset() is not None
    assert when("all") == ALL
    assert when("2026-03-01T12:00:00+01:00") == datetime.fromisoformat("2026-03-01T11:00:00+00:00")
    assert when("2026-03-01 12:00").tzinfo is not None, "this machine's zone"
    assert when("999999999d") - ALL < timedelta(seconds=60)


def test_today_begins_at_midnight_also_on_the_day_the_clock_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this zone it is midday, and summer time began this morning."""
    now = time.gmtime()
    hours, day = now.tm_hour - 12, now.tm_yday - 1  # west of Greenwich; as the zone counts: from 0
    change = f"AAA{hours}BBB{hours - 1},{day}/0:00:01,{(day + 30) % 365}"
    monkeypatch.setenv("TZ", change)
    time.tzset()
    try:
        today = when("today")
        assert today.utcoffset() == timedelta(hours=-hours), "before the change"
        assert (today.hour, today.minute) == (0, 0)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["", "soon", "2x", "-1h", "2026-13-01", "1.5h"])
def test_what_is_no_time_is_refused_with_how_to_say_one(text: str) -> None:
    with pytest.raises(click.UsageError, match='say it as "2h"'):
        when(text)
