"""The parent of a `run` program: real programs of every manner, the test being the daemon."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from worker_peer import TIMEOUT_S, Peer

from daemon.worker import children

ROOT = Path(__file__).parents[2]
SHIM = f"import sys; sys.path.append({str(ROOT)!r}); from daemon.worker import shim; sys.exit(shim.main())"
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
HASTY = "shim.CLOSED_CHANNEL_S = 0.3; shim.GRACE_S = 0.3; "  # limits that a test can wait for
COUNTED = ["hello", "ready", "started", "last_batch", "quiesced", "committed"]
UNCOUNTED = ["hello", "ready", "started", "quiesced", "committed"]
LOOP = """
import baton, time
with baton.session() as session:
    session.ready(20)
    for item in session.track(range(session.cursor, 20)):
        time.sleep({seconds})  # an item's work: orders come while it goes on
        session.commit(item + 1)
"""


class Run:
    """One shim with its program, in a process session of its own, and the daemon's end of its socket."""

    def __init__(
        self,
        folder: Path,
        argv: list[str],
        *,
        prepare: bool,
        cursor: int = 0,
        rejoin: dict[str, Any] | None = None,
        hasty: bool = False,
        **spec: Any,
    ) -> None:
        ours, theirs = socket.socketpair()
        self.peer = Peer(ours)
        self.record = folder / "exits" / "7.json"
        self.record.parent.mkdir()
        self.log = folder / "log"
        library = folder / "lib"  # of baton.py alone
        library.mkdir()
        (library / "baton.py").symlink_to(ROOT / "baton.py")
        environment = ENVIRONMENT | {"BATON_FD": str(theirs.fileno())}
        code = SHIM.replace("sys.exit", HASTY + "sys.exit") if hasty else SHIM
        with theirs, self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-P", "-c", code, str(self.record), str(library)],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.peer.assign(
            {"name": "s", "run": argv, "prepare": prepare, "cwd": str(folder)} | spec, cursor=cursor, rejoin=rejoin
        )

    def go(self) -> None:
        self.peer.until("ready")
        self.peer.say("go")

    def program(self) -> int:
        (child,) = psutil.Process(self.process.pid).children()
        return child.pid

    def status(self) -> int:
        return self.process.wait(TIMEOUT_S)

    def kept(self) -> Any:
        return json.loads(self.record.read_text())

    def wait(self, holds: Callable[[], bool]) -> None:
        until = time.monotonic() + TIMEOUT_S
        while not holds():
            assert time.monotonic() < until
            time.sleep(0.01)

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(TIMEOUT_S)
        self.peer.stream.close()
        self.peer.line.close()


Starts = Callable[..., Run]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Starts]:
    started: list[Run] = []

    def start(code: str | list[str], *, prepare: bool = False, **more: Any) -> Run:
        argv = [sys.executable, "-S", "-c", code] if isinstance(code, str) else code
        started.append(Run(tmp_path, argv, prepare=prepare, **more))
        return started[-1]

    yield start
    for one in started:
        one.end()


def test_a_program_that_says_nothing_is_one_item_started_by_go(run: Starts, tmp_path: Path) -> None:
    shim = run(["sh", "-c", "echo here > began"])
    shim.peer.until("ready")
    assert not (tmp_path / "began").exists(), "it computes as soon as it is started, so not before go"
    shim.peer.say("go")
    assert shim.peer.rest() == UNCOUNTED
    assert shim.status() == 0
    assert (tmp_path / "began").exists(), "started in its working directory"
    hello = shim.peer.one("hello")
    assert (hello["session"], hello["generation"], hello["pid"]) == ("s", 7, shim.process.pid)
    quiesced = shim.peer.one("quiesced")
    assert (quiesced["done"], quiesced["remaining"]) == (1, 0)
    assert shim.peer.one("committed")["cursor"] == 1
    kept = shim.kept()
    computed = (tmp_path / "began").stat().st_mtime  # by a clock of the kernel that is some milliseconds behind
    assert kept.pop("began") - 0.1 <= computed <= kept.pop("ended")
    assert kept == {
        "session": "s", "generation": 7, "pid": shim.process.pid, "status": 0, "asked_to_end": False,
        "committed": True, "failure": None, "done": 1, "cursor": 1, "total": 1, "remaining": 0, "errors": 0,
    }  # fmt: skip


@pytest.mark.parametrize("prepare", [False, True])
def test_what_a_program_says_goes_up_once_and_in_order(run: Starts, prepare: bool) -> None:
    shim = run(LOOP.format(seconds=0.001), prepare=prepare)
    shim.go()
    assert shim.peer.rest() == COUNTED
    assert shim.status() == 0
    assert shim.peer.one("committed")["cursor"] == 20
    assert shim.peer.one("ready")["total"] == (20 if prepare else None)
    assert shim.kept()["cursor"] == 20


def test_what_a_program_imports_before_its_first_word_counts_as_preparation(run: Starts) -> None:
    shim = run("import time; time.sleep(0.4)\n" + LOOP.format(seconds=0), prepare=True)
    shim.go()
    shim.peer.rest()
    assert shim.peer.one("ready")["seconds"] > 0.4


@pytest.mark.parametrize("prepare", [False, True])
def test_a_program_that_speaks_resumes_at_its_cursor_and_drains(run: Starts, prepare: bool) -> None:
    shim = run(LOOP.format(seconds=0.05), prepare=prepare, cursor=3)
    shim.go()
    shim.peer.until("progress", done=5)
    shim.peer.say("drain")
    shim.peer.rest()
    assert shim.status() == 0
    quiesced, committed = shim.peer.one("quiesced"), shim.peer.one("committed")
    assert quiesced["done"] + quiesced["remaining"] == 20
    assert quiesced["remaining"] > 0
    assert committed["cursor"] == quiesced["done"]


@pytest.mark.parametrize("order", ["drain", "cancel"])
def test_one_that_says_nothing_is_ended_by_sigterm_and_remains_to_be_done(run: Starts, order: str) -> None:
    shim = run(["sleep", "1000"])
    shim.go()
    shim.peer.until("started")
    shim.peer.say(order)
    assert shim.peer.rest() == UNCOUNTED
    assert shim.status() == 0
    quiesced = shim.peer.one("quiesced")
    assert (quiesced["done"], quiesced["remaining"]) == (0, 1), "not done: it must not count as complete"
    assert shim.peer.one("committed")["cursor"] == 0
    assert shim.kept()["status"] == -signal.SIGTERM
    assert shim.kept()["asked_to_end"] is True


@pytest.mark.parametrize("order", ["drain", "cancel"])
@pytest.mark.parametrize("prepare", [False, True])
def test_before_go_a_drain_ends_it_quietly(run: Starts, order: str, prepare: bool) -> None:
    shim = run(LOOP.format(seconds=1), prepare=prepare)
    shim.peer.until("ready")
    shim.peer.say(order)
    assert shim.peer.rest() == ["hello", "ready"]
    assert shim.status() == 0


def test_an_advance_before_go_is_answered(run: Starts) -> None:
    shim = run(["true"])
    shim.peer.until("ready")
    shim.peer.say("advance", tier="warm")
    shim.go()
    assert shim.peer.rest() == ["hello", "ready", "ready", "started", "quiesced", "committed"]


@pytest.mark.parametrize(
    ("script", "status", "kind", "reason"),
    [
        ("echo first; echo the reason >&2; exit 3", 3, "program", "the program exited with status 3: the reason"),
        ("exit 1", 1, "program", "the program exited with status 1"),
        ("kill -SEGV $$", 139, "program", "the program was killed by SIGSEGV"),
        ("kill -TERM $$", 143, "internal", "the program was killed by SIGTERM"),
        ("kill -KILL $$", 137, "internal", "the program was killed by SIGKILL"),
    ],
)
def test_a_program_that_fails_is_told_with_its_status_and_last_line(
    run: Starts, script: str, status: int, kind: str, reason: str
) -> None:
    shim = run(["sh", "-c", script])
    shim.log.write_text("of an earlier attempt\n")
    shim.go()
    assert shim.peer.rest() == ["hello", "ready", "started", "failed"]
    failed = shim.peer.one("failed")
    assert (failed["kind"], failed["reason"]) == (kind, reason)
    assert shim.status() == status
    assert shim.kept()["status"] == (status if status < 128 else 128 - status)


def test_a_kill_is_for_lack_of_memory_only_where_the_kernel_has_killed_for_it() -> None:
    """Anybody may send SIGKILL; only the kernel counts its own."""
    assert children.failure(-9, 0) == ("internal", "the program was killed by SIGKILL")
    assert children.failure(-9, 1)[0] == "memory"
    assert children.failure(-15, 1)[0] == "internal"
    assert children.failure(3, 1)[0] == "program"
    told = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    assert children.oom_kills() == int(told["oom_kill"])


@pytest.mark.parametrize("prepare", [False, True])
def test_what_a_program_says_of_its_failure_stands_alone(run: Starts, prepare: bool) -> None:
    shim = run(
        "import baton\nwith baton.session() as s:\n    s.ready()\n    raise baton.Failure('input', 'no')",
        prepare=prepare,
    )
    shim.go()
    assert shim.peer.rest() == ["hello", "ready", "started", "failed"]
    assert shim.peer.one("failed")["kind"] == "input"
    assert shim.status() == 1


def test_with_prepare_one_that_ends_without_ready_has_failed(run: Starts) -> None:
    shim = run(["true"], prepare=True)
    assert shim.peer.rest() == ["hello", "failed"]
    assert "session.ready()" in shim.peer.one("failed")["reason"]
    assert shim.status() == 1


@pytest.mark.parametrize(
    ("argv", "spec", "reason"),
    [
        (["no-such-program"], {}, "there is no such program; put it on PATH or give its whole path in run"),
        (["true"], {"cwd": "/no/such/folder"}, "the folder /no/such/folder does not exist; set cwd"),
        (["/etc"], {}, "Permission denied"),
    ],
)
@pytest.mark.parametrize("prepare", [False, True])
def test_a_program_that_cannot_be_started_is_one_clear_line(
    run: Starts, argv: list[str], spec: dict[str, str], reason: str, prepare: bool
) -> None:
    shim = run(argv, prepare=prepare, **spec)
    if not prepare:
        shim.go()
    assert shim.peer.rest()[-1] == "failed"
    failed = shim.peer.one("failed")
    assert (failed["kind"], failed["reason"]) == ("program", f"cannot start {argv[0]!r}: {reason}")
    assert shim.status() == 127


def test_what_a_program_orphans_is_waited_for_and_ended(run: Starts, tmp_path: Path) -> None:
    """The orphan left the process group: the shim finds it all the same, as its subreaper."""
    shim = run(["sh", "-c", "(setsid sh -c 'echo $$ > orphan; exec sleep 1000' &) ; while [ ! -s orphan ]; do :; done"])
    shim.go()
    shim.peer.rest()
    assert shim.status() == 0
    assert not psutil.pid_exists(int((tmp_path / "orphan").read_text()))


def test_without_the_daemon_a_standby_ends_and_its_program_with_it(run: Starts) -> None:
    shim = run(LOOP.format(seconds=1), prepare=True)
    shim.peer.until("ready")
    program = shim.program()
    shim.peer.hang_up()
    assert shim.status() != 0
    assert not psutil.pid_exists(program)


def test_without_the_daemon_a_program_that_speaks_drains(run: Starts) -> None:
    shim = run(LOOP.format(seconds=0.05))
    shim.go()
    shim.peer.until("progress", done=2)
    shim.peer.hang_up()
    assert shim.status() == 0
    kept = shim.kept()
    assert 2 <= kept["cursor"] == kept["done"] < kept["total"] == 20


def test_without_the_daemon_a_program_that_says_nothing_goes_on_and_its_end_is_kept(
    run: Starts, tmp_path: Path
) -> None:
    shim = run(["sh", "-c", "while [ ! -e go ]; do sleep 0.02; done; exit 4"])
    shim.go()
    shim.peer.until("started")
    shim.peer.hang_up()
    assert shim.process.poll() is None
    (tmp_path / "go").touch()
    assert shim.status() == 4
    assert shim.kept()["status"] == 4


@pytest.mark.parametrize("at", ["started", "ready"])
def test_a_sigterm_to_the_group_ends_it_at_any_time(run: Starts, at: str) -> None:
    """`started` is said before the program is: the signal may come in between."""
    shim = run(["sleep", "1000"])
    shim.peer.until("ready")
    if at == "started":
        shim.peer.say("go")
        shim.peer.until("started")
    os.killpg(shim.process.pid, signal.SIGTERM)
    expected = {"ready": ["hello", "ready"], "started": ["hello", "ready", "started", "failed"]}
    assert shim.peer.rest() == expected[at]
    assert shim.status() == 143


def test_it_imports_neither_tensorflow_nor_the_daemon_s_packages(run: Starts) -> None:
    """Up in tens of milliseconds, in any interpreter that has the standard library."""
    code = SHIM.replace("sys.exit(shim.main())", "print(sorted(m for m in sys.modules if m.startswith('daemon.')))")
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(
        ["daemon.worker", *(f"daemon.worker.{name}" for name in ("account", "children", "lines", "shim"))]
    )
