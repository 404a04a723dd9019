"""Fixtures: a booted machine with batond installed, for what a journal and a collector of logs make of its log."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.logs import packages
from tests.systemd.machine import Machine, why_not


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """One for a module's tests, with batond running, and the programs that were fetched."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with Machine(*([packages.TREE] if packages.TREE.is_dir() else [])) as machine:
        machine.mark()
        machine.systemctl("start", "batond.socket", "batond.service")
        yield machine
        machine.systemctl("stop", "batond.socket", "batond.service")
