"""`items.jsonl`: which item is which, where items have names, one JSON object a line. Written once, at the end.

A line is `{"item": <position>, "name": "<path of the file>"}`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

FILE: Final = "items.jsonl"


class _Line(msgspec.Struct):
    item: int
    name: str


def write(directory: Path, names: Iterator[str]) -> None:
    """Write it anew, durably. Raises OSError."""
    encode = msgspec.json.Encoder().encode
    with (directory / FILE).open("wb") as stream:
        for item, name in enumerate(names):
            stream.write(encode(_Line(item, name)) + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def remove(directory: Path) -> None:
    """Forget another run's."""
    (directory / FILE).unlink(missing_ok=True)
