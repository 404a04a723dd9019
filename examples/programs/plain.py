"""A nightly job as a session: the SHA-256 of each file below a folder, a line each. Standard library only.

    python3 plain.py FOLDER SUMS

One item is one file. Lines are made durable every hundred files, and that is told: drained, killed or restarted, the
job goes on behind them, and SUMS has each file once, in order. (The folder has to stay as it is meanwhile.)
"""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import baton

COMMIT_EVERY = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sums", type=Path)
    options = parser.parse_args()
    options.sums.parent.mkdir(parents=True, exist_ok=True)
    with baton.session() as session:
        files = sorted(path for path in options.folder.rglob("*") if path.is_file())
        with options.sums.open("a+b") as sums:
            keep_lines(sums, session.cursor)
            session.ready(total=len(files))  # from here on the device, or the processor, is this session's
            done = session.cursor
            for path in session.track(files[done:]):
                sums.write(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}\n".encode())
                done += 1
                if done % COMMIT_EVERY == 0:
                    make_durable(sums)
                    session.commit(done)
            make_durable(sums)
            session.commit(done)


def keep_lines(file: BinaryIO, count: int) -> None:
    """Cut the file behind its first `count` lines: what follows is written anew."""
    file.seek(0)
    for _ in range(count):
        file.readline()
    file.truncate(file.tell())


def make_durable(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


if __name__ == "__main__":
    main()
