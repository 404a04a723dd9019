"""Text and values from elsewhere, made fit for JSON, a log or one line on a screen. Imports nothing of ours."""

from __future__ import annotations

import math
from typing import Any


def plain(value: Any) -> Any:
    """A value that JSON and UTF-8 can carry: file names that are not UTF-8 come out with escapes."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items()}
    return value


def one_line(text: str, limit_characters: int) -> str:
    """Text that somebody else wrote, or that quotes it, as one line for a person: of bounded length, and printable."""
    if len(text) > limit_characters:
        text = f"{text[: limit_characters - 1]}…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
