"""A shim and its program in every order of death, and a program that leaves its channel; the test is the daemon."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_shim import LOOP, ROOT, UNCOUNTED, Run, Starts
from worker_peer import TIMEOUT_S

from daemon import remains
from daemon.worker import children

BATON = "import baton\nwith baton.session() as session:\n    "
PAUSE = "import signal\nwhile True: signal.pause()\n"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Starts]:
    """As in test_shim, with limits that a test can wait for."""
    started: list[Run] = []

    def start(code: str | list[str], *, prepare: bool = False, **more: Any) -> Run:
        argv = [sys.executable, "-S", "-c", code] if isinstance(code, str) else code
        started.append(Run(tmp_path, argv, prepare=prepare, hasty=True, **more))
        return started[-1]

    yield start
    for one in started:
        one.end()


class Watched:
    """Another process, by pidfd: its end cannot be missed, and no other with its number is taken for it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)

    def gone(self) -> bool:
        """Wait for its end."""
        came = bool(select.select([self.pidfd], [], [], TIMEOUT_S)[0])
        os.close(self.pidfd)
        return came


# The shim dies


@pytest.mark.parametrize("prepare", [False, True])
def test_a_program_does_not_outlive_its_killed_shim(run: Starts, prepare: bool) -> None:
    """Nobody else ends it here: the kernel does, at once."""
    shim = run(["sleep", "1000"], prepare=prepare)
    if prepare:
        shim.peer.until("hello")
        shim.wait(lambda: bool(psutil.Process(shim.process.pid).children()))
    else:
        shim.go()
        shim.peer.until("started")
        shim.wait(lambda: bool(psutil.Process(shim.process.pid).children()))
    program = Watched(shim.program())
    shim.process.kill()
    assert program.gone()


def test_a_program_whose_shim_died_before_it_was_bound_to_it_does_not_begin(tmp_path: Path) -> None:
    """Between fork and exec: the signal is for the parent's end, and that was over."""
    script = f"""
import os, sys, time
sys.path.append({str(ROOT)!r})
from daemon.worker import children
children._dying_with(1 << 22)()  # more than any process's number: its parent is another
open({str(tmp_path / "began")!r}, "w")
"""
    ended = subprocess.run([sys.executable, "-S", "-c", script], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "began").exists()


def test_what_a_program_starts_carries_its_shim_s_mark(run: Starts) -> None:
    """By it the daemon finds what left the group, when the shim cannot see to it any more."""
    shim = run(["sh", "-c", f"cat /proc/self/environ | tr '\\0' '\\n' | grep {children.MARK} > mark"])
    started = psutil.Process(shim.process.pid)
    ticks = int(Path(f"/proc/{started.pid}/stat").read_text().rpartition(")")[2].split()[19])
    shim.go()
    assert shim.peer.rest() == UNCOUNTED
    assert (shim.record.parents[1] / "mark").read_text() == f"{remains.MARK}={started.pid}.{ticks}\n"


def test_orphans_that_left_every_group_end_with_the_session(run: Starts, tmp_path: Path) -> None:
    """A tree of them, forked twice and in sessions of their own, that ignores SIGTERM."""
    script = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.setsid()
        with open("orphans", "a") as file: file.write(f"{os.getpid()}\\n")
        while True: signal.pause()
while not os.path.exists("orphans") or len(open("orphans").readlines()) < 3: time.sleep(0.01)
"""
    shim = run(script)
    shim.go()
    assert shim.peer.rest() == UNCOUNTED
    assert shim.status() == 0
    orphans = [int(line) for line in (tmp_path / "orphans").read_text().split()]
    assert [pid for pid in orphans if psutil.pid_exists(pid)] == []


# The program leaves its channel


RAW = """
import json, os, signal, socket
line = socket.socket(fileno=int(os.environ["BATON_FD"]))
assigned = json.loads(line.makefile("rb").readline())
def say(type_, **more):
    line.sendall(json.dumps({"type": type_, **more}).encode() + b"\\n")
hello = dict(protocol=1, session="s", generation=7, pid=os.getpid(), phase="loading", cursor=0, done=0)
"""


@pytest.mark.parametrize(
    ("code", "words", "told"),
    [
        (PAUSE.replace("import signal", "import os, signal\nos.closerange(0, 256)"), "before session.ready()", []),
        (RAW + "say('hello', **hello)\nline.close()\nwhile True: signal.pause()", "before session.ready()", []),
        (
            RAW + "say('hello', **hello)\nsay('ready', tier='warm', seconds=0)\nline.close()\n"
            "while True: signal.pause()",
            "while it waited for the device",
            ["ready"],
        ),
        ("import os\n" + BATON + "os.execvp('sleep', ['sleep', '1000'])", "before session.ready()", []),
        (
            "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            + RAW.replace("signal, ", "")
            + "line.close()\nwhile True: signal.pause()",
            "before session.ready()",
            [],
        ),
    ],
    ids=["closes-all", "closes-it", "closes-it-when-ready", "becomes-another", "and-ignores-sigterm"],
)
def test_one_that_prepares_and_leaves_its_channel_has_failed_soon(
    run: Starts, code: str, words: str, told: list[str]
) -> None:
    shim = run(code, prepare=True)
    assert shim.peer.rest() == ["hello", *told, "failed"]
    failed = shim.peer.one("failed")
    assert failed["kind"] == "program"
    assert failed["reason"].startswith(f"the program closed its channel to batond {words}, and went on; have it")
    assert shim.status() != 0
    assert list(shim.record.parent.iterdir()) == [], "it never had the device: there is nothing to account for"


def test_one_that_leaves_its_channel_and_ends_at_once_is_judged_by_its_end(run: Starts) -> None:
    """A channel ends shortly before its process in any case."""
    shim = run("import os, sys\nos.close(int(os.environ['BATON_FD']))\nsys.exit('the reason')", prepare=True)
    assert shim.peer.rest() == ["hello", "failed"]
    assert shim.peer.one("failed")["reason"] == "the program exited with status 1: the reason"


def test_one_that_becomes_another_before_it_joined_hands_its_session_on(run: Starts) -> None:
    """A launcher: what it execs, or starts with its descriptors, has BATON_FD and the socket."""
    shim = run(["sh", "-c", f"exec {sys.executable} -S -c '{LOOP.format(seconds=0)}'"], prepare=True)
    shim.go()
    shim.peer.rest()
    assert shim.peer.one("committed")["cursor"] == 20
    assert shim.status() == 0


def test_one_that_becomes_another_while_it_computes_is_done_by_its_exit_status(run: Starts) -> None:
    shim = run("import os\n" + BATON + "session.ready(4)\n    os.execvp('true', ['true'])", prepare=True)
    shim.go()
    assert shim.peer.rest() == UNCOUNTED
    assert (shim.peer.one("quiesced")["done"], shim.peer.one("quiesced")["remaining"]) == (4, 0)
    assert shim.peer.one("committed")["cursor"] == 4
    assert shim.status() == 0


@pytest.mark.parametrize("order", ["drain", "cancel"])
def test_one_that_became_another_while_it_computes_is_ended_by_sigterm(run: Starts, order: str) -> None:
    """It cannot hear the word any more."""
    shim = run(
        "import os\n" + BATON + "session.ready(4)\n    session.commit(1)\n    os.execvp('sleep', ['sleep', '1000'])",
        prepare=True,
    )
    shim.go()
    shim.peer.until("progress")
    shim.wait(lambda: psutil.Process(shim.program()).name() == "sleep")
    shim.peer.say(order)
    assert shim.peer.rest() == UNCOUNTED
    assert shim.peer.one("committed")["cursor"] == 1
    assert shim.status() == 0


def test_one_that_is_to_drain_and_leaves_its_channel_is_ended_by_sigterm(run: Starts) -> None:
    """It may have gone just before the word came. What remains is not known: not that nothing does."""
    shim = run(
        RAW.replace('line.makefile("rb")', "heard").replace("assigned =", 'heard = line.makefile("rb")\nassigned =')
        + "say('hello', **hello)\nsay('progress', done=5, cursor=5)\n"
        "while b'drain' not in heard.readline(): pass\nheard.close()\nline.close()\nwhile True: signal.pause()"
    )
    shim.go()
    shim.peer.until("progress")
    shim.peer.say("drain")
    assert shim.peer.rest() == UNCOUNTED
    assert (shim.peer.one("quiesced")["done"], shim.peer.one("quiesced")["remaining"]) == (5, None)
    assert shim.peer.one("committed")["cursor"] == 5
    assert shim.status() == 0


@pytest.mark.parametrize(("order", "remaining"), [("drain", None), ("go", 0)])
def test_one_that_ends_with_0_and_never_said_how_many_there_are_is_done_unless_it_was_to_drain(
    run: Starts, order: str, remaining: int | None
) -> None:
    shim = run(
        RAW.replace('line.makefile("rb")', "heard").replace("assigned =", 'heard = line.makefile("rb")\nassigned =')
        + "heard.readline()\nsay('hello', **hello)\nsay('progress', done=5, cursor=5)\n"
        "while not os.path.exists('end'): pass\n"
    )
    shim.go()
    shim.peer.until("progress")
    if order == "drain":
        shim.peer.say(order)
        shim.peer.say("advance", tier="warm")  # the answer shows that the drain has been read
        shim.peer.until("ready")
    (shim.record.parents[1] / "end").touch()
    shim.peer.rest()
    assert shim.peer.one("quiesced")["remaining"] == remaining


def test_one_that_leaves_a_daemon_and_ends_while_it_prepares_has_failed_and_the_daemon_with_it(
    run: Starts, tmp_path: Path
) -> None:
    """The daemon holds the channel, and would say that it is ready: of a session that nobody runs any more."""
    script = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    import baton
    with baton.session() as session:
        open("daemon", "w").write(str(os.getpid()))
        time.sleep(600)
while not os.path.exists("daemon") or not open("daemon").read(): time.sleep(0.01)
"""
    shim = run(script, prepare=True)
    assert shim.peer.rest() == ["hello", "failed"]
    assert "session.ready()" in shim.peer.one("failed")["reason"]
    assert shim.status() == 1
    assert not psutil.pid_exists(int((tmp_path / "daemon").read_text()))


def test_one_that_is_to_wait_and_ends_with_0_has_failed(run: Starts) -> None:
    """While it is ready, too: what it was to do once the device is its own it has not done."""
    code = RAW + "say('hello', **hello)\nsay('ready', tier='warm', seconds=0)\n"
    shim = run(code, prepare=True)
    assert shim.peer.rest() == ["hello", "ready", "failed"]
    assert "before the device was its own" in shim.peer.one("failed")["reason"]


# The daemon dies, or does not read


def test_one_that_prepares_and_ignores_sigterm_ends_with_its_daemon(run: Starts) -> None:
    """Nobody would escalate: its shim does."""
    shim = run("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nopen('up', 'w')\n" + PAUSE, prepare=True)
    shim.wait((shim.record.parents[1] / "up").exists)
    shim.peer.hang_up()
    assert shim.status() == 75


def test_a_program_is_not_to_look_for_a_daemon_itself(run: Starts, tmp_path: Path) -> None:
    """Its shim does; it would be turned away there, as a process that nobody knows, or look on for a minute more."""
    shim = run(
        RAW.replace("import", "import time,", 1) + "open('assigned', 'w').write(json.dumps(assigned))",
        rejoin={"socket": str(tmp_path / "no"), "seconds": 0.2},
    )
    shim.go()
    assert shim.peer.rest() == UNCOUNTED
    assert json.loads((tmp_path / "assigned").read_text())["rejoin"] is None


def test_without_a_daemon_in_time_a_program_that_speaks_drains(run: Starts, tmp_path: Path) -> None:
    shim = run(LOOP.format(seconds=0.05), rejoin={"socket": str(tmp_path / "no"), "seconds": 0.2})
    shim.go()
    shim.peer.until("progress", done=2)
    shim.peer.hang_up()
    assert shim.status() == 0
    kept = shim.kept()
    assert kept["committed"] is True
    assert 2 <= kept["cursor"] == kept["done"] < kept["total"] == 20


def test_a_program_that_reads_nothing_drains_all_the_same(run: Starts) -> None:
    """Its assignment is more than its socket holds; the shim keeps the rest, and goes on listening."""
    shim = run(["sh", "-c", "exec sleep 1000", "x" * 100_000, "y" * 100_000, "z" * 100_000])
    shim.go()
    shim.peer.until("started")
    shim.peer.say("drain")
    assert shim.peer.rest() == UNCOUNTED
    assert shim.status() == 0


def test_an_assignment_of_any_size_arrives_whole(run: Starts, tmp_path: Path) -> None:
    """It is more than the socket holds, and the program does not read before that is full."""
    full = (
        'import fcntl, termios\nwhile int.from_bytes(fcntl.ioctl(int(os.environ["BATON_FD"]), termios.FIONREAD, '
        'bytes(4)), "little") < 100_000: pass\n'
    )
    code = RAW.replace("line = ", full + "line = ", 1)
    words = ["x" * 100_000, "y" * 100_000, "z" * 100_000]
    shim = run([sys.executable, "-S", "-c", code + "open('run', 'w').write(assigned['spec']['run'][-1])", *words])
    shim.go()
    assert shim.peer.rest() == UNCOUNTED
    assert (tmp_path / "run").read_text() == words[-1]


def test_while_the_daemon_does_not_read_a_program_s_end_is_kept_on_record(run: Starts) -> None:
    """More words than the sockets hold: the shim waits with the last ones, not with the record."""
    shim = run(RAW + "say('hello', **hello)\nfor n in range(30000): say('progress', done=n, cursor=n)\n")
    shim.go()
    shim.peer.until("started")
    program = shim.peer.line  # nothing is read from it from here on
    program.settimeout(None)
    shim.peer.line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    assert shim.peer.rest() == UNCOUNTED
    assert shim.peer.one("committed")["cursor"] == 29999
    assert shim.kept()["cursor"] == 29999


# The exit record


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ("", {"status": 0, "committed": True, "failure": None, "cursor": 2}),
        ("os._exit(3)", {"status": 3, "committed": True, "failure": None, "cursor": 2}),
        ("os.kill(os.getpid(), 9)", {"status": -9, "committed": True, "failure": None, "cursor": 2}),
    ],
)
def test_what_was_committed_without_a_daemon_is_on_record_however_it_ends(
    run: Starts, ending: str, expected: dict[str, Any]
) -> None:
    shim = run(
        RAW + "say('hello', **hello)\nsay('progress', done=1, cursor=1, total=2)\n"
        "while not os.path.exists('go'): pass\n"
        "say('quiesced', at=1.0, done=2, remaining=0)\nsay('committed', cursor=2)\n" + ending
    )
    shim.go()
    shim.peer.until("progress")
    shim.peer.hang_up()
    (shim.record.parents[1] / "go").touch()
    shim.status()
    kept = shim.kept()
    assert {key: kept[key] for key in expected} == expected


def test_a_failure_without_a_daemon_is_on_record_in_the_program_s_own_words(run: Starts) -> None:
    """Also where it exits with 0 after that: it is not done."""
    shim = run(
        RAW + "say('hello', **hello)\nsay('progress', done=1, cursor=1, total=2)\n"
        "while not os.path.exists('go'): pass\nsay('failed', kind='input', reason='no digits', item=4)\n"
    )
    shim.go()
    shim.peer.until("progress")
    shim.peer.hang_up()
    (shim.record.parents[1] / "go").touch()
    assert shim.status() == 1
    kept = shim.kept()
    assert (kept["status"], kept["committed"], kept["failure"]) == (0, False, ["input", "no digits", 4])


def test_who_is_hung_up_on_looks_no_longer_than_it_was_told_to_and_not_without_a_pause(
    run: Starts, tmp_path: Path
) -> None:
    """What listens there takes no worker: no daemon's place is free, or it is none."""
    address, came = str(tmp_path / "s"), 0
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        listener.settimeout(0.1)
        shim = run(LOOP.format(seconds=0.05), rejoin={"socket": address, "seconds": 2.0})
        shim.go()
        shim.peer.until("progress")
        shim.peer.hang_up()
        while shim.process.poll() is None:
            with contextlib.suppress(TimeoutError):
                listener.accept()[0].close()
                came += 1
    assert shim.kept()["committed"]
    assert 1 < came < 50


def test_a_death_without_a_daemon_is_on_record_as_it_would_have_been_told(run: Starts) -> None:
    shim = run(["sh", "-c", "while [ ! -e go ]; do sleep 0.02; done; echo the reason >&2; kill -KILL $$"])
    shim.go()
    shim.peer.until("started")
    shim.peer.hang_up()
    (shim.record.parents[1] / "go").touch()
    assert shim.status() == 137
    assert shim.kept()["failure"] == ["internal", "the program was killed by SIGKILL: the reason", None]


def test_a_full_disk_leaves_no_exit_record_and_no_part_of_one(run: Starts) -> None:
    """What is told does not depend on it; a daemon that was not there knows as much as of one that was killed."""
    shim = run(["true"])
    shim.record.with_name("7.json.partial").symlink_to("/dev/full")
    shim.go()
    assert shim.peer.rest() == UNCOUNTED
    assert shim.status() == 0
    assert list(shim.record.parent.iterdir()) == []
    assert "cannot keep the exit record" in shim.log.read_text()
    assert "No space left on device" in shim.log.read_text()


def test_a_log_on_the_same_full_disk_changes_nothing_of_what_was_done(run: Starts, tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    shim = run(["true"])
    shim.record.with_name("7.json.partial").symlink_to("/dev/full")
    shim.go()
    assert shim.peer.rest() == UNCOUNTED
    assert shim.status() == 0


def test_a_record_of_an_earlier_worker_is_replaced(run: Starts) -> None:
    shim = run(["false"])
    shim.record.write_text('{"session": "s", "generation": 7, "status": 0}')
    shim.go()
    shim.peer.rest()
    assert (shim.kept()["status"], shim.kept()["pid"]) == (1, shim.process.pid)


def test_a_real_time_signal_is_a_reason_too(run: Starts) -> None:
    shim = run(["sh", "-c", "kill -40 $$"])
    shim.go()
    assert shim.peer.rest() == ["hello", "ready", "started", "failed"]
    assert shim.peer.one("failed")["reason"] == "the program was killed by signal 40"
    assert shim.status() == 168
