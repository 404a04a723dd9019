"""What people run instead of batond: a script that loads a model and calls it, and one process for several models.

    python -m bench.competitor --ledger FILE MODEL=ITEMS                     # a script: `a.py`
    python -m bench.competitor --ledger FILE --next after MODEL=ITEMS …      # one process: load the next when done
    python -m bench.competitor --ledger FILE --next thread MODEL=ITEMS …     # one process: load it in a thread

The thread begins to load when a share of a session's batches is done (`--after`), as a person who knows the end would
have it. At the end it appends one line of JSON a session to the ledger: when its first item was begun and its last one
was computed, and when each batch was done, by the host's monotonic clock; and when its model was being loaded. Knows
nothing of batond.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH = 8

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""


class Loaded:
    """A model, and when it was loaded. Its first call is left to the first batch: so do the tutorials."""

    def __init__(self, path: Path) -> None:
        import tensorflow as tf

        self.since = time.monotonic()
        self._model = tf.saved_model.load(str(path))
        self._call = self._model.signatures["serving_default"]
        ((self._input, spec),) = self._call.structured_input_signature[1].items()
        self._batch = tf.zeros((BATCH, *spec.shape[1:]), spec.dtype)
        self.until = time.monotonic()

    def call(self) -> None:
        """One batch, until its result is there."""
        for output in self._call(**{self._input: self._batch}).values():
            output.numpy()


def compute(model: Loaded, items: int, at: int, then: Callable[[], None]) -> dict[str, Any]:
    """All batches, and `then` beside them from batch number `at` on; when they were done."""
    began, batches = time.monotonic(), []
    for number in range(0, items, BATCH):
        model.call()
        batches.append(time.monotonic())
        if number // BATCH == at:
            then()
    return {"began": began, "ended": batches[-1], "batches": batches, "loaded": [model.since, model.until]}


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--next", choices=("after", "thread"), default="after")
    parser.add_argument("--after", type=float, default=0.0, metavar="SHARE", help="of the batches; 0: after the first")
    parser.add_argument("sessions", nargs="+", metavar="MODEL=ITEMS")
    options = parser.parse_args()
    sessions = [(Path(path), int(items)) for path, _, items in (each.rpartition("=") for each in options.sessions)]
    in_thread = options.next == "thread"
    told = []
    models = [Loaded(sessions[0][0])]
    for (path, items), upcoming in zip(sessions, [*(path for path, _ in sessions[1:]), None], strict=True):
        thread = LoadingThread(upcoming) if in_thread and upcoming is not None else None
        at = min(round(options.after * items / BATCH), (items - 1) // BATCH)
        figures = compute(models.pop(), items, at, thread.start if thread is not None else _nothing)
        told.append({"model": path.name, "items": items, **figures})
        if upcoming is not None:
            models.append(thread.wait() if thread is not None else Loaded(upcoming))
    with options.ledger.open("a") as ledger:  # only now: between two sessions it would be of the gap
        ledger.writelines(json.dumps(each) + "\n" for each in told)


class LoadingThread(threading.Thread):
    """Loads a model, once it is started."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._found: list[Loaded] = []

    def run(self) -> None:
        """Of the thread."""
        self._found.append(Loaded(self._path))

    def wait(self) -> Loaded:
        """The model, when it is there."""
        self.join()
        return self._found[0]


def _nothing() -> None:
    pass


if __name__ == "__main__":
    main()
