"""Sessions whose rows are text, or differ in length: kept as the model gives them, by both loaders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from worker_peer import Host

pytestmark = pytest.mark.tensorflow


@pytest.mark.parametrize("model", ["text", "text_tf1", "numbers"])
def test_rows_of_text_and_of_several_lengths_are_kept_as_lines(host: Host, tmp_path: Path, model: str) -> None:
    assert host.status(host.call("worker_models_watched", "call_texts_and_ragged", str(tmp_path))) == 0, (
        host.log.read_text()
    )
    spec = {
        "name": "s",
        "model": str(tmp_path / model),
        "input": str(tmp_path / "text.npy"),
        "output": str(tmp_path / "out"),
        "batch_size": 2,
    }
    peer = host.worker()
    peer.assign(spec)
    peer.until("ready")
    peer.say("go")
    peer.rest()
    assert host.status(peer.pid) == 0, peer.heard
    lines = [json.loads(line) for line in (tmp_path / "out" / "outputs.jsonl").read_text().splitlines()]
    assert [line["item"] for line in lines] == [0, 1, 2]
    if model == "numbers":
        assert [line["lengths"] for line in lines] == [[1, 2, 3], [], [2, 1]]
        return
    assert [line["upper"] for line in lines] == ["A BB CCC", "", "DD E"]
    assert [line["words"] for line in lines] == [["a", "bb", "ccc"], [], ["dd", "e"]]
    assert [line["letters"] for line in lines] == [
        [["a"], ["b", "b"], ["c", "c", "c"]],
        [],
        [["d", "d"], ["e"]],
    ]
