"""lnav's format file for batond's log, made from the published schema. `python -m tests.logs.lnav_format` writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from tests.logs.conforming import schema

FORMAT: Final = Path(__file__).resolve().parents[2] / "examples" / "logs" / "batond.lnav.json"
KINDS: Final = {"integer": "integer", "number": "float", "string": "string", "boolean": "boolean", "array": "json"}
# Words of SQL: lnav 0.11 makes no table of a format with such a column. They are in the text of the line:
# json_extract(log_raw_text, '$.from').
NO_COLUMN: Final = ("from", "to", "order")


def _kinds(part: dict[str, Any]) -> set[str]:
    """The kinds of value that a key has in the schema, but null."""
    parts = part.get("anyOf", [part])
    named = [each["type"] for each in parts if "type" in each]
    flat = [kind for each in named for kind in (each if isinstance(each, list) else [each])]
    return {KINDS[kind] for kind in flat if kind != "null"} or {"string"}


def made() -> str:
    """The text of the file."""
    kinds: dict[str, set[str]] = {}
    for part in schema()["$defs"].values():
        for key, value in part["properties"].items():
            kinds.setdefault(key, set()).update(_kinds(value) if "enum" not in value else {"string"})
    values = {
        key: {"kind": next(iter(found)) if len(found) == 1 else ("float" if found == {"integer", "float"} else "json")}
        for key, found in sorted(kinds.items())
        if key not in ("ts", "level", *NO_COLUMN)
    }
    for key in ("event", "lane", "session"):
        values[key] |= {"identifier": True}
    for key in ("schema", "seq"):
        values[key] |= {"hidden": True}
    whole = {
        "$schema": "https://lnav.org/schemas/format-v1.schema.json",
        "batond_log": {
            "title": "batond",
            "description": "The log of batond: one JSON object a line",
            "json": True,
            "timestamp-field": "ts",
            "level-field": "level",
            "opid-field": "session",
            "line-format": [
                {"field": "__timestamp__"},
                " ",
                {"field": "level", "text-transform": "uppercase", "min-width": 7},
                " ",
                {"field": "event", "min-width": 20},
                " ",
                {"field": "lane", "default-value": "-", "min-width": 5},
                " ",
                {"field": "session", "default-value": "-"},
            ],
            "value": values,
        },
    }
    return json.dumps(whole, indent=2) + "\n"


if __name__ == "__main__":
    FORMAT.write_text(made(), encoding="utf-8")
