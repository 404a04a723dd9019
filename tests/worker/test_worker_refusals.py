"""What the inspector and the worker say of sessions that cannot run: the key, and one line that helps."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from worker_peer import Host, Message

pytestmark = pytest.mark.tensorflow

Spec = Callable[..., Message]


def inspect(host: Host, specs: list[Message]) -> list[Message]:
    peer = host.worker("inspect")
    peer.say("inspect", specs=specs)
    peer.rest()
    assert host.status(peer.pid) == 0, host.log.read_text()
    assert [answer["session"] for answer in peer.answers()] == [spec["name"] for spec in specs]
    return peer.answers()


BAD = [
    ("missing", "x.npy", {}, "model", "it does not exist; set model ="),
    ("no_model", "x.npy", {}, "model", "the directory holds no saved_model.pb; set model ="),
    ("x.npy", "x.npy", {}, "model", "its format is not known; set model ="),
    ("garbage.keras", "x.npy", {}, "model", "it is no .keras file, or one that is cut short; set model ="),
    ("with_code.keras", "x.npy", {}, "model", "(a Lambda layer), which is not run; set safe_mode = false if you trust"),
    ("affine", "x.npy", {"signature": "predict"}, "signature", "no signature 'predict' (it has: serving_default); set"),
    ("functional.keras", "x.npy", {"signature": "predict"}, "signature", "a Keras file has none; leave signature out"),
    ("two", "x.npy", {}, "signature", "several signatures (it has: first, second); set signature ="),
    ("fixed", "x.npy", {"batch_size": 5}, "batch_size", "it takes exactly 8 items a call; set batch_size = 8"),
    ("affine", "x.npy", {"batch_size": 0}, "batch_size", "it takes at least 1 item a call"),
    ("affine", "missing.npy", {}, "input", "no such file"),
    ("affine", "no_model", {}, "input", "it is a directory with no JPEG or PNG images in it; of other files give a"),
    ("affine", "empty.npy", {}, "input", "it has no items"),
    ("affine", "cut.npy", {}, "input", "it is cut short: 921 bytes of 928"),
    ("affine", "garbage.npy", {}, "input", "it is no .npy file"),
    ("affine", "double.npy", {}, "input", "it holds float64 (50, 4), but input 'x' takes float32 (any, 4)"),
    ("affine", "wide.npy", {}, "input", "it holds float32 (50, 5), but input 'x' takes float32 (any, 4)"),
    ("mixed", "x.npy", {}, "input", "the model takes 3 (a, image, n); set input = {"),
    ("affine", "empty.tfrecord", {}, "input", "it has no items"),
    ("affine", "cut.tfrecord", {}, "input", "record 19 is cut short"),
    ("affine", "garbage.tfrecord", {}, "input", "and no TFRecord file"),
    ("affine", "wide.tfrecord", {}, "input", "'x' holds 5 values (float_list), but input 'x' takes float32 (any, 4)"),
    ("mixed", "x-0.tfrecord", {}, "input", "no feature 'a' (it has: x)"),
    ("text", "x.npy", {"output_format": "npy"}, "output", "output 'text' is text, which has no fixed size; set"),
]  # fmt: skip


def test_every_bad_session_is_refused_with_its_key_and_a_line_that_helps(host: Host, spec: Spec) -> None:
    specs = [spec(model, input_, **more, name=f"s{i}") for i, (model, input_, more, _, _) in enumerate(BAD)]
    for (*_, key, reason), answer in zip(BAD, inspect(host, specs), strict=True):
        assert answer["error"] is not None, (reason, answer)
        assert (answer["error"]["key"], reason in answer["error"]["reason"]) == (key, True), answer["error"]
        assert "\n" not in answer["error"]["reason"]


def test_a_good_session_is_described(host: Host, spec: Spec) -> None:
    saved, keras = inspect(host, [spec(), spec("functional.keras", "x-*.tfrecord")])
    assert saved["error"] is None
    assert (saved["total"], saved["cursor"], saved["signature"]) == (50, 0, "serving_default")
    assert saved["inputs"] == {"x": {"dtype": "float32", "shape": [None, 4]}}
    assert saved["outputs"]["label"] == {"dtype": "int64", "shape": [None]}
    assert saved["need_bytes"] > 600 << 20
    assert len(saved["fingerprint"]) == 32
    assert (keras["error"], keras["total"]) == (None, 50)
    assert keras["inputs"] == saved["inputs"]
    assert keras["outputs"]["a"] == {"dtype": "float32", "shape": [None, 3]}


def test_output_folders_are_judged(host: Host, spec: Spec, tmp_path: Path) -> None:
    def prepared(name: str, manifest: Message | None = None) -> str:
        folder = tmp_path / name
        folder.mkdir()
        if manifest is None:
            (folder / "notes.txt").touch()
        else:
            (folder / "session.json").write_text(json.dumps(manifest))
        return str(folder)

    session = spec(output=str(tmp_path / "real"))
    peer = host.worker()
    peer.assign(session)
    peer.until("ready")
    peer.say("go")
    peer.rest()
    host.status(peer.pid)
    written = json.loads((tmp_path / "real" / "session.json").read_text())
    (tmp_path / "file").touch()
    cases: list[tuple[Message, str | None]] = [
        (spec(output=prepared("foreign")), "it is not empty; set overwrite = true"),
        (spec(output=str(tmp_path / "foreign"), overwrite=True), None),
        (spec(output=str(tmp_path / "real")), "it holds the complete output of session 's'"),
        (spec(output=str(tmp_path / "real"), overwrite=True), None),
        (spec(output=prepared("half", written | {"complete": False, "cursor": 16})), None),
        (spec(output=prepared("theirs", written | {"session": "t"})), "it holds the output of session 't'"),
        (spec(output=str(tmp_path / "file" / "out")), "is a file; output to another"),
        (spec("checked", output=str(tmp_path / "half")), "its rows are by another version of the model; set"),
        (spec(input_="spoilt.npy", output=str(tmp_path / "half")), "its rows are of another version of the input; set"),
        (spec(output=prepared("other", written | {"signature": "other"})), "its rows are by signature 'other'; set"),
        (spec(output=str(tmp_path / "half"), overwrite=True), None),
    ]
    answers = inspect(host, [case for case, _ in cases])
    for (case, reason), answer in zip(cases, answers, strict=True):
        if reason is None:
            assert answer["error"] is None, case
        else:
            assert answer["error"]["key"] == "output"
            assert reason in answer["error"]["reason"]
    assert [answer["cursor"] for answer in answers] == [0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0]


def test_a_directory_that_may_not_be_written_is_refused(host: Host, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    status = host.status(host.call("worker_world", "survey_unwritable", str(tmp_path)))
    (tmp_path / "hidden").chmod(0o755)
    assert status == 0, host.log.read_text()
    assert "is not writable by user" in host.log.read_text()


def failing(host: Host, session: Message) -> Message:
    """Run a session that is to fail; its `failed`, the last thing it says."""
    peer = host.worker()
    peer.assign(session)
    while (message := peer.hear()) is not None and message["type"] != "ready":
        pass
    if message is not None:
        peer.say("go")
    peer.rest()
    assert host.status(peer.pid) == 1
    assert peer.heard[-1]["type"] == "failed"
    assert "\n" not in peer.heard[-1]["reason"]
    return peer.heard[-1]


def test_a_model_that_raises_is_named_with_the_item(host: Host, spec: Spec) -> None:
    session = spec("checked", "spoilt.npy")
    failed = failing(host, session)
    assert (failed["kind"], failed["item"]) == ("model", 32)
    assert "a negative pixel" in failed["reason"]
    manifest = json.loads((Path(session["output"]) / "session.json").read_text())
    assert manifest["cursor"] == 32  # what was computed before is kept


def test_a_damaged_record_is_named_with_its_item(host: Host, spec: Spec) -> None:
    for batch_size in (1, 4, 20):
        failed = failing(host, spec(input_="damaged.tfrecord", batch_size=batch_size))
        assert (failed["kind"], failed["item"]) == ("input", 10)
        assert "item 10 is damaged: the record at byte" in failed["reason"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("weightless", "cannot load"),
        ("whole", "output 'mean' is a single value for 8 items"),
    ],
)
def test_an_unusable_model_fails_before_go(host: Host, spec: Spec, model: str, reason: str) -> None:
    session = spec(model)
    failed = failing(host, session)
    assert failed["kind"] == "model"
    assert reason in failed["reason"]
    assert not Path(session["output"]).exists()


def test_a_full_disk_is_a_failed_output_and_no_crash(host: Host, spec: Spec) -> None:
    session = spec(input_="many.npy", batch_size=512)
    peer = host.worker()
    peer.assign(session)
    peer.until("ready")
    resource.prlimit(peer.pid, resource.RLIMIT_FSIZE, (65536, 65536))  # EFBIG, where a full disk is ENOSPC
    peer.say("go")
    peer.rest()
    failed = peer.one("failed")
    assert failed["kind"] == "output"
    assert "file too large" in failed["reason"]
    assert host.status(peer.pid) == 1


def test_an_unknown_tier_is_refused(host: Host, spec: Spec) -> None:
    peer = host.worker()
    peer.assign(spec(), tier="lukewarm")
    peer.rest()
    assert peer.one("failed")["kind"] == "internal"
    assert host.status(peer.pid) == 1
