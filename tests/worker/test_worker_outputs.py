"""What is kept of a model's outputs: names, shapes, and rows that were made with other options."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_peer import Host, Message
from worker_sessions import inspected, manifest, run

pytestmark = pytest.mark.tensorflow

Spec = Callable[..., Message]
SKIP = {"on_error": "skip"}


@pytest.fixture(scope="module")
def kept(host: Host, world: Path) -> Path:
    """The world's folder with the models of worker_outputs.py."""
    assert host.status(host.call("worker_outputs", "make", str(world))) == 0, host.log.read_text()
    return world


def lines(session: Message) -> list[Any]:
    return [json.loads(line) for line in (Path(session["output"]) / "outputs.jsonl").read_text().splitlines()]


def stop_at(session: Message, cursor: int, errors: int = 0) -> None:
    """Leave a complete output as a crash leaves one, with a cursor."""
    folder = Path(session["output"])
    for file in folder.glob("*.npy"):
        file.rename(f"{file}.partial")
    left = {"cursor": cursor, "errors": errors, "complete": False}
    (folder / "session.json").write_text(json.dumps(manifest(session) | left))


def test_outputs_that_would_share_a_file_are_refused_at_submit_and_kept_as_lines(
    host: Host, kept: Path, spec: Spec
) -> None:
    session = spec("twins")
    as_lines = session | {"output_format": "jsonl"}
    auto, npy, sound = inspected(host, session, session | {"output_format": "npy"}, as_lines)
    for answer in (auto, npy):
        assert answer["error"]["key"] == "output"
        assert "outputs 'a/b' and 'a_b' would share the file 'a_b.npy'; set" in answer["error"]["reason"]
    assert sound["error"] is None
    assert "would share" in run(host, session, status=1).one("failed")["reason"]
    run(host, as_lines)
    x = np.load(kept / "x.npy")
    np.testing.assert_allclose([line["a/b"] for line in lines(session)], x * 2, rtol=1e-6)
    np.testing.assert_allclose([line["a_b"] for line in lines(session)], x * 3, rtol=1e-6)


def test_parts_of_a_batch_that_differ_in_shape_are_kept_as_lines(host: Host, kept: Path, spec: Spec) -> None:
    """The halves of a batch in which an item makes the model raise are called apart, and their rows differ."""
    session = spec("spread", "some_bad.npy", output_format="jsonl", **SKIP)
    run(host, session)
    x = np.load(kept / "some_bad.npy")
    found = lines(session)
    bad = np.flatnonzero((x < 0).any(axis=1)).tolist()
    assert [line["item"] for line in found] == list(range(len(x)))
    assert [line["item"] for line in found if line["wide"] is None] == bad
    widths = set()
    for item, line in enumerate(found):
        if item in bad:
            assert line == {"item": item, "pairs": None, "text": None, "wide": None}
            continue
        widths.add(len(line["wide"]))
        np.testing.assert_allclose(line["wide"], [x[item, 0]] * len(line["wide"]), rtol=1e-6)
        np.testing.assert_allclose(np.array(line["pairs"])[:, 1], line["wide"], rtol=1e-6)
        np.testing.assert_allclose(np.array(line["text"], float), line["wide"], atol=1e-5)
    assert widths == {1, 2, 4, 8}
    dtypes = {output["name"]: output["dtype"] for output in manifest(session)["outputs"]}
    assert dtypes == {"wide": "float32", "pairs": "float32", "text": "string"}


def test_files_that_are_not_what_they_should_be_are_closed_again(host: Host, kept: Path, tmp_path: Path) -> None:
    assert host.status(host.call("worker_outputs", "reopened_in_vain", str(tmp_path))) == 0, host.log.read_text()


@pytest.mark.parametrize(
    ("model", "before", "after"),
    [
        ("affine", {}, {"batch_size": 16}),
        ("affine", {}, SKIP),
        ("affine", SKIP, {}),
        ("affine", {}, {"output_format": "npy"}),
        ("affine", {}, {"device": "cpu", "lead": 3, "priority": 2}),
    ],
    ids=str,
)
def test_options_that_leave_the_rows_as_they_are_may_change(
    host: Host, kept: Path, spec: Spec, model: str, before: Message, after: Message
) -> None:
    run(host, spec(model, **before))
    session = spec(model, **after)
    stop_at(session, 24)
    (answer,) = inspected(host, session)
    assert (answer["error"], answer["cursor"]) == (None, 24)
    peer = run(host, session)
    first = next(message for message in peer.heard if message["type"] == "progress")["done"]
    assert first == 24 + session["batch_size"]
    rows = np.load(Path(session["output"]) / "y.npy")
    np.testing.assert_allclose(rows, np.load(kept / "affine.y.npy"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "before", "after", "why"),
    [
        (("affine", "x.npy"), {}, {"output_format": "jsonl"}, "its rows are kept as npy, and this session's as jsonl"),
        (("two", "x.npy"), {"signature": "first"}, {"signature": "second"}, "its rows are by signature 'first'"),
        (("affine", "x-0.tfrecord"), {}, {"features": {"x": {"feature": "x"}}}, "of another version of the input"),
        (("affine", "x-0.tfrecord"), {}, {"input": "x-1.tfrecord"}, "of another version of the input"),
        (
            ("checked", "some_bad.npy"),
            SKIP,
            {"on_error": "fail"},
            '2 of its rows are of items that failed, and on_error is not "skip" any more',
        ),
    ],
    ids=str,
)
def test_rows_that_were_made_with_other_options_are_not_gone_on_from(
    host: Host, kept: Path, spec: Spec, given: tuple[str, str], before: Message, after: Message, why: str
) -> None:
    """Neither at submit nor by the worker, and with `overwrite` they are computed anew."""
    run(host, spec(*given, **before))
    session = spec(*given, **(before | after))
    if "input" in after:
        session["input"] = str(kept / after["input"])
    stop_at(session, 21, errors=2 if before == SKIP else 0)
    (answer,) = inspected(host, session)
    assert answer["error"]["key"] == "output"
    assert why in answer["error"]["reason"]
    failed = run(host, session, status=1).one("failed")
    assert failed["kind"] == "output"
    assert why in failed["reason"]
    (anew,) = inspected(host, session | {"overwrite": True})
    assert (anew["error"], anew["cursor"]) == (None, 0)
