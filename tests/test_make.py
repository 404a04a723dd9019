"""The Makefile: what `make` says, and what set-up says on a host that it cannot use. Installs nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without an environment."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}  # not nested
    return subprocess.run(
        ["make", *arguments], cwd=checkout, env=own, capture_output=True, text=True, timeout=60, check=False
    )


def interpreter(checkout: Path, script: str) -> str:
    """A stand-in for a Python that is not as needed: a shell script."""
    path = checkout / "python-stand-in"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"PYTHON={path}"


def setup_refusal(checkout: Path, python: str) -> str:
    """The one line of set-up's own that explains why it stopped."""
    result = make(checkout, "setup", python)
    assert result.returncode == 2
    assert not (checkout / ".venv").exists()
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("make:")]
    return line


def test_plain_make_lists_every_target(checkout: Path) -> None:
    """A target that is not described would be missing here."""
    phony = re.search(r"^\.PHONY: (.*)$", (checkout / "Makefile").read_text(), re.MULTILINE)
    assert phony
    result = make(checkout)
    assert result.returncode == 0
    assert re.findall(r"make ([\w-]+)\t", result.stdout) == phony[1].split()


def test_setup_refuses_an_old_python(checkout: Path) -> None:
    """It names the version found and the one needed, and how to give another."""
    python = interpreter(checkout, 'case "$1" in -V) echo "Python 3.9.2" ;; *) exit 1 ;; esac')
    assert "is Python 3.9.2, 3.11 or newer is needed; name one: make PYTHON=" in setup_refusal(checkout, python)


def test_setup_refuses_a_python_without_venv(checkout: Path) -> None:
    """Debian's python3 comes without ensurepip until python3-venv is installed."""
    python = interpreter(checkout, 'case "$2" in *ensurepip*) exit 1 ;; *) exit 0 ;; esac')
    assert "apt install python3-venv" in setup_refusal(checkout, python)


def test_setup_refuses_a_missing_python(checkout: Path) -> None:
    """A name that is no program."""
    assert "no 'no-such-python' here" in setup_refusal(checkout, "PYTHON=no-such-python")
