"""A `run` program that reports far more than any worker should: so many lines a second, written as fast as they are
taken. Speaks the protocol by hand, as baton.py would hold it back; computes nothing.

Told to drain or cancel it ends. Each tenth of a second it writes how many lines it got rid of so far to --count.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import time
from pathlib import Path

TURN_S = 0.1


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-s", type=int, default=2000)
    parser.add_argument("--count", type=Path, required=True)
    options = parser.parse_args()
    line = socket.socket(fileno=int(os.environ.pop("BATON_FD")))
    orders = line.makefile("rb")
    assignment = json.loads(orders.readline())

    def say(type_: str, **fields: object) -> None:
        line.sendall(json.dumps({"type": type_, **fields}).encode() + b"\n")

    greeting = {"session": assignment["session"], "generation": assignment["generation"], "pid": os.getpid()}
    say("hello", protocol=1, phase="loading", tier=None, cursor=0, done=0, total=None, tensorflow=False, **greeting)
    say("ready", tier="warm", seconds=0.0, total=1 << 40, peak_bytes=0, device_peak_bytes=0)
    if json.loads(orders.readline())["type"] == "go":
        say("started", at=time.monotonic())
        done = chatter(line, options.per_s, options.count)
        say("quiesced", at=time.monotonic(), done=done, remaining=(1 << 40) - done, errors=0)
        say("committed", cursor=done, errors=0, peak_bytes=0, device_peak_bytes=0)


def chatter(line: socket.socket, per_s: int, count: Path) -> int:
    """Until the daemon says something, or is gone; how many lines were written."""
    done, due = 0, time.monotonic()
    each = max(1, int(per_s * TURN_S))
    while not select.select([line], [], [], max(0.0, due - time.monotonic()))[0]:
        due = max(due, time.monotonic() - TURN_S) + TURN_S
        report = '{"type":"progress","done":%d,"total":%d,"cursor":0,"errors":0,"rss_bytes":0}\n'
        line.sendall("".join(report % (done + n, 1 << 40) for n in range(1, each + 1)).encode())
        done += each
        partial = count.with_suffix(".partial")
        partial.write_text(str(done))
        partial.replace(count)
    return done


if __name__ == "__main__":
    main()
