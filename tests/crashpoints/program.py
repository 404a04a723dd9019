"""A session's own script: rows appended durably at its cursor, and a journal of its lives. Asserts nothing.

What the journal says is not batond's word: when this process was told to go, where it began and ended, whether
another one wrote to the same output at that time, whether rows were missing below its cursor.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import time
import zlib
from pathlib import Path

import baton

ROW_BYTES = 32
GATE_POLL_S = 0.005


def row(name: str, item: int) -> bytes:
    """The row of one item: always as long, and no other item's."""
    text = f"{name:.8s} {item:6d} {zlib.crc32(f'{name} {item}'.encode()):08x}"
    return text.ljust(ROW_BYTES - 1).encode() + b"\n"


class Journal:
    """Lines that stay, whoever dies next."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def tell(self, what: str, **fields: int | bool) -> None:
        """One line."""
        line = {"what": what, "at": time.monotonic(), "pid": os.getpid(), "parent": os.getppid(), **fields}
        os.write(self._fd, json.dumps(line).encode() + b"\n")


def wait_for(gate: Path, session: baton.Session) -> None:
    """Until the file is there, or somebody wants the session to end: so a story's order is its own, on any machine."""
    while not (gate.exists() or session.draining):
        time.sleep(GATE_POLL_S)


def main() -> None:
    """Compute what is left of the session."""
    parser = argparse.ArgumentParser(description=__doc__)
    count = int
    parser.add_argument("name")
    parser.add_argument("out", type=Path)
    parser.add_argument("--items", type=count, required=True)
    parser.add_argument("--item-ms", type=float, required=True)
    parser.add_argument("--commit-every", type=count, default=5, help="items between two commits")
    parser.add_argument("--gate", type=Path, help="a file: half of the items are computed only when it is there")
    parser.add_argument("--unknown-total", action="store_true", help="say nothing of how many there are")
    options = parser.parse_args()
    items: int = options.items
    total = None if options.unknown_total else items
    with baton.session() as session:
        journal = Journal(options.out.with_suffix(".lives"))
        journal.tell("loaded", cursor=session.cursor)
        session.ready(total)
        journal.tell("went", cursor=session.cursor)
        out = os.open(options.out, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            journal.tell("beside another writer")
        if os.fstat(out).st_size < session.cursor * ROW_BYTES:
            journal.tell("below its cursor rows are missing")
        os.ftruncate(out, session.cursor * ROW_BYTES)
        os.lseek(out, 0, os.SEEK_END)
        done = session.cursor
        for item in session.track(iter(range(done, items)), total):
            if done >= items // 2 and options.gate is not None:
                wait_for(options.gate, session)
            time.sleep(options.item_ms / 1000)
            os.write(out, row(options.name, item))
            done += 1
            if done % options.commit_every == 0:
                os.fsync(out)
                session.commit(done)
        os.fsync(out)
        session.commit(done)
        os.close(out)
        journal.tell("ended", cursor=done, drained=session.draining)


if __name__ == "__main__":
    main()
