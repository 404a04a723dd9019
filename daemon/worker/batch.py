"""One session from `assign` to `committed`: prepared tier by tier, computed batch by batch. Starts no process.

Importing this imports TensorFlow and everything a worker needs: it is what a fork server preloads.
"""

from __future__ import annotations

import contextlib
import gc
import math
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

import baton
from daemon.sessionfile import DeviceAssignment, SessionSpec
from daemon.worker import device, errorlog, fingerprint, folder, models, outputs
from daemon.worker.calls import Caller
from daemon.worker.failures import Refused
from daemon.worker.inputs import formats
from daemon.worker.inputs.batches import Batch, Input
from daemon.worker.inputs.reader import Reader
from daemon.worker.patience import CancelledError, Patience
from daemon.worker.signature import Signature

TIERS: Final = ("imported", "staged", "warm")  # that this worker can stop at, lowest first
CHUNK_BYTES: Final = 1 << 20
LAST_S: Final = 0.01  # so long before its end the daemon is told of it, where the last batch is shorter
# Between the end and the last commit: its syncs hold up other writes to the same disk for milliseconds, and just then
# the daemon writes down that the next session may go.
HAND_OVER_S: Final = 0.01


def run(channel: baton.Channel, assigned: DeviceAssignment, target: str) -> None:
    """Prepare, wait for `go`, compute, commit. Raises baton.Failure for what the daemon is to be told.

    target: TensorFlow's name of the device for weights and computation; see device.target.
    """
    spec = models.pinned(msgspec.convert(channel.assignment["spec"], SessionSpec))
    session = BatchSession(channel, spec, assigned, target)
    wanted: str | None = str(channel.assignment["tier"])
    with contextlib.closing(session):
        while wanted is not None:
            session.prepare(wanted)
            channel.ready(wanted, session.total)
            wanted = channel.wait()
        session.prepare("warm")  # at once where it is; `go` may come to a lower tier
        session.compute()


class BatchSession:
    """A built-in session in its worker: the model, its input and its output."""

    def __init__(self, channel: baton.Channel, spec: SessionSpec, assigned: DeviceAssignment, target: str) -> None:
        if spec.model is None or spec.input is None or spec.output is None:
            raise baton.Failure("internal", f"session '{spec.name}' has no model, input and output")
        self._channel = channel
        self._device = assigned
        self._target = target
        self._spec = spec
        self._model_path = Path(spec.model)
        self._input_name = formats.called(spec)
        self._directory = Path(spec.output)
        self._closing = contextlib.ExitStack()
        self._passed: list[str] = []
        self._quiesced = False
        self._patience = Patience(channel, told=self._quiesce)
        self.total: int | None = None  # items in all, known from `staged` on

    def prepare(self, tier: str) -> None:
        """Climb up to `tier`, announcing those passed on the way. Raises baton.Failure.

        The way from below `staged` to `warm` has no stop between: weights go to the device as they are read, and the
        host never holds all of them. So `staged` is passed there, but not announced.
        """
        if tier not in TIERS:
            raise baton.Failure(
                "internal", f"cannot prepare to tier '{tier}': this worker has {', '.join(TIERS)}; ask for one"
            )
        steps: dict[str, Callable[[], None]] = {
            "imported": self._read_model_files,
            "staged": partial(self._stage, hold=tier == "staged"),
            "warm": self._warm_up,
        }
        for step in TIERS[: TIERS.index(tier) + 1]:
            if step not in self._passed:
                steps[step]()
                self._passed.append(step)
                if step == "imported" != tier:
                    self._channel.advanced(step)

    def _read_model_files(self) -> None:
        """Bring the model's files into the page cache. A missing model is found by loading it, with a better reason."""
        buffer = bytearray(CHUNK_BYTES)
        try:
            for file in fingerprint.files_of(self._model_path) if self._model_path.exists() else []:
                with file.open("rb", buffering=0) as stream:
                    while stream.readinto(buffer):
                        pass
        except OSError as error:
            reason = f"cannot read '{error.filename or self._model_path}': {error.strerror}; make it readable"
            raise Refused("model", reason) from error

    def _stage(self, *, hold: bool) -> None:
        """All that takes no more of the device than its context. `hold`: the weights are in the host's memory then."""
        device.limit(self._device)
        device.start(self._target)
        self._channel.device_peak = partial(device.peak_bytes, self._target)  # asking before would make the context
        self._staged = models.stage(self._model_path, models.wanted_by(self._spec), self._target, hold=hold)
        signature = self._staged.signature
        check_batch_size(self._spec, signature.fixed_batch)
        source = formats.open_input(self._spec, signature)
        told = self._channel.assignment
        identity = identity_of(self._spec, signature, source, submission=str(told.get("submission") or ""))
        resume = bool(told.get("resume"))
        manifest = folder.survey(self._directory, identity, overwrite=self._spec.overwrite, resume=resume)
        self._rows = outputs.Rows(self._directory, identity, manifest, source.names)
        self._committer = outputs.Committer(self._rows)
        skip = self._spec.on_error == "skip"
        self._reader = Reader(self._input_name, source, self._rows.cursor, self._spec.batch_size, skip=skip)
        self._batch = self._reader.next()
        self.total = self._reader.total

    def _warm_up(self) -> None:
        """Everything but computing: so that between `go` and the first item there is one call of the model."""
        model = self._staged.load()
        self._closing.callback(model.close)
        self._caller = Caller(model, self._model_path, skip=self._spec.on_error == "skip")
        self._batch = self._reader.place(model.inputs_at, self._batch)
        if self._batch is not None:
            self._caller.call(self._batch)
        self._channel.done = self._channel.cursor = self._rows.cursor  # the manifest's word, not the daemon's
        self._channel.errors = self._rows.errors
        gc.collect()
        gc.freeze()  # else a full collection, 0.1 s with TensorFlow's modules, falls into the computing

    def compute(self) -> None:
        """Compute from the cursor to the end, or to a drain. Raises baton.Failure; what was done by then is kept."""
        self._channel.started()
        self._computed_at = time.monotonic()
        try:
            self._compute_batches()
            time.sleep(HAND_OVER_S)
            self._committer.stop()
            is_whole = self._rows.written == self._reader.total
            cursor = self._patience.insist(self._rows.complete if is_whole else self._rows.commit)
        except CancelledError:  # there is no room: a session that nobody wants does not wait for it
            self._committer.stop()
            cursor = self._rows.cursor
        except baton.Failure as failure:
            self._committer.stop()
            if failure.kind != "output":
                self._keep_what_is_done()
            raise
        self._channel.errors = self._rows.durable_errors
        self._channel.committed(cursor)

    def _compute_batches(self) -> None:
        """`quiesced` goes out once the last results are there, before they are written: the device is free."""
        channel, batch = self._channel, self._batch
        batch_s = math.inf  # what the newest one took, its reading and writing included
        end_told = batch is None
        if end_told:
            channel.last_batch()
        verdict = self._verdict(self._rows.cursor, {}, has_rows=not self._rows.is_empty)
        if verdict is not None:
            raise verdict
        while batch is not None and not channel.draining:
            total = self._reader.total
            if not end_told and ends_soon(batch, total, batch_s):
                end_told = True
                channel.last_batch()
            computed = self._caller.call(batch)
            now = time.monotonic()
            batch_s, self._computed_at = now - self._computed_at, now
            channel.errors = self._rows.errors + len(computed.errors)
            channel.progress(batch.end, total, self._rows.cursor)
            has_rows = computed.rows is not None or not self._rows.is_empty
            verdict = self._verdict(batch.end, computed.errors, has_rows=has_rows)
            if verdict is None and (batch.end == total or channel.draining):
                self._quiesce()
            self._patience.insist(partial(self._rows.write, batch.start, batch.end, computed.rows, computed.errors))
            self._patience.insist(self._committer.check)
            if verdict is not None:
                raise verdict
            if self._quiesced:
                return
            batch = self._reader.next()
        self._quiesce()

    def close(self) -> None:
        """Close the model, if one was loaded. A session that is cancelled before `go` ends without."""
        self._closing.close()

    def _quiesce(self) -> None:
        """Say, once, that nothing is in flight any more."""
        if not self._quiesced:
            self._quiesced = True
            self._channel.quiesced(self._computed_at)

    def _verdict(self, end: int, errors: Mapping[int, str], *, has_rows: bool) -> Refused | None:
        """Why the session ends for its errors, or None. `end`: items done; `errors`: of those, the ones just found."""
        limit, found = self._spec.max_errors, self._channel.errors
        if limit is not None and found > limit:
            item = sorted(errors)[limit - found] if errors else None
            log = self._directory / errorlog.FILE
            why = f"{found} items are errors by now, and max_errors = {limit}"
            remedy = "set a higher max_errors to go on from there, or mend the input and set overwrite = true"
            return Refused("input", f"cannot go on with '{self._input_name}': {why}; see '{log}'; {remedy}", item)
        if end == self._reader.total and not has_rows:
            log = self._directory / errorlog.FILE
            why = f"every one of its {found} items is an error"
            return Refused("input", f"cannot compute '{self._input_name}': {why}; see '{log}', and mend the input")
        return None

    def _keep_what_is_done(self) -> None:
        """Commit beside a failure, which is the one to report; this one's own goes to the log."""
        try:
            self._rows.commit()
        except Refused:
            traceback.print_exc(file=sys.stderr)


def ends_soon(batch: Batch, total: int | None, batch_s: float) -> bool:
    """Whether no batch follows this one, or only such as are over in less than LAST_S.

    So the daemon has moved the lane, and written that down, before it hears of the end.
    total: items in all, where that is known. batch_s: seconds that the batch before took.
    """
    if total is None:
        return False
    batches = (total - batch.start) / (batch.end - batch.start)
    return batch.end == total or batches * batch_s < LAST_S


def identity_of(spec: SessionSpec, signature: Signature, source: Input, *, submission: str = "") -> folder.Identity:
    """What the session's rows are told by. `source`: its input, opened. Raises Refused (output): not to be kept.

    submission: as `assign` tells it; empty where the session is not queued yet.
    """
    assert spec.model is not None
    return folder.Identity(
        session=spec.name,
        model_fingerprint=fingerprint.of_path(Path(spec.model)),
        input_fingerprint=formats.fingerprint_of(spec),
        total=source.total,
        signature=signature.name,
        format=outputs.format_of(spec, signature, varies=source.varies),
        submission=submission,
        skip=spec.on_error == "skip",
    )


def check_batch_size(spec: SessionSpec, fixed: int | None) -> None:
    """Raises Refused (batch_size) where the model takes another number of items a call, and no other."""
    if spec.batch_size < 1 or (fixed is not None and spec.batch_size != fixed):
        wanted = "at least 1 item" if fixed is None else f"exactly {fixed} items"
        reason = f"cannot call '{spec.model}' with batch_size = {spec.batch_size}: it takes {wanted} a call"
        raise Refused("batch_size", f"{reason}; set batch_size = {fixed or 1}")
