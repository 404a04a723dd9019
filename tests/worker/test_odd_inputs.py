"""Inputs that are nearly what a model takes: nothing becomes another value on the way, and each refusal says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_odd_inputs import BAD, BEYOND, ITEMS, OTHER
from worker_peer import Host, Message, Peer
from worker_sessions import check, inspected, reasons, rewind, run

pytestmark = pytest.mark.tensorflow

Session = Callable[..., Message]
SKIP = {"on_error": "skip"}


@pytest.fixture
def session(odd: Path, tmp_path: Path) -> Session:
    """Makes a session's spec by the dtype that its model takes, and an input."""

    def make(dtype: str, input_: str, **more: Any) -> Message:
        spec = {"name": "s", "model": str(odd / f"takes_{dtype}"), "input": str(odd / input_), "batch_size": 4}
        return spec | {"output": str(tmp_path / "out")} | more

    return make


@pytest.mark.parametrize(("dtype", "held", "beyond", "reason"), BEYOND, ids=lambda value: str(value)[:12])
def test_a_records_value_beyond_the_models_dtype_is_an_error_of_its_item(
    host: Host, session: Session, dtype: str, held: str, beyond: list[Any], reason: str
) -> None:
    features = {} if held.endswith("_list") else {"features": {"x": {"raw": held}}}
    skipping = session(dtype, f"{dtype}.{held}.tfrecord", **SKIP, **features)
    run(host, skipping)
    check(skipping, "same", [[i % 2, 1.0] for i in range(ITEMS)], [BAD])
    assert reason in reasons(skipping)[0]
    failing = skipping | {"on_error": "fail", "output": skipping["output"] + "-f"}
    failed = run(host, failing, status=1).one("failed")
    assert (failed["kind"], failed["item"]) == ("input", BAD)
    assert f"item {BAD} is damaged: the record: feature 'x' {reason[reason.index('is beyond') :]}" in failed["reason"]


def test_unsigned_bytes_are_read_as_they_are(host: Host, session: Session) -> None:
    run(host, spec := session("uint32", "uint32.uint32.tfrecord"))
    check(spec, "same", [[1 << 31, i] for i in range(ITEMS)])


SOUND = [[i, i + 0.5] for i in range(ITEMS)]


@pytest.mark.parametrize(
    "input_", ["sound.jsonl", "marked.jsonl", "trailing.jsonl", "trailing.jsonl.gz", "part-*.jsonl"]
)
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_a_mark_at_the_beginning_and_blank_lines_at_the_end_are_no_items(
    host: Host, session: Session, input_: str, on_error: str
) -> None:
    spec = session("float32", input_, on_error=on_error)
    assert [(answer["error"], answer["total"]) for answer in inspected(host, spec)] == [(None, ITEMS)]
    run(host, spec)
    check(spec, "same", SOUND)


def test_numbers_that_json_has_no_word_for_are_those_of_a_float(host: Host, session: Session) -> None:
    run(host, spec := session("float32", "not_finite.jsonl"))
    expected = np.array([[1, np.nan], [np.inf, -np.inf], [2.0**70, 2.5], [1 << 24, 0.1]], np.float32)
    np.testing.assert_array_equal(np.load(Path(spec["output"]) / "same.npy"), expected)


def test_the_largest_unsigned_integers_are_taken(host: Host, session: Session) -> None:
    run(host, spec := session("uint64", "unsigned.jsonl"))
    expected = np.array([[1 << 63, 1], [0, (1 << 64) - 1]], np.uint64).astype(np.float64)
    np.testing.assert_array_equal(np.load(Path(spec["output"]) / "same.npy"), expected)


@pytest.mark.parametrize("input_", ["no_suffix", "records.csv"])
def test_records_are_read_whatever_their_file_is_called(host: Host, session: Session, input_: str) -> None:
    run(host, spec := session("int32", input_))
    check(spec, "same", [[i, 1] for i in range(ITEMS)])


def answered_uncounted(host: Host, function: str, say: Callable[[Peer], None]) -> Peer:
    """A process for which every file is too large to be counted, to its end."""
    peer = host.attached("worker_odd_inputs", "uncounted", function)
    say(peer)
    peer.rest()
    assert host.status(peer.pid) == 0, (peer.heard[-1:], host.log.read_text()[-3000:])
    return peer


def run_uncounted(host: Host, session: Message, *, resume: bool = False) -> Peer:
    def start(peer: Peer) -> None:
        peer.assign(session, resume=resume)
        peer.until("ready")
        peer.say("go")

    return answered_uncounted(host, "serve", start)


PACKED = [[i, 1] for i in range(3000)]


@pytest.mark.parametrize(
    ("dtype", "input_", "expected"),
    [
        ("float32", "sound.jsonl", SOUND),
        ("float32", "part-*.jsonl", SOUND),
        ("float32", "trailing.jsonl.gz", SOUND),
        ("int32", "packed-*.tfrecord.gz", PACKED),
    ],
)
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_files_too_large_to_be_counted_are_counted_as_they_are_read(
    host: Host, session: Session, dtype: str, input_: str, expected: list[list[float]], on_error: str
) -> None:
    spec = session(dtype, input_, on_error=on_error)
    told = answered_uncounted(host, "inspect", lambda peer: peer.say("inspect", specs=[spec])).one("inspected")
    assert (told["error"], told["total"]) == (None, None)
    peer = run_uncounted(host, spec)
    assert peer.one("ready")["total"] is None
    assert peer.one("committed")["cursor"] == len(expected)
    check(spec, "same", expected)
    rewind(spec, 8)
    peer = run_uncounted(host, spec, resume=True)
    assert next(message for message in peer.heard if message["type"] == "progress")["done"] == 8 + 4
    check(spec, "same", expected)


def test_what_is_lost_of_an_uncounted_file_is_its_last_item(host: Host, session: Session, odd: Path) -> None:
    run_uncounted(host, spec := session("int32", "broken.tfrecord.gz", **SKIP))
    (reason,) = reasons(spec)
    rows = np.load(Path(spec["output"]) / "same.npy")
    bad = len(rows) - 1
    assert 100 < bad < 2900
    check(spec, "same", PACKED[ITEMS : ITEMS + bad + 1], [bad])
    assert f"'{odd}/broken.tfrecord.gz' from its record {bad} on is lost" in reason


def test_an_error_in_uncounted_files_is_told_with_its_file_and_line(host: Host, session: Session, odd: Path) -> None:
    (odd / "late-0.jsonl").write_text("[1, 2]\n" * 5 + "\n\n")
    (odd / "late-1.jsonl").write_text("[1, 2]\n" * 5 + "\n[3, 4]\n\n")
    run_uncounted(host, spec := session("float32", "late-*.jsonl", **SKIP))
    check(spec, "same", [[1, 2]] * 11 + [[3, 4]], [10])
    assert reasons(spec) == [f"line 6 of '{odd}/late-1.jsonl': it is empty"]


REFUSED: list[tuple[str, str, Message, str]] = [  # dtype, input, more, reason
    ("uint8", "first.tfrecord", {}, "feature 'x' is beyond 0 to 255, but its input takes uint8; write it again"),
    (
        "int32",
        "floats.tfrecord",
        {"features": {"x": {"raw": "float32"}}},
        "feature 'x' holds 8 bytes of float32 (bytes_list), but input 'x' takes int32 (any, 2)",
    ),
    ("float32", "wide.jsonl", {}, "item 0 (line 1) is no item of this model: it is UTF-16, and JSON is UTF-8"),
    ("float32", "blank.jsonl", {}, "it has no items"),
    ("float32", "null.jsonl", {}, "'x' holds null, but takes float32"),
    ("int32", "null.jsonl", {}, "'x' holds null, but takes int32"),
    ("float32", "table.jsonl", {}, "'x' holds a table, but takes float32"),
    ("int32", "large.jsonl", {}, "'x' is beyond -2147483648 to 2147483647, but takes int32"),
    ("int32", "not_finite.jsonl", {}, "'x' is numbers with fractions, but takes int32"),
    ("float32", "too_large.jsonl", {}, "no JSON (Number out of range"),
    ("float32", "too_large_beside_nan.jsonl", {}, "no JSON (number out of range: 1e400)"),
    ("float32", "too_large_whole.jsonl", {}, "'x' is beyond what float32 holds"),
    ("float32", "broken.jsonl", {}, "no JSON ("),
    ("float32", "deep.jsonl", {}, "it is nested too deep"),
    ("float32", "half_pair.jsonl", {}, "'x' is text, but takes float32"),
    ("float32", "x.npy.gz", {}, "it is a gzip file; unpack it, or write it with numpy.savez_compressed"),
    *(("float32", name, {}, reason) for name, _, reason in OTHER),
]


@pytest.mark.parametrize("more", [{}, SKIP], ids=["fail", "skip"])
def test_what_is_not_what_it_seems_is_refused_in_one_line_that_helps(
    host: Host, session: Session, more: Message
) -> None:
    specs = [
        session(dtype, input_, **(options | more), name=f"s{i}")
        for i, (dtype, input_, options, _) in enumerate(REFUSED)
    ]
    for (_, input_, _, reason), answer in zip(REFUSED, inspected(host, *specs), strict=True):
        if more and input_ in ("first.tfrecord", "not_finite.jsonl", "unknown"):
            continue  # another item there is sound, or why the file is none is told in other words
        assert answer["error"] is not None, (input_, reason)
        assert answer["error"]["key"] == "input"
        assert reason in answer["error"]["reason"], answer["error"]["reason"]
        assert "\n" not in answer["error"]["reason"]
