"""Handovers on one lane while ten workers on other lanes send 20,000 progress messages a second; and without them.

`python -m bench.flood`: about six minutes. A gap counts where the standby was ready: any other is of its preparation,
and says nothing about who held up whom. For how many it was, of `handovers_of_each`, is a figure too (`ready_of_each`):
a flood that made preparations late would show there.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Final

from bench.figures import ROOT, Figures, run, spread
from bench.house import House, cpu_s, house, stand_in

WORKERS: Final = 10
PER_S: Final = 2000  # of each
PROGRAM: Final = ROOT / "bench" / "chatterbox.py"


def measure(*, small: bool) -> Figures:
    """What a flood of progress reports does to handovers: gaps with and without it, by turns in one daemon."""
    workers, turns, sessions = (2, 1, 3) if small else (WORKERS, 4, 20)
    gaps: dict[str, list[float]] = {"quiet": [], "flooded": []}
    swallowed: list[float] = []
    cores: dict[str, list[float]] = {"quiet": [], "flooded": []}
    with house("--launcher", "exec", gpus=workers + 1) as daemon:
        for turn in range(turns):
            for kind in gaps:
                names = flood(daemon, workers, turn) if kind == "flooded" else []
                began, used, before = time.monotonic(), cpu_s(daemon.pid), _counted(daemon.folder)
                gaps[kind] += relay(daemon, workers, f"{kind}-{turn}", sessions)
                lasted = time.monotonic() - began
                cores[kind].append(100 * (cpu_s(daemon.pid) - used) / lasted)
                if names:
                    swallowed.append((_counted(daemon.folder) - before) / lasted)
                    _end(daemon, names)
    ready = {kind: len(each) for kind, each in gaps.items()}
    handovers = turns * (sessions - 1)
    if not (small or all(gaps.values())):
        raise RuntimeError(f"no gaps to compare: of {handovers} handovers of each, the standby was ready for {ready}")
    figures: Figures = {f"{kind}_gap_s": spread(each) if each else None for kind, each in gaps.items()}
    delay = None
    if all(gaps.values()):
        quiet, flooded = figures["quiet_gap_s"], figures["flooded_gap_s"]
        delay = {key: round(flooded[key] - quiet[key], 6) for key in ("median", "p95", "max")}
    return figures | {
        "handovers_of_each": handovers,
        "ready_of_each": ready,
        "delay_s": delay,
        "swallowed_per_s": spread(swallowed),
        "core_percent": {kind: spread(each) for kind, each in cores.items()},
    }


def flood(daemon: House, workers: int, turn: int) -> list[str]:
    """Start it, on every lane but the last; the names of its sessions."""
    text = ""
    names = [f"flood-{turn}-{n}" for n in range(workers)]
    for n, name in enumerate(names):
        count = daemon.folder / f"{name}.count"
        command = [sys.executable, str(PROGRAM), "--per-s", str(PER_S), "--count", str(count)]
        table = {"name": name, "run": command, "prepare": True, "device": f"gpu:{n}", "memory": "1GiB"}
        text += "[[session]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    daemon.submit(text)
    for name in names:
        daemon.event("session.started", session=name)
    time.sleep(1.0)
    return names


def relay(daemon: House, lane: int, name: str, sessions: int) -> list[float]:
    """The gaps of short sessions, one after another on the last lane; of those handovers that found a standby ready."""
    seen = len(daemon.handovers())
    names = [f"{name}-{n}" for n in range(sessions)]
    keys = {"device": f"gpu:{lane}", "memory": "1GiB"}
    daemon.submit("\n".join(stand_in(each, daemon.folder, "--item-ms", "10", items=200, **keys) for each in names))
    daemon.ended(*names)
    # The first begins on a lane that was empty, or behind the last turn's last: no handover of this turn's.
    return [
        told["gap_s"]
        for told in daemon.handovers()[seen:]
        if told["from_session"] in names and told["tier"] == "warm" and told["device_waited_s"] == 0.0
    ]


def _counted(folder: Path) -> int:
    return sum(int(path.read_text()) for path in folder.glob("*.count"))


def _end(daemon: House, names: list[str]) -> None:
    line = daemon.line()
    line.ask("cancel", names=names)
    line.close()
    daemon.ended(*names)


if __name__ == "__main__":
    run("flood", measure, takes="about six minutes")
