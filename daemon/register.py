"""What is recorded beside the decisions: worker processes, what they printed last, and what has grown too old.

None of it is worth a session: where it cannot be written, that is told, and everything goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from daemon import worklogs
from daemon.config import History
from daemon.results import Sample
from daemon.store import RecordError, Store
from daemon.stories import RecordFailed
from daemon.workers import Alive
from states import policy
from states.notes import Note, SessionFailed, SessionRetried, StandbyStarted
from states.snapshot import World

PRUNE_INTERVAL_S: Final = 3600.0
CHECKPOINT_INTERVAL_S: Final = 60.0


class Register:
    """The store, as far as it is written outside the loop.

    log_path: where the worker of a session prints to. tell: of what could not be written.
    """

    def __init__(self, store: Store, log_path: Callable[[str], Path], tell: Callable[[RecordFailed], None]) -> None:
        self._store = store
        self._log_path = log_path
        self._tell = tell

    def note(self, write: Callable[[], None]) -> None:
        """Write; a failure is told. It costs a process that a later daemon does not find, or what one printed."""
        try:
            write()
        except RecordError as error:
            self._tell(RecordFailed(str(error)))

    def worker_started(self, worker: Alive) -> None:
        """A process was born: a later daemon is to find it."""
        started = worker.started
        if started is not None:
            self.note(
                lambda: self._store.worker_started(worker.generation, worker.session, worker.lane, worker.pid, started)
            )

    def worker_gone(self, generation: int) -> None:
        """A process has ended, or is none of ours any more."""
        self.note(partial(self._store.worker_gone, generation))

    def keep_output(self, note: Note) -> None:
        """Of a worker that failed, what it printed last; of each that is to be started, where its output begins."""
        match note:
            case StandbyStarted(session=name):
                log_start = worklogs.size(self._log_path(name))
                self.note(lambda: self._store.log_tails.begin(name, log_start))
            case SessionFailed(session=name, attempt=attempt) | SessionRetried(session=name, attempt=attempt):
                read = partial(worklogs.tail, self._log_path(name))
                self.note(lambda: self._store.log_tails.keep(name, attempt, read))

    def keep_samples(self, samples: Iterable[Sample], *, ended: bool = False) -> bool:
        """Memory over time; whether it could be written. Where not, that is told of the decisions already."""
        try:
            self._store.samples.keep(samples, datetime.now(UTC), ended=ended)
        except RecordError:
            return False
        return True

    async def tidy(self, history: Callable[[], History], world: Callable[[], World]) -> NoReturn:
        """Take what is too old out of the record, and write its journal back: never during a handover."""
        prune_at = time.monotonic()
        while True:
            try:
                if time.monotonic() >= prune_at:
                    kept = history()
                    pruned = self._store.prune(kept.days, kept.size_bytes, datetime.now(UTC))
                    prune_at = time.monotonic() + (0.0 if pruned.more else PRUNE_INTERVAL_S)
                    for name in pruned.forgotten:
                        worklogs.remove(self._log_path(name))
                if not policy.any_hands_over(world(), time.monotonic()):
                    self._store.checkpoint()
            except RecordError as error:
                self._tell(RecordFailed(str(error)))
            await asyncio.sleep(CHECKPOINT_INTERVAL_S)
