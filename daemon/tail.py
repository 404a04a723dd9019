"""Pieces of a text file that may grow, be trimmed or not be there. Knows no session."""

from __future__ import annotations

import codecs
import os
from dataclasses import dataclass
from pathlib import Path

LONGEST_CHARACTER_BYTES = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of the bytes from `offset` to `next_offset`; `whole`: nothing follows it now."""

    text: str
    offset: int
    next_offset: int
    whole: bool


def read_piece(path: Path, offset: int | None, max_bytes: int) -> Piece:
    """At most `max_bytes` from `offset` on; without one, of the end, from the start of a line.

    Bytes that are no UTF-8 are shown as U+FFFD; a character that is only half there is left for the next piece.
    A file that is shorter than `offset` was trimmed, or begun anew: it is read from its start.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - max_bytes) if offset is None else offset
            if start > size:
                start = 0
            file.seek(start)
            data = file.read(max(max_bytes, LONGEST_CHARACTER_BYTES))
    except FileNotFoundError:
        return Piece("", 0, 0, whole=True)
    if offset is None and start > 0:
        cut = data.find(b"\n") + 1
        start, data = start + cut, data[cut:]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data)
    half = len(decoder.getstate()[0])
    end = start + len(data) - half
    return Piece(text, start, end, whole=end + half >= size)
