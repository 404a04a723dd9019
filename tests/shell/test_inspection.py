"""`batonctl inspect` without TensorFlow: what is asked of the inspector, what is refused before, what is printed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from daemon import wire
from daemon.control import Peer
from daemon.ctl import screen_inspect
from daemon.inspection import Inspection
from daemon.results import InspectResult, SignatureView, TensorView
from daemon.sessionfile import SessionSpec
from tests.shell.batonctl_runs import batonctl
from tests.shell.control_stage import Stage

FOUND = {
    "kind": "SavedModel of TensorFlow 2",
    "version": 10,
    "fingerprint": "f00d",
    "size_bytes": 3 << 30,
    "tensorflow": "2",
    "batch_size": 8,
    "signatures": [{"name": "odd", "problem": "cannot load it"}],
}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage
        assert stage.bugs == []


class Inspector:
    """Keeps what it is asked, and answers with FOUND or with a refusal."""

    def __init__(self) -> None:
        self.asked: list[SessionSpec] = []

    async def inspect(self, specs: list[SessionSpec]) -> list[Mapping[str, Any]]:
        self.asked += specs
        (spec,) = specs
        if spec.signature == "wrong":
            return [{"error": {"key": "signature", "reason": "no signature 'wrong'"}, "found": None}]
        return [{"error": None, "found": FOUND | {"model": spec.model}}]


def asked(inspector: Inspector, model: Path, **params: Any) -> InspectResult:
    peer = Peer(os.getpid(), os.getuid(), os.getgid(), frozenset(), may_act=True)
    method = Inspection(inspector.inspect).table["inspect"]
    answer = asyncio.run(method(wire.InspectParams(model=str(model), **params), peer))  # type: ignore[arg-type]
    assert isinstance(answer, InspectResult)
    return answer


def versions(folder: Path, *numbers: str) -> Path:
    for number in numbers:
        (folder / number).mkdir(parents=True)
        (folder / number / "saved_model.pb").touch()
    return folder


def test_the_inspector_is_asked_of_the_version_that_is_meant(tmp_path: Path) -> None:
    inspector = Inspector()
    answer = asked(inspector, versions(tmp_path / "served", "9", "10"), signature="s", batch_size=8)
    (spec,) = inspector.asked
    assert (spec.model, spec.signature, spec.batch_size) == (f"{tmp_path}/served/10", "s", 8)
    assert (spec.input, spec.output) == (None, None)
    assert (answer.model, answer.signatures[0].problem) == (f"{tmp_path}/served/10", "cannot load it")


def test_what_the_inspector_refuses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(wire.Refusal) as refused:
        asked(Inspector(), versions(tmp_path / "served", "1"), signature="wrong")
    assert (refused.value.code, refused.value.message) == (wire.Code.REFUSED, "no signature 'wrong'")


def test_what_a_look_shows_is_refused_before_the_inspector_is_asked(stage: Stage, tmp_path: Path) -> None:
    """In the words of `submit`, on one line, the path made absolute by the client."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "x.npy").write_bytes(b"x")
    (tmp_path / "empty.keras").touch()
    told = {
        "nowhere": f"cannot find '{tmp_path}/nowhere'; give a SavedModel directory, a .keras or an .h5 file",
        "folder": f"'{tmp_path}/folder' is a directory without saved_model.pb; give a SavedModel directory, a .keras or"
        " an .h5 file",
        "x.npy": f"cannot use the file '{tmp_path}/x.npy': its format is not known; give a SavedModel directory, a"
        " .keras or an .h5 file",
        "empty.keras": f"'{tmp_path}/empty.keras' is an empty file; save the model again",
    }
    for name, line in told.items():
        done = batonctl(stage, "inspect", os.path.relpath(tmp_path / name))
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"batonctl: {line}\n")
    assert stage.inspected == []


def test_a_model_that_batond_may_not_look_at_is_refused(tmp_path: Path) -> None:
    """In a child, which may be made an ordinary user."""
    model = versions(tmp_path / "shut" / "served", "1") / "1"
    model.parent.parent.chmod(0)
    told_r, told_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            asked(Inspector(), model)
        except wire.Refusal as refusal:
            os.write(told_w, refusal.message.encode())
        os._exit(0)
    os.close(told_w)
    with os.fdopen(told_r) as told:
        message = told.read()
    os.waitpid(pid, 0)
    model.parent.parent.chmod(0o755)
    assert message.startswith(f"cannot look at '{model}': Permission denied ("), message
    assert message.endswith("); mend that or give another path")


def test_a_model_is_shown_with_its_signatures(capsys: pytest.CaptureFixture[str]) -> None:
    signature = SignatureView(
        name="serving_default",
        inputs=(TensorView(name="image", dtype="float32", shape=(None, 28, 28)),),
        outputs=(
            TensorView(name="words", dtype="string", shape=None),
            TensorView(name="label\x1b[31m", dtype="int64", shape=(None,)),
        ),
        parameters=25_557_032,
        parameter_bytes=102_228_128,
        need_bytes=1 << 30,
        device_bytes=400 << 20,
    )
    x = TensorView(name="x", dtype="uint8", shape=(8, 4))
    other = SignatureView(name="other", inputs=(x,), parameter_bytes=5000, need_bytes=600 << 20, device_bytes=256 << 20)
    odd = SignatureView(name="odd", problem="cannot load it: input 'x' has no batch dimension; choose another")
    found = InspectResult(**{**FOUND, "model": "/m/served/10", "signatures": (signature, other, odd)})
    screen_inspect.show_model(found)
    assert capsys.readouterr().out.splitlines() == [
        "model   /m/served/10",
        "format  SavedModel of TensorFlow 2, version 10, 3.0 GiB on disk",
        "",
        "signature serving_default",
        "       name   dtype    shape",
        "takes  image  float32  any × 28 × 28",
        "gives  words  string   of any rank",
        "gives  label  int64    any",
        "parameters   25,557,032 (97 MiB)",
        "likely need  1.0 GiB on the host, or 400 MiB of a GPU, at batch_size = 8",
        "",
        "signature other",
        "       name  dtype  shape",
        "takes  x     uint8  8 × 4",
        "parameters   not told by its files; 4.9 KiB on disk",
        "likely need  600 MiB on the host, or 256 MiB of a GPU, at batch_size = 8",
        "",
        "signature odd",
        "cannot be used: cannot load it: input 'x' has no batch dimension; choose another",
    ]
