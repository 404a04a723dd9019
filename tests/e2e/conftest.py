"""Fixtures: a daemon with stand-in sessions, and one with TensorFlow and its models."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from batond import HASTE, ROOT, Batond


@pytest.fixture
def batond(tmp_path: Path) -> Iterator[Batond]:
    """A daemon that starts no fork server: its sessions are programs. It waits less long than usual."""
    with Batond(tmp_path, "--launcher", "exec", settings=HASTE) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small real models and inputs, made by the worker tests' own module."""
    folder = tmp_path_factory.mktemp("models")
    make = "import sys, worker_world; worker_world.make(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", make, str(folder)], cwd=ROOT / "tests" / "worker", capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return folder


@pytest.fixture(scope="module")
def tensorflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Batond]:
    """A daemon that runs TensorFlow sessions, forked from its fork server."""
    with Batond(tmp_path_factory.mktemp("batond")) as daemon:
        yield daemon
