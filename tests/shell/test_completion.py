"""What shells offer at a Tab: the real bash, and the words that zsh and fish read, asked of a daemon's real socket."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shell.batonctl_runs import BATONCTL, batonctl, ended, environment, out, submitted
from tests.shell.control_stage import PATIENCE_S, Stage

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage
        assert stage.bugs == []


def offered(stage: Stage | Path, typed: str) -> list[str]:
    """What zsh is given for a line that is typed so far."""
    words = typed.split(" ")
    text = batonctl(
        stage, _BATONCTL_COMPLETE="zsh_complete", COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1)
    ).stdout
    return text.splitlines()[1::3]  # type, word, help


def test_names_are_those_of_sessions_that_the_command_is_for(stage: Stage) -> None:
    stage.crew.frozen = True
    submitted(stage, "alpha", "beta", "boron", "bravo")
    out(stage, "cancel", "bravo")
    ended(stage, "bravo")
    assert offered(stage, "batonctl show b") == ["beta", "boron", "bravo"]
    assert offered(stage, "batonctl retry ") == ["bravo"]
    assert "boron" in offered(stage, "batonctl move ")
    assert "alpha" not in offered(stage, "batonctl move ")
    assert offered(stage, "batonctl cancel ") == ["alpha", "beta", "boron"]
    assert offered(stage, "batonctl cancel alpha ") == ["beta", "boron"], "one is not cancelled twice"
    assert "boron" in offered(stage, "batonctl swap --to ")
    assert offered(stage, "batonctl drain ") == ["cpu"]
    assert offered(stage, "batonctl timeline --lane ") == ["cpu"]
    assert offered(stage, "batonctl why ") == ["cpu", "alpha", "beta", "boron", "bravo"]
    assert offered(stage, "batonctl why b") == ["beta", "boron", "bravo"]
    assert "--leave-running" in offered(stage, "batonctl shutdown --")
    assert offered(stage, "batonctl ret") == ["retry"]


def test_without_a_daemon_nothing_is_offered_and_nothing_said(tmp_path: Path) -> None:
    done = batonctl(
        tmp_path / "none.sock", _BATONCTL_COMPLETE="bash_complete", COMP_WORDS="batonctl show ", COMP_CWORD="2"
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_bash_completes_a_name(stage: Stage, tmp_path: Path) -> None:
    stage.crew.frozen = True
    submitted(stage, "alpha", "beta")
    command = tmp_path / "batonctl"
    command.write_text(f'#!/bin/sh\nexec {" ".join(BATONCTL)} "$@"\n')
    command.chmod(0o755)
    script = tmp_path / "completion.bash"
    script.write_text(batonctl(stage, _BATONCTL_COMPLETE="bash_source").stdout)
    said = subprocess.run(
        [
            "bash",
            "--norc",
            "-c",
            f"source {script}; complete -p batonctl; COMP_WORDS=(batonctl show al) COMP_CWORD=2; "
            f"_batonctl_completion {command}; echo ${{COMPREPLY[@]}}",
        ],
        env=environment(stage.path) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert said.stderr == ""
    assert "-F _batonctl_completion batonctl" in said.stdout.splitlines()[0]
    assert said.stdout.splitlines()[1] == "alpha"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_script_is_one_that_the_shell_reads(shell: str, tmp_path: Path) -> None:
    text = batonctl(None, _BATONCTL_COMPLETE=f"{shell}_source").stdout
    assert f"_BATONCTL_COMPLETE={shell}_complete" in text
    if (program := shutil.which(shell)) is None:
        return  # what it says was looked at; only the shell itself could read it
    script = tmp_path / "completion"
    script.write_text(text)
    subprocess.run([program, "-n", str(script)], capture_output=True, timeout=PATIENCE_S, check=True)


def test_a_wrong_word_is_no_traceback() -> None:
    done = subprocess.run(
        BATONCTL,
        env=environment(None) | {"_BATONCTL_COMPLETE": "zsh_complete", "COMP_WORDS": "batonctl '", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert sys.executable not in done.stdout
