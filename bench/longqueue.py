"""Ten thousand queued sessions: to submit them, to look at them, to start again with them, to choose the next of them.

`python -m bench.longqueue`: about ten seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from bench.figures import Figures, run, spread
from bench.house import GIB, Line, house
from states import policy
from states.events import Progress, Queued, Tick
from states.lifecycle import step
from states.snapshot import Lane, Reading, World
from states.work import Session

SESSIONS: Final = 10_000
A_FILE: Final = 500
PAGE: Final = 50  # what a person sees of a queue
ROUNDS: Final = 20


def measure(*, small: bool) -> Figures:
    """What a queue of ten thousand sessions costs the daemon."""
    sessions, rounds = (200, 3) if small else (SESSIONS, ROUNDS)
    with house("--launcher", "exec") as daemon:
        line = daemon.line()
        line.ask("pause")
        empty = looked(line, rounds)
        submitted = submit(line, sessions, min(A_FILE, sessions // 2))
        full = looked(line, rounds)
        line.close()
        began = time.monotonic()
        daemon.stop()
        stopped = time.monotonic()
        daemon.start()
        answers = daemon.line()
        queued = answers.ask("status", queue=0)["queued"]
        restarted = time.monotonic() - stopped
        first_list = timed(lambda: answers.ask("list"))  # the new daemon's: nobody has asked it for a row yet
        assert queued == sessions, f"{queued} of {sessions} sessions are in the queue after a restart"
        answers.close()
    return {
        "sessions": sessions,
        "submit": submitted,
        "empty": empty,
        "full": full,
        "first_list_s": round(first_list, 6),
        "stop_s": round(stopped - began, 3),
        "restart_s": round(restarted, 3),
        "core": decided(sessions, rounds),
    }


def submit(line: Line, sessions: int, a_file: int) -> Figures:
    """Seconds for a session, in the first file and in the last."""
    seconds: list[float] = []
    for first in range(0, sessions, a_file):
        text = "".join(f'[[session]]\nname = "q{n}"\nrun = ["true"]\n' for n in range(first, first + a_file))
        seconds.append(timed(lambda text=text: line.ask("submit", text=text, base="/")))  # type: ignore[misc]
    each = [value / a_file for value in seconds]
    return {"seconds": round(sum(seconds), 3), "first_each_s": round(each[0], 6), "last_each_s": round(each[-1], 6)}


def looked(line: Line, rounds: int) -> Figures:
    """Seconds until each of these answers is there, by turns."""
    asked = {
        "version": lambda: line.ask("version"),
        "status_of_ten": lambda: line.ask("status", queue=10),
        "status_of_a_page": lambda: line.ask("status", queue=PAGE),
        "status_of_all": lambda: line.ask("status"),
        "list_running": lambda: line.ask("list", states=["running"]),
        "list_of_all": lambda: line.ask("list"),
    }
    taken: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(rounds):
        for name, ask in asked.items():
            taken[name].append(timed(ask))
    return {f"{name}_s": spread(each) for name, each in taken.items()}


def decided(sessions: int, rounds: int) -> Figures:
    """Seconds of processor of the core's decisions before such a queue, without a daemon around it."""
    reading = Reading(0.0, 64 * GIB, 64 * GIB)
    lane = Lane("cpu", readings=(reading, reading), imported_bytes=GIB // 4)
    queue = tuple(Session(f"q{n}", float(n), profile=f"model{n % 6}", guess_bytes=GIB) for n in range(sessions))
    waiting = World({"cpu": lane}, queue)
    none_due = replace(waiting, queue=tuple(replace(session, waits_for=frozenset({"x"})) for session in queue))
    last_due = replace(none_due, queue=(*none_due.queue[:-1], queue[-1]))
    started = step(waiting, Tick(1.0)).after
    generation = next(iter(started.lanes["cpu"].workers())).generation
    extra = Session("extra", float(sessions), guess_bytes=GIB)
    acts: dict[str, Callable[[], object]] = {
        "choose_the_next": lambda: policy.head(waiting, lane, 1.0),
        "choose_the_last_as_no_other_is_due": lambda: policy.head(last_due, lane, 1.0),
        "start_the_next": lambda: step(waiting, Tick(1.0)),
        "tick": lambda: step(started, Tick(1.0)),
        "progress": lambda: step(started, Progress(1.0, generation, 1, 0)),
        "queue_one_more": lambda: step(started, Queued(1.0, extra)),
        "next_deadline": lambda: policy.next_deadline(started),
    }
    taken: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(rounds * 5):
        for name, act in acts.items():
            began = time.thread_time()
            act()
            taken[name].append(time.thread_time() - began)
    return {f"{name}_s": spread(each) for name, each in taken.items()}


def timed(act: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


if __name__ == "__main__":
    run("longqueue", measure, takes="about ten seconds")
