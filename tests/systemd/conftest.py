"""Fixtures: a machine for a module's tests, and batond on it as freshly installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.logs.conforming import assert_conforming
from tests.systemd.machine import OUT, SETTINGS, Machine, why_not


@pytest.fixture(scope="module")
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A booted machine with batond installed. `on_both` gives a test two of them."""
    cgroups: str = getattr(request, "param", "")
    if (reason := why_not(cgroups)) is not None:
        pytest.skip(reason)
    with Machine(cgroups=cgroups) as machine:
        yield machine


@pytest.fixture
def service(machine: Machine) -> Iterator[Machine]:
    """The same, with batond running, and nothing there of an earlier test."""
    machine.mark()
    machine.write("/etc/batond/batond.toml", SETTINGS)
    machine.systemctl("start", "batond.socket", "batond.service")
    yield machine
    machine.systemctl("stop", "batond.socket", "batond.service")
    machine.until(lambda: machine.processes() == [], "a stop")
    assert_conforming(machine.log())
    machine.systemctl("reset-failed", status=None)
    machine.drop_in("60-test", None)
    machine.run("sh", "-c", f"rm -rf /var/lib/batond/* /var/log/batond/* {OUT}/*")
