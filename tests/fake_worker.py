"""A stand-in `run` program: real rows, real commits, no TensorFlow, and a fault for each flag. Asserts nothing.

Rows are lines of ROW_BYTES with an item's number, appended to --out; a commit is an fsync and the cursor told. A
run that resumes cuts the file to its cursor first, so a session that was handed over leaves each number once.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import baton

ROW_BYTES = 8


def rows(path: Path) -> list[int]:
    """The numbers of the items that left a row, in the order of the file."""
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


class Rows:
    """The output: durable only after `keep`."""

    def __init__(self, path: Path | None, cursor: int) -> None:
        self.count = cursor
        self._file = None
        if path is not None:
            self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
            self._file.truncate(cursor * ROW_BYTES)
            self._file.seek(cursor * ROW_BYTES)

    def add(self, item: int) -> None:
        if self._file is not None:
            self._file.write(b"%7d\n" % item)
        self.count += 1

    def keep(self) -> int:
        if self._file is not None:
            os.fsync(self._file.fileno())
        return self.count


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    count: Callable[[str], int] = int
    parser.add_argument("--items", type=count, default=10)
    parser.add_argument("--item-ms", type=float, default=1.0)
    parser.add_argument("--prepare-ms", type=float, default=0.0)
    parser.add_argument("--commit-every", type=count, default=5, help="items between two commits")
    parser.add_argument("--out", type=Path, help="the file of rows")
    parser.add_argument("--unknown-total", action="store_true")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--ignore-drain", action="store_true")
    parser.add_argument("--die-loading", action="store_true", help="SIGKILL to itself while it prepares")
    parser.add_argument("--die-at", type=count, help="SIGKILL to itself before that item")
    parser.add_argument("--fail-at", type=count, help="raise at that item")
    parser.add_argument("--stall-at", type=count, help="stop for ever before that item")
    parser.add_argument("--exit-code", type=count, help="instead of 0, after the commit")
    parser.add_argument("--never-exit-after-commit", action="store_true")
    parser.add_argument("--grandchild", type=Path, help="start a child that outlives this, and write its pid there")
    parser.add_argument("--hold-mb", type=count, default=0, help="memory to fill while preparing")
    for fault in ("flood", "garbage", "oversized-line", "unknown-type", "wrong-generation", "close-channel", "silent"):
        parser.add_argument(f"--{fault}", action="store_true")
    return parser.parse_args()


def forever() -> NoReturn:
    while True:
        signal.pause()


def misbehave(options: argparse.Namespace) -> None:
    """The faults that need the bare socket; returns where none was asked for."""
    if options.silent:
        time.sleep(options.items * options.item_ms / 1000)
        sys.stderr.write("a last word\n")
        sys.exit(options.exit_code or 0)
    if not (
        options.flood
        or options.garbage
        or options.oversized_line
        or options.unknown_type
        or options.wrong_generation
        or options.close_channel
    ):
        return
    line = socket.socket(fileno=int(os.environ.pop("BATON_FD")))
    assignment = json.loads(line.makefile("rb").readline())

    def say(type_: str, **fields: object) -> None:
        line.sendall(json.dumps({"type": type_, **fields}).encode() + b"\n")

    generation = assignment["generation"] + (1 if options.wrong_generation else 0)
    say(
        "hello", protocol=1, session=assignment["session"], generation=generation, pid=os.getpid(), phase="loading",
        tier=None, cursor=0, done=0, total=None, tensorflow=False,
    )  # fmt: skip
    if options.garbage:
        line.sendall(b'\x00\xff{"type": \n')
    if options.unknown_type:
        say("surprise", at=1.0)
    if options.close_channel:
        line.close()
    try:
        if options.oversized_line:
            line.sendall(b'{"type": "failed", "kind": "program", "reason": "' + b"x" * (2 << 20))
        done = 0
        while options.flood:
            done += 1
            say("progress", done=done, total=None, cursor=0, rss_bytes=0)
    except OSError:  # the daemon has had enough
        sys.exit(1)
    forever()


def prepare(options: argparse.Namespace) -> bytearray:
    if options.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.grandchild is not None:
        child = subprocess.Popen([sys.executable, "-S", "-c", "import signal\nwhile True: signal.pause()"])
        options.grandchild.write_text(str(child.pid))
    time.sleep(options.prepare_ms / 1000)
    if options.die_loading:
        os.kill(os.getpid(), signal.SIGKILL)
    held_mb: int = options.hold_mb
    return bytearray(os.urandom(4096)) * (held_mb * 256)


def compute(session: baton.Session, options: argparse.Namespace) -> None:
    out = Rows(options.out, session.cursor)
    total = None if options.unknown_total else options.items
    session.ready(total)
    todo = range(session.cursor, options.items)
    for item in todo if options.ignore_drain else session.track(iter(todo), total):
        if item == options.stall_at:
            forever()
        if item == options.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if item == options.fail_at:
            raise ValueError(f"item {item} cannot be computed")
        time.sleep(options.item_ms / 1000)
        out.add(item)
        if options.ignore_drain:
            session.progress(item + 1, total)
        if out.count % options.commit_every == 0:
            session.commit(out.keep())
    session.commit(out.keep())


def main() -> int:
    ctypes.CDLL(None).prctl(15, b"fake_worker", 0, 0, 0)  # PR_SET_NAME: to be found among the processes
    options = flags()
    misbehave(options)
    held = bytearray()
    with baton.session() as session:
        held = prepare(options)
        compute(session, options)
    if options.never_exit_after_commit:
        forever()
    assert len(held) == options.hold_mb << 20
    return int(options.exit_code or 0)


if __name__ == "__main__":
    sys.exit(main())
