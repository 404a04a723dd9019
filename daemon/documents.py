"""TOML as people write it: the line each key stands on, kinds of values, amounts, near names. Knows no key by name."""

from __future__ import annotations

import difflib
import math
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, get_args, get_origin

Place: TypeAlias = tuple[str | int, ...]  # the keys that lead to a value; a number is a position in an array of tables


class Problems(Exception):  # noqa: N818 - it carries every problem that was found, not one error
    """What is wrong with a document: every problem, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Document:
    """A TOML document, parsed, and the lines that its keys and table headers stand on (1 is the first)."""

    source: str
    tables: Mapping[str, Any]
    lines: Mapping[Place, int]

    def where(self, *place: str | int) -> str:
        """`source:line` of the key or table at `place`, or of the nearest around it whose line is known."""
        for length in range(len(place), 0, -1):
            if place[:length] in self.lines:
                return f"{self.source}:{self.lines[place[:length]]}"
        return self.source


def read(text: str, source: str) -> Document:
    """Parse `text`; raises `Problems` where it is not TOML, or beyond what can be read of it."""
    text = text.removeprefix("\ufeff")  # as editors of another system begin a file
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # tomllib's message ends in "(at line 3, column 5)" or "(at end of document)"
        what, _, place = str(error).rpartition(" (at ")
        at = re.match(r"line (\d+), column (\d+)", place)
        line, column = at.groups() if at else (len(text.splitlines()), None)
        where = "end of the text" if column is None else f"column {column}"
        raise Problems([f"{source}:{line}: not valid TOML: {what or error} ({where})"]) from error
    except ValueError as error:  # TOML has no limit to a number's digits, Python has
        most = sys.get_int_max_str_digits()
        number = re.search(rf"\d[\d_]{{{most},}}", text)
        if number is None:
            raise Problems([f"{source}: not valid TOML: {error}"]) from error
        line = text.count("\n", 0, number.start()) + 1
        raise Problems([f"{source}:{line}: not valid TOML: a number with more than {most} digits"]) from error
    except RecursionError as error:
        raise Problems([f"{source}: not valid TOML: nested too deeply"]) from error
    return Document(source, tables, _lines(text))


_PIECE = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}'  # up to two quotes may belong to the text
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[A-Za-z0-9_-]+"
    r"|\n|[^\S\n]+|.",
    re.DOTALL,
)


def _lines(text: str) -> dict[Place, int]:
    """Where keys and headers stand in `text`, which is valid TOML. Keys of inline tables are not looked for."""
    found: dict[Place, int] = {}
    sizes: dict[Place, int] = {}  # of the arrays of tables, so far
    table: Place = ()
    parts: list[str] = []
    within: Literal["key", "header", "value"] = "key"
    array, depth, line = False, 0, 1
    for piece in _PIECE.findall(text):
        at, line = line, line + piece.count("\n")
        if piece == "\n":
            if within == "header":
                table = _header(parts, sizes, array=array)
                _found(table, at, found)
            if depth == 0:
                within, parts, array = "key", [], False
        elif piece.isspace() or piece.startswith("#"):
            continue
        elif within == "value":
            depth += (piece in ("[", "{")) - (piece in ("]", "}"))
        elif piece == "[":
            array, within = within == "header", "header"
        elif within == "key" and piece == "=":
            found[table + tuple(parts)] = at
            within = "value"
        elif piece not in (".", "]"):
            parts.append(_bare(piece))
    if within == "header":
        _found(_header(parts, sizes, array=array), line, found)
    return found


def _found(table: Place, line: int, found: dict[Place, int]) -> None:
    found.setdefault(table, line)
    if isinstance(table[-1], int):
        found.setdefault(table[:-1], line)  # the array itself begins at its first table


def _header(parts: Sequence[str], sizes: dict[Place, int], *, array: bool) -> Place:
    place: Place = ()
    for part in parts[:-1]:
        place = (*place, part)
        if place in sizes:
            place = (*place, sizes[place] - 1)
    place = (*place, parts[-1])
    if array:
        sizes[place] = sizes.get(place, 0) + 1
        place = (*place, sizes[place] - 1)
    return place


def _bare(token: str) -> str:
    return str(tomllib.loads(f"key = {token}")["key"]) if token[0] in "\"'" else token


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"


def shown(value: object) -> str:
    """A value in a message, on one line and not long."""
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number that has too many digits to be written, also in a list; a deep nest
        return _beyond_words(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _beyond_words(value: object) -> str:
    if isinstance(value, int):
        return f"a number of some {round(value.bit_length() * math.log10(2), -3):.0f} digits"
    return "a list" if isinstance(value, list | tuple) else "a table"


_PHRASES: dict[Any, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple[str, ...]: "a list of strings",
    dict[str, str]: "a table of strings",
}


def mistyped(value: object, wanted: Any) -> str | None:
    """What `wanted` (an annotation of the kinds above, unions of them, or a Literal) expects instead of `value`."""
    choices = _choices(wanted)
    if any(_fits(value, choice) for choice in choices):
        return None
    if choices[0] is not str and get_origin(wanted) is Literal:
        return f"must be one of {', '.join(map(repr, choices))}, not {shown(value)}"
    phrases = dict.fromkeys(_PHRASES[choice] for choice in choices if not (choice is int and float in choices))
    return f"must be {' or '.join(phrases)}, not {shown(value)}"


def _choices(wanted: Any) -> tuple[Any, ...]:
    if isinstance(wanted, UnionType) or get_origin(wanted) is Literal:
        return tuple(choice for choice in get_args(wanted) if choice is not NoneType)
    return (wanted,)


def _fits(value: object, choice: Any) -> bool:
    if choice is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if choice is float:
        if isinstance(value, float):
            return math.isfinite(value)
        return isinstance(value, int) and not isinstance(value, bool)  # one that no float holds is a matter of bounds
    if choice in (str, bool):
        return isinstance(value, choice)
    if get_origin(choice) is dict:
        return isinstance(value, dict) and all(isinstance(part, str) for part in value.values())
    if get_origin(choice) is tuple:
        return isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
    return bool(value == choice)


_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate(("K", "M", "G", "T"), start=1)}
_UNITS |= {f"{prefix}iB": 1024**power for power, prefix in enumerate(("K", "M", "G", "T"), start=1)}
_CASES = {unit.lower(): unit for unit in _UNITS}
_LARGEST = 1 << 62  # what SQLite and JSON readers in other languages hold without loss of sign
_LARGEST_DIGITS = 100  # more are beyond it, or zeros


def parse_bytes(amount: str | int) -> int:
    """Bytes from `12GiB`, `1.5 GB`, `4096` or a number. GB is 1000³, GiB 1024³. Raises ValueError, in words."""
    if isinstance(amount, int):
        found: int | float = amount
    else:
        match = re.fullmatch(r"\s*(\d+(?:_\d+)*(?:\.\d+)?)\s*([A-Za-z]*)\s*", amount, re.ASCII)
        unit = None if match is None else _CASES.get(match[2].lower())
        if match is None or unit is None:
            hint = "; write it as 12GiB, 800MB or in bytes"
            if match is not None and f"{match[2]}iB".lower() in _CASES:
                bare = match[1] + match[2].upper()
                hint = f": write {bare}iB (powers of 1024) or {bare}B (powers of 1000)"
            raise ValueError(f"{shown(amount)} is no amount of memory{hint}")
        number = match[1].replace("_", "")
        exact = "." not in number and len(number) <= _LARGEST_DIGITS
        found = (int(number) if exact else float(number)) * _UNITS[unit]  # a float, however long it was written
    if not 0 <= found <= _LARGEST:
        raise ValueError(f"{shown(amount)} is no amount of memory: out of range")
    return round(found)
