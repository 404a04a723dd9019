"""Arrays and Keras files that are damaged, or say what cannot be: each one clear line, and never another error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from worker_damage import SAID
from worker_peer import Host

pytestmark = pytest.mark.tensorflow

SEEDS = (1, 2, 3)
ROUNDS = 400


def told(host: Host, folder: Path, function: str, *arguments: Any) -> Any:
    """What a function of worker_damage.py found."""
    status = host.status(host.call("worker_damage", function, str(folder), *arguments))
    assert status == 0, host.log.read_text()[-3000:]
    return json.loads((folder / "told.json").read_text())


def test_a_header_that_cannot_be_is_one_line(host: Host, tmp_path: Path) -> None:
    """In a file of its own, in an archive, and in one that is compressed."""
    for name, found in told(host, tmp_path, "headers").items():
        for type_, reason in found:
            assert (type_, SAID[name][1] in reason) == ("Refused", True), (name, found)
            assert reason.isprintable()
            assert len(reason) < 1000


def test_every_version_of_the_format_and_either_order_is_read(host: Host, tmp_path: Path) -> None:
    assert told(host, tmp_path, "versions") == [True] * 12


@pytest.mark.parametrize("seed", SEEDS)
def test_spoilt_arrays_and_archives_are_refused_and_nothing_else(host: Host, tmp_path: Path, seed: int) -> None:
    assert told(host, tmp_path, "fuzz", seed, ROUNDS) == []


NO_KERAS_FILE = "it is no .keras file, or one that is cut short; set model ="
NO_H5_FILE = "it is no .h5 file, or one that is cut short; set model ="
KERAS = {
    "whole.keras": None,
    "whole.h5": None,
    "garbled_config.h5": "its model_config is garbled; save the model again",
    "number_config.h5": "its model_config is garbled; save the model again",
    "empty.keras": NO_KERAS_FILE,
    "empty.h5": NO_H5_FILE,
    "folder.keras": "the directory holds no saved_model.pb; set model =",
    "text.h5": NO_H5_FILE,
    "zip.h5": NO_H5_FILE,
    "h5.keras": NO_KERAS_FILE,
    "cut.keras": NO_KERAS_FILE,
    "cut.h5": "its files are damaged or cut short (",
    "no_config.keras": "it is a zip archive without config.json; save the model again",
    "nothing.keras": "it is a zip archive without config.json; save the model again",
    "garbled_config.keras": "its config.json is garbled; save the model again",
    "list_config.keras": "its config.json is garbled; save the model again",
    "empty_config.keras": "its config.json is garbled; save the model again",
    "no_metadata.keras": "Expected object to be an instance of `KerasSaveable`",
    "no_weights.keras": "Expected a model.weights.h5 or model.weights.npz file; save the model again",
}


def test_a_keras_file_that_is_none_is_one_line(host: Host, tmp_path: Path) -> None:
    found = told(host, tmp_path, "keras_files")
    assert found.keys() == KERAS.keys()
    for name, said in KERAS.items():
        if said is None:
            assert found[name] == []
            continue
        type_, reason = found[name]
        assert type_ == "Refused"
        assert reason.startswith(f"cannot load '{tmp_path / name}': {said}"), reason
        assert reason.isprintable()
