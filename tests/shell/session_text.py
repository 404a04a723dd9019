"""Session files as text, and what is said of them. For the tests of the session file."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.sessionfile import Problems, parse


def furnish(folder: Path) -> Path:
    """Two models and an input, as a person has them beside the session file."""
    saved = folder / "models" / "cnn"
    saved.mkdir(parents=True)
    (saved / "saved_model.pb").write_bytes(b"\x08\x01")
    (folder / "models" / "mlp.keras").write_bytes(b"PK\x03\x04")
    (folder / "data.npy").write_bytes(b"\x93NUMPY")
    return folder


MODEL = {"name": '"a"', "model": '"models/cnn"', "input": '"data.npy"', "output": '"out/a"'}
PROGRAM = {"name": '"p"', "run": '["true"]'}


def table(values: dict[str, str], **more: str) -> str:
    lines = [f"{key} = {value}" for key, value in (values | more).items() if value]
    return "\n".join(["[[session]]", *lines, ""])


def problems(text: str, base: Path) -> list[str]:
    with pytest.raises(Problems) as caught:
        parse(text, base, source="s.toml")
    return [problem.replace(str(base), "BASE") for problem in caught.value.problems]


def problem(text: str, base: Path) -> str:
    (only,) = problems(text, base)
    return only
