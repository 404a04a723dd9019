"""Every format of input with every format of output: each row is that of a direct call, in one piece or resumed."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_formats import BAD_IMAGES, BAD_LINES, ITEMS
from worker_peer import Host, Message
from worker_sessions import check, inspected, kept, manifest, rewind, run

pytestmark = pytest.mark.tensorflow

Spec = Callable[..., Message]


@pytest.fixture(scope="session")
def formats(host: Host, world: Path) -> Path:
    """The world's folder, with the inputs of worker_formats.py."""
    status = host.status(host.call("worker_formats", "make", str(world)))
    assert status == 0, host.log.read_text()
    return world


X = {"affine": "affine.y"}
READ: list[tuple[str, Any, Message, str, str]] = [  # model, input, more, output, file of the expected rows
    ("affine", "x.npy", {}, "y", "affine.y"),
    ("affine", "fortran.npy", {}, "y", "affine.y"),
    ("affine", "big_endian.npy", {}, "y", "affine.y"),
    ("pair", {"a": "a.npy", "n": "n.npy"}, {}, "sum", "pair.sum"),
    ("affine", {"x": "x.npy"}, {}, "y", "affine.y"),
    ("pair", "pair.npz", {}, "sum", "pair.sum"),
    ("pair", "pair_small.npz", {}, "sum", "pair.sum"),
    ("affine", "alone.npz", {}, "y", "affine.y"),
    ("affine", "fortran.npz", {}, "y", "affine.y"),
    ("pair", "pair.jsonl", {}, "sum", "pair.sum"),
    ("affine", "bare.jsonl", {}, "y", "affine.y"),
    ("affine", "x-*.jsonl", {}, "y", "affine.y"),
    ("affine", "x.jsonl.gz", {}, "y", "affine.y"),
    ("affine", "hidden.jsonl", {}, "y", "affine.y"),
    ("fixed", "bare.jsonl", {}, "y", "affine.y"),
    ("affine", "x-*.tfrecord", {}, "y", "affine.y"),
    ("affine", "z-*.tfrecord.gz", {}, "y", "affine.y"),
    ("affine", "z-*.tfrecord.gz", {"on_error": "skip"}, "y", "affine.y"),
    ("affine", "feed:rows", {}, "y", "affine.y"),
    ("affine", "feed:from_start", {}, "y", "affine.y"),
    ("affine", "feed:listed", {}, "y", "affine.y"),
    ("affine", "feed:dataset", {}, "y", "affine.y"),
    ("affine", "feed:unknown", {}, "y", "affine.y"),
    ("affine", "feed:shapeless", {}, "y", "affine.y"),
    ("functional.keras", "feed:rows", {}, "a", "functional.a"),
]


def session_of(formats: Path, spec: Spec, model: str, input_: Any, more: Message) -> Message:
    given = {name: str(formats / file) for name, file in input_.items()} if isinstance(input_, dict) else None
    if given is None and ":" in input_:
        given = input_
    session = spec(model, "x.npy" if given else input_, **({"cwd": str(formats)} | more))
    return session | ({"input": given} if given else {})


@pytest.mark.parametrize(("model", "input_", "more", "output", "expected"), READ, ids=lambda value: str(value)[:24])
@pytest.mark.parametrize("output_format", ["npy", "jsonl"])
def test_rows_are_those_of_a_direct_call_and_a_resumed_session_leaves_the_same(
    host: Host,
    formats: Path,
    spec: Spec,
    model: str,
    input_: Any,
    more: Message,
    output: str,
    expected: str,
    output_format: str,
) -> None:
    session = session_of(formats, spec, model, input_, more | {"output_format": output_format})
    rows = np.load(formats / f"{expected}.npy")
    peer = run(host, session)
    assert peer.one("committed")["cursor"] == ITEMS
    assert peer.one("quiesced")["remaining"] == 0
    check(session, output, rows)
    rewind(session, 24)
    peer = run(host, session, resume=True)
    assert next(message for message in peer.heard if message["type"] == "progress")["done"] == 24 + 8
    check(session, output, rows)


def test_text_and_rows_that_vary_become_lines_by_themselves(host: Host, formats: Path, spec: Spec) -> None:
    texts = session_of(formats, spec, "echo", "text.jsonl", {})
    run(host, texts)
    expected: list[Any] = [f"GRößE {i}" for i in range(ITEMS)]
    expected[::10] = [{"b64": base64.b64encode(b"\xff\xfe\0").decode()}] * 5
    assert kept(texts, "upper") == expected
    assert kept(texts, "length")[:2] == [3, len("größe 1".encode())]
    ragged = session_of(
        formats, spec, "lengths", "ragged.jsonl", {"batch_size": 1, "output": texts["output"] + "-2", "name": "r"}
    )
    run(host, ragged)
    assert kept(ragged, "double") == [[2.0 * i] * (1 + i % 7) for i in range(ITEMS)]
    assert kept(ragged, "count") == [1 + i % 7 for i in range(ITEMS)]
    assert [output["shape"] for output in manifest(ragged)["outputs"]] == [[], []]


def test_a_callable_gives_texts(host: Host, formats: Path, spec: Spec) -> None:
    session = session_of(formats, spec, "echo", "feed:texts", {})
    run(host, session)
    assert kept(session, "upper") == [f"ITEM {i}" for i in range(ITEMS)]


IMAGES: list[tuple[str, str, Message, str]] = [
    ("looks", "images", {}, "0..255"),
    ("looks", "images", {"image": {"scale": "0..1"}}, "0..1"),
    ("looks", "images", {"image": {"scale": "-1..1", "resize": "nearest"}}, "-1..1"),
    ("looks_any", "images", {"image": {"size": [4, 7], "resize": "area"}}, "0..255"),
    ("looks_bytes", "images", {}, "0..255"),
    ("looks", "images/*.jpg", {}, "0..255"),
    ("grey", "grey_images", {"image": {"scale": "0..1"}}, "0..1"),
]


@pytest.mark.parametrize(("model", "input_", "more", "scale"), IMAGES)
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_images_are_decoded_resized_and_scaled_in_the_order_of_their_paths(
    host: Host, formats: Path, spec: Spec, model: str, input_: str, more: Message, scale: str, on_error: str
) -> None:
    session = session_of(formats, spec, model, input_, more | {"on_error": on_error, "batch_size": 3})
    (found,) = inspected(host, session)
    assert found["error"] is None
    run(host, session)
    files = sorted(
        file for file in formats.glob(input_ if "*" in input_ else f"{input_}/**/*.*") if file.suffix != ".txt"
    )
    assert found["total"] == len(files) > 5
    expected = host_call(host, formats, "looked_at", [str(file) for file in files], model, more.get("image", {}))
    check(session, "mean", expected)
    listed = [json.loads(line) for line in (Path(session["output"]) / "items.jsonl").read_text().splitlines()]
    assert listed == [{"item": item, "name": str(file)} for item, file in enumerate(files)]


def host_call(host: Host, folder: Path, function: str, *arguments: Any) -> Any:
    """What a function of worker_formats leaves in a file: TensorFlow is the host's, not this process's."""
    target = folder / "answer.json"
    status = host.status(host.call("worker_formats", function, str(target), *arguments))
    assert status == 0, host.log.read_text()[-3000:]
    return json.loads(target.read_text())


def test_the_features_of_a_record_may_be_told(host: Host, formats: Path, spec: Spec) -> None:
    told = {"features": {"x": {"feature": "pixels", "raw": "uint8"}}}
    session = session_of(formats, spec, "affine", "renamed.tfrecord", told)
    (found,) = inspected(host, session)
    assert (found["error"], found["total"]) == (None, ITEMS)
    run(host, session)
    check(session, "y", host_call(host, formats, "affine_of", str(formats / "renamed.x.npy"), str(formats / "affine")))


def test_given_shapes_fill_what_the_model_leaves_free(host: Host, formats: Path, spec: Spec) -> None:
    grid = session_of(formats, spec, "looks_any", "grid.tfrecord", {"features": {"image": {"feature": "x"}}})
    (refused,) = inspected(host, grid)
    assert "feature 'x' holds 4 values (float_list), but input 'image' takes" in refused["error"]["reason"]
    wrong = grid | {"features": {"image": {"feature": "x", "shape": [2, 2, 3]}}}
    (refused,) = inspected(host, wrong)
    assert "of shape [2, 2, 3], as features says" in refused["error"]["reason"]


@pytest.mark.parametrize("output_format", ["npy", "jsonl"])
@pytest.mark.parametrize(
    ("model", "input_", "output", "bad", "reasons"),
    [
        (
            "affine",
            "bad.jsonl",
            "y",
            BAD_LINES,
            [
                "line 4 of",
                "it is empty",
                "'x' is text, but takes float32",
                "shape (1)",
                "it has no 'x' (it has: z)",
                "",
            ],
        ),
        ("looks", "spoilt_images", "mean", BAD_IMAGES, ["08.JPEG': Unknown image file format", ": ", "Input is empty"]),
        ("affine", "feed:misfit_at_37", "y", [37], ["'x' is text, but takes float32"]),
        ("checked", "spoilt.jsonl", "y", [37], ["a negative pixel"]),
    ],
)
def test_items_that_fail_are_left_out_or_fail_the_session_by_name(
    host: Host,
    formats: Path,
    spec: Spec,
    model: str,
    input_: str,
    output: str,
    bad: list[int],
    reasons: list[str],
    output_format: str,
) -> None:
    if input_ == "spoilt.jsonl":
        text = "".join(json.dumps(row) + "\n" for row in np.load(formats / "spoilt.npy").tolist())
        (formats / input_).write_text(text)
    session = session_of(formats, spec, model, input_, {"on_error": "skip", "output_format": output_format})
    run(host, session)
    expected = {"affine": "affine.y", "checked": "spoilt.y"}.get(model)
    if expected:
        rows = np.load(formats / f"{expected}.npy")
    else:
        files = sorted(file for file in (formats / "images").rglob("*.*") if file.suffix != ".txt")
        rows = host_call(host, formats, "looked_at", [str(file) for file in files], model, {})
    check(session, output, rows, bad)
    told = [json.loads(line)["reason"] for line in (Path(session["output"]) / "errors.jsonl").read_text().splitlines()]
    assert all(part in reason for part, reason in zip(reasons, told, strict=True)), told
    failed = run(host, session | {"on_error": "fail", "name": "f", "output": session["output"] + "-f"}, status=1)
    message = failed.one("failed")
    assert message["kind"] == ("model" if model == "checked" else "input")
    assert message["item"] == (32 if model == "checked" else bad[0])
    assert "\n" not in message["reason"]


def test_the_rest_of_a_compressed_file_is_one_error(host: Host, formats: Path, spec: Spec) -> None:
    session = session_of(formats, spec, "affine", "cut.tfrecord.gz", {"on_error": "skip"})
    (found,) = inspected(host, session)
    total = found["total"]
    assert 1 < total < 30
    run(host, session)
    check(session, "y", np.load(formats / "affine.y.npy")[20 : 20 + total], [total - 1])
    assert "is lost: it is damaged there" in (Path(session["output"]) / "errors.jsonl").read_text()


@pytest.mark.parametrize("output_format", ["npy", "jsonl"])
@pytest.mark.parametrize("input_", ["many.npy", "feed:many"])
def test_killed_at_any_time_each_row_is_there_once(
    host: Host, formats: Path, spec: Spec, input_: str, output_format: str
) -> None:
    """Also where nobody knows how many there will be."""
    feed = f"import numpy as np\ndef many():\n    yield from np.load({str(formats / 'many.npy')!r})\n"
    (formats / "feed_many").mkdir(exist_ok=True)
    if not (formats / "feed_many" / "feed.py").exists():
        (formats / "feed_many" / "feed.py").write_text(feed)
    more = {"batch_size": 1, "output_format": output_format, "cwd": str(formats / "feed_many")}
    session = session_of(formats, spec, "affine", input_, more)
    cursors = [0]
    for _ in range(2):
        peer = host.worker()
        peer.assign(session, resume=len(cursors) > 1)
        peer.until("ready")
        peer.say("go")
        peer.until("progress", cursor=cursors[-1] + 1)
        peer.until("progress")
        os.kill(peer.pid, signal.SIGKILL)
        assert host.status(peer.pid) == -signal.SIGKILL
        cursors.append(manifest(session)["cursor"])
    assert cursors == sorted(set(cursors))
    peer = host.worker()
    peer.assign(session, resume=True)
    peer.until("ready")
    peer.say("go")
    peer.until("progress")
    peer.say("drain")
    peer.rest()
    assert host.status(peer.pid) == 0
    assert peer.one("committed")["cursor"] == peer.one("quiesced")["done"] > cursors[-1]
    run(host, session | {"batch_size": 512}, resume=True)
    check(session, "y", np.load(formats / "many.y.npy"))


def test_a_cursor_that_counts_lines_that_are_gone_is_not_resumed_over(host: Host, formats: Path, spec: Spec) -> None:
    session = session_of(formats, spec, "affine", "x.npy", {"output_format": "jsonl"})
    run(host, session)
    rewind(session, 24)
    partial = Path(session["output"]) / "outputs.jsonl.partial"
    partial.write_bytes(partial.read_bytes()[:100])
    failed = run(host, session, status=1, resume=True).one("failed")
    assert failed["kind"] == "output"
    assert "'outputs.jsonl' does not hold the lines that session.json says of it" in failed["reason"]


def test_lines_that_could_not_be_written_are_there_once_when_they_can(host: Host, formats: Path) -> None:
    lines = host_call(host, formats, "put_again")
    assert [line["item"] for line in lines] == list(range(300))
    assert [line["y"] for line in lines[:200] if line["item"] != 150] == [*range(100), *range(50), *range(51, 100)]
    assert [line["item"] for line in lines if line["y"] is None] == [150, *range(200, 300)]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"output_format": "npy"}, "its rows are kept as jsonl, and this session's as npy"),
        ({"image": {"scale": "0..1"}}, "its rows are of another version of the input"),
    ],
)
def test_what_changes_the_rows_is_not_resumed_over(
    host: Host, formats: Path, spec: Spec, changed: Message, why: str
) -> None:
    session = session_of(formats, spec, "looks", "images", {"output_format": "jsonl"})
    run(host, session)
    (found,) = inspected(host, session | changed)
    assert why in found["error"]["reason"]


def test_sessions_of_one_file_may_have_modules_of_one_name(
    host: Host, formats: Path, spec: Spec, tmp_path: Path
) -> None:
    (tmp_path / "feed.py").write_text("def rows():\n    return [[0.0] * 4] * 3\n")
    first = session_of(formats, spec, "affine", "feed:listed", {})
    second = session_of(tmp_path, spec, "affine", "feed:rows", {"name": "t", "output": str(tmp_path / "t")})
    third = session_of(formats, spec, "affine", "feed:rows", {"name": "u", "output": str(tmp_path / "u")})
    assert [answer["total"] for answer in inspected(host, first, second, third)] == [ITEMS, 3, None]


BAD: list[tuple[str, Any, Message, str]] = [
    ("pair", {"a": "a.npy", "n": "n_short.npy"}, {}, "the inputs have different numbers of items (a 50, n 40)"),
    ("pair", {"a": "a.npy"}, {}, "the model takes 'n' too, which input has no file for"),
    ("pair", {"a": "a.npy", "n": "n.npy", "z": "x.npy"}, {}, "the model takes no input 'z' (it takes: a, n)"),
    ("pair", {"a": "a.npy", "n": "a.npy"}, {}, "it holds float32 (50, 3), but input 'n' takes int32 (any)"),
    ("pair", {"a": "a.npy", "n": "pair.jsonl"}, {}, "it feeds input 'n' of a table, and is no .npy file"),
    ("pair", "only_a.npz", {}, "it has no array 'n' (it has: a); name the arrays as the model's inputs"),
    ("pair", "cut.npz", {}, "it is no .npz file (File is not a zip file)"),
    ("pair", "damaged_small.npz", {}, "it is no .npz file (Bad CRC-32 for file 'a.npy')"),
    ("affine", "objects.npz", {}, "holds Python objects"),
    ("affine", "fortran_small.npz", {}, "is compressed and in Fortran order"),
    ("affine", "empty.jsonl", {}, "it has no items"),
    ("affine", "cut.jsonl.gz", {}, "its compressed data is damaged after line"),
    ("affine", "text_for_float.jsonl", {}, "item 0 (line 1) is no item of this model: 'x' is text, but takes float32"),
    ("affine", "text_for_float.jsonl", {"on_error": "skip"}, "item 0 (line 1) is no item of this model"),
    ("affine", "no_key.jsonl", {}, "it has no 'x' (it has: y)"),
    ("affine", "inner_ragged.jsonl", {}, "'x' is a list of lists of several lengths"),
    ("affine", "ragged.jsonl", {}, "'x' has shape (1), but takes float32 (any, 4)"),
    ("pair", "bare.jsonl", {}, "it is one value, and the model takes 2 by name (a, n)"),
    ("pair", "too_large.jsonl", {}, "'n' is beyond -2147483648 to 2147483647"),
    ("affine", "too_large_float.jsonl", {}, "'x' is beyond what float32 holds"),
    ("affine", "cut.tfrecord.gz", {}, "its compressed data is damaged after record"),
    ("affine", "*.npy", {}, ".npy files match, and rows are numbered through one"),
    ("affine", "x-0.*", {}, "its files are of several formats ('x-0.jsonl' and 'x-0.tfrecord')"),
    ("affine", "[xz]-0.tfrecord*", {}, "some of its files are gzip, and"),
    ("affine", "renamed.tfrecord", {}, "no feature 'x' (it has: other, pixels); name the features as the model's"),
    ("affine", "renamed.tfrecord", {"features": {"x": {"feature": "pixels"}}}, 'features = { x = { raw = "uint8" } }'),
    ("affine", "x-0.tfrecord", {"features": {"y": {}}}, "features names 'y', and the model takes no such input"),
    ("affine", "liar.tfrecord", {}, "it is no TFRecord file"),
    ("looks", "no_images", {}, "it is a directory with no JPEG or PNG images in it"),
    ("looks", "first_spoilt", {}, "item 0 is damaged: "),
    ("looks_any", "images", {}, "which leaves the size open; set image = { size = [height, width] }"),
    ("looks", "images", {"image": {"size": [9, 9]}}, "images become (9, 9, 3), but input 'image' takes"),
    ("looks", "images", {"image": {"channels": 1}}, "images become (8, 8, 1), but input 'image' takes"),
    ("looks_bytes", "images", {"image": {"scale": "0..1"}}, "gives fractions, but input 'image' takes uint8"),
    ("affine", "images", {}, "an image has height, width and channels, but input 'x' takes float32 (any, 4)"),
    ("pair", "images", {}, "a file is one image, and the model takes 2 (a, n)"),
    ("affine", "x.npy", {"image": {}}, "image belongs to an input that is images; this one is a .npy file"),
    ("affine", "no_such:rows", {}, "there is no module 'no_such' in"),
    ("affine", "broken_feed:rows", {}, "importing 'broken_feed' raised ModuleNotFoundError"),
    ("affine", "feed:no_such", {}, "module 'feed' has no 'no_such'"),
    ("affine", "feed:nothing", {}, "'nothing' is a int, and cannot be called"),
    ("affine", "feed:raising", {}, "calling it raised ValueError: no such split"),
    ("affine", "feed:rows", {"input_args": {"a": 1}}, "calling it raised TypeError: rows() got an unexpected keyword"),
    ("affine", "feed:exits_at_once", {}, "its item 0 raised SystemExit; mend it"),
    ("affine", "feed:table", {}, "it returned a dict; have it return a tf.data.Dataset, or an iterable"),
    ("affine", "feed:endless", {}, "its data set never ends"),
    ("affine", "feed:none", {}, "it has no items"),
    ("affine", "feed:doubles", {}, "item 0 is no item of this model: 'x' is float64, but takes float32"),
    ("affine", "feed:texts", {}, "item 0 is no item of this model: 'x' is text, but takes float32"),
]  # fmt: skip


def test_what_can_be_seen_beforehand_is_refused_in_one_line(host: Host, formats: Path, spec: Spec) -> None:
    specs = [
        session_of(formats, spec, model, input_, {"name": f"s{i}"} | more)
        for i, (model, input_, more, _) in enumerate(BAD)
    ]
    for (model, input_, _, reason), answer in zip(BAD, inspected(host, *specs), strict=True):
        assert answer["error"] is not None, (model, input_, reason)
        assert answer["error"]["key"] == "input"
        assert reason in answer["error"]["reason"], answer["error"]["reason"]
        assert "\n" not in answer["error"]["reason"]


@pytest.mark.parametrize(
    ("input_", "model", "item", "reason"),
    [
        ("feed:raises_at_37", "affine", 37, "its item 37 raised ValueError: the source is gone; mend it"),
        ("feed:same", "affine", None, "it returned the same iterator twice; have it make a new one at each call"),
        ("feed:liar", "affine", 40, "it gives more than the 40 items that its len() says; mend its len()"),
        ("feed:boastful", "affine", 50, "it ends after 50 of 60 items"),
        ("damaged.npz", "affine", None, "is damaged"),
    ],
)
def test_what_is_met_on_the_way_fails_with_the_item(
    host: Host, formats: Path, spec: Spec, input_: str, model: str, item: int | None, reason: str
) -> None:
    session = session_of(formats, spec, model, input_, {})
    failed = run(host, session, status=1).one("failed")
    assert failed["kind"] == "input"
    assert reason in failed["reason"]
    assert item in (None, failed["item"])
    assert "\n" not in failed["reason"]
