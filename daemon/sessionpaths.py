"""The paths of a session: made absolute, and checked as far as looking at the file system goes. Opens no file."""

from __future__ import annotations

import errno
import glob
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from daemon import sessioninput
from daemon.modelversions import is_saved_model, version_of

T = TypeVar("T")
Values: TypeAlias = Mapping[str, Any]  # the keys of one [[session]] table whose values are of the right kind

_MODELS = "give a SavedModel directory, a .keras or an .h5 file"
_INPUTS = "give a .npy, .npz, .jsonl or TFRecord file, a folder of images, a pattern, or module:callable"


def absolute(values: Values, base: Path) -> dict[str, Any]:
    """What the session's paths become when they are relative to `base`; `cwd` is `base` where a program gives none.

    Of a folder of versions the model is the highest one there is now: one that appears later changes nothing.
    """
    found: dict[str, Any] = {
        key: os.path.normpath(base / values[key]) for key in ("model", "output", "cwd") if key in values
    }
    if "model" in values and not _awaited(values):  # of a later one, the version is not there yet
        found["model"] = str(version_of(Path(found["model"])))
    if "input" in values:
        found["input"] = _input(values["input"], base)
        if _is_fed(values, base):
            found.setdefault("cwd", str(base))
    if "run" in values:
        program, *arguments = values["run"]
        is_path = not program.startswith("-") if "python" in values else "/" in program
        found["run"] = (os.path.normpath(base / program) if is_path else program, *arguments)
        found.setdefault("cwd", str(base))
    if "python" in values:  # as it is written: where it is a link, it is a virtual environment by its place
        found["python"] = os.path.normpath(base / values["python"]) if "/" in values["python"] else values["python"]
    return found


def around(path: str, folders: Mapping[str, T]) -> T | None:
    """What `folders` says of the nearest folder around `path`; None where none is. All are real paths."""
    return next((folders[str(outer)] for outer in Path(path).parents if str(outer) in folders), None)


def problems(values: Values, base: Path) -> Iterator[tuple[str, str]]:
    """What is wrong with the paths, as (key, message).

    A session with `after` may name what its predecessors make: what it reads is not looked for yet.
    """
    paths = absolute(values, base)
    for key, check in _CHECKS.items():
        if key not in values:
            continue
        try:
            wrong = check(values[key], paths[key], values, base)
        except OSError as error:  # a folder on the way may not be looked into, or a name is too long
            wrong = (
                f"cannot look at {values[key]!r}: {error.strerror} ({error.filename}); mend that or give another path"
            )
        if wrong is not None:
            yield key, wrong


def _awaited(values: Values) -> bool:
    return bool(values.get("after"))


def _is_pattern(text: str) -> bool:
    return glob.has_magic(text)


def _is_fed(values: Values, base: Path) -> bool:
    """Whether the input is a function, and no file that is called like one."""
    text = values.get("input")
    return isinstance(text, str) and sessioninput.is_callable(text) and not os.path.lexists(base / text)


def _input(given: str | Mapping[str, str], base: Path) -> str | dict[str, str]:
    """Only what was written in the file is a pattern: a `[` in the folder's own name is not."""
    if not isinstance(given, str):
        return {name: os.path.normpath(base / file) for name, file in given.items()}
    text = given
    if _is_fed({"input": text}, base):
        return text
    path = os.path.normpath(base / text)
    if not _is_pattern(text) or os.path.lexists(path):
        return path
    return os.path.normpath(Path(glob.escape(str(base))) / text)


def _model_form(text: str) -> str | None:
    """What the path alone tells."""
    suffix = Path(text).suffix.lower()
    if suffix in (".pb", ".pbtxt"):
        what = (
            "give the directory that holds it"
            if Path(text).stem == "saved_model"
            else f"frozen graphs are not supported; {_MODELS}"
        )
        return f"cannot use the file {text!r}: {what}"
    if suffix in (".tflite", ".onnx", ".pt", ".pth", ".safetensors"):
        return f"cannot use {text!r}: {suffix} files are not supported; {_MODELS}"
    return None


def _model(text: str, where: str, values: Values, _base: Path) -> str | None:
    path = Path(where)
    at, looked = (f" ({path})", f" (looked in {path})") if text != where else ("", "")
    wrong = _model_form(text)
    if wrong is not None or _awaited(values):
        return wrong
    if not path.exists():
        if path.is_symlink():
            return f"{text!r} is {_dangling(path)}{at}; mend the link or give another model"
        return f"cannot find {text!r}{looked}; {_MODELS}"
    if not os.access(path, os.R_OK):
        return f"cannot read {text!r}{at} as user {os.geteuid()}; give batond's user the right to read it"
    if path.is_dir():
        if is_saved_model(path):
            return None
        inner = sorted(entry.parent.name for entry in path.glob("*/saved_model.pb"))
        if inner:
            nearer = os.path.join(text, inner[-1])  # noqa: PTH118 - the text as written, not a path made plain
            return f"{text!r} is a directory without saved_model.pb, but {nearer!r} has one; give that"
        return f"{text!r} is a directory without saved_model.pb{at}; {_MODELS}"
    if not path.is_file():
        return f"{text!r} is no regular file{at}; {_MODELS}"
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        return f"cannot use the file {text!r}: its format is not known; {_MODELS}"
    return f"{text!r} is an empty file{at}; save the model again" if path.stat().st_size == 0 else None


def _inputs(given: str | Mapping[str, str], paths: Any, values: Values, base: Path) -> str | None:
    if _is_fed(values, base):
        return None
    if isinstance(given, str):
        return _readable(given, paths, values, base)
    return next((wrong for name in given if (wrong := _readable(given[name], paths[name], values, base))), None)


def _readable(text: str, path: str, values: Values, base: Path) -> str | None:
    if _awaited(values):
        # Of a pattern only what stands before its first wildcard is known so far.
        return _destroyed(text, [Path(os.path.normpath(base / text))], values, base)
    if os.path.lexists(path):  # also where its name has a `*`
        found = [Path(path)]
    elif _is_pattern(text):
        found = [Path(match) for match in sorted(glob.glob(path, recursive=True)) if Path(match).is_file()]  # noqa: PTH207 - the pattern is absolute: Path.glob takes none
    else:
        return f"cannot find {text!r} (looked in {path}); {_INPUTS}"
    if not found:
        return f"no file matches {text!r} (looked in {path}); {_INPUTS}"
    return _unreadable(text, found) or _destroyed(text, found, values, base)


def _unreadable(text: str, found: Sequence[Path]) -> str | None:
    for file in found:
        if file.is_dir():
            if not os.access(file, os.R_OK | os.X_OK):
                return f"cannot read {str(file)!r} as user {os.geteuid()}; give batond's user the right to read it"
            return None if any(file.iterdir()) else f"{text!r} is an empty directory ({file}); {_INPUTS}"
        if not file.exists():
            return f"{text!r} is {_dangling(file)} ({file}); mend the link or give another input"
        if not file.is_file():
            return f"{text!r} is no regular file ({file}); {_INPUTS}"
        if not os.access(file, os.R_OK):
            return f"cannot read {str(file)!r} as user {os.geteuid()}; give batond's user the right to read it"
    if all(file.stat().st_size == 0 for file in found):
        what = (
            f"{text!r} is an empty file ({found[0]})"
            if len(found) == 1
            else f"every file that matches {text!r} is empty"
        )
        return f"{what}; there is nothing to compute"
    return None


def _destroyed(text: str, files: Sequence[Path], values: Values, base: Path) -> str | None:
    """Whether the session's own output would replace what it reads: a file there, or the link that names one."""
    if "output" not in values:
        return None
    output = os.path.normpath(base / values["output"])
    real = os.path.realpath(output)
    if os.path.isfile(real):  # noqa: PTH113 - which is said of the output
        return None
    for file in files:
        link = Path(os.path.realpath(file.parent)) / file.name
        target = Path(os.path.realpath(file))
        if file.is_relative_to(output) or link.is_relative_to(real) or target.is_relative_to(real):
            where = f"{text!r} is inside the session's output ({file})"
            return f"{where}: its own rows would destroy it; give another output"
    return None


def _dangling(link: Path) -> str:
    """What a symbolic link is that leads to no file."""
    try:
        link.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a link in a circle"
    return "a link to nothing"


def _output(text: str, where: str, values: Values, base: Path) -> str | None:
    path = Path(where)
    if "model" in values:
        model, output = os.path.realpath(os.path.normpath(base / values["model"])), os.path.realpath(path)
        if Path(output).is_relative_to(model):
            return f"{text!r} is inside the model's own directory ({model}); give a folder of its own"
        if Path(model).is_relative_to(output):
            return f"the model is inside {text!r} ({model}); give a folder of its own"
    if path.exists() and not path.is_dir():
        return f"{text!r} is a file ({path}); give a directory"
    parent = path
    while not parent.exists():
        if parent.is_symlink():
            return f"cannot make {text!r}: {parent} is {_dangling(parent)}; mend the link or give another output"
        parent = parent.parent
    if not parent.is_dir():
        return f"cannot make {text!r}: {parent} is a file; give another output"
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"cannot write {text!r}: user {os.geteuid()} may not write in {parent}; give batond's user that right"
    return None


def _program(command: Sequence[str], absolute_command: Sequence[str], values: Values, base: Path) -> str | None:
    if "python" in values:
        return _script(command[0], absolute_command[0], values)
    return _executable(command[0], absolute_command[0], values, base)


def _script(text: str, path: str, values: Values) -> str | None:
    if text.startswith("-") or _awaited(values):
        return None
    if not Path(path).exists():
        return (
            f"cannot find the script {text!r} (looked in {path}); with python, run is a script beside this file, or -m"
        )
    if not os.access(path, os.R_OK):
        return f"cannot read {text!r} ({path}) as user {os.geteuid()}; give batond's user the right to read it"
    return None


def _executable(text: str, path: str, values: Values, base: Path) -> str | None:
    if "/" not in text:
        search = values.get("env", {}).get("PATH", os.environ.get("PATH", ""))
        if shutil.which(text, path=search) is not None:
            return None
        if (base / text).is_file():
            return f"cannot find {text!r} on PATH; for the file beside this one write './{text}'"
        return f"cannot find {text!r} on PATH ({search}); install it, or give its path"
    if _awaited(values):
        return None
    program = Path(path)
    if not program.is_file():
        return f"cannot find the program {text!r} (looked in {path}); give a program on PATH or a path"
    if not os.access(program, os.X_OK):
        return f"cannot execute {text!r} ({path}); make it executable (chmod +x), or run it by its interpreter"
    return None


def _folder(text: str, path: str, values: Values, _base: Path) -> str | None:
    if _awaited(values) or Path(path).is_dir():
        return None
    return f"{text!r} is no directory (looked at {path}); make it, or take cwd out"


_CHECKS: Mapping[str, Callable[[Any, Any, Values, Path], str | None]] = {
    "model": _model,
    "input": _inputs,
    "output": _output,
    "run": _program,
    "python": _executable,
    "cwd": _folder,
}
