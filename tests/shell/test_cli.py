"""`batonctl`, run as people and scripts run it: what it prints, where, and how it exits."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from daemon.ctl import client
from daemon.ctl.client import find_socket
from states.snapshot import State
from tests.shell.batonctl_runs import BATONCTL, batonctl, environment, out, submitted
from tests.shell.control_stage import PATIENCE_S, Stage, session_file


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage
        assert stage.bugs == []


# Commands, as a script uses them


def test_submit_takes_relative_paths_from_the_files_own_folder(stage: Stage, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.sh").write_text("#!/bin/sh\n")
    (folder / "train.sh").chmod(0o755)
    (folder / "s.toml").write_text('[[session]]\nname = "a"\nrun = ["./train.sh"]\n')
    assert out(stage, "submit", str(folder / "s.toml")) == "queued a, and it is being prepared already\n"
    spec = json.loads(out(stage, "show", "a", "--json"))["spec"]
    assert (spec["run"], spec["cwd"]) == ([str(folder / "train.sh")], str(folder))


def test_a_refused_file_names_every_problem_on_its_line(stage: Stage) -> None:
    done = batonctl(stage, "submit", "-", text=session_file("a", "a", device='"tpu"'))
    assert (done.returncode, done.stdout) == (1, "")
    first, *problems = done.stderr.splitlines()
    assert first == "batonctl: standard input: nothing was queued, for 3 problems"
    assert all(problem.startswith("  standard input:") for problem in problems)
    assert len(problems) == 3
    done = batonctl(stage, "submit", "-", "--json", text=session_file("a", device='"tpu"'))
    assert (done.returncode, done.stderr) == (1, "")
    error = json.loads(done.stdout)["error"]
    assert error["code"] == -32000
    assert len(error["data"]["problems"]) == 1


def test_json_is_what_the_socket_said(stage: Stage) -> None:
    stage.crew.frozen = True
    answer = json.loads(batonctl(stage, "submit", "-", "--json", text=session_file("a", "b")).stdout)
    assert answer == {"sessions": [{"name": "a", "place": 0}, {"name": "b", "place": 1}], "plan": None}
    stage.until(lambda world: world.lanes["cpu"].state is State.RUNNING)
    for command in ("status", "list", "devices", "version", "pause", "resume"):
        text = out(stage, command, "--json")
        assert text.count("\n") == 1
        assert json.loads(text)
    lines = [json.loads(line) for line in out(stage, "events", "--json").splitlines()]
    assert lines[0]["event"] == "session.queued"
    assert json.loads(out(stage, "logs", "a", "--json"))["text"] == "a prepares ✓\n"
    assert json.loads(out(stage, "cancel", "b", "--json")) == {"cancelled": ["b"], "refused": []}


def test_each_command_says_what_it_did(stage: Stage) -> None:
    stage.crew.frozen = True
    assert (
        submitted(stage, "a", "b", "c")
        == "queued a, and it is being prepared already\nqueued b, place 1\nqueued c, place 2\n"
    )
    stage.until(lambda world: world.lanes["cpu"].state is State.RUNNING)
    assert out(stage, "move", "c", "--first") == "c is at place 1\n"
    assert out(stage, "pause") == "cpu: paused; `batonctl resume` lets it go on\n"
    assert out(stage, "resume", "--all") == "cpu: goes on\n"
    assert out(stage, "cancel", "b") == "cancelled b\n"
    assert out(stage, "retry", "b") == "queued b again, place 2, from item 0\n"
    assert re.fullmatch(r"cpu: from a to c; the lane is \w+\n", out(stage, "swap"))
    assert out(stage, "logs", "a") == "a prepares ✓\n"
    assert out(stage, "version") == "batond 0.1.0, protocol 1, pid 4711\n"
    assert out(stage, "drain", "cpu").startswith("cpu: drained and paused")
    assert out(stage, "shutdown").startswith("batond ends")


def test_what_goes_on_without_the_daemon_is_told(stage: Stage) -> None:
    assert out(stage, "shutdown", "--leave-running") == "batond ends\n"
    stage.crew.frozen = True
    submitted(stage, "a", "b")
    stage.until(lambda world: world.lanes["cpu"].state is State.RUNNING)
    first, second = out(stage, "shutdown", "--leave-running").splitlines()
    assert first == "batond ends; one session goes on without it: a"
    assert re.fullmatch(r"start batond again by .*\d\d:\d\d.*, or they drain, and go back to the queue", second)


def test_what_is_refused_exits_with_1_and_one_line(stage: Stage) -> None:
    for arguments, said in (
        (("swap",), "cannot swap lane cpu: it is Idle"),
        (("show", "nobody"), "there is no session nobody"),
        (("cancel", "nobody"), "there is no session nobody"),
        (("pause", "tpu"), "there is no lane tpu"),
    ):
        done = batonctl(stage, *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"batonctl: {said}")
        assert done.stderr.count("\n") == 1


def test_some_of_several_cancelled_is_told_of_each_and_exits_with_1(stage: Stage) -> None:
    stage.crew.frozen = True
    submitted(stage, "a", "b")
    out(stage, "cancel", "b")
    done = batonctl(stage, "cancel", "a", "b")
    assert (done.returncode, done.stdout) == (1, "cancelled a\n")
    assert done.stderr.startswith("batonctl: cannot cancel b")


@pytest.mark.parametrize(
    "arguments",
    [
        ("fly",),
        ("show",),
        ("cancel",),
        ("move", "a"),
        ("move", "a", "--first", "--last"),
        ("pause", "cpu", "--all"),
        ("list", "--state", "sleeping"),
        ("submit", "no-such-file.toml"),
        ("events", "--since", "-1"),
    ],
)
def test_wrong_usage_exits_with_2_before_anything_is_asked(arguments: tuple[str, ...]) -> None:
    done = batonctl(Path("/nonexistent"), *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage:" in done.stderr


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "there is no socket"),
        (lambda path: path.touch(), "nobody listens there any more"),
        (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "nobody listens there any more"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_without_a_daemon_it_says_so_and_exits_with_3(tmp_path: Path, make: Any, why: str) -> None:
    path = tmp_path / "s"
    make(path)
    for arguments in (("status",), ("status", "--json"), ("submit", "-", "--wait")):
        done = batonctl(path, *arguments, text=session_file("a"))
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == (
            f"batonctl: cannot reach batond at {path}: {why}; start it with `batond`, or name its --socket\n"
        )


def test_a_path_too_long_for_a_socket_is_said_to_be(tmp_path: Path) -> None:
    done = batonctl(tmp_path / ("x" * 120), "status")
    assert done.returncode == 3
    assert "107 bytes" in done.stderr


def test_what_cannot_be_read_or_has_no_end_is_one_line(stage: Stage) -> None:
    for file, said in (
        ("/proc/self/mem", "batonctl: cannot read /proc/self/mem: Input/output error; give a session file\n"),
        (
            "/dev/zero",
            "batonctl: /dev/zero has more than 1048576 bytes, and batond takes no more at once: "
            "split it into several\n",
        ),
    ):
        done = batonctl(stage, "submit", file)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_a_text_that_is_not_utf_8_is_called_as_ever(stage: Stage, tmp_path: Path) -> None:
    latin = 'name = "caf\xe9"'.encode("latin-1")
    (tmp_path / "s.toml").write_bytes(latin)
    for file, name in (("-", "standard input"), (str(tmp_path / "s.toml"), f"{tmp_path}/s.toml")):
        done = subprocess.run(
            (*BATONCTL, "submit", file), input=latin, capture_output=True, env=environment(stage.path), check=False
        )
        assert done.returncode == 1
        assert done.stderr.decode().startswith(f"batonctl: {name}: not UTF-8, which TOML is: ")


@pytest.mark.parametrize("arguments", [("list",), ("list", "--json"), ("version",), ("status",), ("events",)])
def test_an_output_that_cannot_be_written_is_one_line(stage: Stage, arguments: tuple[str, ...]) -> None:
    submitted(stage, "a")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            (*BATONCTL, *arguments),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(stage.path),
            timeout=PATIENCE_S,
            check=False,
        )
    said = "batonctl: cannot write to standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_file_that_cannot_be_used_is_named_and_not_called_an_output(tmp_path: Path) -> None:
    """What no command has words of its own for."""
    text = (
        "import sys\nfrom daemon import cli\nsys.argv = ['batonctl', 'fails']\n"
        "@cli.batonctl.command()\ndef fails(): open(sys.executable + '/below')\n"
        "cli.main()"
    )
    done = subprocess.run((sys.executable, "-c", text), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    said = f"batonctl: cannot use {sys.executable}/below: Not a directory\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


@pytest.mark.parametrize("arguments", [("list",), ("list", "--json"), ("version",)])
def test_an_output_that_nobody_reads_is_silent(stage: Stage, arguments: tuple[str, ...]) -> None:
    submitted(stage, "a")
    with subprocess.Popen(
        (*BATONCTL, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(stage.path)
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, said = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, said) == (1, b"")


def test_its_own_version_needs_no_daemon() -> None:
    done = batonctl(Path("/nonexistent"), "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"batonctl, version {version('batond')}\n", "")


def test_a_daemon_whose_queue_of_connections_is_full_is_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as crowded, socket.socket(socket.AF_UNIX) as waits:
        crowded.bind(str(tmp_path / "s"))
        crowded.listen(0)
        waits.connect(str(tmp_path / "s"))  # a queue of none holds one
        found: list[object] = []

        def call() -> None:
            try:
                found.append(client.Client(str(tmp_path / "s")))
            except client.UnreachableError as error:
                found.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        while thread.is_alive() and not _connects(thread):
            time.sleep(0.01)
        assert found == []
        crowded.accept()[0].close()  # now there is room
        thread.join(PATIENCE_S)
    (made,) = found
    assert isinstance(made, client.Client)
    made.close()


def _connects(thread: threading.Thread) -> bool:
    """Whether the thread is in connect(2), by its number on x86-64 or AArch64."""
    return Path(f"/proc/self/task/{thread.native_id}/syscall").read_text().split()[0] in ("42", "203")


def test_a_daemon_that_stays_busy_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CONNECT_TIMEOUT_S", 0.2)
    with socket.socket(socket.AF_UNIX) as crowded, socket.socket(socket.AF_UNIX) as waits:
        crowded.bind(str(tmp_path / "s"))
        crowded.listen(0)
        waits.connect(str(tmp_path / "s"))
        with pytest.raises(client.UnreachableError) as found:
            client.Client(str(tmp_path / "s"))
    assert str(found.value) == f"cannot reach batond at {tmp_path}/s: it is busy; try again"


def test_the_socket_is_looked_for_where_daemons_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, state = tmp_path / "run", tmp_path / "state"
    monkeypatch.setattr(client, "SERVICE_UNITS", ())
    env = {"XDG_RUNTIME_DIR": str(run), "XDG_STATE_HOME": str(state), "HOME": str(tmp_path)}
    assert find_socket(None, env) == f"{run}/batond/control.sock"  # what is named when there is none
    for folder in (state, run):
        (folder / "batond").mkdir(parents=True)
        (folder / "batond" / "control.sock").touch()
        assert find_socket(None, env) == f"{folder}/batond/control.sock"
    assert find_socket(None, env | {"RUNTIME_DIRECTORY": f"{tmp_path}:/x"}) == f"{run}/batond/control.sock"
    assert find_socket("/given", env) == "/given"


def test_where_batond_is_a_service_its_socket_is_named_and_how_systemd_starts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not `batond`, which would be a second daemon on the same device."""
    unit, path = tmp_path / "batond.socket", str(tmp_path / "run" / "control.sock")
    monkeypatch.setattr(client, "SERVICE_SOCKET", path)
    monkeypatch.setattr(client, "SERVICE_UNITS", (str(unit),))
    env = {"HOME": str(tmp_path)}
    assert find_socket(None, env) == f"{tmp_path}/.local/state/batond/control.sock"
    unit.touch()
    assert find_socket(None, env) == path
    with pytest.raises(client.UnreachableError) as found:
        client.Client(path)
    assert str(found.value) == (
        f"cannot reach batond at {path}: there is no socket; "
        "start it with `systemctl start batond.socket`, or name another --socket"
    )
    with pytest.raises(client.UnreachableError, match="start it with `batond`, or name its --socket"):
        client.Client(f"{tmp_path}/other.sock")


# Small and fast


def test_json_imports_nothing_that_only_people_need(stage: Stage) -> None:
    probe = (
        "import sys, runpy\nsys.argv = ['batonctl', 'status', '--json']\n"
        "try:\n    runpy.run_module('daemon.cli', run_name='__main__')\nexcept SystemExit:\n    pass\n"
        "unwanted = {'rich', 'states', 'asyncio', 'tensorflow', 'numpy', 'sqlite3', 'structlog'}\n"
        "print(*sorted(unwanted & set(sys.modules)))"
    )
    done = subprocess.run(
        (sys.executable, "-c", probe),
        capture_output=True,
        text=True,
        env=environment(stage.path),
        timeout=PATIENCE_S,
        check=True,
    )
    assert done.stdout.splitlines()[1] == ""
