"""A session's output directory as a whole: whose it is, its manifest, why it cannot be written. Knows no row.

`session.json`, the manifest, is replaced by rename, so there is a whole one at any time; whoever writes it sees to it
that what its cursor counts is durable before.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from daemon.worker.failures import Refused

MANIFEST: Final = "session.json"
PARTIAL: Final = ".partial"
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
LOCKED: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


RowFormat: TypeAlias = Literal["npy", "jsonl"]


class OutputFile(msgspec.Struct, frozen=True):
    """One output tensor. `shape` is the whole array's, items first (0 where nobody knows how many); () in lines."""

    name: str
    file: Annotated[str, msgspec.Meta(pattern=r"^[^/]+\.(npy|jsonl)$")]  # here, and nothing else: it may be removed
    dtype: str
    shape: tuple[int, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`session.json`: whose rows these are, how many of them count, and how many of those are errors.

    `submission` is the one that wrote here last: see `Identity`.
    `outputs` is empty as long as every item was an error: the model has not shown yet what it gives. `bytes`: of
    `outputs.jsonl`, as many as those rows have. `total` is null where the input does not tell it.
    """

    session: str
    submission: str = ""
    model_fingerprint: str
    input_fingerprint: str
    signature: str = ""
    cursor: int
    total: int | None
    errors: int = 0
    format: RowFormat = "npy"
    bytes: int = 0
    outputs: tuple[OutputFile, ...]
    complete: bool


@dataclass(frozen=True)
class Identity:
    """What makes rows a session's own: resumed with another model or input, they would not fit together.

    submission: tells this session from earlier ones of its name; the same in all its attempts. skip: items may fail.
    """

    session: str
    model_fingerprint: str
    input_fingerprint: str
    total: int | None
    signature: str
    format: RowFormat = "npy"
    submission: str = ""
    skip: bool = True

    def owns(self, manifest: Manifest, *, resume: bool) -> bool:
        """Whether this very submission wrote the manifest. Where it has no name, `resume` is the daemon's word for it.

        That the session was told to go proves nothing: it may have ended before it wrote, and left another's as it was.
        """
        return manifest.submission == self.submission if self.submission else resume

    def differs_from(self, manifest: Manifest) -> str | None:
        """Why the manifest's rows are not this session's, or None."""
        if manifest.session != self.session:
            return f"it holds the output of session '{manifest.session}'"
        if manifest.model_fingerprint != self.model_fingerprint:
            return "its rows are by another version of the model"
        if manifest.signature not in ("", self.signature):
            return f"its rows are by signature '{manifest.signature}'"
        if (manifest.input_fingerprint, manifest.total) != (self.input_fingerprint, self.total):
            return "its rows are of another version of the input"
        if manifest.format != self.format:
            return f"its rows are kept as {manifest.format}, and this session's as {self.format}"
        if manifest.errors and not self.skip:
            return f'{manifest.errors} of its rows are of items that failed, and on_error is not "skip" any more'
        return None

    def fresh(self, outputs: tuple[OutputFile, ...]) -> Manifest:
        """The manifest to begin with."""
        return Manifest(
            session=self.session,
            submission=self.submission,
            model_fingerprint=self.model_fingerprint,
            input_fingerprint=self.input_fingerprint,
            signature=self.signature,
            cursor=0,
            total=self.total,
            format=self.format,
            outputs=outputs,
            complete=False,
        )


class NoRoomError(Refused):
    """The output cannot be written now, and somebody may mend that: the disk is full, or it is read-only."""


def survey(directory: Path, identity: Identity, *, overwrite: bool, resume: bool) -> Manifest | None:
    """Whether the session may write there; changes nothing. The manifest to resume from, or None to begin anew.

    An unfinished manifest of the session is resumed from. One of this very submission also where rows were to be
    overwritten, as those are its own by now, and where it is complete. resume: the daemon says that it may have
    written. Raises Refused (output): not writable, or not to be overwritten.
    """
    try:
        _check_writable(directory)
        return _judge(directory, identity, overwrite=overwrite, resume=resume)
    except OSError as error:  # it may not even be looked at
        raise unwritable(directory, error) from error


def _judge(directory: Path, identity: Identity, *, overwrite: bool, resume: bool) -> Manifest | None:
    manifest = read_manifest(directory)
    foreign = None if manifest is None else identity.differs_from(manifest)
    own = manifest is not None and identity.owns(manifest, resume=resume)
    if manifest is not None and foreign is None and (own or not (overwrite or manifest.complete)):
        return manifest if manifest.cursor else None  # at 0 its files may not be all there, and hold nothing
    if overwrite or not directory.exists():
        return None
    if foreign is not None:
        verb, remedy = ("resume in", "begin anew") if resume else ("write", "replace it")
        raise _refused(directory, foreign, f"set overwrite = true to {remedy}, or output to another directory", verb)
    if manifest is not None:
        why = f"it holds the complete output of session '{identity.session}'"
        raise _refused(directory, why, "set overwrite = true, or output to another directory")
    if any(entry.name != MANIFEST + PARTIAL for entry in directory.iterdir()):
        raise _refused(directory, "it is not empty", "set overwrite = true, or output to another directory")
    return None


def read_manifest(directory: Path) -> Manifest | None:
    """The directory's manifest, None where there is none or it is none of ours. Raises OSError."""
    try:
        return msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def put_manifest(directory: Path, manifest: Manifest, *, durable: bool = True) -> None:
    """Replace the manifest by rename; `durable`: and see it, and the directory, on disk.

    Raises OSError, and leaves the old one where the new one could not be written.
    """
    target = directory / MANIFEST
    fresh = target.with_name(MANIFEST + PARTIAL)
    try:
        with fresh.open("wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        fresh.rename(target)
    except OSError:
        with contextlib.suppress(OSError):  # it takes room where there is little; the error above is the one to tell
            fresh.unlink()
        raise
    if durable:
        sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """See the directory's names on disk: those of files just made, or renamed."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


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
    remedy = "free some space there" if error.errno in FULL else f"make it writable by {_user()}"
    kind = NoRoomError if error.errno in FULL | LOCKED else Refused
    why = (error.strerror or str(error)).lower()
    return kind("output", f"cannot write '{path}': {why}; {remedy}, or output to another directory")


def _refused(path: Path, why: str, remedy: str, verb: str = "write") -> Refused:
    return Refused("output", f"cannot {verb} '{path}': {why}; {remedy}")


def misfit(directory: Path, file: str, why: str) -> Refused:
    """The failure to report for a file that is not what the manifest says of it."""
    return _refused(directory, f"'{file}' {why} {MANIFEST} says of it", "set overwrite = true to begin anew")


def _user() -> str:
    return f"user {os.geteuid()}"
