"""The tiers of the built-in worker, with a second CPU device as the target: what lies where, and equal results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from worker_peer import Host, Message, Peer

pytestmark = pytest.mark.tensorflow

Spec = Callable[..., Message]
WHOLE = {
    "counting": "its checkpoint holds more than variables (table)",
    "lookup-export": "its checkpoint holds more than variables (table)",
}
FUNCTIONAL_BYTES = 4 * (4 * 8 + 8 + 8 * 3 + 3 + 8 * 2 + 2)
LARGE_BYTES = 4 * 100 * 1000 * 1000
AFFINE_BYTES = 4 * 3 * 4  # its only variable


def seen(peer: Peer) -> list[str]:
    return [message["type"] for message in peer.heard if message["type"] != "progress"]


def rows(spec: Message, name: str) -> np.ndarray:
    return np.load(Path(spec["output"]) / f"{name}.npy")


def watched(host: Host, tmp_path: Path) -> tuple[Peer, Path]:
    """A worker on the second CPU device, and the file in which it notes what lies where."""
    notes = tmp_path / "placed.jsonl"
    return host.attached("worker_tiers", "serve_watched", str(notes)), notes


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("module", ["net", "several", "sharded", "constant"]),
        ("module", ["counting", "tf1"]),
        ("keras", ["functional.keras", "functional-export", "functional.h5"]),
        ("keras", ["trained.keras", "trained-export", "trained.h5"]),
        ("keras", ["recurrent.keras", "recurrent-export", "recurrent.h5"]),
        ("keras", ["quantized.keras", "lookup.keras", "lookup-export"]),
    ],
)
def test_every_kind_of_model_is_staged_without_its_weights_and_loaded_with_equal_bits(
    host: Host, tmp_path: Path, kind: str, names: list[str]
) -> None:
    """What cannot be taken apart is loaded whole, and says so."""
    before = host.log.stat().st_size if host.log.exists() else 0
    status = host.status(host.call("worker_tiers", "stage_each", str(tmp_path), kind, *names))
    log = host.log.read_bytes()[before:].decode()
    assert status == 0, log
    whole = [(name, why) for name, why in WHOLE.items() if name in names]
    for name, why in whole:
        assert f"cannot stage the weights of '{tmp_path / name}': {why}; it is loaded whole" in log
    assert log.count("cannot stage the weights") == len(whole)


@pytest.mark.parametrize("model", ["affine", "exported", "functional.keras"])
@pytest.mark.parametrize("input_", ["x.npy", "x-*.tfrecord"])
def test_a_standby_holds_nothing_of_the_device_until_it_is_warm(
    host: Host, world: Path, spec: Spec, tmp_path: Path, model: str, input_: str
) -> None:
    session = spec(model, input_)
    peer, notes = watched(host, tmp_path)
    peer.assign(session, tier="staged")
    ready = peer.until("ready")
    assert (ready["tier"], ready["total"], ready["device_peak_bytes"]) == ("staged", 50, 0)
    assert not Path(session["output"]).exists()
    peer.say("advance", tier="warm")
    assert peer.until("ready")["tier"] == "warm"
    peer.say("go")
    peer.rest()
    assert host.status(peer.pid) == 0, host.log.read_text()
    assert seen(peer) == ["hello", "advanced", "ready", "ready", "started", "last_batch", "quiesced", "committed"]
    assert peer.one("committed")["device_peak_bytes"] == 0
    staged, warm = (json.loads(line) for line in notes.read_text().splitlines())
    weights, _, tensors = staged.get("CPU:1", [0, 0, 0])
    assert (weights, tensors) == (0, 0)
    assert warm["CPU:1"][0] >= AFFINE_BYTES
    assert warm["CPU:1"][1] == 0 or model == "exported"  # the copies that Keras saves beside are never filled
    assert warm["CPU:1"][2] >= 8 * 4 * 4  # the first batch
    assert warm.get("CPU:0", [0])[0] == 0
    names = {"affine": "affine", "exported": "functional", "functional.keras": "functional"}
    for name in ("y",) if model == "affine" else ("a", "b"):
        expected = np.load(world / f"{names[model]}.{name}.npy")
        np.testing.assert_allclose(rows(session, name), expected, rtol=1e-5, atol=1e-6)


def test_a_standby_climbs_tier_by_tier(host: Host, world: Path, spec: Spec, tmp_path: Path) -> None:
    session = spec()
    peer, notes = watched(host, tmp_path)
    peer.assign(session, tier="imported")
    for tier in ("staged", "warm"):
        peer.until("ready")
        peer.say("advance", tier=tier)
    peer.until("ready")
    peer.say("go")
    peer.rest()
    assert host.status(peer.pid) == 0, host.log.read_text()
    assert seen(peer)[:4] == ["hello", "ready", "ready", "ready"]
    imported, _, _ = (json.loads(line) for line in notes.read_text().splitlines())
    assert [key for key in imported if key.startswith("CPU")] == []
    np.testing.assert_allclose(rows(session, "y"), np.load(world / "affine.y.npy"), rtol=1e-5, atol=1e-6)


def test_go_may_come_to_a_staged_worker(host: Host, world: Path, spec: Spec) -> None:
    session = spec()
    peer = host.worker()
    peer.assign(session, tier="staged")
    peer.until("ready")
    peer.say("go")
    peer.rest()
    assert host.status(peer.pid) == 0, host.log.read_text()
    np.testing.assert_allclose(rows(session, "y"), np.load(world / "affine.y.npy"), rtol=1e-5, atol=1e-6)


def test_what_cannot_run_fails_where_it_is_staged(host: Host, spec: Spec) -> None:
    """A standby that is staged has its weights in hand, its input open and its batch read."""
    for session, kind in (
        (spec("weightless"), "model"),
        (spec("with_code.keras"), "model"),
        (spec("garbage.keras"), "model"),
        (spec(input_="wide.npy"), "input"),
        (spec("fixed", batch_size=5), "model"),
    ):
        peer = host.worker()
        peer.assign(session, tier="staged")
        peer.rest()
        assert host.status(peer.pid) == 1
        assert peer.one("failed")["kind"] == kind
        assert "ready" not in peer.types()


def test_every_text_that_says_so_is_memory_that_ran_out(host: Host) -> None:
    """TensorFlow, CUDA and its libraries tell it in errors of many types; a model's own assertion is none."""
    assert host.status(host.call("worker_tiers", "tell_memory_errors")) == 0, host.log.read_text()


def test_the_inspector_weighs_what_is_loaded(host: Host, spec: Spec, tmp_path: Path) -> None:
    """The weights that a signature uses, once; what is saved beside them costs disk, and no memory."""
    assert host.status(host.call("worker_tiers", "make_large", str(tmp_path / "large"))) == 0, host.log.read_text()
    cases = [
        (spec(), AFFINE_BYTES),
        (spec("exported"), FUNCTIONAL_BYTES),
        (spec("functional.keras"), FUNCTIONAL_BYTES),
        (spec(model=str(tmp_path / "large")), LARGE_BYTES),
    ]
    peer = host.worker("inspect")
    peer.say("inspect", specs=[session for session, _ in cases])
    peer.rest()
    for (_, weights), answer in zip(cases, peer.answers(), strict=True):
        assert answer["error"] is None
        batch = 8 * 4 * 4
        assert weights <= answer["weights_bytes"] < weights * 1.01 + 8192, answer  # with the graph's constants
        assert answer["device_bytes"] == int(1.2 * answer["weights_bytes"]) + 16 * batch + (256 << 20)
        assert answer["need_bytes"] == (600 << 20) + 2 * answer["weights_bytes"] + 4 * batch
        assert answer["tensorflow"].startswith("2.")


def test_a_device_that_tensorflow_does_not_have_is_named(host: Host, spec: Spec, tmp_path: Path) -> None:
    peer = host.attached("worker_tiers", "serve_on", "/GPU:0")
    peer.assign(spec())
    peer.rest()
    assert host.status(peer.pid) == 1
    failed = peer.one("failed")
    assert failed["kind"] == "internal"
    assert "cannot start device /GPU:0: TensorFlow has CPU:0; check the driver" in failed["reason"]


@pytest.mark.parametrize("input_", ["x.npy", "x-*.tfrecord"])
@pytest.mark.parametrize("model", ["affine", "functional.keras"])
def test_no_worker_leaves_anything_in_the_temporary_folder(
    host: Host, spec: Spec, tmp_path: Path, model: str, input_: str
) -> None:
    """However it ends: nothing is there that would have to be removed."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    for end in ("go", "cancel"):
        for on_error in ("fail", "skip"):
            session = spec(model, input_, output=str(tmp_path / end / on_error), on_error=on_error)
            peer = host.attached("worker_tiers", "serve_with_temporary_folder", str(folder))
            peer.assign(session)
            peer.until("ready")
            assert list(folder.iterdir()) == []
            peer.say(end)
            peer.rest()
            assert host.status(peer.pid) == 0, host.log.read_text()
            assert list(folder.iterdir()) == []


def test_the_functions_that_save_a_model_are_not_built_and_those_it_calls_are(host: Host, tmp_path: Path) -> None:
    """They are most of a network's operations, and TensorFlow's loader takes each of them through Python."""
    for step in ("make", "stage"):
        assert host.status(host.call("worker_functions", step, str(tmp_path / "model"))) == 0, host.log.read_text()
