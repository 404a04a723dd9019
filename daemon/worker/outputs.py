"""A session's output: what may be kept and how, written, made durable, completed. Computes nothing, waits for no room.

The rows are `.npy` files or JSON lines, under `<name>.partial` until they are complete; beside them `errors.jsonl`,
`items.jsonl` where items have names, and `session.json`, the manifest. A crash leaves a manifest whose cursor is true:
rows and errors are written and synced before a cursor that counts them. Whatever fails for lack of room may be called
again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec

from daemon.sessionfile import SessionSpec
from daemon.worker import folder, itemlist
from daemon.worker.errorlog import ErrorLog
from daemon.worker.failures import Refused
from daemon.worker.folder import PARTIAL, Identity, Manifest, NoRoomError, OutputFile, RowFormat
from daemon.worker.jsonrows import ITEM, JsonRows
from daemon.worker.npyrows import NpyRows, Results, file_name, filler, plain
from daemon.worker.signature import Signature

__all__ = ["Committer", "Results", "Rows", "filler", "format_of", "plain", "storable"]

COMMIT_INTERVAL_S: Final = 2.0


def format_of(spec: SessionSpec, signature: Signature, *, varies: bool) -> RowFormat:
    """How the rows are kept: as the session says, else as `.npy`, unless an output is text or its rows vary in shape.

    varies: whether the input's items do. Raises Refused (output) where the outputs cannot be kept so.
    """
    outputs = signature.outputs
    texts = [name for name, tensor in outputs.items() if tensor.dtype == "string"]
    free = [name for name, tensor in outputs.items() if tensor.item_shape is None or None in tensor.item_shape]
    ragged = [name for name, tensor in outputs.items() if tensor.ragged]
    if spec.output_format == "npy" and (texts or ragged):
        why = f"output '{texts[0]}' is text, which has no fixed size" if texts else f"output '{ragged[0]}' is ragged"
        raise Refused("output", f'cannot keep the results as .npy: {why}; set output_format = "jsonl"')
    if spec.output_format == "npy" or (spec.output_format == "auto" and not (texts or ragged or (varies and free))):
        _check_files_of(outputs)
        return "npy"
    complexes = [name for name, tensor in outputs.items() if tensor.dtype.startswith("complex")]
    if complexes or ITEM in outputs:
        why = f"output '{complexes[0]}' is complex" if complexes else f"'{ITEM}' is the key of the item's position"
        raise Refused("output", f"cannot keep the results as JSON lines: {why}; choose a signature without it")
    return "jsonl"


def _check_files_of(outputs: Collection[str]) -> None:
    """Raises Refused (output) unless each output has a file of its own."""
    by_file: dict[str, str] = {}
    for name in sorted(outputs):
        other = by_file.setdefault(file_name(name), name)
        if other != name:
            why = f"outputs '{other}' and '{name}' would share the file '{file_name(name)}'"
            remedy = 'set output_format = "jsonl", or name them apart in the signature'
            raise Refused("output", f"cannot keep the results as .npy: {why}; {remedy}")


def storable(results: Results, rows: int) -> None:
    """Raises Refused (model) unless each result is `rows` rows."""
    for name, result in results.items():
        if result.ndim == 0 or result.shape[0] != rows:
            have = "a single value" if result.ndim == 0 else f"{result.shape[0]} rows"
            why = f"output '{name}' is {have} for {rows} items"
            raise Refused("model", f"cannot keep the results: {why}; choose a signature that gives a row an item")


class RowFiles(Protocol):
    """The files that hold the rows, in one format. Whatever raises OSError may be called again, and ends the same."""

    @property
    def end(self) -> int:
        """Bytes that count, where rows have no fixed places."""

    def describe(self, results: Results) -> tuple[OutputFile, ...]:
        """The outputs, as such results are kept."""

    def create(self, outputs: tuple[OutputFile, ...], start: int) -> None:
        """Make the files, with errors for the items before `start`."""

    def reopen(self, outputs: tuple[OutputFile, ...], cursor: int, end: int) -> None:
        """Go on behind item `cursor`, or byte `end`. Raises Refused (output)."""

    def put(self, start: int, end: int, results: Results | None, errors: Collection[int]) -> None:
        """The rows of items `start` to `end`; None: all are errors. Raises Refused (model): they are others now."""

    def sync(self) -> None:
        """Make durable what is written."""

    def finish(self, count: int) -> tuple[OutputFile, ...]:
        """Give the files their final names, and `count` rows."""


class Mark(NamedTuple):
    """How far the rows have come."""

    items: int
    errors: int  # of these
    bytes: int  # see `RowFiles.end`


class Rows:
    """The open output of one session, from its first row on. One thread writes, another may commit."""

    def __init__(
        self,
        directory: Path,
        identity: Identity,
        manifest: Manifest | None,
        names: Callable[[], Iterator[str] | None],
    ) -> None:
        """manifest: the one to resume from, as `survey` gave it; names: of all items, if any. Touches nothing yet."""
        self._directory = directory
        self._identity = identity
        # whichever submission began it, it is this one's from its next manifest on
        self._manifest = msgspec.structs.replace(manifest, submission=identity.submission) if manifest else None
        self._names = names
        self._errors = ErrorLog(directory)
        self._files: RowFiles
        self._files = JsonRows(directory) if identity.format == "jsonl" else NpyRows(directory, identity.total)
        self._opened = False
        self._begun = False  # the directory is this session's, and holds nothing beyond the manifest's cursor
        self._unsynced_names = False
        self._durable = Mark(manifest.cursor, manifest.errors, manifest.bytes) if manifest else Mark(0, 0, 0)
        self._written = self._durable  # as one object: another thread reads it
        self._committing = threading.Lock()

    def write(self, start: int, end: int, results: Results | None, errors: Mapping[int, str]) -> None:
        """Write the rows of items `start` to `end` (exclusive), all outputs; and of `errors`, the reasons.

        results: None where all of them are errors. Creates the files, the first time. Raises Refused (output).
        """
        try:
            self._begin()
            if results is not None and not self._outputs:
                with self._committing:
                    self._create(start, results)
            if self._outputs:
                self._open()
                self._files.put(start, end, results, errors.keys())
            self._errors.put(errors)
        except OSError as error:
            raise folder.unwritable(self._directory, error) from error
        self._written = Mark(end, self.errors + len(errors), self._files.end)

    @property
    def written(self) -> int:
        """The position after the last row written: ahead of `cursor` by what is not durable yet."""
        return self._written.items

    @property
    def errors(self) -> int:
        """How many of the written rows are errors."""
        return self._written.errors

    @property
    def cursor(self) -> int:
        """The position after the last row that is durable."""
        return self._durable.items

    @property
    def durable_errors(self) -> int:
        """How many of the durable rows are errors."""
        return self._durable.errors

    @property
    def is_empty(self) -> bool:
        """Whether no item has given a result so far."""
        return not self._outputs

    @property
    def _outputs(self) -> tuple[OutputFile, ...]:
        return self._manifest.outputs if self._manifest else ()

    def commit(self) -> int:
        """Make durable what is written: the rows first, then the cursor. The new cursor. Raises Refused (output)."""
        with self._committing:
            written = self._written
            if written != self._durable:
                try:
                    self._sync(written)
                except OSError as error:
                    raise folder.unwritable(self._directory, error) from error
                self._durable = written
            return self.cursor

    def complete(self) -> int:
        """Commit, and give the files their final names. Done again after a crash within, it ends the same."""
        cursor = self.commit()
        manifest = self._manifest
        if manifest is None or manifest.complete:
            return cursor
        try:
            if manifest.outputs:
                self._open()
            names = self._names()
            if names is not None:
                itemlist.write(self._directory, names)
            outputs = self._files.finish(cursor) if manifest.outputs else ()
            self._put_manifest(msgspec.structs.replace(manifest, outputs=outputs, complete=True))
        except OSError as error:
            raise folder.unwritable(self._directory, error) from error
        return cursor

    def _sync(self, mark: Mark) -> None:
        self._files.sync()
        self._errors.sync()
        if self._unsynced_names:
            folder.sync_directory(self._directory)
            self._unsynced_names = False
        assert self._manifest is not None
        counts = {"cursor": mark.items, "errors": mark.errors, "bytes": mark.bytes}
        self._put_manifest(msgspec.structs.replace(self._manifest, **counts))

    def _put_manifest(self, manifest: Manifest, *, durable: bool = True) -> None:
        folder.put_manifest(self._directory, manifest, durable=durable)
        self._manifest = manifest

    # The files

    def _begin(self) -> None:
        """Make the directory this session's own, or cut what lies beyond the cursor."""
        if self._begun:
            return
        if self._manifest is not None and self._manifest.cursor:
            self._errors.resume(self._manifest.cursor, self._manifest.errors)
        else:
            self._directory.mkdir(parents=True, exist_ok=True)
            old = folder.read_manifest(self._directory)
            leftover = old.outputs if old else ()
            # Before the first of the old files goes, so that no manifest speaks of what is not there; it names them, so
            # that who comes after a crash in between can clear them too.
            folder.put_manifest(self._directory, self._identity.fresh(leftover), durable=bool(leftover))
            for output in leftover:  # else a shorter list would leave some of the old beside the new
                for name in (output.file, output.file + PARTIAL):
                    (self._directory / name).unlink(missing_ok=True)
            self._errors.remove()
            itemlist.remove(self._directory)
            self._manifest = self._identity.fresh(())
            self._unsynced_names = True
        self._begun = True

    def _create(self, start: int, results: Results) -> None:
        outputs = self._files.describe(results)
        manifest = self._manifest
        assert manifest is not None
        if manifest.cursor == 0:  # what is begun is named before it is there, so that the next one can clear it
            self._put_manifest(msgspec.structs.replace(manifest, outputs=outputs), durable=False)
        try:
            self._files.create(outputs, start)
        except OSError:
            self._manifest = msgspec.structs.replace(manifest, outputs=())
            raise
        self._manifest = msgspec.structs.replace(manifest, outputs=outputs)
        self._opened = self._unsynced_names = True

    def _open(self) -> None:
        if not self._opened:
            self._files.reopen(self._outputs, self.cursor, self._durable.bytes)
            self._opened = True


class Committer:
    """A thread that commits rows every COMMIT_INTERVAL_S, so that computing waits for no disk."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._ending = threading.Event()
        self._error: Refused | None = None
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()  # by a standby already, which has nothing to commit: a commit then touches nothing

    def check(self) -> None:
        """Raise what the thread met, if anything, and what was no lack of room that is over by now."""
        if isinstance(self._error, NoRoomError):
            self._rows.commit()
            self._error = None
        elif self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the thread; a commit under way is finished first."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(COMMIT_INTERVAL_S):
            try:
                self._rows.commit()
            except NoRoomError as error:
                self._error = error  # the computing thread waits for room: see `check`
            except Refused as refused:
                self._error = refused
                return
