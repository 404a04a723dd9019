"""A `run` program: appends a row an item, and commits. Standard library and baton.py only; asserts nothing.

Rows are appended, never written in place: of two that wrote at once, both would be seen. A run that resumes cuts the
file to its cursor first. It waits for room on a full disk, as a program may be expected to.
"""

from __future__ import annotations

import argparse
import errno
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import baton

ROW_BYTES = 13
COMMIT_EVERY = 40


class Rows:
    """The output: durable only after `keep`."""

    def __init__(self, path: Path, cursor: int) -> None:
        self.count = cursor
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, cursor * ROW_BYTES)

    def add(self, item: int) -> None:
        """Append the item's row, whole."""
        line = memoryview(b"%12d\n" % item)
        while line:
            line = line[_insist(partial(os.write, self._fd, line)) or 0 :]
        self.count += 1

    def keep(self) -> int:
        """Make them durable; how many there are."""
        _insist(partial(os.fsync, self._fd))
        return self.count


def _insist(act: Callable[[], int | None]) -> int | None:
    while True:
        try:
            return act()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            time.sleep(0.2)


def main() -> None:
    """With --silent it knows nothing of batond, and begins anew whenever it is run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--base", type=int, required=True)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--item-ms", type=float, default=4.0)
    parser.add_argument("--silent", action="store_true")
    options = parser.parse_args()
    if options.silent:
        rows = Rows(options.rows, 0)
        for item in range(options.items):
            time.sleep(options.item_ms / 1000)
            rows.add(options.base + item)
        rows.keep()
        return
    with baton.session() as session:
        session.ready(options.items)
        rows = Rows(options.rows, session.cursor)
        for item in session.track(range(session.cursor, options.items), options.items):
            time.sleep(options.item_ms / 1000)
            rows.add(options.base + item)
            if rows.count % COMMIT_EVERY == 0:
                session.commit(rows.keep())
        session.commit(rows.keep())


if __name__ == "__main__":
    main()
