"""baton.py as a script's library: real scripts in processes of their own, the test being the daemon."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from worker_peer import TIMEOUT_S, Message, Peer

ROOT = Path(__file__).parents[2]
IN_ORDER = ["hello", "ready", "started", "last_batch", "quiesced", "committed"]


class Script:
    """A script under batond: its process, and the daemon's end of its socket."""

    def __init__(self, text: str, *, cursor: int = 0, assign: bool = True) -> None:
        ours, theirs = socket.socketpair()
        self.peer = Peer(ours)
        environment = os.environ | {"BATON_FD": str(theirs.fileno()), "PYTHONPATH": str(ROOT)}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(text)],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        if assign:
            self.peer.assign({"name": "s"}, cursor=cursor)

    def go(self) -> Peer:
        self.peer.until("ready")
        self.peer.say("go")
        return self.peer

    def end(self) -> tuple[int, str, str]:
        """Wait for its end: exit status, stdout, stderr."""
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out, err


def last_progress(peer: Peer) -> Message:
    return [message for message in peer.heard if message["type"] == "progress"][-1]


COUNT_TEN = """
    import baton
    with baton.session() as session:
        session.ready()
        for item in session.track(range(10)):
            print(item)
"""


def test_three_lines_make_a_session() -> None:
    script = Script(COUNT_TEN)
    peer = script.go()
    assert peer.rest() == IN_ORDER
    assert script.end() == (0, "".join(f"{i}\n" for i in range(10)), "")
    assert last_progress(peer)["total"] == 10
    assert (peer.one("quiesced")["done"], peer.one("quiesced")["remaining"]) == (10, 0)
    assert (peer.one("quiesced")["done"], peer.one("quiesced")["remaining"]) == (10, 0)
    assert peer.one("committed")["cursor"] == 10
    assert peer.one("hello")["phase"] == "loading"
    assert peer.one("ready")["tier"] == "warm"


def test_outside_batond_it_does_nothing_and_prints_nothing() -> None:
    text = """
        import baton, threading
        with baton.session() as session:
            session.ready(total=3)
            items = list(session.track(x for x in "abc"))
            session.progress(1)
            session.commit(2)
            assert (items, session.cursor, session.name) == (["a", "b", "c"], 0, None)
            assert not session.draining and not session.cancelled
            assert threading.active_count() == 1
        try:
            with baton.session():
                raise KeyError("mine")
        except KeyError:
            pass
    """
    environment = {name: value for name, value in os.environ.items() if name != "BATON_FD"}
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        text=True,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_a_fast_loop_reports_at_most_twenty_times_a_second_and_its_end() -> None:
    script = Script(
        """
        import baton, time
        with baton.session() as session:
            session.ready()
            end = time.monotonic() + 1.0
            total = 10_000_000
            for item in session.track(iter(range(total)), total=total):
                if time.monotonic() > end:
                    break
        """
    )
    peer = script.go()
    peer.rest()
    sent = [message for message in peer.heard if message["type"] == "progress"]
    seconds = peer.one("quiesced")["at"] - peer.one("started")["at"]
    assert 2 <= len(sent) <= 20 * seconds + 2  # the first, and the one before `quiesced`
    assert sent[-1]["done"] == peer.one("quiesced")["done"] == peer.one("committed")["cursor"]
    assert sent[-1]["total"] == sent[-1]["done"]  # it left by itself: that is all there was
    assert script.end()[0] == 0


SLOW = """
    import baton, time
    with baton.session() as session:
        session.ready(total=1000)
        for item in session.track(range(session.cursor, 1000)):
            print(item)
            time.sleep(0.02)  # an item's work: orders come while it goes on
            session.commit(item + 1)
"""


@pytest.mark.parametrize("order", ["drain", "cancel"])
def test_a_drained_script_finishes_its_item_and_resumes_behind_it(order: str) -> None:
    script = Script(SLOW, cursor=100)
    peer = script.go()
    assert peer.until("progress", done=102)["cursor"] >= 101
    peer.say(order)
    assert peer.rest() == ["hello", "ready", "started", "quiesced", "committed"]
    status, out, _ = script.end()
    done = 100 + len(out.split())
    assert status == 0
    assert out.split()[0] == "100"
    assert (peer.one("quiesced")["done"], peer.one("quiesced")["remaining"]) == (done, 1000 - done)
    assert peer.one("committed")["cursor"] == done


def test_a_drained_script_that_commits_nothing_is_resumed_where_it_began() -> None:
    script = Script(SLOW.replace("session.commit(item + 1)", "pass"), cursor=100)
    peer = script.go()
    peer.until("progress", done=102)
    peer.say("drain")
    peer.rest()
    assert peer.one("quiesced")["done"] > 100
    assert peer.one("committed")["cursor"] == 100


def test_a_script_that_loses_its_daemon_while_computing_drains() -> None:
    script = Script(SLOW)
    script.go().until("progress", done=2)
    script.peer.hang_up()
    status, out, err = script.end()
    assert (status, err) == (0, "")
    assert 2 <= len(out.split()) < 1000


STANDBY = """
    import baton, time
    with baton.session() as session:
        print("loading", flush=True)
        time.sleep(600)  # a preparation that goes on until it is told otherwise
"""


@pytest.mark.parametrize(("order", "status"), [("cancel", 0), ("drain", 0), ("", 75)])
def test_a_script_still_preparing_ends_at_once(order: str, status: int) -> None:
    script = Script(STANDBY)
    script.peer.until("hello")
    if order:
        script.peer.say(order)
    else:
        script.peer.hang_up()
    assert script.end()[0] == status


def test_no_daemon_at_all_ends_it_before_it_begins() -> None:
    script = Script(STANDBY, assign=False)
    script.peer.hang_up()
    assert script.end()[:2] == (75, "")


@pytest.mark.parametrize(
    ("statement", "kind", "reason", "item"),
    [
        ("raise ValueError('two\\nlines')", "program", "ValueError: two lines", None),
        ("raise MemoryError", "memory", "MemoryError", None),
        ("raise baton.Failure('input', 'no digits', item=4)", "input", "no digits", 4),
        ("raise SystemExit(3)", "program", "the program exited with status 3", None),
    ],
)
def test_an_exception_is_a_failure_with_its_reason(statement: str, kind: str, reason: str, item: int | None) -> None:
    script = Script(f"import baton\nwith baton.session() as session:\n    session.ready()\n    {statement}\n")
    peer = script.go()
    assert peer.rest() == ["hello", "ready", "started", "failed"]
    failed = peer.one("failed")
    assert (failed["kind"], failed["reason"], failed["item"]) == (kind, reason, item)
    assert script.end()[0] != 0


def test_sys_exit_without_a_status_is_an_ordinary_end() -> None:
    script = Script("import baton, sys\nwith baton.session() as session:\n    sys.exit()\n")
    assert script.go().rest() == ["hello", "ready", "started", "quiesced", "committed"]
    assert script.end()[0] == 0


def test_a_standby_that_is_advanced_says_ready_again() -> None:
    script = Script(COUNT_TEN)
    script.peer.until("ready")
    script.peer.say("advance", tier="warm")
    assert script.go().rest() == ["hello", "ready", *IN_ORDER[1:]]


def test_children_neither_speak_for_the_session_nor_keep_its_line_open() -> None:
    script = Script(
        """
        import baton, os, subprocess, sys
        with baton.session() as session:
            session.ready()
            left = subprocess.Popen([sys.executable, "-c", "import sys, time; sys.stdin.read()"], stdin=subprocess.PIPE)
            child = os.fork()
            if child == 0:
                session.progress(77)
                assert baton.session().name is None
                os.execvp("sleep", ["sleep", "600"])
            print(child, left.pid, flush=True)
        os._exit(0)
        """
    )
    peer = script.go()
    peer.rest()  # an end of the line, though both children live
    assert all(message.get("done") != 77 for message in peer.heard)
    assert script.process.stdout is not None
    for pid in script.process.stdout.readline().split():
        os.kill(int(pid), 9)


def test_a_daemon_that_does_not_read_stops_no_loop() -> None:
    script = Script(
        """
        import baton, socket, time
        original = baton.PROGRESS_INTERVAL_S
        baton.PROGRESS_INTERVAL_S = 0.0
        with baton.session() as session:
            session.ready()
            for item in session.track(range(50_000)):
                pass
            print("through", flush=True)
        """
    )
    script.peer.until("ready")
    script.peer.say("go")
    assert script.process.stdout is not None
    assert script.process.stdout.readline() == "through\n"
    script.peer.rest()
    assert script.peer.one("committed")["cursor"] == 50_000
    assert script.peer.one("quiesced")["done"] == 50_000


def test_it_is_python_3_9_and_the_standard_library_only() -> None:
    source = (ROOT / "baton.py").read_text()
    tree = ast.parse(source, feature_version=(3, 9))
    imported = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert imported <= sys.stdlib_module_names
    ran = subprocess.run(
        [sys.executable, "-S", "-c", "import sys; import baton; print(*sys.modules)"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        text=True,
    )
    slow = {"typing", "socket", "dataclasses", "subprocess", "asyncio", "pathlib", "logging", "inspect"}
    assert not slow & set(ran.stdout.split())


def test_go_reaches_the_main_thread_at_once() -> None:
    script = Script(COUNT_TEN)
    script.peer.until("ready")
    sent_at = time.monotonic()
    script.peer.say("go")
    assert script.peer.until("started")["at"] - sent_at < 0.5  # 0.2 ms on an idle host: any polling would show
    script.peer.rest()
    assert script.end()[0] == 0
