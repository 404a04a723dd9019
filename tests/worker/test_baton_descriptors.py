"""baton.py in programs without descriptors, and in those that come back by a socket; the test is the daemon."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from test_baton import IN_ORDER, ROOT, SLOW, Script
from worker_peer import TIMEOUT_S, Peer


def test_a_program_that_closes_what_it_may_have_inherited_keeps_its_channel() -> None:
    """As recipes for daemons do. (Its outputs are closed too: it leaves a mark by its commit.)"""
    script = Script(
        """
        import baton, os
        with baton.session() as session:
            os.closerange(0, 256)
            session.ready(total=3)
            for item in session.track(range(3)):
                session.commit(item + 1)
        """
    )
    assert script.go().rest() == IN_ORDER
    assert script.peer.one("committed")["cursor"] == 3
    assert script.end()[0] == 0


def test_a_program_that_closed_every_descriptor_is_told_so_rather_than_waiting_for_ever() -> None:
    script = Script(
        """
        import baton, os
        with baton.session() as session:
            os.closerange(3, 4096)
            session.ready()
        """
    )
    script.peer.until("hello")
    status, _, err = script.end()
    assert status == 1
    assert "cannot wait for the device: the program closed descriptor" in err.splitlines()[-1]


def test_no_line_goes_into_a_file_that_took_the_channel_s_number(tmp_path: Path) -> None:
    script = Script(
        f"""
        import baton, os
        with baton.session() as session:
            session.ready()
            number = session._channel._fd
            os.close(number)
            file = os.open({str(tmp_path / "precious")!r}, os.O_CREAT | os.O_WRONLY)
            assert os.dup2(file, number) == number
            session.progress(5)
            session.commit(5)
        """
    )
    script.go()
    assert script.end()[0] == 0
    assert (tmp_path / "precious").read_bytes() == b""


@pytest.mark.parametrize("there", [False, True])
def test_where_batond_s_socket_was_not_handed_down_the_reason_is_one_line(tmp_path: Path, there: bool) -> None:
    """A launcher that starts the script with its descriptors closed: it must not compute outside its turn."""
    number = 200
    code = "import baton\nbaton.session()"
    with (tmp_path / "mine").open("w+b") as mine:
        os.dup2(mine.fileno(), number)
    try:
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"BATON_FD": str(number), "PYTHONPATH": str(ROOT)},
            pass_fds=[number] if there else [],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(number)
    assert ran.returncode == 1
    last = ran.stderr.splitlines()[-1]
    assert last.endswith("who starts this program has to hand it down: subprocess.Popen(..., pass_fds=[200])")


def test_a_program_without_a_free_descriptor_still_reports() -> None:
    script = Script(
        """
        import baton, os, resource
        with baton.session() as session:
            session.ready(total=5)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
            for item in session.track(range(5)):
                session.commit(item + 1)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        """
    )
    assert script.go().rest() == IN_ORDER
    assert script.peer.one("quiesced")["done"] == 5
    assert script.end()[0] == 0


def test_a_program_without_a_free_descriptor_ends_well_while_its_reader_is_at_work(tmp_path: Path) -> None:
    busy = tmp_path / "busy"
    script = Script(
        f"""
        import baton, os, resource, time
        with baton.session() as session:
            session.ready(total=1)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        while not os.path.exists({str(busy)!r}): time.sleep(0.01)
        """
    )
    script.go().until("committed")
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for number in itertools.count():
            script.peer.say("a word that means nothing")
            if number == 10_000:  # more than a socket holds: so many of them the reader has read
                busy.touch()
    assert script.end() == (0, "", "")


def test_a_default_time_out_of_the_program_s_own_sockets_is_none_of_the_channel(tmp_path: Path) -> None:
    """The socket by which it comes back to a later daemon is made in the program."""
    address = str(tmp_path / "s")
    script = Script("import socket\nsocket.setdefaulttimeout(0.2)\n" + textwrap.dedent(SLOW), assign=False)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        listener.settimeout(TIMEOUT_S)
        script.peer.assign({"name": "s"}, rejoin={"socket": address, "seconds": TIMEOUT_S})
        script.go().until("progress", done=2)
        script.peer.hang_up()
        later = Peer(listener.accept()[0])
        back = later.until("hello")
        later.until("progress", done=back["done"] + 50)  # a second: several of those time-outs
        later.say("drain")
        assert later.rest() == ["hello", "quiesced", "committed"]
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert script.end()[0] == 0


def test_who_is_hung_up_on_looks_no_longer_than_it_was_told_to_and_not_without_a_pause(tmp_path: Path) -> None:
    """What listens there takes no worker: no daemon's place is free, or it is none."""
    address, came = str(tmp_path / "s"), 0
    script = Script(SLOW, assign=False)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        listener.settimeout(0.1)
        script.peer.assign({"name": "s"}, rejoin={"socket": address, "seconds": 2.0})
        script.go().until("progress", done=2)
        script.peer.hang_up()
        while script.process.poll() is None:
            with contextlib.suppress(TimeoutError):
                listener.accept()[0].close()
                came += 1
    assert script.end()[0] == 0, "it drained, committed, and ended"
    assert 1 < came < 50
