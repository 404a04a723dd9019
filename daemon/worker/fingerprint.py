"""A cheap identity of the files of a model or an input. Reads names, sizes and times, never contents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from daemon.worker import tree
from daemon.worker.failures import Refused


def of_files(files: Iterable[Path], root: Path | None = None) -> str:
    """32 hex digits over each file's name, size and modification time in ns, in the order given.

    Names are relative to `root`, else bare, so that a folder may be moved or mounted elsewhere and keep its
    fingerprint. Of a link they are those of the file it leads to, and its own where it leads nowhere. A file rewritten
    with the same size within the file system's time step goes unseen.
    """
    digest = hashlib.sha256()
    before = f"{str(root).rstrip('/')}/" if root else ""
    for file in files:
        name = str(file).removeprefix(before) if root else file.name
        status = _status(file)
        digest.update(b"%b\0%d\0%d\n" % (os.fsencode(name), status.st_size, status.st_mtime_ns))
    return digest.hexdigest()[:32]


def files_of(path: Path) -> list[Path]:
    """The model's file itself, or every file below its directory. Raises Refused (model): one cannot be looked into."""
    if not path.is_dir():
        return [path]
    try:
        return [file for file in map(Path, tree.below(path, hidden=True)) if not tree.leads_nowhere(file)]
    except OSError as error:
        raise Refused("model", f"cannot read '{error.filename}': {error.strerror}; make it readable") from error


def of_path(path: Path) -> str:
    """The fingerprint of a model's file, or of its directory with all that is below it."""
    return of_files(files_of(path), root=path if path.is_dir() else None)


def size_bytes(path: Path) -> int:
    """Bytes on disk of a model's file, or of all files below its directory."""
    return sum(file.stat().st_size for file in files_of(path))


def _status(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError:
        if not tree.leads_nowhere(file):
            raise
        return file.lstat()
