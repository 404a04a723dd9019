"""Fixtures of the worker's tests: a host that forks workers, and a folder of small models and inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_peer import Host, Message


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("host"))
    yield host
    host.close()


@pytest.fixture(scope="session")
def world(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models and inputs of worker_world.py."""
    folder = tmp_path_factory.mktemp("world")
    status = host.status(host.call("worker_world", "make", str(folder)))
    assert status == 0, host.log.read_text()
    return folder


@pytest.fixture
def spec(world: Path, tmp_path: Path) -> Callable[..., Message]:
    """Makes a session's spec from names in the world's folder; its output is a new folder of the test's."""

    def make(model: str = "affine", input_: str = "x.npy", **more: Any) -> Message:
        return {
            "name": "s",
            "model": str(world / model),
            "input": str(world / input_),
            "output": str(tmp_path / "out"),
            "batch_size": 8,
        } | more

    return make


@pytest.fixture(scope="session")
def shelf(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of worker_models.py."""
    folder = tmp_path_factory.mktemp("shelf")
    status = host.status(host.call("worker_models", "make", str(folder)))
    assert status == 0, host.log.read_text()
    return folder


@pytest.fixture
def session(shelf: Path, tmp_path: Path) -> Callable[..., Message]:
    """Makes a session's spec; its output is a new folder of the test's."""

    def make(model: str, input_: str = "x.npy", **more: Any) -> Message:
        spec = {"name": "s", "model": str(shelf / model), "input": str(shelf / input_), "output": str(tmp_path / "out")}
        return spec | {"batch_size": 8} | more

    return make


@pytest.fixture(scope="session")
def odd(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models and inputs of worker_odd_inputs.py."""
    folder = tmp_path_factory.mktemp("odd")
    assert host.status(host.call("worker_odd_inputs", "make", str(folder))) == 0, host.log.read_text()[-3000:]
    return folder
