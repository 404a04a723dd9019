"""Who may do what on the service's socket: members of its group, others that may connect, others that may not."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.systemd.machine import Machine, stand_in

MEMBER, OTHER = "ann", "bob"
SUBMIT = ("batonctl", "submit", "/srv/sessions.toml")
DROP_IN = "/etc/systemd/system/batond.socket.d/60-test.conf"


@pytest.fixture
def people(service: Machine) -> Iterator[Machine]:
    """With two ordinary users, one of them in the group batond beside the group of its own; and a session file."""
    for name in (MEMBER, OTHER):
        service.run("useradd", "--no-create-home", name)
    service.run("usermod", "-aG", "batond", MEMBER)
    service.write("/srv/sessions.toml", stand_in("a"))
    yield service
    for name in (MEMBER, OTHER):
        service.run("userdel", name)


@pytest.fixture
def open_socket(people: Machine) -> Iterator[None]:
    """Everybody may connect, as by `systemctl edit batond.socket`."""

    def listen_again() -> None:
        people.systemctl("daemon-reload")
        people.systemctl("stop", "batond.service")
        people.systemctl("restart", "batond.socket")

    people.write(DROP_IN, "[Socket]\nSocketMode=0666\n")
    listen_again()
    yield
    people.run("rm", DROP_IN)
    listen_again()


def test_a_member_by_a_supplementary_group_may_act(people: Machine) -> None:
    assert people.run_as(MEMBER, "id", "-gn") == f"{MEMBER}\n", "the kernel's SO_PEERCRED has no word of the other"
    assert people.run_as(MEMBER, "id", "-Gn").split() == [MEMBER, "batond"]
    people.run_as(MEMBER, *SUBMIT)
    people.event("session.finished", session="a")


def test_who_may_not_connect_is_told_so_in_a_line(people: Machine) -> None:
    said = people.run_as(OTHER, *SUBMIT, status=3)
    assert said == (
        "batonctl: cannot reach batond at /run/batond/control.sock: you may not connect to it; "
        "whoever is in its group may: `usermod -aG GROUP USER`, and log in again\n"
    )
    assert people.ctl("list", "--all")["sessions"] == []


def test_who_may_only_look_is_refused_in_a_line(people: Machine, open_socket: None) -> None:
    assert '"sessions"' in people.run_as(OTHER, "batonctl", "list", "--json")
    said = people.run_as(OTHER, *SUBMIT, status=1)
    assert re.fullmatch(r"batonctl: submit: user id \d+ may look, but not act; .*\n", said)
    assert people.ctl("list", "--all")["sessions"] == []
    people.run_as(MEMBER, *SUBMIT)
    people.event("session.finished", session="a")
