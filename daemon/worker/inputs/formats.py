"""The formats of input, and which of them a session's is. The only module that knows them all.

`FORMATS` is the place to add one: what opens its files. By which names its files are known, and which keys of a session
belong to it, is said in daemon/sessioninput.py, where a session file is checked.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from daemon import sessioninput
from daemon.sessionfile import SessionSpec
from daemon.worker import fingerprint, tree
from daemon.worker.failures import Refused, first_line
from daemon.worker.inputs import arrays, feed, images, jsonlines, recordfiles
from daemon.worker.inputs.batches import Input, Open, refused
from daemon.worker.signature import Signature

FORMATS: Final[Mapping[sessioninput.Kind, Open]] = {
    "npy": arrays.open_npy,
    "npz": arrays.open_npz,
    "jsonl": jsonlines.JsonLinesInput,
    "images": images.ImagesInput,
    "tfrecord": recordfiles.open_tfrecord,
}


def open_input(spec: SessionSpec, signature: Signature) -> Input:
    """Open the session's input for a model with that signature, and find its number of items.

    With on_error = "skip" an item that cannot be read is an error in its batch, and the others are read.
    Raises Refused (input): missing, empty, cut short, or not what the signature takes.
    """
    try:
        opened = _opened(spec, signature)
    except OSError as error:
        raise refused(called(spec), first_line(error), "make it readable") from error
    if opened.total == 0:
        raise refused(called(spec), "it has no items", "write it again")
    return opened


def fingerprint_of(spec: SessionSpec) -> str:
    """The fingerprint of what the session reads: files, a function's module, and what the session says of them."""
    files = _files(spec)
    found = fingerprint.of_files(files, root=_folder(spec))
    more: dict[str, object] = {
        key: getattr(spec, key) for key in sessioninput.OPTIONS if getattr(spec, key) is not None
    }
    if isinstance(spec.input, dict):
        more["input"] = {name: Path(file).name for name, file in spec.input.items()}
    elif sessioninput.is_callable(str(spec.input)):
        more["input"] = spec.input
    if not more:
        return found
    return hashlib.sha256(msgspec.json.encode([found, more], order="sorted")).hexdigest()[:32]


def called(spec: SessionSpec) -> str:
    """What messages call the session's input."""
    return spec.input if isinstance(spec.input, str) else ", ".join((spec.input or {}).values())


def _opened(spec: SessionSpec, signature: Signature) -> Input:
    if isinstance(spec.input, dict):
        _check_options(spec, "table")
        return arrays.open_table({name: Path(file) for name, file in spec.input.items()}, signature)
    if sessioninput.is_callable(str(spec.input)):
        _check_options(spec, "callable")
        return feed.FeedInput(spec, signature)
    files = _files(spec)
    kinds = {sessioninput.kind_of(file.name) or "tfrecord": file for file in reversed(files)}
    if len(kinds) > 1:
        examples = " and ".join(f"'{file.name}'" for file in sorted(kinds.values()))
        raise refused(called(spec), f"its files are of several formats ({examples})", "match files of one")
    (kind,) = kinds
    _check_options(spec, kind)
    return FORMATS[kind](files, signature, spec)


def _check_options(spec: SessionSpec, kind: sessioninput.Kind) -> None:
    for key in sessioninput.OPTIONS:
        wrong = sessioninput.foreign(key, kind) if getattr(spec, key) is not None else None
        if wrong is not None:
            raise refused(called(spec), f"{key} {wrong}", "take it out")


def _folder(spec: SessionSpec) -> Path | None:
    path = Path(spec.input) if isinstance(spec.input, str) else None
    return path if path is not None and path.is_dir() else None


def _files(spec: SessionSpec) -> list[Path]:
    """The files that the session names: by path, by pattern, or below a folder of images; sorted by path.

    Links that lead nowhere are among them where items may be left out; else the first one is refused.
    """
    if isinstance(spec.input, dict):
        return sorted(map(Path, spec.input.values()))
    pattern = str(spec.input)
    if sessioninput.is_callable(pattern):
        source = feed.source_of(spec)
        return [source] if source else []
    literal = Path(pattern)
    if literal.exists() and not literal.is_dir():
        return [literal]
    files = []
    for path, is_lost in _found(pattern):
        if is_lost and spec.on_error != "skip":
            why = f"it is a link to '{path.readlink()}', which is not there"
            raise refused(path, why, "mend the link, or take it away")
        files.append(path)
    if not files:
        raise _nothing_found(literal)
    return files


def _found(pattern: str) -> Iterator[tuple[Path, bool]]:
    """The images below a folder, or the files that match, sorted by path; each with whether its link leads nowhere."""
    folder = Path(pattern)
    if folder.is_dir():
        for entry in tree.below(folder, hidden=False):
            if sessioninput.kind_of(entry.name) == "images":
                yield Path(entry), entry.is_symlink() and tree.leads_nowhere(Path(entry))
        return
    matches = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), folder.parts))
    passes_twice = functools.cache(functools.partial(tree.passes_twice, root=root))
    for path in sorted(map(Path, matches)):
        if "**" in pattern and passes_twice(path.parent):
            continue
        if path.is_file():
            yield path, False
        elif tree.leads_nowhere(path):
            yield path, True


def _nothing_found(path: Path) -> Refused:
    if path.is_dir():
        why = "it is a directory with no JPEG or PNG images in it"
        return refused(path, why, f'of other files give a pattern: set input = "{path}/*"')
    return refused(path, "no such file, and none matches it as a pattern", "set input = the path of a file")
