"""`batonctl doctor` of the service: a daemon that cannot start, files that are another's, a systemd that is mute."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.systemd.machine import Machine

Checks = dict[str, dict[str, str]]


def doctor(service: Machine, *as_user: str, status: int = 0) -> Checks:
    """What it finds, by name."""
    child = service.popen(*as_user, "batonctl", "doctor", "--json")
    out, err = child.communicate(timeout=300.0)  # it imports TensorFlow
    assert (child.returncode, err) == (status, ""), out + err
    return {check["name"]: check for check in json.loads(out)["checks"]}


@pytest.fixture
def looping(service: Machine) -> Iterator[Machine]:
    """With a daemon that ends at each start: what is kept is root's, as `batond` run by root once leaves it."""
    service.systemctl("stop", "batond.service")
    service.run("sh", "-c", "rm -f /var/lib/batond/batond.db*; install -m 600 /dev/null /var/lib/batond/batond.db")
    service.systemctl("start", "--no-block", "batond.service")
    service.until(lambda: int(service.show("NRestarts")) > 1, "a second restart")
    yield service
    service.systemctl("stop", "batond.service")
    service.run("rm", "/var/lib/batond/batond.db")


def test_of_a_daemon_that_ends_at_each_start_it_says_why_and_harms_nothing(looping: Machine) -> None:
    """The socket's file is systemd's: a daemon that is dead has not left it."""
    looping.drop_in("60-test", "[Service]\nRestartSec=60s\n")  # so that it waits for the next one while it is looked at
    looping.until(lambda: looping.show("SubState") == "auto-restart", "the pause between two starts")
    checks = doctor(looping, status=1)
    user = looping.run("id", "-u", "batond").strip()
    assert checks["state_dir"]["state"] == "fail"
    assert checks["state_dir"]["text"] == f"user {user} may not write /var/lib/batond/batond.db"
    assert checks["socket"]["state"] == "fail"
    assert (
        checks["socket"]["remedy"] == "be in its group, or see `journalctl -u batond`; its file is systemd's and stays"
    )
    assert checks["systemd"]["state"] == "fail"
    assert checks["systemd"]["text"].startswith("batond.service ends whenever it is started, and is started again (")
    assert checks["systemd"]["remedy"] == "see `journalctl -u batond`"


def test_folders_are_looked_at_as_the_daemons_user(service: Machine) -> None:
    """Root may write where that one may not; and nobody may where a file system is read-only."""
    assert doctor(service)["state_dir"]["state"] == "ok"
    user = service.run("id", "-u", "batond").strip()
    service.run("mount", "-t", "tmpfs", "-o", "ro,mode=755", "log", "/var/log/batond")
    service.run("chown", "root:", "/var/cache/batond")
    try:
        checks = doctor(service, status=1)
    finally:
        service.run("umount", "/var/log/batond")
        service.run("chown", "batond:", "/var/cache/batond")
    assert checks["log_dir"]["text"] == f"user {user} may not write /var/log/batond"
    assert checks["cache_dir"]["text"] == f"user {user} may not write /var/cache/batond"
    assert {checks[name]["state"] for name in ("log_dir", "cache_dir")} == {"fail"}


def test_a_systemd_that_cannot_be_asked_is_no_missing_service(service: Machine) -> None:
    """As where an ordinary user has no system bus to ask it by."""
    service.run("useradd", "--no-create-home", "ann")
    try:
        check = doctor(service, "runuser", "-u", "ann", "--", status=1)["systemd"]
    finally:
        service.run("userdel", "ann")
    assert check["state"] == "warn"
    assert check["text"].startswith("cannot ask systemd for batond.service: ")
    assert check["remedy"] == "ask as root"
