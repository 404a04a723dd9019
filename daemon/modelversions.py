"""TensorFlow Serving's layout, a folder of numbered versions: which of them a path means. Opens no file."""

from __future__ import annotations

from pathlib import Path

GRAPHS = ("saved_model.pb", "saved_model.pbtxt")  # either one makes a directory a SavedModel


def version_of(path: Path) -> Path:
    """The highest version below `path` that holds a SavedModel; `path` itself where it is no folder of versions.

    Of the folders in it, hidden ones aside, each must have a number as its name. One that is still being copied, so
    that it holds no graph yet, is passed over. What cannot be looked at is no folder of versions: who opens it says so.
    """
    try:
        if not path.is_dir() or is_saved_model(path):
            return path
        folders = [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        if not all(map(_is_number, folders)):
            return path
        return max(filter(is_saved_model, folders), key=lambda folder: int(folder.name), default=path)
    except OSError:
        return path


def version_number(path: Path) -> int | None:
    """The version that `path` is, where it is one in a folder of versions."""
    return int(path.name) if _is_number(path) and is_saved_model(path) else None


def is_saved_model(path: Path) -> bool:
    """Whether that directory holds a SavedModel's graph."""
    return any((path / name).is_file() for name in GRAPHS)


def _is_number(path: Path) -> bool:
    return path.name.isascii() and path.name.isdecimal()
