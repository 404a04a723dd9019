"""Values that no person means, in the session file and the configuration: one line each, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon import config
from daemon.sessionfile import Problems, parse
from tests.shell.session_text import MODEL, PROGRAM, furnish, problem, table

DIGITS_400 = "9" * 400
DIGITS_5000 = "9" * 5000
HEX_5000 = "0x" + "f" * 5000  # Python reads it, and then cannot write it in decimal
NESTED = "[" * 5000 + "]" * 5000
DOTTED = ".".join(["a"] * 5000)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The folder of the session file."""
    return furnish(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("lead", DIGITS_400, "s.toml:4: p: lead: must be 0 to 315360000 seconds (10 years), not 99999"),
        ("lead", "1e300", "s.toml:4: p: lead: must be 0 to 315360000 seconds (10 years), not 1e+300"),
        ("lead", "-1", "s.toml:4: p: lead: must be 0 to 315360000 seconds (10 years), not -1"),
        ("memory", f'"{DIGITS_400}.5TiB"', "s.toml:4: p: memory: '99999"),
        ("memory", f'"{DIGITS_5000}TiB"', "s.toml:4: p: memory: '99999"),
        ("memory", DIGITS_400, "s.toml:4: p: memory: 99999"),
        ("memory", HEX_5000, "s.toml:4: p: memory: a number of some 6000 digits is no amount of memory: out of range"),
        ("priority", DIGITS_400, "s.toml:4: p: priority: must be -1000000 to 1000000, not 99999"),
        ("priority", HEX_5000, "s.toml:4: p: priority: must be -1000000 to 1000000, not a number of some 6000 digits"),
        ("name", HEX_5000, "s.toml:2: p: name: must be a string, not a number of some 6000 digits"),
        ("after", f"[{HEX_5000}]", "s.toml:4: p: after: must be a list of strings, not a list"),
    ],
)
def test_a_number_without_measure_is_one_line_with_its_session_and_key(
    base: Path, key: str, value: str, told: str
) -> None:
    line = problem(table(PROGRAM, **{key: value}), base)
    told = told.replace(": p: ", ": session 1: ") if key == "name" else told
    assert line.startswith(told)
    assert len(line) < 250
    assert "\n" not in line


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (DIGITS_5000, "s.toml:4: not valid TOML: a number with more than 4300 digits"),
        (NESTED, "s.toml: not valid TOML: nested too deeply"),
        ("{a = " * 5000 + "1" + "}" * 5000, "s.toml: not valid TOML: nested too deeply"),
    ],
)
def test_what_toml_allows_and_python_does_not_read_is_one_line(base: Path, value: str, told: str) -> None:
    assert problem(table(PROGRAM, priority=value), base) == told


def test_a_key_of_thousands_of_parts_is_one_line(base: Path) -> None:
    assert problem(table(PROGRAM) + f"priority.{DOTTED} = 1\n", base) == (
        "s.toml:1: p: priority: must be a whole number, not a table"
    )


def test_a_byte_order_mark_is_taken_off(base: Path) -> None:
    assert [spec.name for spec in parse("\ufeff" + table(MODEL), base)] == ["a"]
    assert problem("\ufeff" + table(MODEL, device='"tpu"'), base).startswith("s.toml:6: a: device: ")


def problems(folder: Path, text: str) -> list[str]:
    path = folder / "batond.toml"
    path.write_text(text)
    with pytest.raises(Problems) as caught:
        config.load(path, env={"HOME": "/home/ada"})
    return [each.replace(f"{folder}/", "") for each in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            f"[limits]\nbackoff_s = {DIGITS_400}",
            "batond.toml:2: limits.backoff_s: must be at most 315360000 s (10 years), not 99999",
        ),
        (
            f"[limits]\nbackoff_s = {HEX_5000}",
            "batond.toml:2: limits.backoff_s: must be at most 315360000 s (10 years), not a number of some 6000 digits",
        ),
        (f"[limits]\nbackoff_s = {DIGITS_5000}", "batond.toml:2: not valid TOML: a number with more than 4300 digits"),
        (f"launcher = {NESTED}", "batond.toml: not valid TOML: nested too deeply"),
        ("[history]\ndays = 1e300", "batond.toml:2: history.days: must be at most 3650 days (10 years), not 1e+300"),
        ("[memory]\ninterval_s = 1e9", "batond.toml:2: memory.interval_s: must be at most 315360000 s (10 years), not"),
        ("[limits]\nreadings = 1000000000", "batond.toml:2: limits.readings: must be 1 to 100, not 1000000000"),
        (f"[limits]\nheadroom_bytes = {DIGITS_400}", "batond.toml:2: limits.headroom_bytes: 99999"),
        (f"state_dir = {HEX_5000}", "batond.toml:1: state_dir: must be a string, not a number of some 6000 digits"),
    ],
)
def test_a_configured_number_without_measure_is_one_line_with_its_key(tmp_path: Path, text: str, told: str) -> None:
    (line,) = problems(tmp_path, text)
    assert line.startswith(told)
    assert len(line) < 250
    assert "\n" not in line


def test_the_bounds_themselves_may_be_configured(tmp_path: Path) -> None:
    path = tmp_path / "batond.toml"
    path.write_text("[history]\ndays = 3650\n[limits]\nreadings = 100\nbackoff_s = 1\nbackoff_cap_s = 315360000\n")
    made = config.load(path, env={"HOME": "/home/ada"})
    assert (made.history.days, made.limits.readings, made.limits.backoff_cap_s) == (3650, 100, 315_360_000)
