"""What people run instead of batond: a script that loads a model and calls it, and one process for several models.

    python -m bench.competitor --ledger FILE MODEL=ITEMS                     # a script: `a.py`
    python -m bench.competitor --ledger FILE --next after MODEL=ITEMS …      # one process: load the next when done
    python -m bench.competitor --ledger FILE --next thread MODEL=ITEMS …     # one process: load it in a thread

It appends one line of JSON a session to the ledger: when its first item was begun and its last one was computed, and
when each batch was done, by the host's monotonic clock; and when its model was being loaded. Knows nothing of batond.
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


def compute(model: Loaded, items: int) -> dict[str, Any]:
    """All batches; when they were done."""
    began, batches = time.monotonic(), []
    for _ in range(0, items, BATCH):
        model.call()
        batches.append(time.monotonic())
    return {"began": began, "ended": batches[-1], "batches": batches, "loaded": [model.since, model.until]}


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--next", choices=("after", "thread"), default="after")
    parser.add_argument("sessions", nargs="+", metavar="MODEL=ITEMS")
    options = parser.parse_args()
    sessions = [(Path(path), int(items)) for path, _, items in (each.rpartition("=") for each in options.sessions)]
    following: Callable[[], Loaded] = lambda: Loaded(sessions[0][0])  # noqa: E731 - replaced below
    for number, (path, items) in enumerate(sessions):
        model = following()
        upcoming = sessions[number + 1][0] if number + 1 < len(sessions) else None
        if upcoming is not None:
            following = _in_thread(upcoming) if options.next == "thread" else _later(upcoming)
        figures = compute(model, items)
        del model
        with options.ledger.open("a") as ledger:
            ledger.write(json.dumps({"model": path.name, "items": items, **figures}) + "\n")


def _later(path: Path) -> Callable[[], Loaded]:
    return lambda: Loaded(path)


def _in_thread(path: Path) -> Callable[[], Loaded]:
    """Begin to load now; the model, when it is there."""
    found: list[Loaded] = []
    thread = threading.Thread(target=lambda: found.append(Loaded(path)))
    thread.start()

    def wait() -> Loaded:
        thread.join()
        return found[0]

    return wait


if __name__ == "__main__":
    main()
