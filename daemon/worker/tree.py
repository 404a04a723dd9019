"""What lies below a folder, through links, in the order of paths. Opens no file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def below(folder: Path, *, hidden: bool) -> Iterator[os.DirEntry[str]]:
    """Every file, and every link that leads nowhere, sorted by the parts of their paths. Raises OSError.

    A link to a folder stands for it; one that leads back to a folder it lies in is passed over. hidden: also what
    begins with a dot, files and folders.
    """
    return _below(folder, (), hidden=hidden)


def leads_nowhere(path: Path) -> bool:
    """Whether it is a link to what is not there, or to itself."""
    return path.is_symlink() and not path.exists()


def passes_twice(folder: Path, root: Path) -> bool:
    """Whether the way from `root` to the folder leads back, and through one folder twice. Raises OSError."""
    way = [folder, *folder.parents]
    way = way[: way.index(root) + 1]
    return len({(status.st_dev, status.st_ino) for status in map(Path.stat, way)}) < len(way)


def _below(folder: Path, above: tuple[tuple[int, int], ...], *, hidden: bool) -> Iterator[os.DirEntry[str]]:
    """`above`: device and inode of each folder on the way here."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith(".") and not hidden:
            continue
        link = Path(entry) if entry.is_symlink() else None  # of a link to itself the entry's own questions raise
        if link.is_dir() if link else entry.is_dir():
            yield from _below(Path(entry), (*above, here), hidden=hidden)
        elif (link.is_file() or leads_nowhere(link)) if link else entry.is_file():
            yield entry
