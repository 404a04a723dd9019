"""docs/sessions-inputs.md: its code makes the inputs, and each of its sessions is accepted, and runs to its end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from worker_peer import Host

from daemon import sessionfile

pytestmark = pytest.mark.tensorflow

PAGE = (Path(__file__).parents[2] / "docs" / "sessions-inputs.md").read_text(encoding="utf-8")
ITEMS = 20


def blocks(language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def test_every_session_of_the_page_is_accepted_and_runs(host: Host, tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text(blocks("python"))
    assert host.status(host.call("worker_formats", "run_page", str(tmp_path))) == 0, host.log.read_text()
    specs = [msgspec.to_builtins(spec) for spec in sessionfile.parse(blocks("toml"), tmp_path)]
    names = ["one", "two-files", "archive", "lines", "texts", "records", "photos", "fed"]
    assert [spec["name"] for spec in specs] == names
    inspector = host.worker("inspect")
    inspector.say("inspect", specs=specs)
    inspector.rest()
    assert host.status(inspector.pid) == 0
    assert [(answer["error"], answer["total"]) for answer in inspector.answers()] == [
        (None, None if name == "fed" else ITEMS) for name in names
    ]
    for spec in specs:
        peer = host.worker()
        peer.assign(spec)
        peer.until("ready")
        peer.say("go")
        peer.rest()
        assert host.status(peer.pid) == 0, host.log.read_text()
        assert peer.one("committed")["cursor"] == ITEMS
    out, x, n = tmp_path / "out", np.load(tmp_path / "data/x.npy"), np.arange(ITEMS, dtype=np.float32)
    for name in ("one", "fed"):
        np.testing.assert_allclose(np.load(out / name / "mean.npy"), x.mean(axis=1), rtol=1e-5)
    for name in ("two-files", "archive", "lines"):
        np.testing.assert_allclose(np.load(out / name / "sum.npy"), x.sum(axis=1) + n, rtol=1e-5)
    np.testing.assert_allclose(
        np.load(out / "records" / "mean.npy"), (x * 255).astype(np.uint8).mean(axis=1), rtol=1e-5
    )
    np.testing.assert_allclose(np.load(out / "photos" / "mean.npy")[:, 0], 10 * np.arange(ITEMS) / 255, rtol=1e-4)
    said = [json.loads(line) for line in (out / "texts" / "outputs.jsonl").read_text().splitlines()]
    assert said == [{"item": item, "loud": f"ITEM {item}"} for item in range(ITEMS)]
    listed = [json.loads(line) for line in (out / "photos" / "items.jsonl").read_text().splitlines()]
    assert listed[0] == {"item": 0, "name": str(tmp_path / "data/photos/00.png")}
