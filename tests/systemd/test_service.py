"""batond under a real systemd: start, status, stop, crash, watchdog, socket activation, reload."""

from __future__ import annotations

import re
import signal

import pytest

from tests.systemd.machine import OUT, SETTINGS, TIMEOUT_S, Machine, on_both, stand_in

LONG = ("--item-ms", "5", "--commit-every", "7")
ENDLESS = 1_000_000
TELL_RESULT = "ExecStopPost=/bin/sh -c 'echo $$SERVICE_RESULT >/run/batond/result'\n"


def running(service: Machine, *flags: str) -> None:
    """Submit a session that does not end by itself, and wait until it has computed something."""
    service.submit(stand_in("a", *LONG, *flags, items=ENDLESS))
    service.event("session.started", session="a")
    goes_on(service)


def goes_on(service: Machine) -> None:
    """The session computes."""
    there = len(service.rows("a"))
    service.until(lambda: len(service.rows("a")) > there + 10, "progress")


def whole(service: Machine) -> int:
    """End the session; every item that it computed is there once. How many."""
    service.ctl("cancel", "a")
    service.event("session.cancelled", session="a")
    rows = service.rows("a")
    assert rows == list(range(len(rows)))
    return len(rows)


def signal_daemon(service: Machine, number: signal.Signals) -> int:
    """To the daemon alone; its pid."""
    pid = service.main_pid()
    service.run("kill", f"-{number.value}", str(pid))
    return pid


def replaced(service: Machine, old: int) -> int:
    """Wait for the daemon that systemd starts after the old one; its pid."""
    pid: int = service.until(lambda: new if (new := service.main_pid()) not in (0, old) else 0, "the next daemon")
    return pid


def adopted(service: Machine) -> None:
    """The session was taken over by another daemon, goes on, and was never begun again."""
    service.event("session.adopted", session="a")
    goes_on(service)
    whole(service)
    assert len(service.told("session.started", session="a")) == 1
    assert service.told("session.retried") == []


def test_a_start_returns_when_it_serves_and_its_status_is_what_the_lanes_do(service: Machine) -> None:
    assert service.ctl("version")["pid"] == service.main_pid()
    assert service.show("StatusText") == "cpu: Idle; 0 queued"
    running(service)
    service.submit(stand_in("b"))
    service.until(
        lambda: re.fullmatch(rf"cpu: \w+ a \d+/{ENDLESS} \(0 %\)(, b \w+)?; [01] queued", service.show("StatusText")),
        "the status of a running session",
    )


@on_both
def test_a_stop_drains_and_leaves_nobody(service: Machine) -> None:
    """The session is back in the queue at its cursor, and goes on from there at the next start."""
    running(service)
    assert len(service.processes()) > 1
    service.systemctl("stop", "batond.service")
    assert service.processes() == []
    assert service.show("Result") == "success"
    assert service.show("StatusText") == "Stopped; 1 queued"
    there = len(service.rows("a"))
    assert service.event("daemon.stopped")["left"] == 1
    service.systemctl("start", "batond.service")
    assert service.event("session.started", times=2, session="a")["cursor"] == there
    goes_on(service)
    assert whole(service) > there


def test_a_stop_waits_for_a_drain_that_gets_on(service: Machine) -> None:
    """Longer than systemd would: the daemon asks for more time. Its own limits end a worker that does not listen."""
    service.write("/etc/batond/batond.toml", SETTINGS + "drain_timeout_s = 3.0\n")
    service.drop_in("60-test", "[Service]\nTimeoutStopSec=1s\n")
    service.systemctl("reload", "batond.service")
    running(service, "--ignore-drain", "--ignore-sigterm")
    service.systemctl("stop", "batond.service")
    assert service.show("Result") == "success"
    assert service.processes() == []
    assert service.event("daemon.stopped")["left"] == 1


@pytest.mark.parametrize("how", ["hangs", "dies"])
def test_a_stop_in_which_the_daemon_does_not_do_its_part_leaves_nobody_either(service: Machine, how: str) -> None:
    """systemd kills it when its time is over; what it left is ended after it, having kept what it computed."""
    service.drop_in("60-test", f"[Service]\nTimeoutStopSec=1s\nWatchdogSec=0\n{TELL_RESULT}")
    running(service, *(["--ignore-drain"] if how == "dies" else []))
    if how == "hangs":  # systemd wakes whom it signals, so it is frozen again and again
        pid = service.main_pid()
        frozen = service.popen("sh", "-c", f"while kill -STOP {pid}; do :; done")
        service.systemctl("stop", "batond.service")
        frozen.communicate(timeout=TIMEOUT_S)
    else:
        service.systemctl("stop", "--no-block", "batond.service")
        service.event("daemon.stopping")
        signal_daemon(service, signal.SIGKILL)
        service.until(lambda: service.show("ActiveState") in ("inactive", "failed"), "the end of the stop")
    assert service.processes() == []
    assert service.read("/run/batond/result").strip() == {"hangs": "timeout", "dies": "signal"}[how]
    there = len(service.rows("a"))
    service.systemctl("start", "batond.service")
    assert 0 < service.event("session.started", times=2, session="a")["cursor"] <= there
    goes_on(service)
    service.ctl("shutdown", "--now")
    service.until(lambda: service.processes() == [], "the end")
    rows = service.rows("a")
    assert rows == list(range(len(rows)))


@on_both
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_crash_interrupts_no_session(service: Machine, number: signal.Signals) -> None:
    running(service)
    old = signal_daemon(service, number)
    replaced(service, old)
    adopted(service)
    assert service.show("NRestarts") == "1"


@on_both
def test_a_frozen_daemon_is_replaced_and_its_session_goes_on(service: Machine) -> None:
    service.drop_in("60-test", f"[Service]\nWatchdogSec=3s\n{TELL_RESULT}")
    service.systemctl("restart", "batond.service")
    running(service)
    old = signal_daemon(service, signal.SIGSTOP)
    replaced(service, old)
    assert service.read("/run/batond/result").strip() == "watchdog"
    adopted(service)


def test_a_daemon_that_gets_on_is_left_alone(service: Machine) -> None:
    """It feeds the watchdog for several times its time, idle and with a session."""
    assert service.show("WatchdogUSec") == "30s", "the unit's own"
    service.drop_in("60-test", "[Service]\nWatchdogSec=1s\n")
    service.systemctl("restart", "batond.service")
    daemon = service.main_pid()
    service.until(lambda: service.ctl("status")["uptime_s"] > 2.5, "some time")
    running(service)
    service.until(lambda: service.ctl("status")["uptime_s"] > 5.0, "some time")
    assert service.main_pid() == daemon
    whole(service)


def test_an_upgrade_interrupts_nothing(service: Machine) -> None:
    """`shutdown --leave-running` is no failure, starts nothing by itself, and ends no worker."""
    running(service)
    service.ctl("shutdown", "--leave-running")
    service.until(lambda: service.show("ActiveState") == "inactive", "the end of the daemon")
    assert len(service.processes()) > 0, "the session goes on"
    service.systemctl("start", "batond.service")
    adopted(service)


def test_an_upgrade_is_one_line(service: Machine) -> None:
    """As docs/systemd.md has it: the first command returns when the daemon is gone, so that the second is a start."""
    running(service)
    for number in (1, 2, 3):
        old = service.main_pid()
        service.run("sh", "-c", "batonctl shutdown --leave-running && systemctl start batond")
        assert service.main_pid() not in (0, old)
        service.event("session.adopted", times=number, session="a")
    goes_on(service)
    whole(service)
    assert len(service.told("session.started", session="a")) == 1


def test_a_client_that_comes_during_a_restart_waits_and_is_answered(service: Machine) -> None:
    service.drop_in("60-test", "[Service]\nRestartSec=2s\n")
    old = signal_daemon(service, signal.SIGKILL)
    service.until(lambda: service.show("SubState") == "auto-restart", "the pause before the restart")
    answer = service.ctl("version")
    assert answer["pid"] not in (0, old)
    assert answer["pid"] == service.main_pid()


def test_the_first_client_starts_it(service: Machine) -> None:
    """And the socket's file stays systemd's, with its group and mode, through starts and stops."""
    for _ in range(2):
        service.systemctl("stop", "batond.service")
        said = service.run("stat", "-c", "%F %U:%G %a", "/run/batond/control.sock")
        assert said == "socket batond:batond 660\n"
        assert service.ctl("version")["pid"] == service.main_pid()
    assert service.event("daemon.started")["socket"] == "/run/batond/control.sock"


def test_a_reload_counts_at_once(service: Machine) -> None:
    running(service)
    daemon = service.main_pid()
    service.write("/etc/batond/batond.toml", SETTINGS + 'headroom_bytes = "3GiB"\n[log]\nlevel = "debug"\n')
    service.systemctl("reload", "batond.service")
    changed = service.event("config.reloaded")["changed"]
    assert changed == ["limits.headroom_bytes", "log.level"]
    assert {device["headroom_bytes"] for device in service.ctl("devices")["devices"]} == {3 << 30}
    assert service.show("ActiveState") == "active"
    service.write("/etc/batond/batond.toml", SETTINGS)
    service.systemctl("kill", "-s", "HUP", "--kill-who=main", "batond.service")
    service.event("config.reloaded", times=2)
    service.until(lambda: service.show("SubState") == "running", "the end of the reload")
    assert service.main_pid() == daemon
    goes_on(service)
    whole(service)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (SETTINGS + "drain_timeout_s = -1\n", "/etc/batond/batond.toml:8: limits.drain_timeout_s: must be more than 0"),
        (SETTINGS + "drain_timeout = 5\n", "/etc/batond/batond.toml:8: limits.drain_timeout: no such key"),
        (
            SETTINGS.replace('group = "batond"', 'mode = "0600"') + "stall_timeout_s = 7.0\n",
            "control.group, control.mode: cannot change while batond runs; restart it for them",
        ),
    ],
    ids=["value", "key", "restart"],
)
def test_a_reload_that_cannot_be_changes_nothing(service: Machine, text: str, line: str) -> None:
    """`systemctl reload` fails, the journal says why in one line, and the old configuration counts, whole."""
    daemon = service.main_pid()
    before = service.ctl("devices")
    service.write("/etc/batond/batond.toml", text)
    service.systemctl("reload", "batond.service", status=1)
    assert line in service.event("config.refused")["reasons"][0]
    assert f"  {line}" in service.journal(), "batonctl's own words"
    assert service.main_pid() == daemon
    assert service.show("ActiveState") == "active"
    assert [each["headroom_bytes"] for each in service.ctl("devices")["devices"]] == [
        each["headroom_bytes"] for each in before["devices"]
    ]
    assert "the configuration stays as it was" in service.ctl("reload", status=1)


def test_a_configuration_that_is_refused_is_told_to_who_waits_and_tried_once(service: Machine) -> None:
    """Neither systemd nor the client that is still there has it started again: that would not mend it."""
    service.systemctl("stop", "batond.service")
    service.mark()
    service.write("/etc/batond/batond.toml", SETTINGS + "drain_timeout = 5\n")
    said = service.run("batonctl", "list", status=1)
    line = "/etc/batond/batond.toml:8: limits.drain_timeout: no such key; did you mean 'drain_timeout_s'?"
    assert said == f"batonctl: batond cannot start with its configuration\n  {line}\n"
    service.until(lambda: service.show("ActiveState") == "failed", "the end of the start")
    assert (service.show("ExecMainStatus"), service.show("NRestarts")) == ("78", "0")
    assert service.journal().splitlines().count(f"batond: {line}") == 1
    assert service.show("ActiveState", "batond.socket") == "active"
    service.write("/etc/batond/batond.toml", SETTINGS)
    assert service.ctl("list")["sessions"] == []


def test_a_closed_configuration_is_a_line_at_a_start_and_at_a_reload(service: Machine) -> None:
    """As an installation with a narrow umask once left it; the daemon is no root."""
    line = (
        "cannot read the configuration /etc/batond/batond.toml: Permission denied; mend it or name another by --config"
    )
    daemon = service.main_pid()
    service.run("chmod", "700", "/etc/batond")
    try:
        service.systemctl("reload", "batond.service", status=1)
        assert service.event("config.refused")["reasons"] == [line]
        service.systemctl("kill", "-s", "HUP", "--kill-who=main", "batond.service")
        service.event("config.refused", times=2)
        assert service.main_pid() == daemon
        service.systemctl("restart", "batond.service", status=1)
        assert f"batond: {line}\n" in service.journal()
        assert "Traceback" not in service.journal()
    finally:
        service.run("chmod", "755", "/etc/batond")
        service.systemctl("reset-failed", status=None)


def test_completing_a_name_starts_no_daemon(service: Machine) -> None:
    """A Tab is no wish for one, and would wait for it."""
    service.submit(stand_in("alpha", *LONG, items=ENDLESS))
    service.event("session.started", session="alpha")
    words = ("_BATONCTL_COMPLETE=bash_complete", "COMP_WORDS=batonctl show ", "COMP_CWORD=2")
    assert service.run("env", *words, "batonctl") == "plain,alpha\n"
    service.systemctl("stop", "batond.service")
    assert service.run("env", *words, "batonctl").strip() == ""
    assert service.show("ActiveState") == "inactive"


def test_with_its_socket_stopped_a_client_is_told_how_the_service_is_started(service: Machine) -> None:
    service.systemctl("stop", "batond.socket", "batond.service")
    assert service.run("batonctl", "list", status=3) == (
        "batonctl: cannot reach batond at /run/batond/control.sock: there is no socket; "
        "start it with `systemctl start batond.socket`, or name another --socket\n"
    )


def test_what_a_session_writes_is_its_groups_and_nobody_elses(service: Machine) -> None:
    service.submit(stand_in("a"))
    service.event("session.finished", session="a")
    assert service.run("stat", "-c", "%U:%G %a", f"{OUT}/a.rows") == "batond:batond 640\n"
