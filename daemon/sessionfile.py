"""The session file: its keys, their defaults, and every check that needs neither TensorFlow nor the queue.

Reads TOML and the file system; starts nothing and knows no lane.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_type_hints

import msgspec

from daemon import sessioninput, sessionpaths
from daemon.documents import Document, Problems, meant, mistyped, parse_bytes, read, shown
from daemon.sessioninput import FeatureOptions, ImageOptions
from states.work import Lead

__all__ = [
    "DeviceAssignment",
    "FeatureOptions",
    "ImageOptions",
    "Problems",
    "SessionSpec",
    "parse",
    "parse_bytes",
    "stated_bytes",
    "to_lead",
]

DeviceKind = Literal["cpu", "gpu"]


class SessionSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[session]]` table, with defaults filled in and every path absolute.

    Either `model`, `input` and `output` are set (the built-in TensorFlow batch worker) or `run` is (any program).
    """

    name: str
    model: str | None = None  # a SavedModel directory (or a folder of versions of one), a .keras or an .h5 file
    input: str | dict[str, str] | None = None  # files (a path, a pattern, one for each input), or module:callable
    input_args: dict[str, Any] | None = None  # what the callable is called with
    features: dict[str, FeatureOptions] | None = None  # of TFRecord files, by the model's inputs
    image: ImageOptions | None = None  # what images become
    output: str | None = None  # a directory: <output tensor>.npy or outputs.jsonl, errors.jsonl, session.json
    output_format: Literal["auto", "npy", "jsonl"] = "auto"  # auto: .npy, where every row has one shape
    batch_size: int = 32  # items of one call of the model
    signature: str | None = None  # None: the only one, or serving_default
    safe_mode: bool = True  # Python code in a Keras file (a Lambda layer) is not run
    device: str = "any"  # any | cpu | gpu | gpu:<index> | <UUID>
    after: tuple[str, ...] = ()
    overwrite: bool = False
    on_error: Literal["fail", "skip"] = "fail"  # what an item that fails does: it fails the session, or is left out
    max_errors: int | None = None  # with "skip": more of them fail the session
    lead: str | int | float = "auto"  # "auto", seconds, or a percentage of the total as "90%"
    max_attempts: int = 3
    priority: int = 0  # higher runs sooner
    run: tuple[str, ...] | None = None  # the program and its arguments; with `python`, a script or -m, and its own
    python: str | None = None  # `run` only: the interpreter
    env: dict[str, str] | None = None  # `run` only: variables besides, or instead of, those of batond's environment
    memory: str | int | None = None  # its need on the device, as "12GiB" or in bytes
    prepare: bool = False  # `run` only: it calls session.ready(), so it may start ahead
    cwd: str | None = None  # of a program, or of a callable's module; the session file's folder where not given


class DeviceAssignment(msgspec.Struct, frozen=True, kw_only=True):
    """The device a worker is to use, as `assign` tells it."""

    kind: DeviceKind
    index: int | None = None  # NVML's index, for people
    uuid: str | None = None  # what CUDA_VISIBLE_DEVICES gets
    memory_limit_bytes: int | None = None


LEAD_LIMIT_S = 10 * 365 * 86400  # ten years: nobody means more, and the core's arithmetic stays finite
NAME_LIMIT = 100  # with a suffix it must still fit in the 255 bytes of a file name

_KEYS: Mapping[str, Any] = get_type_hints(SessionSpec)
_MODEL_ONLY = (
    *("input", "input_args", "features", "image", "output", "output_format"),
    *("batch_size", "signature", "safe_mode", "overwrite", "on_error", "max_errors"),
)
_RUN_ONLY = ("python", "env", "prepare", "cwd")
_RESERVED = {  # of `env`
    "BATON_FD": "batond talks to the program there",
    "BATON_SHIM": "batond finds what the program started by it",
    "CUDA_DEVICE_ORDER": "batond shows the program its device by it",
    "CUDA_VISIBLE_DEVICES": "batond shows the program its device by it; set device",
}
_RANGES = {
    "batch_size": (1, 2**31 - 1),
    "max_attempts": (1, 1_000_000),
    "max_errors": (1, 2**63 - 1),
    "priority": (-1_000_000, 1_000_000),
}
_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_PATTERNS: Mapping[str, tuple[str, str]] = {  # key: what it must look like, and how to say so
    "name": (
        rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LIMIT - 1}}}",
        f"a name is 1 to {NAME_LIMIT} letters, digits, '.', '_' or '-', and begins with a letter or digit",
    ),
    "device": (
        rf"any|cpu|gpu|gpu:\d{{1,4}}|GPU-{_UUID}|MIG-(?:GPU-)?{_UUID}(?:/\d+/\d+)?",
        "give any, cpu, gpu, gpu:<index>, or a UUID as `nvidia-smi -L` prints it",
    ),
    "lead": (r"auto|(?:100(?:\.0+)?|\d{1,2}(?:\.\d+)?)%", 'give "auto", seconds as a number, or a percentage as "90%"'),
}


def parse(text: str, base: Path, *, source: str = "sessions.toml") -> list[SessionSpec]:
    """The sessions of a session file, in its order.

    `base` is the folder that relative paths are relative to, `source` what messages call the text. Raises
    `Problems` with everything that is wrong.
    """
    base = base.absolute()
    if not str(base).isprintable():  # it would get into every record, and could not be written in UTF-8
        raise Problems([f"{source}: cannot use the folder {str(base)!r}: its name does not print; move the file"])
    document = read(text, source)
    problems = [
        f"{document.where(key)}: {key}: a session file has no such key; every session is a [[session]] table"
        for key in document.tables
        if key != "session"
    ]
    tables = document.tables.get("session", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        problems.append(
            f"{document.where('session')}: session: not a list of tables; write [[session]], in two brackets"
        )
        raise Problems(problems)
    if not tables and not problems:
        problems.append(f"{source}: has no [[session]] table, so there is nothing to submit")
    entries = [_Entry(document, index, table, base) for index, table in enumerate(tables)]
    for entry in entries:
        problems += entry.problems()
    problems += _between(entries)
    if problems:
        raise Problems(problems)
    return [entry.spec() for entry in entries]


def to_lead(spec: SessionSpec) -> Lead:
    """When the session after this one is to be prepared, as the core takes it."""
    if spec.lead == "auto":
        return Lead()
    if isinstance(spec.lead, str):
        return Lead(fraction=float(spec.lead.removesuffix("%")) / 100)
    return Lead(seconds=float(spec.lead))


def stated_bytes(spec: SessionSpec) -> int | None:
    """The need that the session states, in bytes."""
    return None if spec.memory is None else parse_bytes(spec.memory)


class _Entry:
    """One `[[session]]` table while it is being checked."""

    def __init__(self, document: Document, index: int, table: Mapping[str, Any], base: Path) -> None:
        self.document, self.index, self.table, self.base = document, index, table, base
        name = table.get("name")
        self.name = name if isinstance(name, str) and name else None
        self.sound: dict[str, Any] = {}  # the keys whose values are what they should be, looked at one by one

    def __str__(self) -> str:
        """Its name in quotes, or its place in the file."""
        return f"'{self.name}'" if self.name else f"session {self.index + 1}"

    def says(self, key: str, message: str) -> str:
        """One problem, with its place."""
        name = shown(self.name)[1:-1] if self.name else f"session {self.index + 1}"
        where = self.document.where("session", self.index, key)
        return f"{where}: {name}: {key}: {message}" if key else f"{where}: {name}: {message}"

    def problems(self) -> Iterator[str]:
        """Everything that is wrong with this table by itself."""
        for key, value in self.table.items():
            wrong = self._value(key, value)
            if wrong is None:
                self.sound[key] = tuple(value) if isinstance(value, list) else value
            else:
                yield self.says(key, wrong)
        if "name" not in self.table:
            yield self.says("", "has no name; give name = …, unique among the sessions that have not ended")
        yield from self._together()
        for key, wrong in sessionpaths.problems(self.sound, self.base):
            yield self.says(key, wrong)

    def _value(self, key: str, value: object) -> str | None:
        """What is wrong with one value, whatever the others are."""
        if key not in _KEYS:
            return f"no such key; {meant(key, _KEYS)}"
        if key in sessioninput.TABLES and (isinstance(value, dict) or key != "input"):
            return sessioninput.misfit(key, value)
        wrong = mistyped(value, str if key == "input" else _KEYS[key])
        if wrong is not None:
            return wrong
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str) and (not text or not text.isprintable()) and key != "run":
                return f"{shown(text)} is empty, or has characters that do not print"
            if isinstance(text, str) and "\0" in text:
                return f"{shown(text)} has a NUL character"
        if key in _RANGES:
            low, high = _RANGES[key]
            sound = isinstance(value, int) and low <= value <= high
            return None if sound else f"must be {low} to {high}, not {shown(value)}"
        return self._form(key, value)

    def _form(self, key: str, value: object) -> str | None:
        if key in _PATTERNS and isinstance(value, str) and not _matches(key, value):
            return f"{shown(value)} is no {key}; {_PATTERNS[key][1]}"
        if key == "lead" and isinstance(value, int | float) and not 0 <= value <= LEAD_LIMIT_S:
            return f"must be 0 to {LEAD_LIMIT_S} seconds (10 years), not {shown(value)}"
        if key == "after" and isinstance(value, list):
            bad = next((name for name in value if not _matches("name", name)), None)
            return None if bad is None else f"{shown(bad)} is no session's name; {_PATTERNS['name'][1]}"
        if key == "memory" and isinstance(value, str | int):
            try:
                return (
                    None if parse_bytes(value) > 0 else "must be more than 0 bytes; leave it out where it is not known"
                )
            except ValueError as error:
                return str(error)
        if key == "run" and isinstance(value, list) and not (value and value[0]):
            return "names no program; give [program, argument, …]"
        return _environment(value) if key == "env" and isinstance(value, dict) else None

    def _together(self) -> Iterator[str]:
        """Keys that are missing, or do not go together."""
        table = self.table
        if "model" in table and "run" in table:
            yield self.says("run", "cannot be given together with model; one session is either a model or a program")
        elif "run" in table:
            for key in (key for key in _MODEL_ONLY if key in table):
                yield self.says(key, "belongs to a session with a model; this one has run: take it out")
        elif "model" in table:
            for key in (key for key in ("input", "output") if key not in table):
                yield self.says("", f"has a model but no {key}; give {key} = …")
            is_fed = sessioninput.is_callable(str(table.get("input")))
            for key in (key for key in _RUN_ONLY if key in table and not (key == "cwd" and is_fed)):
                yield self.says(key, "belongs to a session with run; this one has a model: take it out")
            for key, why in sessioninput.stray(table).items():
                yield self.says(key, f"{why}: take it out")
            if "max_errors" in self.sound and table.get("on_error") != "skip":
                yield self.says("max_errors", 'belongs to on_error = "skip"; set that, or take it out')
        else:
            yield self.says("", "has neither model nor run; give model, input and output, or run = [program, …]")

    def spec(self) -> SessionSpec:
        """The session, paths absolute. Only for a table without problems."""
        return msgspec.convert({**self.sound, **sessionpaths.absolute(self.sound, self.base)}, SessionSpec)


def _environment(variables: Mapping[str, str]) -> str | None:
    for name, value in variables.items():
        if name in _RESERVED:
            return f"cannot set {name}: {_RESERVED[name]}; take it out"
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name, re.ASCII):
            return f"{shown(name)} is no variable's name; give letters, digits and '_', not beginning with a digit"
        if "\0" in value:
            return f"the value of {name} has a NUL character, which no variable can hold"
    return None


def _matches(key: str, text: str) -> bool:
    return re.fullmatch(_PATTERNS[key][0], text, re.ASCII) is not None


def _between(entries: list[_Entry]) -> Iterator[str]:
    """What is wrong between the sessions of one file: names and outputs that collide, circles of `after`."""
    names: dict[str, _Entry] = {}
    outputs: dict[str, _Entry] = {}
    for entry in entries:
        name = entry.sound.get("name")
        if name in names:
            first = names[name].document.where("session", names[name].index, "name")
            yield entry.says("name", f"given twice in this file (first at {first})")
        elif name is not None:
            names[name] = entry
        output = sessionpaths.absolute(entry.sound, entry.base).get("output")
        if output is None:
            continue
        real = os.path.realpath(output)
        if real in outputs:
            yield entry.says(
                "output", f"{shown(entry.sound['output'])} is the output of {outputs[real]} too; give each its own"
            )
        else:
            outputs[real] = entry
    for real, entry in outputs.items():
        if (outer := sessionpaths.around(real, outputs)) is not None:
            inside = f"{shown(entry.sound['output'])} is inside {shown(outer.sound['output'])}, the output of {outer}"
            yield entry.says("output", f"{inside}; give each its own")
    for circle in _circles({name: entry.sound.get("after", ()) for name, entry in names.items()}):
        entry = names[circle[0]]
        if len(circle) == 1:
            yield entry.says("after", "names the session itself; it would wait for ever")
        else:
            chain = " → ".join((*circle, circle[0]))
            yield entry.says("after", f"the sessions wait for each other: {chain}; take one of these out")


def _circles(waits_for: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Every circle that a walk along `waits_for` closes, once. Without recursion: a file may hold thousands."""
    finished: set[str] = set()
    for start in waits_for:
        if start in finished:
            continue
        path = {start: iter(dict.fromkeys(waits_for[start]))}  # in the order walked, with what is still to be tried
        while path:
            last = next(reversed(path))
            name = next(path[last], None)
            if name is None:
                finished.add(last)
                del path[last]
            elif name in path:
                walked = list(path)
                yield tuple(walked[walked.index(name) :])
            elif name in waits_for and name not in finished:
                path[name] = iter(dict.fromkeys(waits_for[name]))
