"""What is wrong with a request's parameters, in a person's words: made of what msgspec says. Knows no method.

msgspec has no codes for its errors, only texts. One that is not known here is told as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from daemon.wire import Params

WHERE: Final = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<where>[^`]*)`)?", re.DOTALL)
KINDS: Final[Mapping[str, str]] = {
    "str": "a string",
    "int": "a whole number",
    "float": "a fraction",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
    "datetime": "a time",
}
A_TIME: Final = "{0} is no time with its zone; say it as 2026-03-01T12:00:00+01:00"
# What msgspec says, and what is said of the parameter {0} then, with what was found: {1} and on.
WORDS: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(said), words)
    for said, words in (
        (r"Expected `str` of length >= 1", "{0} is empty"),
        (r"Expected `str` of length <= (\d+)", "{0} is longer than {1} characters"),
        (r"Expected `array` of length >= 1", "{0} is an empty list"),
        (r"Expected `array` of length <= (\d+)", "{0} has more than {1} entries"),
        (r"Expected `(?:int|float)` >= (\S+)", "{0} is less than {1}"),
        (r"Expected `(?:int|float)` <= (\S+)", "{0} is more than {1}"),
        (r"Expected `str` matching regex '\^/'", "{0} is no absolute path"),
        (r"Expected `datetime` with a timezone component|Invalid RFC3339 encoded datetime", A_TIME),
        (r"Invalid enum value (.+)", "{0} cannot be {1}"),
        (r"Object missing required field `(.+)`", "{1} is missing"),
    )
)
MISMATCH: Final = re.compile(r"Expected `(.+)`, got `(.+)`")
UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)


def wrong(error: msgspec.ValidationError, params: type[Params]) -> str:
    """Why these parameters are none of that kind."""
    found = WHERE.fullmatch(str(error))
    assert found is not None, "it matches every text"
    said, where = found["what"], found["where"] or "params"
    if match := UNKNOWN.fullmatch(said):
        takes = ", ".join(params.__struct_encode_fields__) or "none"
        return f"there is no parameter {match[1]}; it takes {takes}"
    if match := MISMATCH.fullmatch(said):
        return f"{where} must be {_kinds(match[1])}, not {_kinds(match[2])}"
    for pattern, words in WORDS:
        if match := pattern.fullmatch(said):
            return words.format(where, *match.groups())
    return str(error)


def _kinds(names: str) -> str:
    return " or ".join(KINDS.get(name, name) for name in names.split(" | "))
