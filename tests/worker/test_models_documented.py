"""docs/sessions-models.md: its code makes the models, its sessions are accepted and run, its lines are those said."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from test_models_refusals import BAD, inspect
from worker_peer import Host

from daemon import sessionfile
from daemon.ctl import screen_inspect
from daemon.results import InspectResult

pytestmark = pytest.mark.tensorflow

PAGE = (Path(__file__).parents[2] / "docs" / "sessions-models.md").read_text(encoding="utf-8")


def blocks(language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def made(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the page's code has run, with the input that its sessions name."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "models").mkdir()
    (folder / "data").mkdir()
    np.save(folder / "data" / "wine.npy", np.random.default_rng(1).normal(size=(20, 11)).astype(np.float32))
    (folder / "page.py").write_text(blocks("python"))
    assert host.status(host.call("worker_models", "run_page", str(folder))) == 0, host.log.read_text()
    return folder


def test_every_session_of_the_page_is_accepted_and_runs(host: Host, made: Path) -> None:
    specs = sessionfile.parse(blocks("toml"), made)
    assert [spec.name for spec in specs] == ["wine", "served", "old", "net", "net-h5", "code"]
    messages = [msgspec.to_builtins(spec) for spec in specs]
    assert [answer["error"] for answer in inspect(host, *messages)] == [None] * len(specs)
    for message in messages:
        peer = host.worker()
        peer.assign(message)
        peer.until("ready")
        peer.say("go")
        peer.rest()
        assert host.status(peer.pid) == 0, host.log.read_text()
        assert peer.one("committed")["cursor"] == 20
    assert str(specs[1].model).endswith("/models/served/2")


def test_what_the_page_shows_is_what_is_printed(host: Host, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """But for the size on disk, which is TensorFlow's affair."""
    (answer,) = inspect(host, {"name": "s", "model": str(made / "models" / "wine")})
    screen_inspect.show_model(msgspec.convert(answer["found"], InspectResult))
    printed = capsys.readouterr().out.replace(str(made), "/home/ann")
    (shown,) = re.findall(r"^```\n\$ batonctl inspect [^\n]*\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    size = re.compile(r"[\d.]+ KiB on disk")
    assert size.sub("", printed) == size.sub("", shown)


def test_every_line_of_refusal_on_the_page_is_said() -> None:
    """Those that this suite provokes: the page quotes no other words."""
    said = " ".join(reason for _, reason, _ in BAD)
    for what, quoted in (
        ("TheirMatMul", "it needs the custom op 'X', which this TensorFlow does not have"),
        ("Doubled", "its 'X' is a custom layer or function, and the code of that is not in the file"),
        ("", "the directory holds no saved_model.pb"),
        ("", "its saved_model.pb is damaged or cut short"),
        ("", "its files are damaged or cut short ("),
        ("", "it holds weights alone, without the model that they belong to"),
        ("", "it holds Python code (a Lambda layer), which is not run; set safe_mode = false if you"),
    ):
        assert quoted in PAGE
        assert quoted.replace("X", what) in said
    assert "Keras 2.15.0 wrote it, and Keras 3" in PAGE
