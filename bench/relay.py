"""The same sessions, run by batond: queued at once, handed over one to the next. Measures nothing itself."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from bench.house import Event, House
from bench.rivals import Job
from bench.samples import write_input

POLL_S = 0.1
_names = itertools.count()


@dataclass(frozen=True)
class Standby:
    """A preparation, and which session ran meanwhile. Seconds of the wall clock."""

    session: str
    began: float
    ready: float
    active: str


@dataclass(frozen=True)
class Relay:
    """What a relay of sessions came to."""

    seconds: float  # from the first request to the last session's end
    names: tuple[str, ...]
    handovers: tuple[Event, ...]  # those from one of these sessions to another
    standbys: tuple[Standby, ...]
    progress: dict[str, list[tuple[float, int]]]  # of each session: when, how many items


def relay(daemon: House, jobs: Sequence[Job]) -> Relay:
    """Queue these sessions, and watch them to their end."""
    names = tuple(f"r{next(_names)}" for _ in jobs)
    text = "".join(_table(daemon, name, job) for name, job in zip(names, jobs, strict=True))
    line, since = daemon.line(), len(daemon.events)
    progress: dict[str, list[tuple[float, int]]] = {name: [] for name in names}
    began = time.monotonic()
    line.ask("submit", text=text, base=str(daemon.folder))
    while True:
        lane = line.ask("status", queue=0)["lanes"][0]
        if (active := lane["active"]) is not None and active["session"] in progress:
            progress[active["session"]].append((time.time(), active["done"]))
        events = daemon.events[since:]
        ends = [event for event in events if event["event"].startswith("session.") and event["session"] in names]
        if failed := [event for event in ends if event["event"] in ("session.failed", "session.cancelled")]:
            raise RuntimeError(f"{failed[0]['session']} is not done: {failed[0].get('reason')}")
        if sum(event["event"] == "session.finished" for event in ends) == len(names):
            break
        time.sleep(POLL_S)
    seconds = time.monotonic() - began
    line.close()
    told = [event for event in daemon.events[since:] if event["event"] == "handover.completed"]
    handovers = tuple(event for event in told if event["from_session"] in names and event["session"] in names)
    return Relay(seconds, names, handovers, tuple(_standbys(daemon.events[since:])), progress)


def _table(daemon: House, name: str, job: Job) -> str:
    sample, items = job
    output = daemon.folder / "out" / name
    return (
        f'[[session]]\nname = "{name}"\nmodel = "{sample.path}"\ninput = "{write_input(sample, items)}"\n'
        f'output = "{output}"\nbatch_size = 8\n'
    )


def _standbys(events: Sequence[Event]) -> list[Standby]:
    """Those that were prepared while another session ran."""
    found: list[Standby] = []
    begun: dict[str, tuple[float, str | None]] = {}
    active: str | None = None
    for event in events:
        name = event["session"]
        if event["event"] == "standby.started":
            begun[name] = (_wall(event), active)
        elif event["event"] == "standby.ready" and event.get("tier") == "warm" and name in begun:
            since, before = begun.pop(name)
            if before is not None:
                found.append(Standby(name, since, _wall(event), before))
        elif event["event"] == "session.started":
            active = name
        elif event["event"] == "session.finished" and name == active:
            active = None
    return found


def _wall(event: Event) -> float:
    return datetime.fromisoformat(event["ts"]).timestamp()
