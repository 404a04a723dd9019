"""The whole daemon with stand-in programs: sessions follow one another, and each item is computed exactly once."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from batond import ROOT, Batond, alive, stand_in, wait_gone


def counts_hold(batond: Batond) -> None:
    for event in batond.told("handover.completed"):
        assert event["items_in"] == event["items_done"] + event["items_returned"] + event["items_abandoned"]
    assert batond.told("count.mismatched") == []


def test_three_sessions_follow_one_another_and_leave_every_item_once(batond: Batond) -> None:
    """Each after the first was prepared while the one before it computed, and the counts add up."""
    names = ("a", "b", "c")
    batond.submit("".join(stand_in(name, batond.folder, "--item-ms", "20", items=100) for name in names))
    batond.ended(*names)
    assert [event["session"] for event in batond.told("session.finished")] == ["a", "b", "c"]
    for name in names:
        assert batond.rows(name) == list(range(100))
    handovers = batond.told("handover.completed")
    assert [(event["from_session"], event["session"], event["tier"]) for event in handovers] == [
        ("a", "b", "warm"),
        ("b", "c", "warm"),
    ]
    counts_hold(batond)
    states = [event["to"] for event in batond.told("lane.moved")]
    for state in ("Preloading", "Swapping", "Running", "NearingEnd", "Draining", "Idle"):
        assert state in states


def test_a_swap_hands_over_mid_session_and_the_old_one_ends_with_every_item(batond: Batond) -> None:
    """The swapped-out session goes back at its cursor; nothing of it is computed twice into its output."""
    batond.submit(
        stand_in("long", batond.folder, "--item-ms", "20", items=400, lead=0)
        + stand_in("short", batond.folder, items=10)
    )
    batond.event("session.started", session="long")
    batond.ctl("swap")
    batond.ended("short", "long")
    returned = batond.event("handover.completed", from_session="long")
    assert returned["items_returned"] > 0
    assert [event["session"] for event in batond.told("session.finished")] == ["short", "long"]
    assert batond.rows("long") == list(range(400))
    counts_hold(batond)


def test_a_swap_to_another_overrides_the_standby(batond: Batond) -> None:
    """`swap --to` brings the named one next, though another was prepared already; that one keeps its place."""
    batond.submit(
        stand_in("long", batond.folder, "--item-ms", "20", items=400)
        + stand_in("first", batond.folder, items=5)
        + stand_in("second", batond.folder, items=5)
    )
    batond.event("standby.ready", session="first")
    batond.ctl("swap", "--to", "second")
    batond.ended("first", "second", "long")
    started = [event["session"] for event in batond.told("session.started")]
    assert started[:2] == ["long", "second"]
    assert batond.rows("first") == list(range(5))
    assert batond.rows("long") == list(range(400))


def test_cancel_ends_a_session_wherever_it_is(batond: Batond) -> None:
    """Running, prepared, queued: each ends as cancelled, once, and the queue goes on."""
    batond.submit(
        stand_in("running", batond.folder, "--item-ms", "20", items=2000)
        + stand_in("prepared", batond.folder)
        + stand_in("queued", batond.folder)
        + stand_in("last", batond.folder)
    )
    batond.event("session.started", session="running")
    batond.event("standby.ready", session="prepared")
    batond.ctl("cancel", "queued", "prepared", "running")
    batond.ended("running", "prepared", "queued", "last")
    assert {event["session"] for event in batond.told("session.cancelled")} == {"running", "prepared", "queued"}
    assert [event["session"] for event in batond.told("session.finished")] == ["last"]
    counts_hold(batond)


def test_after_is_kept_and_a_failure_cancels_what_waits_for_it(batond: Batond) -> None:
    batond.submit(
        stand_in("broken", batond.folder, "--fail-at", "3", priority=-1)
        + stand_in("waits", batond.folder, after=["broken"])
        + stand_in("good", batond.folder, items=5)
        + stand_in("follows", batond.folder, items=5, after=["good"], priority=5)
    )
    batond.ended("broken", "waits", "good", "follows")
    assert batond.event("session.failed", session="broken")["reason"].endswith("item 3 cannot be computed")
    assert "broken, which failed" in batond.event("session.cancelled", session="waits")["reason"]
    assert [event["session"] for event in batond.told("session.finished")] == ["good", "follows"]


def test_a_killed_worker_is_tried_again_and_its_output_is_whole(batond: Batond) -> None:
    batond.submit(stand_in("a", batond.folder, "--item-ms", "20", items=200) + stand_in("b", batond.folder, items=5))
    batond.event("session.started", session="a")
    batond.event("standby.ready", session="b")
    pids = [pid for pid in batond.workers() if "a.rows" in _command(pid)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert "SIGKILL" in batond.event("session.retried", session="a")["reason"]
    batond.ended("a", "b")
    assert batond.rows("a") == list(range(200))
    assert {event["session"] for event in batond.told("session.finished")} == {"a", "b"}


@pytest.mark.parametrize(
    ("flags", "kind", "words"),
    [
        (["--die-loading"], "internal", "SIGKILL"),
        (["--fail-at", "0"], "program", "ValueError: item 0 cannot be computed"),
        (["--silent", "--exit-code", "3"], "program", "3"),
        (["--garbage"], "internal", ""),
        (["--oversized-line"], "internal", ""),
    ],
    ids=["die-loading", "fail-at", "exit-code", "garbage", "oversized-line"],
)
def test_a_session_that_fails_says_why_and_the_queue_goes_on(
    batond: Batond, flags: list[str], kind: str, words: str
) -> None:
    batond.submit(
        stand_in("bad", batond.folder, *flags, max_attempts=1, items=6) + stand_in("good", batond.folder, items=6)
    )
    batond.ended("bad", "good")
    failed = batond.event("session.failed", session="bad")
    assert failed["kind"] == kind
    assert words in failed["reason"]
    shown = batond.ctl("show", "bad")["session"]
    assert shown["state"] == "failed"
    assert shown["reason"] == failed["reason"]
    assert batond.rows("good") == list(range(6))


def test_a_program_that_never_speaks_is_judged_by_its_exit_status(batond: Batond) -> None:
    """Without `prepare`, and without baton.py: started means spawned, done means status 0."""
    batond.submit(
        '[[session]]\nname = "true"\nrun = ["/bin/true"]\n'
        '[[session]]\nname = "false"\nrun = ["/bin/false"]\nmax_attempts = 1\n'
    )
    batond.ended("true", "false")
    assert batond.told("session.finished")[0]["session"] == "true"
    assert "1" in batond.event("session.failed", session="false")["reason"]


def test_pause_lets_nothing_start_and_resume_does(batond: Batond) -> None:
    batond.ctl("pause")
    batond.submit(stand_in("a", batond.folder, items=5))
    status = batond.ctl("status")
    assert status["lanes"][0]["state"] == "Idle"
    assert "paused" in status["lanes"][0]["reason"]
    assert batond.told("standby.started") == []
    batond.ctl("resume")
    batond.ended("a")
    assert batond.rows("a") == list(range(5))


def test_drain_empties_the_lane_and_resume_goes_on_where_it_was(batond: Batond) -> None:
    batond.submit(stand_in("a", batond.folder, "--item-ms", "20", items=200) + stand_in("b", batond.folder, items=5))
    batond.event("session.started", session="a")
    batond.event("standby.ready", session="b")
    batond.ctl("drain")
    batond.event("lane.moved", to="Idle")
    batond.event("worker.exited", session="b")
    assert [event["name"] for event in batond.ctl("status")["queue"]] == ["a", "b"]
    batond.ctl("resume")
    batond.ended("a", "b")
    assert batond.rows("a") == list(range(200))


def test_the_log_of_a_session_goes_when_its_record_does(tmp_path: Path) -> None:
    with Batond(tmp_path, "--launcher", "exec", settings="[history]\ndays = 1e-9\n") as batond:
        batond.submit(stand_in("a", tmp_path))
        batond.ended("a")
        other = tmp_path / "logs" / "somebody-elses.log"
        other.touch()
        assert (tmp_path / "logs" / "a.log").exists()
        assert batond.stop() == 0
        batond.start()
        batond.submit(stand_in("b", tmp_path))
        batond.ended("b")
        assert {path.name for path in (tmp_path / "logs").iterdir()} == {"b.log", other.name}


def test_move_and_retry(batond: Batond) -> None:
    """A queued session gets another place; a failed one is queued again with all its attempts."""
    batond.ctl("pause")
    batond.submit("".join(stand_in(name, batond.folder, items=3) for name in ("a", "b", "c")))
    batond.ctl("move", "c", "--first")
    batond.ctl("move", "a", "--last")
    assert [event["name"] for event in batond.ctl("status")["queue"]] == ["c", "b", "a"]
    batond.ctl("cancel", "b")
    batond.ctl("retry", "b")
    batond.ctl("resume")
    batond.ended("a", "c")
    batond.event("session.finished", session="b")
    assert batond.rows("b") == [0, 1, 2]


def test_a_session_that_ignores_everything_is_ended_by_force(batond: Batond) -> None:
    """Ask, SIGTERM, SIGKILL, each to the whole process group; the next session is not held up."""
    settings = batond.folder / "batond.toml"
    batond.stop()
    settings.write_text(settings.read_text() + "drain_timeout_s = 1.0\n")
    with batond:
        batond.submit(
            stand_in("deaf", batond.folder, "--ignore-sigterm", "--ignore-drain", "--item-ms", "20", items=100_000)
            + stand_in("next", batond.folder, items=5)
        )
        batond.event("session.started", session="deaf")
        batond.ctl("cancel", "deaf")
        batond.ended("next")
        forces = [event["force"] for event in batond.told("worker.escalated", session="deaf")]
        assert forces == ["SIGTERM", "SIGKILL"]
        assert batond.event("session.cancelled", session="deaf")
        assert batond.event("worker.exited", session="deaf")["status"] == -signal.SIGKILL


def test_a_session_that_stalls_is_drained_and_tried_again(batond: Batond) -> None:
    settings = batond.folder / "batond.toml"
    batond.stop()
    settings.write_text(settings.read_text() + "stall_timeout_s = 1.0\ndrain_timeout_s = 1.0\n")
    with batond:
        batond.submit(stand_in("stuck", batond.folder, "--stall-at", "7", max_attempts=2))
        batond.ended("stuck")
        assert batond.told("session.retried", session="stuck")[0]["kind"] == "stall"
        assert "no progress" in batond.event("session.failed", session="stuck")["reason"]


def test_sigterm_drains_commits_and_exits_0_and_the_next_life_goes_on(batond: Batond) -> None:
    """Nothing is left behind, and no item is computed into the output twice."""
    batond.submit(stand_in("a", batond.folder, "--item-ms", "20", items=300) + stand_in("b", batond.folder, items=5))
    batond.event("session.started", session="a")
    batond.event("standby.ready", session="b")
    workers = batond.workers()
    assert len(workers) >= 2
    assert batond.stop() == 0
    assert [pid for pid in workers if alive(pid)] == []
    assert not batond.socket.exists()
    done = batond.rows("a")
    assert done == list(range(len(done)))
    assert 0 < len(done) < 300
    batond.start()
    batond.ended("a", "b")
    assert batond.rows("a") == list(range(300))
    assert batond.rows("b") == list(range(5))


def test_a_second_signal_ends_everything_at_once(batond: Batond) -> None:
    batond.submit(
        stand_in("deaf", batond.folder, "--ignore-sigterm", "--ignore-drain", "--item-ms", "20", items=100_000)
    )
    batond.event("session.started", session="deaf")
    workers = batond.workers()
    batond.process.send_signal(signal.SIGINT)
    batond.event("daemon.stopping", reason="SIGINT")
    batond.process.send_signal(signal.SIGTERM)
    assert batond.process.wait(60) == 1
    assert [pid for pid in workers if alive(pid)] == []


def test_the_running_session_does_not_notice_that_its_daemon_was_killed(batond: Batond) -> None:
    """Its worker goes on, is adopted by the next daemon, and ends there; the standby is prepared again."""
    batond.submit(stand_in("a", batond.folder, "--item-ms", "20", items=400) + stand_in("b", batond.folder, items=5))
    batond.event("session.started", session="a")
    batond.event("standby.ready", session="b")
    (pid,) = batond.recorded("a")
    batond.kill()
    batond.start()
    batond.event("session.adopted", session="a")
    assert batond.recorded("a") == [pid]
    batond.ended("a", "b")
    assert batond.rows("a") == list(range(400))
    assert batond.rows("b") == list(range(5))
    assert len(batond.told("session.started", session="a")) == 1
    assert batond.told("session.retried") == []
    handover = batond.event("handover.completed", from_session="a")
    assert (handover["tier"], handover["items_done"]) == ("warm", 400)


def test_a_cancel_that_was_accepted_is_kept_by_the_next_daemon(tmp_path: Path) -> None:
    """The first was killed before the session had ended; the session ignores whoever asks."""
    with Batond(tmp_path, "--launcher", "exec", settings="[limits]\ndrain_timeout_s = 3.0\n") as batond:
        batond.submit(stand_in("a", tmp_path, "--ignore-drain", items=100_000) + stand_in("b", tmp_path))
        batond.event("session.started", session="a")
        batond.ctl("cancel", "a")
        batond.kill()
        batond.start()
        batond.ended("a", "b")
        assert batond.told("session.cancelled", session="a")
        assert [event["generation"] for event in batond.told("session.started", session="a")] == [1]
        assert batond.rows("b") == list(range(20))


def test_a_session_that_ends_while_no_daemon_is_there_is_done_once(batond: Batond) -> None:
    batond.submit(stand_in("a", batond.folder, "--item-ms", "20", items=100))
    batond.event("session.started", session="a")
    (pid,) = batond.recorded("a")
    batond.kill()
    wait_gone(pid)
    assert batond.rows("a") == list(range(100))
    batond.start()
    batond.ended("a")
    assert batond.rows("a") == list(range(100))
    assert len(batond.told("session.finished", session="a")) == 1


def test_a_program_that_ended_while_no_daemon_was_there_is_not_run_again(batond: Batond) -> None:
    """Its parent kept its exit record; the next daemon takes that."""
    marks = batond.folder / "marks"
    script = f"echo begun >> {marks}; sleep 2; echo ended >> {marks}"
    batond.submit(f'[[session]]\nname = "once"\nrun = ["sh", "-c", "{script}"]\n')
    batond.event("session.started", session="once")
    (pid,) = batond.recorded("once")
    batond.kill()
    wait_gone(pid)
    batond.start()
    batond.ended("once")
    assert marks.read_text().split() == ["begun", "ended"]
    assert batond.told("session.finished", session="once")


class OnTerminal(Batond):
    """With the terminal in $TERMINAL as its controlling one."""

    module = "tests.e2e.on_terminal"


def test_a_closed_terminal_drains_as_sigterm_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERMINAL", os.ttyname(theirs))
    with OnTerminal(tmp_path, "--launcher", "exec") as batond:
        os.close(theirs)
        batond.submit(stand_in("a", batond.folder, "--item-ms", "20", items=300))
        batond.event("session.started", session="a")
        os.close(ours)
        assert batond.process.wait(60) == 0
        assert batond.event("daemon.stopping", reason="SIGHUP")


def test_without_a_terminal_a_hangup_reads_the_configuration_again(batond: Batond) -> None:
    """As a service's reload; one that is wrong is refused, and the session that runs notices neither."""
    batond.submit(stand_in("a", batond.folder, "--item-ms", "5", items=1000))
    batond.event("session.started", session="a")
    config = batond.folder / "batond.toml"
    text = config.read_text()
    config.write_text(text + "readings = 5\n")
    batond.process.send_signal(signal.SIGHUP)
    assert batond.event("config.reloaded")["changed"] == ["limits.readings"]
    config.write_text(text + "readings = 5000\n")
    batond.process.send_signal(signal.SIGHUP)
    (reason,) = batond.event("config.refused")["reasons"]
    assert "limits.readings: must be 1 to 100, not 5000" in reason
    assert batond.ctl("reload", status=1).count("limits.readings") == 1
    config.write_text(text.replace('log_dir = "', 'log_dir = "/elsewhere'))
    said = batond.ctl("reload", status=1)
    assert "log_dir, limits.readings: cannot change" not in said
    assert "log_dir: cannot change while batond runs; restart it for it, or put the old value back" in said
    config.write_text(text)
    assert batond.ctl("reload") == {"changed": ["limits.readings"], "config": str(config)}
    batond.ended("a")
    assert batond.rows("a") == list(range(1000))
    assert len(batond.told("session.started", session="a")) == 1


def test_a_daemon_that_stops_refuses_a_reload_in_the_log_and_its_last_word_is_that_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hangup has nobody else to tell; and a service manager shows the last status for as long as it is down."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(0.2)
        monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
        with Batond(tmp_path, "--launcher", "exec", settings="[limits]\nexit_timeout_s = 2.0\n") as batond:
            batond.submit(stand_in("a", batond.folder, "--item-ms", "5", "--never-exit-after-commit", items=1000))
            batond.event("session.started", session="a")
            batond.process.send_signal(signal.SIGTERM)
            batond.event("daemon.stopping")
            batond.process.send_signal(signal.SIGHUP)
            assert batond.event("config.refused")["reasons"] == ["cannot reload: batond is stopping"]
            said: list[str] = []
            while "STATUS=Stopped; 1 queued" not in said:
                over = batond.process.poll() is not None
                try:
                    said += manager.recv(4096).decode().splitlines()
                except TimeoutError:
                    assert not over, said
            assert batond.process.wait(60) == 0


def test_a_submission_is_queued_whole_or_not_at_all(batond: Batond) -> None:
    """Also when the daemon is killed in the midst of it."""
    batond.ctl("pause")
    text = "".join(f'[[session]]\nname = "s{i}"\nrun = ["true"]\n' for i in range(500))
    path = batond.folder / "many.toml"
    path.write_text(text)
    command = [sys.executable, "-m", "daemon.cli", "--socket", str(batond.socket), "submit", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
        batond.event("session.queued", session="s0")
        batond.kill()
        client.wait(60)
    batond.start()
    assert len(batond.ctl("status")["queue"]) == 500


def test_the_default_socket_is_made_with_its_folder(tmp_path: Path) -> None:
    """A plain `batond` right after a login, when nothing of it is there yet; the second `batond` is refused."""
    home = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path / "run"), "XDG_STATE_HOME": str(tmp_path / "state")}
    home |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    home.pop("BATON_SOCKET", None)
    command = [sys.executable, "-m", "daemon", "--launcher", "exec", "--log-format", "json"]
    with subprocess.Popen(command, cwd=ROOT, env=home, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        assert json.loads(daemon.stdout.readline())["event"] == "daemon.started"
        ask = [sys.executable, "-m", "daemon.cli", "version"]
        assert subprocess.run(ask, cwd=ROOT, env=home, capture_output=True, timeout=60, check=False).returncode == 0
        daemon.terminate()
        daemon.stdout.read()
    assert daemon.returncode == 0


def test_shutdown_over_the_socket_ends_the_daemon(batond: Batond) -> None:
    batond.submit(stand_in("a", batond.folder, "--item-ms", "20", items=300))
    batond.event("session.started", session="a")
    batond.ctl("shutdown")
    assert batond.process.wait(60) == 0
    assert batond.event("daemon.stopped")["left"] == 1


def test_a_second_daemon_on_the_same_state_refuses(batond: Batond) -> None:
    second = subprocess.run(
        [
            sys.executable,
            "-m",
            "daemon",
            "--state-dir",
            str(batond.folder / "state"),
            "--socket",
            str(batond.folder / "t.sock"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 1
    assert str(batond.process.pid) in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
