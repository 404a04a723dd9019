"""What is submitted and asked for in a run, and how each session has to end. The daemon may die anywhere in it."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from daemon import results, wire
from daemon.wire import Refusal
from tests.crashpoints.lives import BrokenError, Lives
from tests.crashpoints.program import ROW_BYTES

PROGRAM: Final = Path(__file__).with_name("program.py")
ITEMS: Final = 50
ITEM_MS: Final = 6.0
# Nobody is ended by force because a busy machine lets it wait: that would be another story.
SETTINGS: Final = "[limits]\nbackoff_s = 0.1\ngrace_s = 60.0\nexit_timeout_s = 60.0\n"
ENDS: Final = ("session.finished", "session.failed", "session.cancelled")


@dataclass
class Script:
    """What a client does, step by step. A command whose answer did not come is given once more."""

    lives: Lives
    swaps: int = 0  # asked for, answered or not
    cancels: Counter[str] = field(default_factory=Counter)  # likewise, by session

    def submit(self, *tables: Mapping[str, Any]) -> None:
        """All of them or none are there where no answer came; submitted again in the latter case."""
        text = "".join("[[session]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in t.items()) for t in tables)
        params = wire.SubmitParams(text=text, base=str(self.lives.folder))
        names = {table["name"] for table in tables}
        while self.lives.ask("submit", params, results.SubmitResult) is None:
            there = names & {session.name for session in self.lives.record().sessions}
            if there == names:
                return
            if there:
                raise BrokenError(f"half of a submission is recorded: {sorted(there)} of {sorted(names)}")

    def cancel(self, *names: str) -> None:
        """Where an earlier try may have been heard, a later one may be refused: cancelled it ends all the same."""
        tries = 0
        while True:
            tries += 1
            self.cancels.update(names)
            try:
                if self.lives.ask("cancel", wire.CancelParams(names=names), results.CancelResult) is not None:
                    return
            except Refusal:
                if tries == 1:
                    raise
                return

    def swap(self) -> None:
        """A wish, not a promise: a daemon that dies may forget it, and may find nothing to swap any more."""
        self.swaps += 1
        try:
            while self.lives.ask("swap", wire.SwapParams(), results.SwapResult) is None:
                self.swaps += 1
        except Refusal:
            if not self.lives.deaths:
                raise

    def until(self, session: str, *names: str) -> None:
        """Wait until one of these events was told of the session."""
        self.lives.until(partial(self.lives.happened, session, *names), f"{session} is told of by {' or '.join(names)}")

    def until_going(self, session: str) -> None:
        """Wait until it computes; a daemon that begins meanwhile calls it adopted."""
        self.until(session, "session.started", "session.adopted")

    def until_ready(self, *sessions: str) -> None:
        """Wait until one is prepared. A dead daemon's standby may take long to end: then the next one comes first."""
        happened = self.lives.happened
        self.lives.until(
            lambda: any(happened(session, "standby.ready") for session in sessions), f"{' or '.join(sessions)} is ready"
        )


@dataclass(frozen=True)
class Story:
    """One course of events. `ends`: how each session has to end; `play` makes it so, and waits for that.

    `outputs`: the files, below the run's folder, that a session leaves; `rows`: the rows in one of them, by its name.
    """

    name: str
    ends: Mapping[str, str]
    play: Callable[[Script], None]
    outputs: Callable[[Path, str], Sequence[Path]]
    rows: Callable[[str, bytes], Sequence[bytes]]
    options: tuple[str, ...]
    journals: bool  # whether its workers keep one


# Programs that use baton.py


def _program(folder: Path, name: str, *flags: str, **keys: Any) -> dict[str, Any]:
    command = [sys.executable, "-S", str(PROGRAM), name, str(folder / f"{name}.rows")]
    command += ["--items", str(ITEMS), "--item-ms", str(ITEM_MS), *flags]
    return {"name": name, "run": command, "prepare": True, "lead": "10%"} | keys


def _relay(script: Script, flags: Sequence[str] = ()) -> None:
    """A handover mid-session and back, one that waits for another, and each kind of cancellation."""

    def table(name: str, gate: str = "", **keys: Any) -> dict[str, Any]:
        opened_by = ("--gate", str(script.lives.folder / gate)) if gate else ()
        return _program(script.lives.folder, name, *opened_by, *flags, **keys)

    script.submit(
        table("long", "swapped"),
        table("unwanted", "never"),
        table("short"),
        table("follows", after=["short"]),
        table("dropped", "never", after=["follows"]),
    )
    script.until_going("long")
    script.until_ready("unwanted", "short")
    script.cancel("unwanted", "dropped")
    script.until_ready("short")
    script.swap()
    script.lives.open_gates()
    script.submit(table("endless", "never"))
    script.until_going("endless")
    script.cancel("endless")
    for name in RELAY.ends:
        script.until(name, *ENDS)


def _file(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}.rows"]


def _lines(_file: str, content: bytes) -> list[bytes]:
    return [content[at : at + ROW_BYTES] for at in range(0, len(content), ROW_BYTES)]


RELAY: Final = Story(
    "programs",
    ends=dict.fromkeys(("long", "short", "follows"), "done")
    | dict.fromkeys(("unwanted", "dropped", "endless"), "cancelled"),
    play=_relay,
    outputs=_file,
    rows=_lines,
    options=("--launcher", "exec"),
    journals=True,
)
UNCOUNTED: Final = replace(RELAY, name="programs of unknown totals", play=partial(_relay, flags=("--unknown-total",)))


# TensorFlow batch sessions


def _batches(models: Path, script: Script) -> None:
    """A handover mid-session and back, and one that waits for another."""
    folder = script.lives.folder

    def table(name: str, model: str, input_: str, **keys: Any) -> dict[str, Any]:
        paths = {"model": str(models / model), "input": str(models / input_), "output": str(folder / name)}
        return {"name": name, **paths, **keys}

    script.submit(
        table("long", "affine", "many.npy", batch_size=2),
        table("short", "affine", "x.npy", batch_size=8),
        table("follows", "two_heads", "x.npy", batch_size=8, after=["short"]),
    )
    script.until_going("long")
    script.swap()
    for name in ("long", "short", "follows"):
        script.until(name, *ENDS)


def _folder(folder: Path, name: str) -> list[Path]:
    return sorted((folder / name).iterdir()) if (folder / name).is_dir() else []


def _array(file: str, content: bytes) -> list[bytes]:
    """Each with its place: two items may have the same result."""
    if not file.endswith(".npy") or not content:
        return []
    array = np.load(io.BytesIO(content))
    return [b"%d:" % place + row.tobytes() for place, row in enumerate(array)]


def batches(models: Path) -> Story:
    """The story of three TensorFlow sessions, over the models and inputs in that folder."""
    return Story(
        "tensorflow",
        ends=dict.fromkeys(("long", "short", "follows"), "done"),
        play=partial(_batches, models),
        outputs=_folder,
        rows=_array,
        options=(),
        journals=False,
    )
