"""Models that cannot be loaded: one line that helps, from the inspector where it can tell, else from the worker."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_models_sessions import Session
from worker_peer import Host, Message

pytestmark = pytest.mark.tensorflow

# The model, what is said of it, and whether only loading it shows that.
BAD = [
    ("empty", "the directory holds no saved_model.pb; set model = a SavedModel directory or a .keras or .h5", False),
    ("pictures", "the directory holds no saved_model.pb; set model =", False),
    ("unserved", "the directory holds no saved_model.pb; set model =", False),
    ("cut", "its saved_model.pb is damaged or cut short; save the model again", False),
    ("cut_tf1", "its saved_model.pb is damaged or cut short; save the model again", False),
    ("custom_op", "it needs the custom op 'TheirMatMul', which this TensorFlow does not have; save it without", False),
    ("custom_op_tf1", "it needs the custom op 'TheirMatMul', which this TensorFlow does not have", False),
    ("text.keras", "it is no .keras file, or one that is cut short; set model =", False),
    ("cut.keras", "it is no .keras file, or one that is cut short; set model =", False),
    ("text.h5", "it is no .h5 file, or one that is cut short; set model =", False),
    ("cut.h5", "its files are damaged or cut short (Unable to synchronously open file (truncated", False),
    ("alone.h5", "it holds weights alone, without the model that they belong to; save the model whole, by", False),
    ("alone.weights.h5", "it holds weights alone, without the model", False),
    ("custom.keras", "its 'Doubled' is a custom layer or function, and the code of that is not in the file; sa", False),
    ("custom.h5", "its 'Doubled' is a custom layer or function, and the code of that is not in the file; sa", False),
    ("keras2.keras", "Keras 2.15.0 wrote it, and Keras 3", False),
    ("code.keras", "it holds Python code (a Lambda layer), which is not run; set safe_mode = false if you", False),
    ("code.h5", "it holds Python code (a Lambda layer), which is not run; set safe_mode = false if you", False),
    ("cut_weights", "its files are damaged or cut short", True),
    ("cut_weights_tf1", "its files are damaged or cut short (Read less bytes than requested)", True),
    ("no_weights", "Failed to find any matching files for", True),
    ("no_weights_tf1", "is not a valid checkpoint", True),
    ("no_assets_tf1", "No such file or directory", True),
]


def inspect(host: Host, *specs: Message) -> list[Message]:
    peer = host.worker("inspect")
    peer.say("inspect", specs=list(specs))
    peer.rest()
    assert host.status(peer.pid) == 0, host.log.read_text()
    return peer.answers()


def test_the_inspector_refuses_in_one_line_what_cannot_be_loaded(host: Host, session: Session) -> None:
    """The same line for a session that is submitted, and for a model that is looked into."""
    wrong = [(name, reason) for name, reason, late in BAD if not late]
    sessions = inspect(host, *(session(name) for name, _ in wrong))
    alone = inspect(host, *({"name": "s", "model": session(name)["model"]} for name, _ in wrong))
    for (name, reason), answer, of_model in zip(wrong, sessions, alone, strict=True):
        assert answer["error"]["key"] == "model", answer
        assert answer["error"]["reason"].startswith(f"cannot load '{session(name)['model']}': {reason}"), answer
        assert "\n" not in answer["error"]["reason"]
        assert of_model["error"] == answer["error"]
        assert of_model["found"] is None


@pytest.mark.parametrize(("name", "reason"), [(name, reason) for name, reason, late in BAD if late])
@pytest.mark.parametrize("tier", ["staged", "warm"])
def test_a_worker_fails_in_one_line_before_it_is_ready(
    host: Host, session: Session, name: str, reason: str, tier: str
) -> None:
    spec = session(name)
    peer = host.worker()
    peer.assign(spec, tier=tier)
    while (message := peer.hear()) is not None and message["type"] != "ready":
        pass
    if message is not None:  # staged, a model of TensorFlow 1 has read no weights yet
        peer.say("advance", tier="warm")
    peer.rest()
    assert host.status(peer.pid) == 1
    failed = peer.one("failed")
    assert (failed["kind"], reason in failed["reason"]) == ("model", True), failed
    assert "\n" not in failed["reason"]
    assert not Path(spec["output"]).exists()


def test_a_worker_says_of_every_model_what_the_inspector_says(host: Host, session: Session) -> None:
    """One that a predecessor made is not inspected."""
    for name, reason, late in BAD:
        if late:
            continue
        peer = host.worker()
        peer.assign(session(name))
        peer.rest()
        assert host.status(peer.pid) == 1
        failed = peer.one("failed")
        assert (failed["kind"], reason in failed["reason"]) == ("model", True), failed


# What is told of a model that can be


def test_a_model_is_told_with_all_its_signatures(host: Host, session: Session) -> None:
    names = ["several_signatures", "tf1_main_op", "served", "dense.keras", "keras2.h5", "of_any_rank"]
    answers = inspect(host, *({"name": "s", "model": session(name)["model"], "batch_size": 64} for name in names))
    found = {name: answer["found"] for name, answer in zip(names, answers, strict=True)}
    assert [answer["error"] for answer in answers] == [None] * len(names)
    assert {name: (each["kind"], each["version"]) for name, each in found.items()} == {
        "several_signatures": ("SavedModel of TensorFlow 2", None),
        "tf1_main_op": ("SavedModel of TensorFlow 1", None),
        "served": ("SavedModel of TensorFlow 2", 10),
        "dense.keras": ("Keras file (.keras)", None),
        "keras2.h5": ("Keras file (.h5)", None),
        "of_any_rank": ("SavedModel of TensorFlow 2", None),
    }
    assert found["served"]["model"] == session("served/10")["model"]
    plain, twice = found["several_signatures"]["signatures"]
    assert plain["inputs"] == [{"name": "x", "dtype": "float32", "shape": [None, 4]}]
    assert (plain["name"], plain["parameters"], plain["parameter_bytes"]) == ("plain", 12, 48)
    assert [each["name"] for each in twice["outputs"]] == ["double", "sign"]
    (looked_up,) = found["tf1_main_op"]["signatures"]
    assert looked_up["outputs"][0] == {"name": "id", "dtype": "int64", "shape": [None]}
    assert looked_up["parameters"] == 4 * 3 + 3
    (any_rank,) = found["of_any_rank"]["signatures"]
    assert any_rank["inputs"] == [{"name": "x", "dtype": "float32", "shape": None}]
    dense = 4 * 5 + 5 + 4 * 5 + 5 * 3 + 3
    for name in ("dense.keras", "keras2.h5"):
        (signature,) = found[name]["signatures"]
        assert (signature["parameters"], signature["parameter_bytes"]) == (dense, 4 * dense), "no optimizer's"
        assert signature["need_bytes"] == (600 << 20) + 2 * 4 * dense + 4 * 64 * 16
        assert signature["device_bytes"] == int(1.2 * 4 * dense) + 16 * 64 * 16 + (256 << 20)


def test_a_signature_that_cannot_be_used_is_told_beside_those_that_can(host: Host, tmp_path: Path) -> None:
    model = str(tmp_path / "odd")
    status = host.status(host.call("worker_models", "make_odd", model))
    assert status == 0, host.log.read_text()
    whole, one, wrong = inspect(
        host,
        {"name": "s", "model": model},
        {"name": "s", "model": model, "signature": "sound"},
        {"name": "s", "model": model, "signature": "scalar"},
    )
    problems = {each["name"]: each.get("problem") for each in whole["found"]["signatures"]}
    assert problems["sound"] is None
    assert problems["scalar"].endswith("signature 'scalar': input 'x' has no batch dimension; choose another")
    assert problems["sparse"].endswith("output 'y' is sparse, and has no rows; choose another signature")
    (sparse,) = inspect(host, {"name": "s", "model": f"{model}_tf1"})
    assert "input 'x' is sparse or ragged, and a batch is given as a plain tensor; cho" in sparse["error"]["reason"]
    assert [each["name"] for each in one["found"]["signatures"]] == ["sound"]
    assert (wrong["error"]["key"], wrong["found"]) == ("signature", None)
