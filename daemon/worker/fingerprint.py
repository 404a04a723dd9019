"""A cheap identity of the files of a model or an input. Reads names, sizes and times, never contents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def of_files(files: Iterable[Path], root: Path | None = None) -> str:
    """32 hex digits over each file's name, size and modification time in ns.

    Names are relative to `root`, else bare, so that a folder may be moved or mounted elsewhere and keep its
    fingerprint. A file rewritten with the same size within the file system's time step goes unseen.
    """
    digest = hashlib.sha256()
    for file in sorted(files):
        status = file.stat()
        name = file.relative_to(root).as_posix() if root else file.name
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def files_of(path: Path) -> list[Path]:
    """The file itself, or every file below the directory."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def of_path(path: Path) -> str:
    """The fingerprint of a file, or of a directory with all that is below it."""
    return of_files(files_of(path), root=path if path.is_dir() else None)


def size_bytes(path: Path) -> int:
    """Bytes on disk of a file, or of all files below a directory."""
    return sum(file.stat().st_size for file in files_of(path))
