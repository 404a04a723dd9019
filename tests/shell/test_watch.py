"""`batonctl watch` on a real terminal: it starts, follows, obeys keys and sizes, and leaves all as it was."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import views
from states.snapshot import State
from tests.shell.batonctl_runs import BATONCTL, batonctl, environment, out, submitted
from tests.shell.control_stage import Stage
from tests.shell.watching import ALTERNATE, CURSOR, WRAP, Watcher, watching


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A daemon in which a computes, b is ready, and thirty more are queued."""
    with Stage(tmp_path) as stage:
        stage.crew.frozen = True
        submitted(stage, "a", "b", *(f"q{number}" for number in range(30)), lead="100000.0")
        stage.until(lambda world: world.lanes["cpu"].state is not State.IDLE)
        yield stage
        assert stage.bugs == []


# What is seen


def test_a_lane_its_queue_and_its_events_are_on_the_screen_and_go_on(stage: Stage) -> None:
    with watching(stage.path) as watcher:
        watcher.shows("cpu  ", "active   a", "memory", "queue  3", "session.started")
        assert watcher.screen.modes[ALTERNATE]
        assert not watcher.screen.modes[CURSOR]
        assert not watcher.screen.modes[WRAP]
        out(stage, "pause")
        watcher.shows("paused", "lane.held")
        stage.crew.total = 1000
        stage.thaw()
        watcher.shows("session.finished")


def test_a_new_size_is_drawn_at_once(stage: Stage) -> None:
    with watching(stage.path) as watcher:
        watcher.shows("q quit")
        watcher.press(" ")  # held: nothing but the size has it drawn anew
        watcher.shows("PAUSED")
        for columns, rows in ((40, 10), (120, 40), (80, 24)):
            watcher.resize(columns, rows)
            watcher.until(lambda screen, rows=rows: "q quit" in screen.lines[rows - 1], f"a picture of {rows} lines")
            watcher.until(lambda screen, columns=columns: len(screen.lines[0]) == columns, f"one of {columns} columns")


def test_it_goes_on_through_a_restart_of_the_daemon(tmp_path: Path) -> None:
    with Stage(tmp_path) as first:
        first.crew.frozen = True
        submitted(first, "a", "b")
        with watching(first.path) as watcher:
            watcher.shows("active   a")
            first.close()
            watcher.shows("batond is not there since", "looking for it", "active   a")
            with Stage(tmp_path) as second:
                second.crew.frozen = True
                watcher.until(lambda screen: "batond is not there" not in "".join(screen.lines), "the daemon again")
                submitted(second, "after-the-restart")
                watcher.shows("after-the-restart")
            watcher.press("q")
            assert watcher.ended() == 0
            watcher.given_back()


def test_a_daemon_that_does_not_answer_holds_up_no_key(stage: Stage) -> None:
    blocked = threading.Event()
    with watching(stage.path) as watcher:
        watcher.shows("active   a")
        stage._events.call_soon_threadsafe(blocked.wait)
        try:
            watcher.shows("batond has not answered for")
            watcher.press("q")
            assert watcher.ended() == 0
        finally:
            blocked.set()
        watcher.given_back()


def test_one_started_beside_a_daemon_that_does_not_answer_says_so_and_goes_on_when_it_does(stage: Stage) -> None:
    blocked = threading.Event()
    stage._events.call_soon_threadsafe(blocked.wait)
    try:
        with watching(stage.path) as watcher:
            watcher.until(lambda screen: "batond has not answered for 2 s; waiting for it" in screen.main, "why")
            assert not watcher.screen.modes[ALTERNATE], "an empty picture says less than the line"
            blocked.set()
            watcher.shows("active   a")
            watcher.press("q")
            assert watcher.ended() == 0
            watcher.given_back()
    finally:
        blocked.set()


# Keys


def test_the_arrows_move_the_queue_and_home_is_its_head(stage: Stage) -> None:
    with watching(stage.path) as watcher:
        watcher.shows("  1  ", "queue")
        watcher.press("\x1b[B\x1b[B\x1b[A\x1bOB")
        watcher.shows("after 2 others")
        watcher.press("\x1b[6~")
        watcher.shows("after 8 others")
        watcher.press("\x1b[5")  # a key may come in two halves
        watcher.resize(80, 20)
        watcher.until(lambda screen: "q quit" in screen.lines[19], "that it has looked at its keys since")
        watcher.press("~")
        watcher.shows("after 3 others")
        watcher.press("\x1b[H")
        watcher.until(lambda screen: "others" not in "".join(screen.lines), "the head of the queue")


def test_space_holds_the_picture_and_lets_it_go_on(stage: Stage) -> None:
    with watching(stage.path) as watcher:
        watcher.shows("active   a")
        watcher.press(" ")
        watcher.shows("PAUSED")
        out(stage, "pause")
        watcher.press("?")
        watcher.shows("leave; batond and its sessions go on")
        watcher.press("?")
        watcher.shows("PAUSED", "active   a")
        assert not any("lane.held" in row for row in watcher.screen.lines)
        watcher.press(" ")
        watcher.shows("lane.held")
        assert not any("PAUSED" in row for row in watcher.screen.lines)


# The end


def test_q_leaves_the_terminal_as_it_was(stage: Stage) -> None:
    with watching(stage.path) as watcher:
        watcher.shows("active   a")
        assert watcher.modes() != watcher.before
        watcher.press("q")
        assert watcher.ended() == 0
        watcher.given_back()
        assert watcher.screen.main == ""
        assert "a" in views.live_names(stage.loop.world)


def test_ctrl_c_leaves_the_terminal_as_it_was(stage: Stage) -> None:
    with watching(stage.path) as watcher:
        watcher.shows("active   a")
        watcher.press("\x03")
        assert watcher.ended() == 130
        watcher.given_back()
        assert watcher.screen.main.replace("^C", "") == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_the_terminal_as_it_was(stage: Stage, number: signal.Signals) -> None:
    with watching(stage.path) as watcher:
        watcher.shows("active   a")
        watcher.process.send_signal(number)
        assert watcher.ended() == (130 if number is signal.SIGINT else -number)
        watcher.given_back()
        assert watcher.screen.main == ""


def test_a_fault_leaves_the_terminal_as_it_was(stage: Stage) -> None:
    script = (
        "from daemon.ctl.watch_terminal import Terminal, size\nfrom daemon.ctl.watch_line import line\n"
        "with Terminal() as terminal:\n terminal.paint([line('drawn')], size())\n terminal.wait(60)\n raise KeyError(1)"
    )
    with Watcher((sys.executable, "-c", script), environment(stage.path)) as watcher:
        watcher.shows("drawn")
        watcher.press("x")
        assert watcher.ended() == 1
        watcher.given_back()
        assert "KeyError: 1" in watcher.screen.main, "what went wrong is read on the terminal's own screen"


def test_ctrl_z_gives_the_shell_its_terminal_and_fg_takes_it_again(stage: Stage) -> None:
    with Watcher(("bash", "--norc", "--noediting", "-i"), environment(stage.path, PS1="$ ")) as watcher:
        watcher.press(" ".join((*BATONCTL, "watch")) + "\n")
        watcher.shows("active   a")
        watcher.press("\x1a")
        watcher.given_back()
        watcher.until(lambda screen: "Stopped" in screen.main, "that it is stopped")
        watcher.press("fg\n")
        watcher.until(lambda screen: screen.modes[ALTERNATE], "the picture again")
        watcher.shows("active   a")
        watcher.press("q")
        watcher.given_back()


# Where there is no such terminal


def test_a_pipe_gets_no_moving_picture_but_what_to_do_instead(stage: Stage) -> None:
    done = batonctl(stage, "watch")
    assert (done.returncode, done.stdout) == (2, "")
    assert "batonctl watch --once" in done.stderr
    assert "batonctl events --follow" in done.stderr


def test_a_terminal_that_cannot_be_drawn_on_is_refused_too(stage: Stage) -> None:
    with watching(stage.path, TERM="dumb") as watcher:
        assert watcher.ended() == 2
        assert "watch --once" in watcher.screen.main


def test_once_prints_one_plain_picture(stage: Stage) -> None:
    done = batonctl(stage, "watch", "--once", COLUMNS="80", LINES="24")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in done.stdout
    assert any(each.startswith("  active   a") for each in lines)
    assert "q quit" not in done.stdout


def test_once_is_as_wide_as_it_is_to_be(stage: Stage) -> None:
    """Wider than anything else that is printed into a pipe."""
    done = batonctl(stage, "watch", "--once", COLUMNS="500", LINES="24")
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    assert len(lines[0]) == 500
    assert lines[0].startswith("batond 0.1.0")


def test_json_is_what_status_answers(stage: Stage) -> None:
    answer = json.loads(batonctl(stage, "watch", "--once", "--json").stdout)
    assert (len(answer["queue"]), answer["queued"]) == (20, 31), "its head: all of it would cost much"
    assert answer["lanes"][0]["memory"]["total_bytes"] == 64 << 30


def test_without_a_daemon_it_says_so_and_takes_no_terminal(tmp_path: Path) -> None:
    with watching(tmp_path / "none.sock") as watcher:
        assert watcher.ended() == 3
        watcher.until(lambda screen: "cannot reach batond" in screen.main, "why")
        assert not watcher.screen.modes[ALTERNATE]
        watcher.given_back()


def test_colours_are_there_and_no_color_is_heeded(stage: Stage) -> None:
    with watching(stage.path) as watcher:
        watcher.shows("active   a", "q quit")
        assert watcher.screen.coloured
    with watching(stage.path, NO_COLOR="1") as watcher:
        watcher.shows("active   a", "q quit")
        assert not watcher.screen.coloured


def test_a_terminal_without_utf_8_gets_bars_of_its_own_characters(stage: Stage) -> None:
    with watching(stage.path, PYTHONIOENCODING="ascii") as watcher:
        watcher.shows("active   a", "---")
        assert all(row.isascii() for row in watcher.screen.lines)
