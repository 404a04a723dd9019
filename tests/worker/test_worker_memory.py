"""An input that is larger than the host's memory runs in that of a few batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from worker_peer import Host, Message

pytestmark = pytest.mark.tensorflow

Spec = Callable[..., Message]
ROW_VALUES = 1 << 18  # a row is 1 MiB
ROWS = 20 << 10  # 20 GiB
COMPUTED = 3000  # rows: of them alone, 3 GiB
BOUND_BYTES = 1 << 30  # of what is read beside it; a few batches are 100 MiB


@pytest.fixture
def giant(tmp_path: Path) -> Path:
    """20 GiB of zeros that take no room, but for one row."""
    path = tmp_path / "giant.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (ROWS, ROW_VALUES)}
        )
        begins = file.tell()
        file.truncate(begins + ROWS * ROW_VALUES * 4)
        file.seek(begins + 5 * ROW_VALUES * 4)
        file.write(np.full(ROW_VALUES, 3, np.float32).tobytes())
    return path


@pytest.mark.parametrize("kind", ["npy", "table", "callable"])
def test_20_gib_run_in_the_memory_of_a_few_batches(host: Host, world: Path, spec: Spec, giant: Path, kind: str) -> None:
    """Also by the peak that the worker reports: what is learned from it is what the next one asks for."""
    assert host.status(host.call("worker_world", "make_mean", str(world / "mean"))) == 0, host.log.read_text()
    (giant.parent / "feed.py").write_text(
        "import numpy as np\ndef rows(path):\n    return np.load(path, mmap_mode='r')\n"
    )
    inputs = {
        "npy": {"input": str(giant)},
        "table": {"input": {"x": str(giant)}},
        "callable": {"input": "feed:rows", "input_args": {"path": str(giant)}, "cwd": str(giant.parent)},
    }
    session = spec("mean", batch_size=16) | inputs[kind]
    peer = host.worker()
    peer.assign(session)
    before = peer.until("ready")
    assert before["total"] == ROWS
    peer.say("go")
    peer.until("progress", done=COMPUTED)
    status = dict(line.split(":", 1) for line in Path(f"/proc/{peer.pid}/status").read_text().splitlines())
    peer.say("drain")
    peer.rest()
    assert host.status(peer.pid) == 0
    committed = peer.one("committed")
    assert COMPUTED <= committed["cursor"] < ROWS
    assert int(status["RssAnon"].split()[0]) * 1024 < before["peak_bytes"] + BOUND_BYTES
    if kind != "callable":  # what that maps, it maps itself
        assert committed["peak_bytes"] < before["peak_bytes"] + BOUND_BYTES
    output = Path(session["output"])
    partial = np.load(output / "mean.npy.partial")[: committed["cursor"]]
    assert np.flatnonzero(partial).tolist() == [5]
    assert json.loads((output / "session.json").read_text())["cursor"] == committed["cursor"]
