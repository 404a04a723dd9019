"""Lines of the log held against the published schema, docs/events.schema.json. Starts nothing, reads no log."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema

SCHEMA: Final = Path(__file__).resolve().parents[2] / "docs" / "events.schema.json"


@cache
def schema() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return read


@cache
def _validators() -> dict[str, jsonschema.Draft202012Validator]:
    """One for each event: to try all of them on a line takes long, and says nothing of what is wrong."""
    whole = schema()
    return {
        part["properties"]["event"]["enum"][0]: jsonschema.Draft202012Validator(
            {"$ref": f"#/$defs/{name}", "$defs": whole["$defs"]}
        )
        for name, part in whole["$defs"].items()
        if "event" in part.get("properties", {})
    }


def wrong(event: dict[str, Any]) -> str | None:
    """What is wrong with a line; None where it is as it should be."""
    validator = _validators().get(event.get("event", ""))
    if validator is None:
        return "no such event is declared"
    error = next(validator.iter_errors(event), None)
    return None if error is None else f"{error.json_path}: {error.message}"


def assert_conforming(events: Iterable[dict[str, Any]]) -> None:
    """Each line is what the schema says; fails at the first that is not."""
    for event in events:
        found = wrong(event)
        assert found is None, f"a line of the log is not as docs/events.schema.json says: {found}\n{json.dumps(event)}"
