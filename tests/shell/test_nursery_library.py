"""baton.py for programs: put where they find it, once; where it cannot be, one line says why."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

import baton
from daemon.config import Problems
from daemon.nursery import Nursery

SOURCE = Path(baton.__file__)


def test_a_disk_without_room_for_it_is_told_in_one_line_and_nothing_is_left_there(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(Problems, match=r"^cache_dir: cannot put baton\.py into .*/lib: File too large; free some"):
            Nursery(tmp_path, say=print)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "lib").iterdir()) == []


def test_what_lies_there_already_needs_no_room(tmp_path: Path) -> None:
    """A daemon that is started again on a full disk has it."""
    Nursery(tmp_path, say=print)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        Nursery(tmp_path, say=print)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "lib" / "baton.py").read_bytes() == SOURCE.read_bytes()


def test_an_older_one_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "baton.py").write_text("# of an earlier version\n")
    Nursery(tmp_path, say=print)
    assert (tmp_path / "lib" / "baton.py").read_bytes() == SOURCE.read_bytes()
