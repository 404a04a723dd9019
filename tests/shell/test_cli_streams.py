"""`batonctl` where its streams are closed or not UTF-8, and where names are not: it does its work, or says why not."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from states.snapshot import State
from tests.shell.batonctl_runs import BATONCTL, batonctl, ended, environment, out, submitted
from tests.shell.control_stage import PATIENCE_S, Stage, session_file
from tests.shell.watching import watching

NOT_UTF_8 = os.fsdecode(b"uni\xff")
LOOKS = ("status", "list", "show a", "why", "plan", "explain", "devices", "events", "watch --once", "--help")
OLD_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A daemon on which b took over from a, and computes."""
    with Stage(tmp_path) as stage:
        submitted(stage, "a")
        stage.until(lambda world: world.lanes["cpu"].state is State.IDLE)
        stage.crew.frozen = True
        submitted(stage, "b", "c", lead="100000.0")
        stage.until(lambda world: world.lanes["cpu"].state is not State.IDLE)
        yield stage
        assert stage.bugs == []


def shell(stage: Stage, arguments: str, redirected: str) -> subprocess.CompletedProcess[bytes]:
    """Run by a shell, which closes what `redirected` says."""
    return subprocess.run(
        ("bash", "-c", f"{shlex.join(BATONCTL)} {arguments} {redirected}"),
        capture_output=True,
        env=environment(stage.path),
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize("arguments", [*LOOKS, "status --json", "watch --once --json", "pause"])
def test_a_closed_output_is_written_to_by_nobody(stage: Stage, arguments: str) -> None:
    done = shell(stage, arguments, ">&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_with_every_stream_closed_it_does_what_it_is_told(stage: Stage) -> None:
    assert shell(stage, "cancel c", "<&- >&- 2>&-").returncode == 0
    assert shell(stage, "show nobody", "<&- >&- 2>&-").returncode == 1
    ended(stage, "c")
    done = shell(stage, "submit -", "<&-")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"batonctl: standard input: ")


@pytest.mark.parametrize("streams", [{"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii"}, OLD_LOCALE])
@pytest.mark.parametrize("arguments", LOOKS)
def test_a_stream_without_utf_8_gets_plain_signs(stage: Stage, arguments: str, streams: dict[str, str]) -> None:
    done = subprocess.run(
        (*BATONCTL, *arguments.split()),
        capture_output=True,
        env=environment(stage.path, **streams),
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    told = out(stage, *arguments.split()).splitlines()
    assert len(done.stdout.splitlines()) == len(told), "all of it"
    assert b"?" not in done.stdout or "?" in "".join(told), "a sign without a plain one; give it one in streams.PLAIN"


def test_a_terminal_without_utf_8_gets_plain_signs_too(stage: Stage) -> None:
    with watching(stage.path, "--once", PYTHONIOENCODING="ascii") as watcher:
        assert watcher.ended() == 0
        watcher.until(lambda screen: "session.started" in screen.main, "the picture")
        assert "Traceback" not in watcher.screen.main
        assert watcher.screen.main.isascii()


def test_a_name_that_is_not_utf_8_is_said_to_be_none(stage: Stage) -> None:
    for command in ("why", "show", "logs", "cancel", "retry", "move --first", "swap", "pause", "drain", "resume"):
        done = batonctl(stage, *command.split(), NOT_UTF_8)
        assert (done.returncode, done.stdout) == (1, ""), command
        assert done.stderr.endswith(": 'uni\\xff' is not UTF-8, which batond's protocol is: rename it\n")


def test_a_file_in_a_folder_whose_name_is_not_utf_8_is_refused_in_one_line(stage: Stage, tmp_path: Path) -> None:
    folder = tmp_path / NOT_UTF_8
    folder.mkdir()
    (folder / "s.toml").write_text(session_file("d"))
    for arguments in (("submit", f"{folder}/s.toml"), ("inspect", f"{folder}/model"), ("submit", f"{folder}/none")):
        done = batonctl(stage, *arguments)
        assert done.returncode in (1, 2)
        assert "uni\\xff" in done.stderr.splitlines()[-1] or "uni�" in done.stderr.splitlines()[-1]
    done = subprocess.run(
        (*BATONCTL, "submit", "-"),
        input=session_file("d"),
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment(stage.path) | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == f"batonctl: submit: '{tmp_path}/uni\\xff' is not UTF-8, which batond's protocol is: rename it\n"
    )
    assert batonctl(stage, "submit", "--json", f"{folder}/s.toml").stdout.startswith('{"error":{"code":-32602,')


@pytest.mark.parametrize("digits", [19, 5000])
def test_a_number_of_any_length_is_no_traceback(stage: Stage, digits: int) -> None:
    for command in ("explain", "why", "explain --worst", "plan --skip", "events --since"):
        done = batonctl(stage, *command.split(), "9" * digits)
        assert done.returncode in (1, 2), command
        assert done.stdout == ""


@pytest.mark.parametrize(
    "answer", [b"{}", b'{"jsonrpc":"2.0","id":1}', b"[]", b'"batond"', b"\xff", b"220 mail.example.org ESMTP"]
)
def test_an_answer_that_is_none_is_said_to_be_of_something_else(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen()

        def serve() -> None:
            connection, _ = other.accept()
            with connection:
                connection.sendall(answer + b"\n")
                connection.recv(9999)

        thread = threading.Thread(target=serve)
        thread.start()
        done = batonctl(tmp_path / "s", "status")
        thread.join(PATIENCE_S)
    assert done.returncode == 3
    assert "does not speak batond's protocol" in done.stderr
    assert done.stderr.count("\n") == 1
