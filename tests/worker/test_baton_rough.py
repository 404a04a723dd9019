"""baton.py in programs that fork, use threads and signal handlers, and count oddly; the test is the daemon."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import textwrap
import time
from pathlib import Path

import pytest
from test_baton import COUNT_TEN, IN_ORDER, ROOT, Script, last_progress
from worker_peer import TIMEOUT_S, Peer

WHOLE = ["hello", "ready", "started", "quiesced", "committed"]


# Children


def test_a_forked_child_may_do_all_that_its_parent_may_and_nothing_of_it_counts() -> None:
    """A data loader's worker holds the session too: it sees where that stood, and is heard by nobody."""
    script = Script(
        """
        import baton, os
        baton.PROGRESS_INTERVAL_S = 0.0  # it is time for a report whenever there is one
        with baton.session() as session:
            session.ready(total=50)
            session.commit(7)
            if os.fork() == 0:
                with session:
                    session.ready()
                    session.progress(40)
                    session.commit(41)
                    assert sum(1 for _ in session.track(range(3))) == 3
                    assert (session.name, session.draining) == ("s", False)
                    print("child at", session.cursor, flush=True)
                os._exit(0)
            assert os.wait()[1] == 0
            session.commit(8)
        """
    )
    peer = script.go()
    assert peer.rest() == WHOLE
    assert peer.one("committed")["cursor"] == 50
    assert max(message["cursor"] for message in peer.heard if message["type"] == "progress") == 8
    assert script.end() == (0, "child at 41\n", "")


def test_a_child_forked_while_the_device_is_waited_for_waits_for_nothing() -> None:
    script = Script(
        """
        import baton, os, threading, time
        session = baton.session()
        def fork():
            while session._channel.phase != "ready":
                time.sleep(0.01)
            if os.fork() == 0:
                session.ready()
                os.write(1, b"child\\n")
                os._exit(0)
            assert os.wait()[1] == 0
            os.write(1, b"parent\\n")
        with session:
            threading.Thread(target=fork).start()
            session.ready()
        """
    )
    script.peer.until("ready")
    assert script.process.stdout is not None
    assert script.process.stdout.readline() == "child\n"
    assert script.process.stdout.readline() == "parent\n"
    script.peer.say("go")
    assert script.peer.rest() == WHOLE


def test_the_workers_of_multiprocessing_neither_speak_nor_keep_the_line_open(tmp_path: Path) -> None:
    """By fork, by spawn, by its own fork server: as data loaders are started."""
    path = tmp_path / "loaders.py"
    path.write_text(
        textwrap.dedent(
            """
            import baton, multiprocessing, os, sys

            def load(line):
                assert baton.session().name is None
                held = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
                return line in [os.readlink(path) for path in held if os.path.exists(path)]

            if __name__ == "__main__":
                with baton.session() as session:
                    line = os.readlink(f"/proc/self/fd/{session._channel._fd}")
                    assert line.startswith("socket:")
                    session.ready()
                    for method in ("fork", "spawn", "forkserver"):
                        with multiprocessing.get_context(method).Pool(2) as pool:
                            assert pool.map(load, [line] * 4) == [False] * 4
                    print("loaded", flush=True)
            """
        )
    )
    script = Script(f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')")
    peer = script.go()
    assert peer.rest() == WHOLE
    status, out, err = script.end()
    assert (status, out) == (0, "loaded\n"), err


def test_what_it_starts_gets_no_descriptor_of_it() -> None:
    """Also with close_fds=False, and in a forked child's child: at an exec it is closed by the kernel."""
    script = Script(
        """
        import baton, os, subprocess, sys
        with baton.session() as session:
            session.ready()
            line = os.readlink("/proc/self/fd/%d" % session._channel._fd)
            look = "import os; held = ['/proc/self/fd/' + fd for fd in os.listdir('/proc/self/fd')]; print(%r in "
            look += "[os.readlink(path) for path in held if os.path.exists(path)], 'BATON_FD' in os.environ)"
            print(subprocess.run([sys.executable, "-S", "-c", look % line], close_fds=False, capture_output=True,
                                 text=True, check=True).stdout, end="", flush=True)
        """
    )
    assert script.go().rest() == WHOLE
    assert script.end()[:2] == (0, "False False\n")


# Threads and signal handlers


def test_a_signal_handler_may_commit_whatever_it_interrupts() -> None:
    """Hundreds of times a second, while the thread that it interrupts reports without a pause."""
    script = Script(
        """
        import baton, signal, time
        baton.PROGRESS_INTERVAL_S = 0.0
        with baton.session() as session:
            session.ready(total=10**9)
            commits = 0
            def commit(*_):
                global commits
                commits += 1
                session.commit(commits)
            signal.signal(signal.SIGALRM, commit)
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            done = 10**6
            while commits < 1000:
                done += 1
                session.progress(done)
            signal.setitimer(signal.ITIMER_REAL, 0)
            print(commits, done)
        """
    )
    peer = script.go()
    assert peer.rest() == WHOLE
    status, out, err = script.end()
    commits, done = map(int, out.split())
    assert status == 0, err
    last = last_progress(peer)
    assert last["cursor"] >= 1000
    assert (commits >= 1000, last["done"]) == (True, done)


def test_a_signal_handler_may_report_while_the_device_is_waited_for() -> None:
    script = Script(
        """
        import baton, signal
        with baton.session() as session:
            signal.signal(signal.SIGUSR1, lambda *_: (session.commit(session.cursor), print("handled", flush=True)))
            session.ready()
        """
    )
    script.peer.until("ready")
    script.process.send_signal(signal.SIGUSR1)
    assert script.process.stdout is not None
    assert script.process.stdout.readline() == "handled\n"
    script.peer.say("go")
    assert script.peer.rest() == WHOLE


@pytest.mark.parametrize(("length", "raises"), [(1 << 20, False), (1990, True)])
def test_a_handler_in_the_midst_of_a_line_breaks_no_line(length: int, raises: bool) -> None:
    """The daemon does not read, and the thread is stuck in its write.

    What the handler says goes after that line, also where a part of it is out; when it raises, a line (of a size that
    the kernel takes whole or not at all, as are all in use) goes before the next one.
    """
    script = Script(
        f"""
        import baton, signal
        class Enough(Exception): pass
        def handler(*_):
            session._channel.paused("handled")
            print("handled", flush=True)
            if {raises}:
                raise Enough
        with baton.session() as session:
            session.ready(total=5)
            signal.signal(signal.SIGUSR1, handler)
            print("up", flush=True)
            try:
                for _ in range(400):
                    session._channel._say("paused", reason="x" * {length})
                    if {length} > 10_000: break
            except Enough:
                pass
            session.progress(5)
        """
    )
    script.peer.until("ready")
    script.peer.say("go")
    assert script.process.stdout is not None
    assert script.process.stdout.readline() == "up\n"
    stuck = Path(f"/proc/{script.process.pid}/wchan")
    until = time.monotonic() + TIMEOUT_S
    while "sock_alloc_send" not in stuck.read_text():
        assert time.monotonic() < until
        time.sleep(0.01)
    script.process.send_signal(signal.SIGUSR1)
    assert script.process.stdout.readline() == "handled\n"
    types = script.peer.rest()
    assert (types[:3], types[-2:]) == (["hello", "ready", "started"], ["quiesced", "committed"])
    reasons = [message["reason"] for message in script.peer.heard if message["type"] == "paused"]
    assert len(reasons) == len(types) - 5
    assert {len(reason) for reason in reasons} == {length, 7}
    assert reasons[-1] == "handled"
    assert script.end()[0] == 0


def test_threads_that_report_at_once_take_nothing_back() -> None:
    script = Script(
        """
        import baton, itertools, threading
        baton.PROGRESS_INTERVAL_S = 0.0
        with baton.session() as session:
            session.ready(total=40_000)
            numbers = itertools.count(1)
            def work():
                for _ in range(10_000):
                    number = next(numbers)
                    session.progress(number)
                    session.commit(number)
            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        """
    )
    peer = script.go()
    assert peer.rest() == WHOLE
    sent = [(message["done"], message["cursor"]) for message in peer.heard if message["type"] == "progress"]
    assert sent == sorted(sent)
    cursors = [cursor for _, cursor in sent]
    assert cursors == sorted(cursors)
    assert peer.one("committed")["cursor"] == 40_000
    assert script.end()[0] == 0


def test_a_thread_that_reports_early_waits_for_the_device_too() -> None:
    script = Script(
        """
        import baton, threading, time
        with baton.session() as session:
            def work():
                session.progress(1)
                print("reported", flush=True)
            waiting = threading.Thread(target=session.ready)
            waiting.start()
            while session._asking is None: time.sleep(0.01)
            threading.Thread(target=work).start()
            while not session._granted._cond._waiters: time.sleep(0.01)
            print("not yet", flush=True)
            waiting.join()
        """
    )
    script.peer.until("ready")
    assert script.process.stdout is not None
    assert script.process.stdout.readline() == "not yet\n"
    script.peer.say("go")
    assert script.process.stdout.readline() == "reported\n"
    assert script.peer.rest() == WHOLE


# Loops and numbers


def test_ready_twice_is_ready_once() -> None:
    script = Script(
        "import baton\nwith baton.session() as s:\n    s.ready(5)\n    s.ready(7)\n    list(s.track(range(5)))"
    )
    assert script.go().rest() == IN_ORDER
    assert script.peer.one("ready")["total"] == 5


def test_a_loop_left_after_the_last_commit_of_a_drained_session_is_whole() -> None:
    """The last item is durable, and `break` came before it was counted: nothing remains."""
    script = Script(
        """
        import baton, time
        with baton.session() as session:
            session.ready(total=3)
            for item in session.track(range(3)):
                session.commit(item + 1)
                if item == 2:
                    while not session.draining: time.sleep(0.01)
                    break
        """
    )
    peer = script.go()
    peer.until("last_batch")
    peer.say("drain")
    peer.rest()
    assert (peer.one("quiesced")["done"], peer.one("quiesced")["remaining"]) == (3, 0)
    assert peer.one("committed")["cursor"] == 3


def test_a_loop_that_is_closed_early_and_gone_on_with_counts_on() -> None:
    script = Script(
        """
        import baton
        with baton.session() as session:
            first = session.track(range(4), total=10)
            next(first), next(first), next(first)
            first.close()
            for item in session.track(range(2, 10), total=10):
                pass
        """
    )
    peer = script.go()
    assert peer.rest() == IN_ORDER
    assert peer.one("committed")["cursor"] == 10
    done = [message["done"] for message in peer.heard if message["type"] == "progress"]
    assert done == sorted(done)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("progress(1.5)", "TypeError: done counts items: it must be a whole number, not 1.5"),
        ("progress('3')", "TypeError: done counts items: it must be a whole number, not '3'"),
        ("progress(1, total=2.5)", "TypeError: total counts items: it must be a whole number, not 2.5"),
        ("commit(-1)", "ValueError: cursor counts items: it cannot be -1"),
    ],
)
def test_what_is_no_count_is_refused_where_it_is_said(call: str, reason: str) -> None:
    script = Script(f"import baton\nwith baton.session() as session:\n    session.ready(9)\n    session.{call}\n")
    assert script.go().rest() == ["hello", "ready", "started", "failed"]
    assert script.peer.one("failed")["reason"] == reason


def test_a_number_of_another_library_is_a_count() -> None:
    """numpy's integers, for one: JSON knows none of them."""
    script = Script(
        """
        import baton
        class Integer:
            def __init__(self, value): self.value = value
            def __index__(self): return self.value
        with baton.session() as session:
            session.ready(Integer(6))
            session.progress(Integer(6), total=Integer(6))
            session.commit(Integer(6))
        """
    )
    assert script.go().rest() == WHOLE
    assert script.peer.one("committed")["cursor"] == 6


# Other interpreters


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.12", "3.13", "3.14"])
def test_other_interpreters_of_this_host_run_it_too(version: str) -> None:
    """Those that are there: a host that has none is still held to 3.9's syntax by its own test."""
    program = _interpreter(version)
    if program is None:
        return
    ours, theirs = socket.socketpair()
    peer = Peer(ours)
    with theirs:
        process = subprocess.Popen(
            [program, "-I", "-c", f"import sys; sys.path.append({str(ROOT)!r})\n" + textwrap.dedent(COUNT_TEN)],
            pass_fds=[theirs.fileno()],
            env={"BATON_FD": str(theirs.fileno()), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    peer.assign({"name": "s"})
    peer.until("ready")
    peer.say("go")
    assert peer.rest() == IN_ORDER
    assert process.communicate(timeout=TIMEOUT_S) == ("".join(f"{i}\n" for i in range(10)), "")


def _interpreter(version: str) -> str | None:
    """A Python of that version that works; a version manager's stand-in on the path may not."""
    found = shutil.which(f"python{version}")
    candidates = [*([found] if found else []), *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))]
    for candidate in candidates:
        code = f"import sys; sys.exit(sys.version_info[:2] != {tuple(map(int, version.split('.')))})"
        if subprocess.run([candidate, "-c", code], capture_output=True, check=False).returncode == 0:
            return candidate
    return None
