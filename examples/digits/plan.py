"""What the demo's parts tell one another: the sessions of sessions.toml, and how many items each was given.

Standard library only: the driver, which never loads TensorFlow, imports it.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

SESSIONS_FILE = "sessions.toml"
PREPARED_FILE = "prepared.json"


@dataclass(frozen=True)
class Session:
    """One `[[session]]` of the demo; the paths are absolute, `input` may be a glob."""

    name: str
    model: Path
    input: Path
    output: Path
    batch_size: int  # items of one call of the model

    @property
    def reads_tfrecords(self) -> bool:
        """Whether the input is TFRecord files; else it is one .npy file."""
        return self.input.suffix == ".tfrecord"

    @property
    def labels(self) -> Path:
        """The digit that each input item shows, int64 of shape (items,). batond never sees this file."""
        stem = self.input.name.split(".")[0].rstrip("-*")
        return self.input.with_name(f"{stem}.labels.npy")


def read_sessions(out: Path) -> list[Session]:
    """The sessions of OUT/sessions.toml, in the order of the file."""
    tables = tomllib.loads((out / SESSIONS_FILE).read_text(encoding="utf-8"))["session"]
    return [
        Session(
            name=table["name"],
            model=out / table["model"],
            input=out / table["input"],
            output=out / table["output"],
            batch_size=table["batch_size"],
        )
        for table in tables
    ]


def write_prepared(out: Path, items: dict[str, int]) -> None:
    """Note how many input items each session has, by its name."""
    (out / PREPARED_FILE).write_text(json.dumps(items, indent=2) + "\n", encoding="utf-8")


def read_prepared(out: Path) -> dict[str, int]:
    """How many input items each session has, by its name."""
    items: dict[str, int] = json.loads((out / PREPARED_FILE).read_text(encoding="utf-8"))
    return items
