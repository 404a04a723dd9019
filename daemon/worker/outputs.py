"""A session's rows on disk: written, made durable, completed. Computes nothing, and waits for no room.

One `.npy` per output tensor, row i belonging to input item i, preallocated when the first rows come, under
`<name>.npy.partial` until it is complete; `errors.jsonl`; and `session.json`, the manifest. A crash leaves a manifest
whose cursor is true: rows and errors are written and synced before a cursor that counts them. Whatever fails for lack
of room may be called again.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import numpy as np

from daemon.worker import folder
from daemon.worker.errorlog import ErrorLog, write_all
from daemon.worker.failures import Refused
from daemon.worker.folder import PARTIAL, Identity, Manifest, NoRoomError, OutputFile

COMMIT_INTERVAL_S: Final = 2.0
FILL_BYTES: Final = 1 << 22

Results = Mapping[str, np.ndarray]  # by output, a row for each item


def storable(results: Results, rows: int) -> None:
    """Raises Refused (model) unless each result is `rows` rows of plain values, and has a file of its own."""
    if len({_file_name(name) for name in results}) < len(results):
        why = f"outputs share a file name ({', '.join(sorted(results))})"
        raise Refused("model", f"cannot keep the results: {why}; name them apart in the signature")
    for name, result in results.items():
        if result.ndim == 0 or result.shape[0] != rows:
            have = "a single value" if result.ndim == 0 else f"{result.shape[0]} rows"
            why = f"output '{name}' is {have} for {rows} items"
            raise Refused("model", f"cannot keep the results: {why}; choose a signature that gives a row an item")
        if result.dtype.hasobject:
            why = f"output '{name}' is text, which has no fixed size"
            raise Refused("model", f"cannot keep the results: {why}; choose a signature that gives numbers")


def plain(result: np.ndarray) -> np.ndarray:
    """C-contiguous, in a dtype that a .npy file can name: bfloat16 and the like, which it cannot, as float32."""
    return np.ascontiguousarray(result, np.float32 if result.dtype.kind == "V" else None)


def filler(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The rows of items that are errors: NaN, or zero where the dtype has none, or False."""
    return np.full(shape, np.nan if dtype.kind in "fc" else 0, dtype)


class Rows:
    """The open output files of one session, from its first row on. One thread writes, another may commit."""

    def __init__(self, directory: Path, identity: Identity, manifest: Manifest | None) -> None:
        """manifest: the one to resume from, as `survey` gave it. Touches nothing yet."""
        self._directory = directory
        self._identity = identity
        self._manifest = manifest
        self._errors = ErrorLog(directory)
        self._files: dict[str, tuple[BinaryIO, int]] = {}  # with the offset of row 0
        self._begun = False  # the directory is this session's, and holds nothing beyond the manifest's cursor
        self._unsynced_names = False
        self._durable = (manifest.cursor, manifest.errors) if manifest else (0, 0)
        self._written = self._durable  # as one object: another thread reads it
        self._committing = threading.Lock()

    def write(self, start: int, end: int, results: Results | None, errors: Mapping[int, str]) -> None:
        """Write the rows of items `start` to `end` (exclusive), all outputs; and of `errors`, the reasons.

        results: None where all of them are errors. Creates the files, the first time. Raises Refused (output).
        """
        try:
            self._begin()
            if results is not None:
                self._write_rows(start, {name: plain(result) for name, result in results.items()})
            elif self._outputs:
                self._reopen()
                for output in self._outputs:
                    self._fill(output, start, end)
            self._errors.put(errors)
        except OSError as error:
            raise folder.unwritable(self._directory, error) from error
        self._written = (end, self.errors + len(errors))

    @property
    def written(self) -> int:
        """The position after the last row written: ahead of `cursor` by what is not durable yet."""
        return self._written[0]

    @property
    def errors(self) -> int:
        """How many of the written rows are errors."""
        return self._written[1]

    @property
    def cursor(self) -> int:
        """The position after the last row that is durable."""
        return self._durable[0]

    @property
    def durable_errors(self) -> int:
        """How many of the durable rows are errors."""
        return self._durable[1]

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
                    self._sync(*written)
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
            for output in manifest.outputs:
                partial = self._directory / (output.file + PARTIAL)
                if partial.exists():
                    partial.rename(self._directory / output.file)
            self._put_manifest(msgspec.structs.replace(manifest, complete=True))
        except OSError as error:
            raise folder.unwritable(self._directory, error) from error
        return cursor

    def _sync(self, cursor: int, errors: int) -> None:
        for stream, _ in self._files.values():
            os.fdatasync(stream.fileno())
        self._errors.sync()
        if self._unsynced_names:
            folder.sync_directory(self._directory)
            self._unsynced_names = False
        assert self._manifest is not None
        self._put_manifest(msgspec.structs.replace(self._manifest, cursor=cursor, errors=errors))

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
            for output in old.outputs if old else ():  # else a shorter list would leave some of the old beside the new
                for name in (output.file, output.file + PARTIAL):
                    (self._directory / name).unlink(missing_ok=True)
            self._put_manifest(self._identity.fresh(()), durable=False)
            self._errors.remove()
            self._unsynced_names = True
        self._begun = True

    def _write_rows(self, start: int, results: Results) -> None:
        if not self._outputs:
            with self._committing:
                self._create(start, results)
        self._reopen()
        for output in self._outputs:
            rows = results.get(output.name)
            if rows is None or rows.shape[1:] != output.shape[1:] or rows.dtype != np.dtype(output.dtype):
                raise _misfit(output, rows)
            self._put(output, start, rows)

    def _put(self, output: OutputFile, start: int, rows: np.ndarray) -> None:
        stream, offset = self._files[output.name]
        write_all(stream.fileno(), rows.reshape(-1).view(np.uint8).data, offset + start * rows[:1].nbytes)

    def _fill(self, output: OutputFile, start: int, end: int) -> None:
        dtype = np.dtype(output.dtype)
        step = max(1, FILL_BYTES // max(1, filler((1, *output.shape[1:]), dtype).nbytes))
        for first in range(start, end, step):
            rows = filler((min(step, end - first), *output.shape[1:]), dtype)
            self._put(output, first, rows)

    def _create(self, start: int, results: Results) -> None:
        """Make the files, all their space taken. Rows before `start` are errors: no item had shown what a row is."""
        total = self._identity.total
        outputs = tuple(
            OutputFile(name, _file_name(name), result.dtype.str, (total, *result.shape[1:]))
            for name, result in sorted(results.items())
        )
        assert self._manifest is not None
        if self._manifest.cursor == 0:  # what is begun is named before it is there, so that the next one can clear it
            self._put_manifest(msgspec.structs.replace(self._manifest, outputs=outputs), durable=False)
        try:
            for output in outputs:
                self._files[output.name] = _created(self._directory / (output.file + PARTIAL), output)
                self._fill(output, 0, start)
        except OSError:
            self._discard(outputs)
            raise
        self._manifest = msgspec.structs.replace(self._manifest, outputs=outputs)
        self._unsynced_names = True

    def _discard(self, outputs: tuple[OutputFile, ...]) -> None:
        """Give the room back: while this session waits for more of it, somebody else may need what it took."""
        for stream, _ in self._files.values():
            stream.close()
        self._files.clear()
        for output in outputs:
            with contextlib.suppress(OSError):  # what made them fail is the error to tell
                (self._directory / (output.file + PARTIAL)).unlink(missing_ok=True)
        assert self._manifest is not None
        self._manifest = msgspec.structs.replace(self._manifest, outputs=())

    def _reopen(self) -> None:
        if self._files:
            return
        files = {}
        for output in self._outputs:
            final = self._directory / output.file
            partial = final.with_name(output.file + PARTIAL)
            opened = _reopened(partial if partial.exists() else final, output)
            if opened is None:
                raise folder.misfit(self._directory, output.file, "is not what")
            files[output.name] = opened
        self._files = files


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


def _misfit(output: OutputFile, rows: np.ndarray | None) -> Refused:
    have = "gone" if rows is None else f"{rows.dtype.name} {rows.shape[1:]}"
    why = f"output '{output.name}' is {have} now, and was {np.dtype(output.dtype).name} {output.shape[1:]}"
    return Refused("model", f"cannot keep the results: {why}; choose a signature with rows of one shape")


def _file_name(output: str) -> str:
    return output.replace("/", "_") + ".npy"


def _created(path: Path, output: OutputFile) -> tuple[BinaryIO, int]:
    """A new file with its header, all of its space taken: a full disk is an error here, not in the middle."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": output.dtype, "fortran_order": False, "shape": output.shape})
    offset = header.tell()
    stream = path.open("wb+", buffering=0)
    try:
        os.posix_fallocate(stream.fileno(), 0, offset + _size_bytes(output))
        write_all(stream.fileno(), header.getbuffer(), 0)
    except OSError:
        stream.close()
        raise
    return stream, offset


def _reopened(path: Path, output: OutputFile) -> tuple[BinaryIO, int] | None:
    """The file with its rows kept, or None where it is not the one described."""
    if not path.is_file():
        return None
    stream = path.open("rb+", buffering=0)
    try:
        np.lib.format.read_magic(stream)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    except ValueError:
        return None
    offset = stream.tell()
    same = (shape, fortran_order, dtype) == (output.shape, False, np.dtype(output.dtype))
    return (stream, offset) if same and path.stat().st_size >= offset + _size_bytes(output) else None


def _size_bytes(output: OutputFile) -> int:
    return int(np.prod(output.shape, dtype=np.int64)) * np.dtype(output.dtype).itemsize
