"""The demo: three digit classifiers on one device, handed over by the real daemon, every output row verified.

    python examples/digits/demo.py [--out demo/out] [--seconds 18]

Trains the models and makes their inputs, runs batond on the three sessions, predicts everything anew and
compares; exits 1, and says why, where anything is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from child import DaemonError, answers, batond, socket_path, submit
from plan import SESSIONS_FILE, read_prepared
from report import Report, judge, read_log, show, write_summary
from rich.console import Console

HERE = Path(__file__).resolve().parent
DEFAULT_OUT = HERE.parents[1] / "demo" / "out"
CONSOLE = Console()


class DemoError(Exception):
    """A part of the demo could not be done; the message says which."""


@contextmanager
def part(title: str) -> Iterator[None]:
    """Name a part of the demo, and say how long it took."""
    CONSOLE.rule(title, align="left")
    begun = time.monotonic()
    yield
    CONSOLE.print(f"[dim]{time.monotonic() - begun:.1f} s[/dim]", highlight=False)


def script(name: str, out: Path, *arguments: str) -> None:
    """Run one of the demo's scripts on the CPU in a process of its own: TensorFlow stays out of this one.

    What it writes to standard error, where TensorFlow talks whatever one asks of it, goes to a file in OUT.
    """
    on_cpu = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    errors = (out / name).with_suffix(".err")
    with errors.open("wb") as err:
        status = subprocess.run(
            [sys.executable, HERE / name, out, *arguments], env=on_cpu, stderr=err, check=False
        ).returncode
    if status != 0:
        said = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing said"]
        raise DemoError(f"{name} ended with status {status}: {said[-1]} (all of it in {errors})")


def start_afresh(out: Path) -> None:
    """Empty OUT and put the session file into it."""
    if answers(out / "batond.sock"):
        raise DemoError(f"the daemon of an earlier demo still answers at {out / 'batond.sock'}: stop it first")
    if out.exists():
        if any(out.iterdir()) and not (out / SESSIONS_FILE).exists():
            raise DemoError(f"{out} is not empty and not an earlier demo's: give another folder with --out")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    shutil.copy(HERE / SESSIONS_FILE, out)


def run(out: Path, seconds: float) -> Report:
    """The whole demo, part by part."""
    start_afresh(out)
    with part("train three models, time them, write their inputs"):
        script("train.py", out, str(seconds))
    with part("run the sessions under batond"):
        address = socket_path(out)
        with batond(out, address):
            submitted = submit(address, out / SESSIONS_FILE)
    with part("predict everything anew and compare each row"):
        script("verify.py", out)
    verdicts = json.loads((out / "verified.json").read_text(encoding="utf-8"))
    report = judge(read_prepared(out), read_log(out / "batond.log"), verdicts)
    if submitted != 0:
        report.faults.append(f"batonctl submit --wait ended with status {submitted}")
    return report


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder to work in; it is emptied first")
    parser.add_argument("--seconds", type=float, default=18.0, help="how long each session is to compute")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the daemon is stopped on the way out
    out, begun = options.out.resolve(), time.monotonic()
    try:
        report = run(out, options.seconds)
    except (DemoError, DaemonError, OSError, ValueError) as error:
        CONSOLE.print(f"demo: {error}", style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        CONSOLE.print("demo: interrupted; the daemon is stopped")
        return 130
    write_summary(report, out / "summary.json")
    show(report, CONSOLE)
    outcome = f"[red]{len(report.faults)} faults[/red]" if report.faults else "[green]all as it should be[/green]"
    CONSOLE.print(f"{outcome} after {time.monotonic() - begun:.0f} s; {out / 'summary.json'}", highlight=False)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
