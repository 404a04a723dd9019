"""Standard input, output and error, as whoever started batonctl left them, made fit to be used. Prints nothing.

One that is closed is opened on nothing: what is written to it was not wanted, and no socket may get its number. One
whose encoding has no bars or arrows gets plain signs for them, whatever writes there.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Final, TextIO, cast

# A terminal, a log or a pipe that is not UTF-8. Each sign is as wide as what it stands for: columns stay columns.
PLAIN: Final = dict(zip("━╺╸─┄█▓▒░▁·└┘●◐○▸▹◂±…↑↓→×≥≤°−–✓", "=->-.#%+:_.++*o.>><~~^v>x><o--v", strict=True))
UNKNOWN: Final = "?"


def prepare() -> None:
    """To be called once, before anything else is opened."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
    sys.stdin = sys.stdin or _opened(0, "r")
    sys.stdout = sys.stdout or _opened(1, "w")
    sys.stderr = sys.stderr or _opened(2, "w")
    codecs.register_error(__name__, _plain_signs)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # as Python makes them; another was put there by who knows better
            stream.reconfigure(errors=__name__)


def _opened(number: int, mode: str) -> TextIO:
    return cast("TextIO", open(number, mode, encoding="utf-8", closefd=False))


def _plain_signs(error: UnicodeError) -> tuple[str, int]:
    """What is written for characters that cannot be; the bytes of a file's name that is not UTF-8 as `\\xff`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(map(_plain, lacking)), error.end


def _plain(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # how Python carries such a byte: PEP 383
        return f"\\x{ord(character) - 0xDC00:02x}"
    return PLAIN.get(character, UNKNOWN)
