"""`batonctl` as one watches it: waiting, following, tables and bars."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import views
from daemon.ctl import screen
from daemon.ctl.waiting import _visible
from daemon.results import ListResult, Row
from states.snapshot import State
from tests.shell.batonctl_runs import BATONCTL, batonctl, ended, environment, out, submitted
from tests.shell.control_stage import PATIENCE_S, Stage, session_file


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage
        assert stage.bugs == []


# Waiting


def test_wait_tells_each_change_and_ends_with_the_sessions(stage: Stage) -> None:
    stage.crew.total, stage.crew.batch_s = 2000, 0.05  # a second each: longer than the time between two looks
    done = batonctl(stage, "submit", "-", "--wait", text=session_file("a", "b"))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in done.stdout.splitlines()]
    assert any(line.startswith("a running on cpu") for line in lines)
    assert "a done on cpu 2000/2000" in lines
    assert lines[-1] == "b done on cpu 2000/2000"
    assert "\x1b" not in done.stdout


def test_wait_exits_with_1_when_a_session_is_not_done_and_says_why(stage: Stage) -> None:
    done = batonctl(stage, "submit", "-", "--wait", text=session_file("a", "bad", "c", after="[]"))
    assert done.returncode == 1
    assert "bad failed on cpu" in done.stdout
    assert "ValueError: item 300 is bad" in done.stdout  # what a terminal would obey is gone
    failed, count = done.stderr.splitlines()  # also where nobody reads what stands above
    assert failed.startswith("batonctl: bad failed: ")
    assert failed.endswith("ValueError: item 300 is bad")
    assert count == "batonctl: 1 of 3 not done; batonctl why NAME tells more"


def test_wait_exits_with_1_when_a_session_is_cancelled(stage: Stage) -> None:
    stage.crew.frozen = True
    with waiting(stage, "a", "b") as process:
        _line_with(process, "a running")
        out(stage, "cancel", "a", "b")
        stage.thaw()
        rest, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "b cancelled" in rest


def test_wait_with_json_prints_rows(stage: Stage) -> None:
    done = batonctl(stage, "submit", "-", "--wait", "--json", text=session_file("a"))
    first, *rows = map(json.loads, done.stdout.splitlines())
    assert first["sessions"] == [{"name": "a", "place": 0}]
    assert rows[-1]["state"] == "done"
    assert rows[-1]["done"] == 1000


def waiting(stage: Stage, *names: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        (*BATONCTL, "submit", "-", "--wait"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(stage.path),
    )
    assert process.stdin is not None
    process.stdin.write(session_file(*names))
    process.stdin.close()
    process.stdin = None
    return process


def _line_with(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    return next(line for line in process.stdout if text in line)


def test_ctrl_c_ends_the_waiting_and_not_the_sessions(stage: Stage) -> None:
    stage.crew.frozen = True
    with waiting(stage, "a", "b") as process:
        _line_with(process, "a running")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "the sessions go on" in said
    assert "Traceback" not in said
    assert "Aborted" not in said
    assert views.live_names(stage.loop.world) == ["a", "b"]


def test_wait_outlives_a_restart_of_the_daemon(tmp_path: Path) -> None:
    first = Stage(tmp_path)
    first.crew.frozen = True
    with first, waiting(first, "a", "b") as process:
        _line_with(process, "a running")
        first.close()
        assert "looking for it again" in _line_with(process, "lost batond")
        with Stage(tmp_path):
            rest, said = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, said) == (0, "")
    assert "b done" in rest


# Following


def test_logs_follow_a_session_to_its_end(stage: Stage) -> None:
    stage.crew.frozen = True
    submitted(stage, "a")
    stage.until(lambda world: world.lanes["cpu"].state is State.RUNNING)
    with subprocess.Popen(
        (*BATONCTL, "logs", "-f", "a"), stdout=subprocess.PIPE, text=True, env=environment(stage.path)
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "a prepares ✓\n"
        with stage.crew.log_path("a").open("a") as log:
            log.write("epoch 1\n")
        assert process.stdout.readline() == "epoch 1\n"
        stage.thaw()
        assert process.communicate(timeout=PATIENCE_S)[0] == ""
    assert process.returncode == 0


def test_events_follow_until_the_daemon_ends_and_say_where_to_go_on(stage: Stage) -> None:
    with subprocess.Popen(
        (*BATONCTL, "events", "-f"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(stage.path),
    ) as process:
        stage.run(lambda: _listeners(stage))
        out(stage, "pause")
        assert process.stdout is not None
        assert "lane.held" in process.stdout.readline()
        stage.close()
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 3
    assert "--since 1" in said


async def _listeners(stage: Stage) -> None:
    import asyncio

    while not stage.feed.listeners:  # noqa: ASYNC110 - a feed tells nobody that a listener came
        await asyncio.sleep(0.01)


def test_a_reader_that_leaves_is_no_traceback(stage: Stage) -> None:
    for _ in range(100):
        stage.run(lambda: _hold(stage))
    command = f"{' '.join(BATONCTL)} events --json --since 0 | head -n 1"
    done = subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        env=environment(stage.path),
        timeout=PATIENCE_S,
        check=False,
    )
    assert json.loads(done.stdout)["seq"] == 1
    assert done.stderr == ""


async def _hold(stage: Stage) -> None:
    from states.events import Pause

    for _ in range(20):
        await stage.loop.ask(Pause(time.monotonic(), "cpu"))


# What a person sees


def test_a_pipe_gets_tables_without_colour_cuts_or_blanks_at_the_end(stage: Stage) -> None:
    stage.crew.frozen = True
    names = [f"a-session-with-a-name-that-is-quite-long-{number}" for number in range(3)]
    submitted(stage, *names)
    stage.until(lambda world: world.lanes["cpu"].state is State.RUNNING)
    for command in ("status", "list"):
        text = out(stage, command)
        assert all(name in text for name in names)
        assert "\x1b" not in text
        assert all(line == line.rstrip() for line in text.splitlines())


def test_an_ended_session_is_shown_without_what_its_lane_does_now(stage: Stage) -> None:
    submitted(stage, "a")
    ended(stage, "a")
    shown = out(stage, "show", "a")
    assert re.search(r"^lane +cpu$", shown, re.MULTILINE)
    assert "None" not in shown
    stage.crew.frozen = True
    submitted(stage, "b")
    stage.until(lambda world: world.lanes["cpu"].state is State.RUNNING)
    assert re.search(r"^lane +cpu \(Running\)$", out(stage, "show", "b"), re.MULTILINE)


def on_a_terminal(stage: Stage, *arguments: str, columns: int = 100, **more: str) -> str:
    """What the command writes to a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    process = subprocess.Popen(
        (*BATONCTL, *arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=environment(stage.path, **more)
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:  # EIO: the other end is closed, which is how a terminal ends
        pass
    os.close(ours)
    process.wait(PATIENCE_S)
    return seen.decode()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")


def test_a_terminal_gets_colours_and_fits_its_width_and_no_color_is_heeded(stage: Stage) -> None:
    stage.crew.frozen = True
    submitted(stage, "digits-cnn", "digits-residual", "digits-mlp")
    stage.until(lambda world: world.lanes["cpu"].state is State.RUNNING)
    coloured = on_a_terminal(stage, "status", columns=80)
    assert "\x1b[32m" in coloured
    assert max(len(line) for line in plain(coloured).splitlines()) <= 80
    assert "digits-residual" in plain(coloured)
    assert not re.search(r"\x1b\[3\d", on_a_terminal(stage, "status", NO_COLOR="1"))


def test_waiting_on_a_terminal_shows_a_bar_for_each_session(stage: Stage, tmp_path: Path) -> None:
    stage.crew.total, stage.crew.batch_s = 3000, 0.03
    (tmp_path / "s.toml").write_text(session_file("digits-cnn", "digits-mlp"))
    seen = plain(on_a_terminal(stage, "submit", "--wait", str(tmp_path / "s.toml")))
    assert "━" in seen
    assert re.search(r"digits-cnn +running", seen)
    assert re.search(r"digits-cnn +done +cpu +━+ +3000/3000\s+digits-mlp +done +cpu +━+ +3000/3000\s+2 done\s*$", seen)


def test_more_sessions_than_lines_show_those_at_work_then_the_next() -> None:
    rows = tuple(
        [Row(name=f"d{n}", state="done") for n in range(50)]
        + [Row(name="r", state="running"), Row(name="s", state="preparing")]
        + [Row(name=f"q{n}", state="queued", place=n + 1) for n in range(50)]
    )
    names = [row.name for row in _visible(rows, 10)]
    assert len(names) == 10
    assert {"r", "s", "q0", "q1"} <= set(names)
    assert "q40" not in names


def test_durations_sizes_and_rates_read_well() -> None:
    assert [screen.duration(s) for s in (None, 0.04, 9.94, 59.7, 190, 7500, 100_000)] == [
        "",
        "0.0 s",
        "9.9 s",
        "1 min 00 s",
        "3 min 10 s",
        "2 h 05 min",
        "1 d 3 h",
    ]
    assert [screen.size(n) for n in (None, 0, 100 << 20, 3 << 30)] == ["", "", "100 MiB", "3.0 GiB"]
    assert [screen.rate(r) for r in (None, 0.5, 12345.6)] == ["", "0.5/s", "12,346/s"]
    assert screen.safe("a\x1b[2Jb\nc\u202e") == "ab c "


def test_what_was_skipped_is_seen_where_items_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    screen.show_list(ListResult(sessions=(Row(name="a", state="done", done=10, total=10, errors=2),)))
    assert "10/10, 2 skipped" in capsys.readouterr().out


def test_a_long_queue_does_not_scroll_the_lanes_away(stage: Stage) -> None:
    stage.crew.frozen = True
    submitted(stage, *(f"s{number}" for number in range(30)))
    said = out(stage, "status").splitlines()
    shown = [text for text in said if re.match(r"\s*\d+\s+s\d+\s", text)]
    assert len(shown) == 20
    queued = len(json.loads(out(stage, "status", "--json"))["queue"])
    assert queued >= 28, "a program reads all of it"
    assert said[-1] == f"and {queued - 20} more; batonctl list shows all"
    rows = {row["name"]: row for row in json.loads(out(stage, "list", "--json"))["sessions"]}
    for name in ("s0", "s1", "s2", "s29"):
        assert json.loads(out(stage, "show", name, "--json"))["session"]["reason"] == rows[name]["reason"]
    assert [row["name"] for row in json.loads(out(stage, "list", "--state", "running", "--json"))["sessions"]] == ["s0"]


def test_a_plan_that_is_over_before_what_was_skipped_says_so(stage: Stage) -> None:
    stage.crew.frozen = True
    submitted(stage, "a", "b")
    assert "no run is planned after" not in out(stage, "plan")
    assert out(stage, "plan", "--skip", "50").endswith(
        "no run is planned after the first 50; give a smaller --skip, or none\n"
    )
