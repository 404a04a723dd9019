"""How long a command takes, and the daemon until its socket answers; beside a Python that does nothing.

`python -m bench.startup`: about a quarter of a minute.
"""

from __future__ import annotations

import subprocess
import sys
import time

from bench.figures import ROOT, Figures, run, spread
from bench.house import house


def measure(*, small: bool) -> Figures:
    """Start-up times, by turns."""
    rounds = 2 if small else 20
    with house("--launcher", "exec") as daemon:
        ctl = (sys.executable, "-m", "daemon.cli", "--socket", str(daemon.socket))
        commands: dict[str, tuple[str, ...]] = {
            "python_that_does_nothing": (sys.executable, "-c", "pass"),
            "batonctl_status_json": (*ctl, "status", "--json"),
            "batonctl_status_for_a_person": (*ctl, "status"),
            "batonctl_help": (*ctl, "--help"),
        }
        taken: dict[str, list[float]] = {name: [] for name in (*commands, "batond_until_it_answers")}
        for _ in range(rounds):
            for name, command in commands.items():
                began = time.perf_counter()
                subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
                taken[name].append(time.perf_counter() - began)
            daemon.stop()
            began = time.perf_counter()
            daemon.start()
            line = daemon.line()
            line.ask("version")
            taken["batond_until_it_answers"].append(time.perf_counter() - began)
            line.close()
    return {f"{name}_s": spread(each) for name, each in taken.items()}


if __name__ == "__main__":
    run("startup", measure, takes="about a quarter of a minute")
