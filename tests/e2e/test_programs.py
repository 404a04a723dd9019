"""Any script as a session, in the whole daemon: its interpreter and variables, and programs that behave badly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from batond import TIMEOUT_S, Batond, alive, stand_in
from gpu_house import CARD, gpu_house

from daemon.workers import LOG_LIMIT_BYTES
from tests.nvml_stand_in import Gpu

GIB = 1 << 30
VERSIONS = ("3.9", "3.10", "3.12", "3.13", "3.14")

SEEN = """
import baton, json, os, sys
def there(name):
    try:
        __import__(name)
    except ImportError:
        return False
    return True
seen = {
    "prefix": sys.prefix,
    "version": list(sys.version_info[:2]),
    "cwd": os.getcwd(),
    "env": {key: os.environ.get(key) for key in ("PLAIN", "LINES", "PYTHONPATH", "BATON_FD", "HOME")},
    "arguments": sys.argv[1:],
    "beside_baton": os.listdir(os.path.dirname(baton.__file__)),
    "ours": [name for name in ("daemon", "states") if there(name)],
    "outside": baton.session().name,
}
with open("seen.json", "w") as file:
    json.dump(seen, file)
"""


def program(batond: Batond, name: str, code: str, **keys: Any) -> str:
    """A `[[session]]` table of a script in this interpreter, where the keys name no other."""
    path = batond.folder / f"{name}.py"
    path.write_text(code)
    return table(name, run=[path.name], **{"python": sys.executable} | keys)


def table(name: str, **keys: Any) -> str:
    lines = [f"{key} = {_toml(value)}\n" for key, value in ({"name": name} | keys).items()]
    return "[[session]]\n" + "".join(lines)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {json.dumps(text)}" for key, text in value.items()) + " }"
    return json.dumps(value)


def hasten(batond: Batond, limit: str) -> None:
    """Stop it, and give it another limit for its next life."""
    assert batond.stop() == 0
    settings = batond.folder / "batond.toml"
    settings.write_text(settings.read_text().replace("[limits]\n", f"[limits]\n{limit}\n"))


def failed(batond: Batond, name: str) -> tuple[str, str]:
    event = batond.event("session.failed", session=name)
    assert "\n" not in event["reason"]
    return event["kind"], event["reason"]


def until(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < end, f"it did not come to be that {what}"
        time.sleep(0.01)


# Where it runs


def test_a_session_runs_in_the_environment_that_it_names(batond: Batond) -> None:
    """Its own interpreter, variables and folder; of batond's it sees baton.py, and nothing else."""
    folder, there = batond.folder, batond.folder / "there"
    there.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "x"], check=True)
    env = {"PLAIN": "a=b 'c'", "LINES": "1\n2", "PYTHONPATH": str(there)}
    text = program(batond, "s", SEEN, python="x/bin/python", env=env, cwd="there")
    batond.submit(text.replace('run = ["s.py"]', 'run = ["s.py", "--epochs", "3"]'))
    batond.event("session.finished", session="s")
    seen = json.loads((there / "seen.json").read_text())
    assert seen["prefix"] == str(folder / "x"), "a virtual environment, not what it is made of"
    assert (seen["cwd"], seen["arguments"]) == (str(there), ["--epochs", "3"])
    assert (seen["env"]["PLAIN"], seen["env"]["LINES"]) == (env["PLAIN"], env["LINES"])
    assert seen["env"]["PYTHONPATH"] == f"{folder / 'cache' / 'lib'}:{there}"
    assert seen["env"]["HOME"] == os.environ.get("HOME"), "the rest of the environment is as it was"
    assert [name for name in seen["beside_baton"] if name != "__pycache__"] == ["baton.py"]
    assert (seen["ours"], seen["outside"]) == ([], "s")
    spec = batond.ctl("show", "s")["spec"]
    assert (spec["python"], spec["env"], spec["cwd"]) == (str(folder / "x" / "bin" / "python"), env, str(there))


def test_a_script_s_own_modules_named_as_batond_s_are_its_own(batond: Batond) -> None:
    (batond.folder / "daemon.py").write_text("where = 'mine'\n")
    batond.submit(
        program(batond, "s", "import baton, daemon, pathlib\npathlib.Path('told').write_text(daemon.where)\n")
    )
    batond.event("session.finished", session="s")
    assert (batond.folder / "told").read_text() == "mine"


@pytest.mark.parametrize("version", VERSIONS)
def test_other_interpreters_of_this_host_run_sessions(batond: Batond, version: str) -> None:
    """Those that are there; every version is held to baton.py's syntax by its own test."""
    python = _interpreter(version)
    if python is None:
        return
    code = SEEN + "with baton.session() as s:\n    pass\n"
    counted = (
        "import baton\nwith baton.session() as session:\n    session.ready(20)\n"
        "    for item in session.track(range(session.cursor, 20)):\n        session.commit(item + 1)\n"
    )
    batond.submit(
        program(batond, "seen", code, python=python) + program(batond, "counted", counted, python=python, prepare=True)
    )
    batond.ended("seen", "counted")
    assert json.loads((batond.folder / "seen.json").read_text())["version"] == [int(x) for x in version.split(".")]
    assert batond.event("session.finished", session="counted")["items"] == 20


def _interpreter(version: str) -> str | None:
    found = [*Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"), Path(f"/usr/bin/python{version}")]
    return next((str(path) for path in found if path.exists()), None)


def test_a_retried_session_has_its_interpreter_and_variables_still(batond: Batond) -> None:
    """Kept in the record, so also under the next daemon."""
    code = "import os, pathlib\npathlib.Path('told').open('a').write(os.environ['WORD'] + '\\n')\nraise SystemExit(3)\n"
    batond.submit(program(batond, "s", code, env={"WORD": "kept"}))
    batond.event("session.failed", session="s")
    assert batond.stop() == 0
    batond.start()
    batond.ctl("retry", "s")
    batond.wait(lambda event: event["event"] == "session.failed", times=2)
    assert (batond.folder / "told").read_text() == "kept\nkept\n"


def test_what_cannot_be_its_interpreter_is_refused_in_one_line(batond: Batond) -> None:
    old = batond.folder / "python2"
    old.write_text("#!/bin/sh\nprintf 'python 2.7'\n")
    old.chmod(0o755)
    for python, reason in {
        "./gone": "cannot find the program './gone'",
        "./s.py": "cannot execute './s.py'",
        "./python2": f"'{old}' is Python 2.7, and baton.py needs 3.9 or newer; name a newer one",
        "/bin/ls": "'/bin/ls' is no Python that works (exit status 2: ",
    }.items():
        answer = batond.submit(program(batond, "s", "", python=python), status=1)
        assert f"s: python: {reason}" in answer
    answer = batond.submit(program(batond, "s", "", env={"BATON_FD": "3"}), status=1)
    assert "s: env: cannot set BATON_FD: batond talks to the program there; take it out" in answer
    assert batond.ctl("list")["sessions"] == []


def test_an_interpreter_that_is_gone_when_its_turn_comes_is_one_line(batond: Batond) -> None:
    (batond.folder / "python").symlink_to(sys.executable)
    batond.submit(
        stand_in("a", batond.folder, items=100_000, lead=0)
        + program(batond, "s", "", python="./python", after=["first"])
        + table("first", run=["true"])
    )
    batond.event("session.started", session="a")
    (batond.folder / "python").unlink()
    batond.ctl("cancel", "a")
    kind, reason = failed(batond, "s")
    assert (kind, reason.partition(": ")[0]) == ("program", f"cannot start '{batond.folder}/python'")
    assert "there is no such program" in reason


# Those that fail


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "import sys; print('the reason', file=sys.stderr); sys.exit(3)",
            "the program exited with status 3: the reason",
        ),
        ("x = (", "the program exited with status 1: SyntaxError: '(' was never closed"),
        ("import no_such_module", "status 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("import os; os.close(1); os.close(2); os._exit(4)", "the program exited with status 4"),
        (
            "import sys; sys.stdout.buffer.write(bytes(range(256)) * 4000 + b'\\n\\xff\\xfe\\0end\\n'); "
            "sys.stdout.flush(); sys.exit(5)",
            "the program exited with status 5",
        ),
    ],
)
def test_a_script_that_fails_is_one_line_with_its_own_last_one(batond: Batond, code: str, reason: str) -> None:
    batond.submit(program(batond, "s", code) + stand_in("next", batond.folder))
    kind, said = failed(batond, "s")
    assert kind == "program"
    assert reason in said
    assert said.isprintable()
    batond.event("session.finished", session="next")


def test_what_is_no_program_at_all_is_one_line(batond: Batond) -> None:
    junk = batond.folder / "junk"
    junk.write_bytes(b"\x00\x01")
    junk.chmod(0o755)
    batond.submit(table("s", run=["./junk"]))
    assert failed(batond, "s") == ("program", f"cannot start '{junk}': Exec format error")


# Those that do not end, or say nothing


def test_a_cancel_ends_all_that_a_program_started_whatever_it_ignores(batond: Batond) -> None:
    """It and its children ignore SIGTERM; one of them left its group and its parent, as daemons do."""
    code = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def child(double):
    if os.fork():
        return
    if double:
        os.setsid()
        if os.fork():
            os._exit(0)
    with open("pids", "a") as file:
        file.write(f"{os.getpid()}\\n")
    while True:
        time.sleep(1000)
child(False)
child(True)
with open("pids", "a") as file:
    file.write(f"{os.getpid()}\\n")
while True:
    time.sleep(1000)
"""
    hasten(batond, "drain_timeout_s = 0.5")
    with batond:
        batond.submit(program(batond, "s", code) + stand_in("next", batond.folder, items=5))
        pids = batond.folder / "pids"
        until(lambda: pids.exists() and len(pids.read_text().split()) == 3, "all three are there")
        batond.ctl("cancel", "s")
        batond.event("session.cancelled", session="s")
        batond.event("session.finished", session="next")
    assert [pid for pid in map(int, pids.read_text().split()) if alive(pid)] == []


def test_one_that_never_reports_runs_to_its_exit_and_the_next_is_prepared_at_once(batond: Batond) -> None:
    """No stall is seen in silence, however short the time that is allowed: there was no report to begin with."""
    hasten(batond, "stall_timeout_s = 0.2")
    with batond:
        code = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
        batond.submit(program(batond, "s", code) + stand_in("next", batond.folder, items=5))
        batond.event("session.started", session="s")
        batond.event("standby.ready", session="next")
        (session,) = [each for each in batond.ctl("list")["sessions"] if each["name"] == "s"]
        assert (session["state"], session["total"], session.get("remaining_s")) == ("running", None, None)
        assert batond.told("session.stalled") == []
        (batond.folder / "go").touch()
        batond.event("session.finished", session="s")
        batond.event("session.finished", session="next")
        assert batond.told("session.retried") == []


def test_a_program_without_outputs_is_heard_by_its_channel(batond: Batond) -> None:
    code = (
        "import baton, os\nos.closerange(0, 3)\nwith baton.session() as session:\n"
        "    for item in session.track(range(30)): pass\n"
    )
    batond.submit(program(batond, "s", code, prepare=True))
    assert batond.event("session.finished", session="s")["items"] == 30


def test_a_gigabyte_of_output_is_trimmed_and_hurts_nobody(tmp_path: Path) -> None:
    """Not the disk for long, not the daemon's memory, not the session on the other lane."""
    with gpu_house(tmp_path, CARD, Gpu(1, 8 * GIB)) as house:
        batond = house.batond
        code = (
            "import os\nline = b'x' * 1023 + b'\\n'\n"
            f"for _ in range({GIB} // (1 << 20)): os.write(1, line * 1024)\nraise RuntimeError('said enough')\n"
        )
        batond.submit(
            house.program("quiet", 5, items=200, device="gpu:1")
            + program(batond, "loud", code, device="gpu:0", memory="1GiB")
            + house.program("after", 5, device="gpu:0")
        )
        kind, reason = failed(batond, "loud")
        assert (kind, reason) == ("program", "the program exited with status 1: RuntimeError: said enough")
        log = Path(batond.ctl("show", "loud")["log_path"])
        assert 0 < log.stat().st_size <= LOG_LIMIT_BYTES
        assert log.read_text().endswith("RuntimeError: said enough\n")
        house.all_done(quiet=200, after=40)
        assert psutil.Process(batond.process.pid).memory_info().rss < 256 << 20, "a quarter of what was printed"
