"""What `watch` knows of the daemon where the daemon's answers are cut short: nothing lost, nothing told twice."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from daemon.ctl.client import Client, UnreachableError
from daemon.ctl.watch_feed import Feed
from tests.shell.batonctl_runs import out, submitted
from tests.shell.control_stage import PATIENCE_S, Stage


class Cutting:
    """Stands between a client and the daemon, and lets pass of a stream `lines` lines: all of it, where None.

    Then it says `last` and hangs up; without `last`, it does so on every connection, as a daemon that dies does.
    """

    def __init__(self, path: Path, daemon: Path) -> None:
        self.path, self._daemon = path, daemon
        self.lines: int | None = None
        self.last = b""
        self._open: set[socket.socket] = set()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return  # closed
            self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX) as daemon, client, client.makefile("rb") as asked:
            daemon.connect(str(self._daemon))
            with daemon.makefile("rb") as answers:
                for line in asked:
                    daemon.sendall(line)
                    client.sendall(answers.readline())
                    if b'"events"' in line:
                        self._stream(client, answers)
                        break
            self._open.discard(client)
            with contextlib.suppress(OSError):  # gone already
                client.shutdown(socket.SHUT_RDWR)

    def _stream(self, client: socket.socket, answers: Iterable[bytes]) -> None:
        for number, told in enumerate(answers):
            if number == self.lines:
                client.sendall(self.last)
                for other in () if self.last else self._open - {client}:
                    other.shutdown(socket.SHUT_RDWR)
                return
            client.sendall(told)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._accepting.join(PATIENCE_S)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    (tmp_path / "stage").mkdir()
    with Stage(tmp_path / "stage") as stage:
        stage.crew.frozen = True
        submitted(stage, "a", "b")
        yield stage


@pytest.fixture
def between(tmp_path: Path, stage: Stage) -> Iterator[Cutting]:
    made = Cutting(tmp_path / "between", stage.path)
    yield made
    made.close()


def told(feed: Feed) -> list[tuple[int, str]]:
    return [(line["seq"], line["event"]) for line in feed.known.events]


@pytest.mark.parametrize("last", [b"", b"no line of batond\n"])
@pytest.mark.parametrize("came", [0, 1, 3])
def test_events_of_a_stream_that_was_cut_short_are_read_again(
    stage: Stage, between: Cutting, came: int, last: bytes
) -> None:
    feed = Feed(Client(str(between.path)), 5)
    for _ in range(3):
        out(stage, "pause")
        out(stage, "resume")
    between.lines, between.last = came, last
    feed.known = feed._look()
    assert feed.known.lost
    between.lines = None
    feed.known = feed._look()
    assert feed.known.lost == ""
    with Client(str(stage.path)) as client:
        assert told(feed) == told(Feed(client, 5)), "each once"


def test_a_daemon_that_dies_while_it_is_asked_first_is_no_daemon(between: Cutting) -> None:
    between.lines = 1
    with pytest.raises(UnreachableError, match="lost batond"):
        Feed(Client(str(between.path)), 5)
