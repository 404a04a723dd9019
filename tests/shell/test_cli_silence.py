"""A daemon that is there and does not answer: what `batonctl` says meanwhile, to whom, and when it gives up."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon import results, wire
from daemon.ctl import client, following
from tests.shell.batonctl_runs import BATONCTL, environment, submitted
from tests.shell.control_stage import PATIENCE_S, Stage, session_file
from tests.shell.watching import Watcher

SAID = "batonctl: batond has not answered for 2 s; waiting for it, 60 s at most; Ctrl-C gives up"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage
        assert stage.bugs == []


@contextmanager
def frozen(stage: Stage) -> Iterator[Callable[[], None]]:
    """Its daemon does nothing until what is yielded is called."""
    thawed = threading.Event()
    stage._events.call_soon_threadsafe(thawed.wait)
    try:
        yield thawed.set
    finally:
        thawed.set()


@pytest.mark.parametrize("arguments", [("status",), ("list", "--json"), ("watch", "--once"), ("events",)])
def test_a_person_is_told_once_and_gets_the_answer(stage: Stage, arguments: tuple[str, ...]) -> None:
    submitted(stage, "a")
    with frozen(stage) as thaw, Watcher((*BATONCTL, *arguments), environment(stage.path)) as watcher:
        watcher.until(lambda screen: SAID in screen.main.replace("\r\n", ""), "that nothing comes")
        thaw()
        assert watcher.ended() == 0
        watcher.until(lambda screen: len(screen.main) > len(SAID) + 10, "the answer")
        assert watcher.screen.main.count("has not answered") == 1, "once, and not in the picture of the answer"


def test_a_script_is_not_told(stage: Stage) -> None:
    """What it writes to standard error may be mailed to somebody."""
    with (
        frozen(stage) as thaw,
        subprocess.Popen(
            (*BATONCTL, "version"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(stage.path)
        ) as process,
        socket.socket(socket.AF_UNIX) as beside,
    ):
        beside.connect(str(stage.path))  # whoever comes first is not answered either
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(client.ANSWER_TIMEOUT_S / client.SILENCE_SHARE + 2)
        thaw()
        told = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, told[1]) == (0, b"")


def test_whoever_waits_for_sessions_is_told_too(stage: Stage, tmp_path: Path) -> None:
    stage.crew.frozen = True
    file = tmp_path / "s.toml"
    file.write_text(session_file("a"))
    with subprocess.Popen(
        (*BATONCTL, "submit", str(file), "--wait"), stdout=subprocess.PIPE, text=True, env=environment(stage.path)
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        assert any(" a running on cpu" in line for line in lines)
        with frozen(stage):
            assert any(line.endswith(" batond has not answered for 2 s; waiting for it\n") for line in lines)
        stage.thaw()
        assert any(" a done" in line for line in lines)
        assert process.wait(PATIENCE_S) == 0


def test_a_stream_that_stops_in_the_middle_is_given_up(tmp_path: Path) -> None:
    """Unless it is one that may be silent for ever."""
    path = str(tmp_path / "s")
    notice = wire.encode_notice({"seq": 1})
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        with client.Client(path) as asks:
            answers, _ = listening.accept()
            with answers:
                answers.sendall(wire.encode_result(1, results.EventsResult(seq=0)) + notice)
                asks.call("events", wire.EventsParams(), results.EventsResult)
                stream = asks.notices(0.2)
                assert next(stream)[1] == {"seq": 1}
                with pytest.raises(client.UnreachableError, match="no answer in"):
                    next(stream)
        with client.Client(path) as asks:
            answers, _ = listening.accept()
            with answers:
                answers.sendall(wire.encode_result(1, results.EventsResult(seq=0)) + notice)
                next(following.notices(asks, None, 0, follow=True))
                assert asks._socket.gettimeout() is None
