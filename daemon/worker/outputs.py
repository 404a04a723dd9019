"""A session's output directory: its rows, its manifest, and what may be written there. Computes nothing.

One `.npy` per output tensor, row i belonging to input item i, preallocated, under `<name>.npy.partial` until it
is complete; and `session.json`, the manifest. A crash leaves a manifest whose cursor is true: rows are
written and synced before a cursor that counts them.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import numpy as np

from daemon.worker.failures import Refused

MANIFEST: Final = "session.json"
PARTIAL: Final = ".partial"
COMMIT_INTERVAL_S: Final = 2.0


class OutputFile(msgspec.Struct, frozen=True):
    """One output tensor. `shape` is the whole array's, items first."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`session.json`: whose rows these are, and how many of them count."""

    session: str
    model_fingerprint: str
    input_fingerprint: str
    cursor: int
    total: int
    outputs: tuple[OutputFile, ...]
    complete: bool


@dataclass(frozen=True)
class Identity:
    """What makes rows a session's own: resumed with another model or input, they would not fit together."""

    session: str
    model_fingerprint: str
    input_fingerprint: str
    total: int

    def differs_from(self, manifest: Manifest) -> str | None:
        """Why the manifest's rows are not this session's, or None."""
        if manifest.session != self.session:
            return f"it holds the output of session '{manifest.session}'"
        if manifest.model_fingerprint != self.model_fingerprint:
            return "its rows are by another version of the model"
        if (manifest.input_fingerprint, manifest.total) != (self.input_fingerprint, self.total):
            return "its rows are of another version of the input"
        return None


def survey(directory: Path, identity: Identity, *, overwrite: bool, resume: bool) -> Manifest | None:
    """Whether the session may write there; changes nothing. The manifest to resume from, or None to begin anew.

    resume: rows of its own are to be kept; without it, they are to be written again.
    Raises Refused (output): not writable, or it holds what is not to be overwritten.
    """
    try:
        _check_writable(directory)
        return _judge(directory, identity, overwrite=overwrite, resume=resume)
    except OSError as error:  # it may not even be looked at
        raise unwritable(directory, error) from error


def _judge(directory: Path, identity: Identity, *, overwrite: bool, resume: bool) -> Manifest | None:
    manifest = read_manifest(directory)
    foreign = manifest and identity.differs_from(manifest)
    if resume and manifest is not None:
        if foreign is None:
            return manifest if manifest.cursor else None  # at 0 its files may not be all there, and hold nothing
        if not overwrite:
            raise _refused(directory, f"cannot be resumed: {foreign}", "set overwrite = true to begin anew")
    if overwrite or not directory.exists():
        return None
    if manifest is not None and foreign is None and not manifest.complete:
        return None
    if manifest is not None:
        why = foreign or f"it holds the complete output of session '{identity.session}'"
        raise _refused(directory, why, "set overwrite = true, or output to another directory")
    if any(directory.iterdir()):
        raise _refused(directory, "it is not empty", "set overwrite = true, or output to another directory")
    return None


def read_manifest(directory: Path) -> Manifest | None:
    """The directory's manifest, None where there is none or it is none of ours. Raises OSError."""
    try:
        return msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _check_writable(directory: Path) -> None:
    existing = directory
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise _refused(directory, f"'{existing}' is a file", "output to another directory")
    if not os.access(existing, os.W_OK | os.X_OK):
        why = f"'{existing}' is not writable by {_user()}"
        raise _refused(directory, why, "make it writable, or output to another directory")


def unwritable(path: Path, error: OSError) -> Refused:
    """The failure to report for an `error` met in writing."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free some space there" if full else f"make it writable by {_user()}"
    why = (error.strerror or str(error)).lower()
    return _refused(path, why, f"{remedy}, or output to another directory")


def _refused(path: Path, why: str, remedy: str) -> Refused:
    return Refused("output", f"cannot write '{path}': {why}; {remedy}")


def _user() -> str:
    return f"user {os.geteuid()}"


def storable(results: Mapping[str, np.ndarray], rows: int) -> None:
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


class Rows:
    """The open output files of one session, from its first row on. One thread writes, another may commit."""

    def __init__(self, directory: Path, identity: Identity, manifest: Manifest | None) -> None:
        """manifest: the one to resume from, as `survey` gave it. Touches nothing yet."""
        self._directory = directory
        self._identity = identity
        self._manifest = manifest
        self._files: dict[str, tuple[BinaryIO, int]] = {}  # with the offset of row 0
        self._written = self.cursor = manifest.cursor if manifest else 0
        self._committing = threading.Lock()

    def write(self, start: int, results: Mapping[str, np.ndarray]) -> None:
        """Write rows from position `start` on, all outputs of the same items. Creates the files, the first time.

        Raises Refused (output).
        """
        plain = {name: _plain(result) for name, result in results.items()}
        try:
            if not self._files:
                self._open(plain)
            for output in self._outputs:
                rows = plain[output.name]
                if rows.shape[1:] != output.shape[1:] or rows.dtype != np.dtype(output.dtype):
                    raise self._misfit(output, rows)
                stream, offset = self._files[output.name]
                _write_all(stream.fileno(), rows.reshape(-1).view(np.uint8).data, offset + start * rows[:1].nbytes)
        except OSError as error:
            raise unwritable(self._directory, error) from error
        self._written = start + len(next(iter(plain.values())))

    @property
    def written(self) -> int:
        """The position after the last row written: ahead of `cursor` by what is not durable yet."""
        return self._written

    @property
    def _outputs(self) -> tuple[OutputFile, ...]:
        return self._manifest.outputs if self._manifest else ()

    def commit(self) -> int:
        """Make durable what is written: the rows first, then the cursor. The new cursor. Raises Refused (output)."""
        with self._committing:
            written = self._written
            if self._manifest is not None and written > self.cursor:
                try:
                    for stream, _ in self._files.values():
                        os.fdatasync(stream.fileno())
                    self._put_manifest(cursor=written)
                except OSError as error:
                    raise unwritable(self._directory, error) from error
            self.cursor = written
            return written

    def complete(self) -> int:
        """Commit, and give the files their final names. Done again after a crash within, it ends the same."""
        cursor = self.commit()
        if self._manifest is None or self._manifest.complete:
            return cursor
        try:
            for output in self._outputs:
                partial = self._directory / (output.file + PARTIAL)
                if partial.exists():
                    partial.rename(self._directory / output.file)
            self._put_manifest(cursor=cursor, complete=True)
        except OSError as error:
            raise unwritable(self._directory, error) from error
        return cursor

    def _open(self, results: Mapping[str, np.ndarray]) -> None:
        if self._manifest is not None:
            self._reopen(self._manifest)
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        old = read_manifest(self._directory)
        for output in old.outputs if old else ():  # else a shorter list would leave some of the old beside the new
            (self._directory / output.file).unlink(missing_ok=True)
        total = self._identity.total
        outputs = tuple(
            OutputFile(name, _file_name(name), result.dtype.str, (total, *result.shape[1:]))
            for name, result in sorted(results.items())
        )
        self._manifest = Manifest(
            session=self._identity.session,
            model_fingerprint=self._identity.model_fingerprint,
            input_fingerprint=self._identity.input_fingerprint,
            cursor=0,
            total=total,
            outputs=outputs,
            complete=False,
        )
        self._put_manifest(cursor=0, durable=False)
        for output in outputs:
            self._files[output.name] = _created(self._directory / (output.file + PARTIAL), output)

    def _reopen(self, manifest: Manifest) -> None:
        for output in manifest.outputs:
            final = self._directory / output.file
            partial = final.with_name(output.file + PARTIAL)
            opened = _reopened(partial if partial.exists() else final, output)
            if opened is None:
                why = f"'{output.file}' is not what {MANIFEST} says of it"
                raise _refused(self._directory, why, "set overwrite = true to begin anew")
            self._files[output.name] = opened

    def _misfit(self, output: OutputFile, rows: np.ndarray) -> Refused:
        have = f"{rows.dtype.name} {rows.shape[1:]}"
        why = f"output '{output.name}' is {have} now, and was {np.dtype(output.dtype).name} {output.shape[1:]}"
        return Refused("model", f"cannot keep the results: {why}; choose a signature with rows of one shape")

    def _put_manifest(self, *, cursor: int, complete: bool = False, durable: bool = True) -> None:
        """Replace the manifest by rename; `durable`: and see it, and the directory, on disk."""
        assert self._manifest is not None
        manifest = msgspec.structs.replace(self._manifest, cursor=cursor, complete=complete)
        target = self._directory / MANIFEST
        fresh = target.with_name(MANIFEST + PARTIAL)
        with fresh.open("wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        fresh.rename(target)
        if durable:
            _sync_directory(self._directory)
        self._manifest = manifest


class Committer:
    """A thread that commits rows every COMMIT_INTERVAL_S, so that computing waits for no disk."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._ending = threading.Event()
        self._error: Refused | None = None
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()  # by a standby already, which has nothing to commit: a commit then touches nothing

    def check(self) -> None:
        """Raise what the thread met, if anything. To be called between batches."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the thread; a commit under way is finished first."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(COMMIT_INTERVAL_S):
            try:
                self._rows.commit()
            except Refused as refused:
                self._error = refused
                return


def _plain(result: np.ndarray) -> np.ndarray:
    """C-contiguous, in a dtype that a .npy file can name: bfloat16 and the like, which it cannot, as float32."""
    return np.ascontiguousarray(result, np.float32 if result.dtype.kind == "V" else None)


def _file_name(output: str) -> str:
    return output.replace("/", "_") + ".npy"


def _created(path: Path, output: OutputFile) -> tuple[BinaryIO, int]:
    """A new file with its header, all of its space taken: a full disk is an error here, not in the middle."""
    stream = path.open("wb+")
    header = {"descr": output.dtype, "fortran_order": False, "shape": output.shape}
    np.lib.format.write_array_header_1_0(stream, header)
    stream.flush()
    offset = stream.tell()
    os.posix_fallocate(stream.fileno(), 0, offset + _size_bytes(output))
    return stream, offset


def _reopened(path: Path, output: OutputFile) -> tuple[BinaryIO, int] | None:
    """The file with its rows kept, or None where it is not the one described."""
    if not path.is_file():
        return None
    stream = path.open("rb+")
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


def _write_all(fd: int, rows: memoryview, offset: int) -> None:
    while rows:
        count = os.pwrite(fd, rows, offset)
        rows, offset = rows[count:], offset + count


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
