"""The keys of a program's session: its interpreter, its variables, where it runs; and what is said of wrong ones."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon import interpreters
from daemon.admission import to_session
from daemon.nursery import Nursery
from daemon.sessionfile import SessionSpec, parse
from tests.shell.session_text import PROGRAM, problem, problems, table


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with a script, and a virtual environment's link to this interpreter."""
    (tmp_path / "train.py").write_text("print(1)\n")
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "python").symlink_to(sys.executable)
    return tmp_path


def test_with_an_interpreter_the_program_is_a_script_beside_the_file(base: Path) -> None:
    """The interpreter's own path stays as it is: a link is a virtual environment by its place."""
    (spec,) = parse(table(PROGRAM, run='["train.py", "x.txt"]', python='"env/bin/python"', env='{ A = "1" }'), base)
    assert spec.run == (f"{base}/train.py", "x.txt")
    assert spec.python == f"{base}/env/bin/python"
    assert spec.env == {"A": "1"}
    (spec,) = parse(table(PROGRAM, run='["-m", "train"]', python='"python3"'), base)
    assert (spec.run, spec.python) == (("-m", "train"), "python3")


def test_variables_may_be_a_table_of_their_own(base: Path) -> None:
    text = table(PROGRAM) + '[session.env]\nA = ""\nb_2 = "two\\nlines"\n'
    (spec,) = parse(text, base)
    assert spec.env == {"A": "", "b_2": "two\nlines"}
    assert problem(text + "C = 3\n", base).startswith("s.toml:4: p: env: must be a table of strings, not {")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("BATON_FD", "cannot set BATON_FD: batond talks to the program there; take it out"),
        ("BATON_SHIM", "cannot set BATON_SHIM: batond finds what the program started by it; take it out"),
        ("CUDA_VISIBLE_DEVICES", "batond shows the program its device by it; set device; take it out"),
        ("CUDA_DEVICE_ORDER", "cannot set CUDA_DEVICE_ORDER: batond shows the program its device by it; take it out"),
        ("2ND", "'2ND' is no variable's name; give letters, digits and '_'"),
        ("A=B", "'A=B' is no variable's name"),
        ("", "'' is no variable's name"),
    ],
)
def test_a_variable_that_cannot_be_set_is_one_line(base: Path, name: str, reason: str) -> None:
    assert reason in problem(table(PROGRAM, env=f'{{ "{name}" = "x" }}'), base)


def test_a_value_holds_no_nul(base: Path) -> None:
    assert problem(table(PROGRAM, env=r'{ A = "x\u0000" }'), base) == (
        "s.toml:4: p: env: the value of A has a NUL character, which no variable can hold"
    )


def test_a_session_with_a_model_has_neither(base: Path) -> None:
    text = table({"name": '"m"', "model": '"m"', "input": '"i"', "output": '"o"'}, python='"python3"', env='{ A = "" }')
    said = [line for line in problems(text, base) if ": python: " in line or ": env: " in line]
    assert [line.partition("m: ")[2] for line in said] == [
        f"{key}: belongs to a session with run; this one has a model: take it out" for key in ("python", "env")
    ]


@pytest.mark.parametrize(
    ("python", "run", "reason"),
    [
        ("no-python", "train.py", "python: cannot find 'no-python' on PATH ("),
        ("env/bin/python9", "train.py", "python: cannot find the program 'env/bin/python9' (looked in BASE/env/bin"),
        ("train.py", "train.py", "python: cannot find 'train.py' on PATH; for the file beside this one write './train"),
        ("./train.py", "train.py", "python: cannot execute './train.py' (BASE/train.py); make it executable"),
        ("python3", "sub/train.py", "run: cannot find the script 'sub/train.py' (looked in BASE/sub/train.py)"),
    ],
)
def test_what_is_not_there_is_told_with_its_key(base: Path, python: str, run: str, reason: str) -> None:
    said = problem(table(PROGRAM, run=f'["{run}"]', python=f'"{python}"'), base)
    assert said.partition(": p: ")[2].startswith(reason)


def test_a_program_is_looked_for_on_the_path_that_it_is_given(base: Path) -> None:
    tool = base / "tools" / "mend"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    (spec,) = parse(table(PROGRAM, run='["mend"]', env=f'{{ PATH = "{tool.parent}" }}'), base)
    assert spec.run == ("mend",)
    assert "cannot find 'true' on PATH (BASE/tools)" in problem(
        table(PROGRAM, env=f'{{ PATH = "{tool.parent}" }}'), base
    )


def test_what_is_learned_is_of_the_program_in_its_interpreter_with_its_variables() -> None:
    specs = [
        SessionSpec(name="a", run=("x.py",), cwd="/c"),
        SessionSpec(name="a", run=("x.py",), cwd="/c", python="/p"),
        SessionSpec(name="a", run=("x.py",), cwd="/c", python="/q"),
        SessionSpec(name="a", run=("x.py",), cwd="/c", python="/p", env={"A": "1"}),
        SessionSpec(name="a", run=("x.py",), cwd="/c", python="/p", env={"A": "2"}),
        SessionSpec(name="a", run=("x.py",), cwd="/c", env={"A": "1"}),
    ]
    assert len({profile(spec) for spec in specs}) == len(specs)
    turned = SessionSpec(name="b", run=("x.py",), env={"B": "2", "A": "1"})
    assert profile(turned) == profile(SessionSpec(name="a", run=("x.py",), env={"A": "1", "B": "2"}))


def profile(spec: SessionSpec) -> str:
    return to_session(spec, {}, 0.0, frozenset()).profile


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("printf 'python 3.8'", "is Python 3.8, and baton.py needs 3.9 or newer; name a newer one"),
        ("printf 'python 2.7'", "is Python 2.7, and baton.py needs"),
        (
            "echo first; echo 'no \033[1m-S here' >&2; exit 2",
            "is no Python that works (exit status 2: no ?[1m-S here);",
        ),
        ("exit 0", "is no Python that works (exit status 0: it printed nothing);"),
        ("printf 'python 3.12'; exit 1", "is no Python that works (exit status 1: python 3.12);"),
        ("yes", "is no Python that works (exit status 141: y"),
        ("exec sleep 1000", "is no Python that works: it gave no answer within 1 s; name another"),
        ("sleep 1000 & exit 3", "is no Python that works (exit status 3: it printed nothing);"),
    ],
)
def test_what_is_no_python_for_a_session_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    """However it behaves: it prints without end, it never answers, what it starts keeps its output open."""
    monkeypatch.setattr(interpreters, "ASK_TIMEOUT_S", 1.0)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    said = interpreters.unfit(str(python), os.environ)
    assert said is not None
    assert said.startswith(f"{str(python)!r} {reason}")
    assert "\n" not in said


def test_a_python_is_not_waited_for_longer_than_it_runs(tmp_path: Path) -> None:
    """What it leaves in the background holds its output open, and is ended, long before that comes to its own end."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n(sleep 20; touch {tmp_path}/ended) &\nprintf 'python 3.12'\n")
    python.chmod(0o755)
    assert interpreters.unfit(str(python), os.environ) is None
    assert not (tmp_path / "ended").exists()


def test_sessions_of_one_python_ask_it_once(tmp_path: Path) -> None:
    """And once more for each other environment."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\nkill -SEGV $$\n")
    python.chmod(0o755)
    session = SessionSpec(name="s", run=("x.py",), python=str(python))
    other = msgspec.structs.replace(session, env={"A": "1"})

    async def inspected() -> list[dict[str, Any]]:
        nursery = Nursery(tmp_path / "n", say=print, use_fork_server=False)
        free = SessionSpec(name="s", run=("true",))
        return await nursery.inspect([session, free, session, other, other], lower=print)

    told = [answer["error"] for answer in asyncio.run(inspected())]
    why = f"{str(python)!r} is no Python that works (killed by SIGSEGV: it printed nothing); name a Python interpreter"
    wrong = {"key": "python", "reason": why}
    assert told == [wrong, None, wrong, wrong, wrong]
    assert (tmp_path / "asked").read_text() == "asked\n" * 2


def test_what_does_not_start_at_all_is_one_line_too(tmp_path: Path) -> None:
    assert interpreters.unfit(str(tmp_path), os.environ) == (
        f"cannot start {str(tmp_path)!r}: Permission denied; name a Python interpreter"
    )
    binary = tmp_path / "python"
    binary.write_bytes(b"\x00\x01\x02")
    binary.chmod(0o755)
    said = interpreters.unfit(str(binary), os.environ)
    assert said == f"cannot start {str(binary)!r}: Exec format error; name a Python interpreter"


def test_a_real_one_will_do() -> None:
    assert interpreters.unfit(sys.executable, os.environ) is None
