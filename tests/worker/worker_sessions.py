"""A built-in session, or an inspection, from end to end, and what it leaves: for the tests of workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from worker_peer import Host, Message, Peer


def run(host: Host, session: Message, *, status: int = 0, resume: bool = False, submission: str = "") -> Peer:
    """A session from `assign` to the process's end, with that exit status."""
    peer = host.worker()
    peer.assign(session, resume=resume, submission=submission)
    while (message := peer.hear()) is not None and message["type"] != "ready":
        pass
    if message is not None:
        peer.say("go")
    peer.rest()
    assert host.status(peer.pid) == status, (peer.heard[-1:], host.log.read_text()[-3000:])
    return peer


def inspected(host: Host, *specs: Message) -> list[Message]:
    """The answers, in the order of the specs."""
    peer = host.worker("inspect")
    peer.say("inspect", specs=list(specs))
    peer.rest()
    assert host.status(peer.pid) == 0, host.log.read_text()[-3000:]
    return peer.answers()


def manifest(session: Message) -> Message:
    content: Message = json.loads((Path(session["output"]) / "session.json").read_text())
    return content


def kept(session: Message, name: str) -> Any:
    """The output's rows, whatever holds them: an array, or a list of what the lines say."""
    folder = Path(session["output"])
    if manifest(session)["format"] == "npy":
        assert not (folder / "outputs.jsonl").exists()
        return np.load(folder / f"{name}.npy")
    assert not list(folder.glob("*.npy"))
    lines = [json.loads(line) for line in (folder / "outputs.jsonl").read_text().splitlines()]
    assert [line["item"] for line in lines] == list(range(len(lines))), "each item once, in order"
    return [line[name] for line in lines]


def check(session: Message, name: str, expected: Any, bad: list[int] | None = None) -> None:
    """Every row as the model gives it, but for the bad ones."""
    rows, bad = kept(session, name), bad or []
    good = np.setdiff1d(np.arange(len(expected)), bad)
    assert len(rows) == len(expected)
    if isinstance(rows, list):
        assert [item for item, row in enumerate(rows) if row is None] == bad
    elif rows.dtype.kind == "f":
        assert np.flatnonzero(np.isnan(rows.reshape(len(rows), -1)).all(axis=1)).tolist() == bad
    have = np.array([rows[item] for item in good], np.asarray(expected).dtype)
    np.testing.assert_allclose(have, np.asarray(expected)[good], rtol=1e-5, atol=1e-5)
    folder = Path(session["output"])
    assert not list(folder.glob("*.partial"))
    assert manifest(session)["complete"]
    found = (folder / "errors.jsonl").read_text().splitlines() if (folder / "errors.jsonl").exists() else []
    assert [json.loads(line)["item"] for line in found] == bad


def rewind(session: Message, cursor: int) -> None:
    """Leave the output as a crash does that came after a commit at `cursor`: with more behind it than counts."""
    folder = Path(session["output"])
    before = manifest(session)
    counted = 0
    if before["format"] == "jsonl":
        lines = (folder / "outputs.jsonl").read_bytes().splitlines(keepends=True)
        counted = sum(map(len, lines[:cursor]))
        (folder / "outputs.jsonl.partial").write_bytes(b"".join(lines[: cursor + 3]) + b'{"item": 9')
        (folder / "outputs.jsonl").unlink()
    else:
        for file in folder.glob("*.npy"):
            np.lib.format.open_memmap(file, "r+")[cursor:] = 7
            file.rename(f"{file}.partial")
    (folder / "session.json").write_text(json.dumps(before | {"cursor": cursor, "bytes": counted, "complete": False}))


def reasons(session: Message) -> list[str]:
    """What errors.jsonl says of the items, in their order."""
    text = (Path(session["output"]) / "errors.jsonl").read_text()
    return [json.loads(line)["reason"] for line in text.splitlines()]
