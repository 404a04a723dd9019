"""batond as a child of the demo: started with a state folder and socket of its own, spoken to, stopped.

Knows the two commands' options and the socket's address; reads no log and judges nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ANSWER_S = 60.0  # the first start imports TensorFlow in the fork server
STOP_S = 60.0  # a running session drains first
LONGEST_ADDRESS = 107  # bytes of a Unix socket's path
BIN = Path(sys.executable).parent
CONFIG = """\
# The demo's own: whatever else is configured on this host is left aside.
cache_dir = "cache"

[log]
format = "json"
"""


class DaemonError(Exception):
    """The daemon did not start, answer or stop as it should."""


def socket_path(out: Path) -> Path:
    """OUT/batond.sock, or a short path where that one is longer than a Unix socket's address may be."""
    path = out / "batond.sock"
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        return path
    return Path(tempfile.mkdtemp(prefix="batond-demo-")) / "batond.sock"


def answers(address: Path) -> bool:
    """Whether a daemon at the socket answers a request."""
    request = {"jsonrpc": "2.0", "id": 1, "method": "version"}
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(5.0)
            client.connect(str(address))
            client.sendall(json.dumps(request).encode() + b"\n")
            return client.makefile().readline() != ""
    except OSError:
        return False


@contextmanager
def batond(out: Path, address: Path) -> Iterator[None]:
    """A daemon that answers, for as long as the block runs; then SIGTERM, and exit status 0 expected.

    Its log lines go to OUT/batond.log and what else it says to OUT/batond.err.
    """
    config = out / "batond.toml"
    config.write_text(CONFIG, encoding="utf-8")
    command: list[str | Path] = [BIN / "batond", "--config", config, "--state-dir", out / "state", "--socket", address]
    with (out / "batond.log").open("wb") as log, (out / "batond.err").open("wb") as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=err,
            start_new_session=True,  # a Ctrl-C is for the demo, which then stops the daemon in order
        )
    try:
        _wait_until_it_answers(process, out, address)
        yield
    finally:
        status = _end(process)
        if address.parent != out:
            shutil.rmtree(address.parent)
    if status != 0:
        raise DaemonError(f"batond ended with status {status} at SIGTERM, not 0{_last_words(out)}")


def _wait_until_it_answers(process: subprocess.Popen[bytes], out: Path, address: Path) -> None:
    deadline = time.monotonic() + ANSWER_S
    while not answers(address):
        if process.poll() is not None:
            raise DaemonError(f"batond ended with status {process.returncode} at its start{_last_words(out)}")
        if time.monotonic() > deadline:
            raise DaemonError(f"batond did not answer at {address} within {ANSWER_S:.0f} s{_last_words(out)}")
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _last_words(out: Path) -> str:
    lines = (out / "batond.err").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "".join(f"\n  {line}" for line in lines[-5:]) or f"; see {out / 'batond.log'}"


def submit(address: Path, sessions_file: Path) -> int:
    """Submit the file and show the progress until its sessions have ended; returns batonctl's exit status."""
    command: list[str | Path] = [BIN / "batonctl", "--socket", address, "submit", "--wait", sessions_file]
    return subprocess.run(command, check=False).returncode
