"""Models of other kinds through the whole daemon: looked into, submitted, refused; versions, and code in a file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from batond import ROOT, Batond
from test_tensorflow import output, session

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of the worker tests' worker_models.py."""
    folder = tmp_path_factory.mktemp("shelf")
    make = "import sys, worker_models; worker_models.make(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", make, str(folder)],
        cwd=ROOT / "tests" / "worker",
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return folder


def assert_rows(batond: Batond, shelf: Path, name: str, model: str, tensor: str) -> None:
    expected = np.load(shelf / f"{model}.{tensor}.npy")
    np.testing.assert_allclose(output(batond, name, tensor), expected, rtol=1e-5, atol=1e-6)


def test_models_of_every_age_are_relayed_and_every_row_is_right(tensorflow: Batond, shelf: Path) -> None:
    cases = {"tf1_main_op": "y", "keras2.h5": "last", "with_slots": "y", "dense.h5": "last", "tf1": "y"}
    names = [f"old-{number}" for number in range(len(cases))]
    tables = [
        session(tensorflow, name, shelf / model, shelf / "x.npy") for name, model in zip(names, cases, strict=True)
    ]
    tensorflow.submit("".join(tables))
    tensorflow.ended(*names)
    for name, (model, tensor) in zip(names, cases.items(), strict=True):
        assert_rows(tensorflow, shelf, name, model, tensor)


def test_a_session_keeps_the_version_that_it_was_submitted_with(
    tensorflow: Batond, shelf: Path, tmp_path: Path
) -> None:
    """A version that appears while it is queued is another session's."""
    served = tmp_path / "served"
    shutil.copytree(shelf / "with_slots", served / "1")
    tensorflow.ctl("pause", "--all")
    tensorflow.submit(session(tensorflow, "of-version-1", served, shelf / "x.npy"))
    shutil.copytree(shelf / "exported", served / "2")
    tensorflow.submit(session(tensorflow, "of-version-2", served, shelf / "x.npy"))
    assert tensorflow.ctl("inspect", str(served))["version"] == 2
    for version in ("1", "2"):
        assert tensorflow.ctl("show", f"of-version-{version}")["spec"]["model"] == f"{served}/{version}"
    tensorflow.ctl("resume", "--all")
    tensorflow.ended("of-version-1", "of-version-2")
    assert_rows(tensorflow, shelf, "of-version-1", "with_slots", "y")
    assert_rows(tensorflow, shelf, "of-version-2", "exported", "output_0")


def test_code_in_a_keras_file_runs_only_where_the_session_says_so(tensorflow: Batond, shelf: Path) -> None:
    refused = tensorflow.submit(session(tensorflow, "code", shelf / "code.keras", shelf / "x.npy"), status=1)
    assert "code: model: cannot load" in refused
    assert "set safe_mode = false if you trust the file" in refused
    tensorflow.submit(session(tensorflow, "code", shelf / "code.keras", shelf / "x.npy", safe_mode=False))
    tensorflow.ended("code")
    assert_rows(tensorflow, shelf, "code", "code.keras", "last")


def test_a_model_that_is_damaged_fails_once(tensorflow: Batond, shelf: Path) -> None:
    """Its weights are read when it is loaded: no retry would mend them."""
    tensorflow.submit(session(tensorflow, "cut", shelf / "cut_weights_tf1", shelf / "x.npy"))
    failed = tensorflow.event("session.failed", session="cut")
    assert (failed["kind"], failed["attempt"]) == ("model", 1)
    assert "its files are damaged or cut short" in failed["reason"]
    assert tensorflow.told("session.retried", session="cut") == []


def test_a_model_is_looked_into(tensorflow: Batond, shelf: Path) -> None:
    found = tensorflow.ctl("inspect", str(shelf / "several_signatures"), "--signature", "twice", "--batch-size", "64")
    assert (found["kind"], found["version"], found["batch_size"]) == ("SavedModel of TensorFlow 2", None, 64)
    (signature,) = found["signatures"]
    assert signature["inputs"] == [{"name": "x", "dtype": "float32", "shape": [None, 4]}]
    assert [each["name"] for each in signature["outputs"]] == ["double", "sign"]
    assert signature["problem"] is None
    refused = tensorflow.ctl("inspect", str(shelf / "custom_op"), status=1)
    assert "it needs the custom op 'TheirMatMul', which this TensorFlow does not have" in refused
