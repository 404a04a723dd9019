"""The control socket: what goes in and out of it, who may act, and that a bad client costs itself only."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from daemon import methods, wire
from daemon.control import Bounds, ControlServer
from daemon.feed import BACKLOG, Feed, Listener
from daemon.wire import Access, Code
from states.notes import LaneHeld
from tests.shell.control_stage import Line, Quiet, Stage, error_of, request, serve, session_file, talk


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage


# The protocol


@pytest.mark.parametrize("identity", [1, 0, -3, "seven", "", 1.5, None, 12345678901234567890123])
def test_an_answer_carries_the_id_of_its_request(stage: Stage, identity: object) -> None:
    with Line(stage.path) as line:
        line.send(request("version", identity))
        answer = line.read()
        assert answer["jsonrpc"] == "2.0"
        assert answer["id"] == identity
        assert answer["result"] == {"version": "0.1.0", "protocol": 1, "pid": 4711}


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"hello", Code.PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"ver', Code.PARSE_ERROR),
        (b"\xff\xfe\x00", Code.PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"\xff"}', Code.PARSE_ERROR),
        (b"[" * 100_000, Code.PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"version","params":' + b'{"a":' * 100_000, Code.PARSE_ERROR),
        (b"1", Code.INVALID_REQUEST),
        (b"{}", Code.INVALID_REQUEST),
        (b"[]", Code.INVALID_REQUEST),
        (b"[" + b",".join([b"1"] * 101) + b"]", Code.INVALID_REQUEST),
        (b'{"id":1,"method":"version"}', Code.INVALID_REQUEST),
        (b'{"jsonrpc":"1.0","id":1,"method":"version"}', Code.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":{},"method":"version"}', Code.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":5}', Code.INVALID_REQUEST),
        (request("wherefore"), Code.METHOD_NOT_FOUND),
        (request("__init__"), Code.METHOD_NOT_FOUND),
        (request("show"), Code.INVALID_PARAMS),
        (request("show", name=5), Code.INVALID_PARAMS),
        (request("show", name=""), Code.INVALID_PARAMS),
        (request("swap", forse=True), Code.INVALID_PARAMS),
        (request("list", limit=0), Code.INVALID_PARAMS),
        (request("list", ended=True, before=2**63), Code.INVALID_PARAMS),
        (request("list", ended=True, before=-(2**63) - 1), Code.INVALID_PARAMS),
        (request("events", since=2**63, follow=False), Code.INVALID_PARAMS),
        (request("logs", name="a", offset=2**63), Code.INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":1,"method":"show","params":["digits"]}', Code.INVALID_PARAMS),
    ],
)
def test_what_is_no_request_gets_its_error_and_the_connection_goes_on(stage: Stage, sent: bytes, code: Code) -> None:
    with Line(stage.path) as line:
        line.send(sent.rstrip(b"\n") + b"\n")
        answer = line.read()
        assert error_of(answer) is code, answer
        assert "\n" not in answer["error"]["message"]
        assert line.ask("version")["result"]["protocol"] == 1


def test_an_invalid_request_is_answered_under_its_id_where_it_has_one(stage: Stage) -> None:
    with Line(stage.path) as line:
        line.send(b'{"id":41,"method":"version"}\n')
        assert line.read()["id"] == 41


def test_notifications_get_no_answer_not_even_an_error(stage: Stage) -> None:
    with Line(stage.path) as line:
        for method in ("version", "nonsense", "events"):
            line.send(json.dumps({"jsonrpc": "2.0", "method": method}).encode() + b"\n")
        line.send(b"\n  \r\n" + request("version", "last"))
        assert line.read()["id"] == "last"


def test_a_batch_is_answered_by_one_array_without_its_notifications(stage: Stage) -> None:
    with Line(stage.path) as line:
        parts = [request("version", 1), b'{"jsonrpc":"2.0","method":"version"}', b"5", request("events", 2)]
        line.send(b"[" + b",".join(part.strip() for part in parts) + b"]\n")
        version, five, events = line.read()
        assert version["id"] == 1
        assert error_of(five) is Code.INVALID_REQUEST
        assert error_of(events) is Code.INVALID_REQUEST  # a stream has no place in a batch
        line.send(b'[{"jsonrpc":"2.0","method":"version"}]\n' + request("version", 3))
        assert line.read()["id"] == 3


def test_requests_in_one_packet_and_requests_in_pieces_are_the_same(stage: Stage) -> None:
    with Line(stage.path) as line:
        line.send(request("version", 1) + request("version", 2)[:20])
        assert line.read()["id"] == 1
        line.send(request("version", 2)[20:])
        assert line.read()["id"] == 2


def test_a_last_line_without_newline_is_answered(stage: Stage) -> None:
    with Line(stage.path) as line:
        line.send(request("version").rstrip())
        line.socket.shutdown(socket.SHUT_WR)
        assert line.read()["result"]["protocol"] == 1
        assert line.read() is None


def test_half_a_line_at_the_end_is_an_error(stage: Stage) -> None:
    with Line(stage.path) as line:
        line.send(request("shutdown")[:-10])
        line.socket.shutdown(socket.SHUT_WR)
        assert error_of(line.read()) is Code.PARSE_ERROR
    with Line(stage.path) as line:
        assert not line.ask("status")["result"]["stopping"]


def test_every_declared_method_is_served_and_documented() -> None:
    for name, method in methods.METHODS.items():
        assert method.summary.endswith("."), name
        assert (Code.NOT_PERMITTED in method.errors) is (method.access is Access.ACT), name
    assert set(wire.CODES) == set(Code)


# Bounds


def test_a_line_that_is_too_long_ends_its_connection_only(stage: Stage) -> None:
    with Line(stage.path) as greedy, Line(stage.path) as other:
        threading.Thread(target=_pour, args=(greedy.socket, b"x" * (wire.LINE_LIMIT_BYTES + 2)), daemon=True).start()
        assert other.ask("version")["id"] == 7
        assert error_of(greedy.read()) is Code.TOO_LARGE
        assert [told.pid for told in stage.told] == [os.getpid()]
        assert _ended(greedy)
        assert other.ask("version")["id"] == 7


def test_a_line_as_long_as_allowed_is_read(stage: Stage) -> None:
    start = b'{"jsonrpc":"2.0","id":1,"method":"version"}'
    with Line(stage.path) as line:
        threading.Thread(
            target=_pour, args=(line.socket, start.ljust(wire.LINE_LIMIT_BYTES) + b"\n"), daemon=True
        ).start()
        assert line.read()["id"] == 1


def _pour(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except OSError:
        return  # hung up on, as it should be


def _ended(line: Line) -> bool:
    try:
        return line.read() is None
    except ConnectionResetError:  # it hung up on what was still being sent
        return True


def test_a_line_that_does_not_end_in_time_and_a_silent_client_are_hung_up_on(tmp_path: Path) -> None:
    with Stage(tmp_path, bounds=Bounds(idle_s=0.3, line_s=0.2)) as stage:
        with Line(stage.path) as slow:
            slow.send(b'{"jsonrpc"')
            assert error_of(slow.read()) is Code.INVALID_REQUEST
            assert slow.read() is None
        with Line(stage.path) as silent:
            assert silent.read() is None
        with Line(stage.path) as stream:  # who listens to events has nothing to say, and may be silent
            assert stream.ask("events")["result"]["seq"] == 0
            with Line(stage.path) as silent:
                assert silent.read() is None
            stage.run(lambda: _tell(stage, 1))
            assert stream.read()["params"]["event"] == "lane.held"


def test_too_many_clients_are_told_so_and_one_that_leaves_makes_room(tmp_path: Path) -> None:
    with Stage(tmp_path, bounds=Bounds(clients=3)) as stage:
        lines = [Line(stage.path) for _ in range(3)]
        for line in lines:
            assert line.ask("version")["id"] == 7
        with Line(stage.path) as late:
            assert error_of(late.read()) is Code.BUSY
            assert late.read() is None
        lines.pop().close()
        assert _eventually(lambda: _served(stage.path))
        for line in lines:
            line.close()


def _served(path: Path) -> bool:
    with Line(path) as line:
        try:
            return "result" in line.ask("version")
        except OSError:
            return False


def _eventually(holds: Callable[[], bool]) -> bool:
    return any(holds() for _ in range(1000))


def test_a_client_that_does_not_read_its_answers_is_cut_off(tmp_path: Path) -> None:
    with Stage(tmp_path, bounds=Bounds(write_s=0.3)) as stage, Line(stage.path) as deaf, Line(stage.path) as other:
        thread = threading.Thread(target=_pour, args=(deaf.socket, request("version") * 100_000), daemon=True)
        thread.start()
        for _ in range(20):
            assert other.ask("version")["id"] == 7
        thread.join(20)  # its sending fails: it was hung up on
        assert not thread.is_alive()
        assert other.ask("version")["id"] == 7


def test_a_listener_that_does_not_read_is_cut_off_and_the_others_miss_nothing(tmp_path: Path) -> None:
    count = 2 * BACKLOG
    with Stage(tmp_path, bounds=Bounds(write_s=0.3)) as stage, Line(stage.path) as deaf, Line(stage.path) as keen:
        for line in (deaf, keen):
            assert "result" in line.ask("events")
        for first in range(1, count + 1, 100):
            stage.run(partial(_tell, stage, first, 100))
            assert [keen.read()["params"]["seq"] for _ in range(100)] == list(range(first, first + 100))
        stage.run(lambda: _until(lambda: len(stage.feed.listeners) == 1))


async def _tell(stage: Stage, first: int, count: int = 1) -> None:
    for seq in range(first, first + count):
        stage.feed.tell(LaneHeld("x" * 1000, held=True), seq, datetime.now(UTC))


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - a feed tells nobody that a listener left
        await asyncio.sleep(0.01)


def test_what_is_kept_for_a_listener_that_is_behind_is_bounded() -> None:
    async def main() -> None:
        feed = Feed(0)
        listener = Listener(feed)
        for seq in range(BACKLOG + 10):
            feed.tell(LaneHeld("cpu", held=True), seq, datetime.now(UTC))
        assert not feed.listeners
        assert len([line async for line in listener.lines()]) == BACKLOG  # and then it ends: nothing is left out unseen

    asyncio.run(main())


def test_a_listener_that_hangs_up_is_forgotten_at_once(stage: Stage) -> None:
    with Line(stage.path) as line:
        assert "result" in line.ask("events")
        stage.run(lambda: _until(lambda: len(stage.feed.listeners) == 1))
    stage.run(lambda: _until(lambda: not stage.feed.listeners))


def test_fifty_clients_at_once_each_get_their_own_answers(stage: Stage) -> None:
    answers: list[bool] = []

    def talk(number: int) -> None:
        with Line(stage.path) as line:
            for turn in range(10):
                line.send(request("status", f"{number}.{turn}"))
                answers.append(line.read()["id"] == f"{number}.{turn}")

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == [True] * 500


def test_a_bug_in_a_method_is_answered_told_and_harms_nobody(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def test(_server: ControlServer, _quiet: Quiet) -> None:
        answers = await talk(path, request("status"), request("version"), answers=2)
        assert error_of(answers[0]) is Code.INTERNAL
        assert "a bug" not in answers[0]["error"]["message"]  # what went wrong is for the log, not for whoever asks
        assert answers[1]["result"]["pid"] == os.getpid()

    assert [type(bug) for bug in serve(path, test)] == [ZeroDivisionError]


def test_closing_the_server_ends_streams_and_removes_its_file(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def main() -> None:
        quiet = Quiet()
        server = ControlServer(path, quiet.table)
        await server.start()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(request("events"))
        assert json.loads(await reader.readline())["result"] == {"seq": 3}
        assert json.loads(await reader.readline())["params"] == {"seq": 4}
        await server.close()
        assert quiet.ended.is_set()
        assert await reader.read() == b""
        writer.close()

    asyncio.run(main())
    assert not path.exists()


def test_a_handler_for_an_undeclared_method_is_a_mistake_seen_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wherefore"):
        ControlServer(tmp_path / "s", {"wherefore": Quiet.version})  # type: ignore[dict-item]


def test_submitting_and_every_other_act_needs_the_right_to_act() -> None:
    look = {"status", "list", "show", "logs", "devices", "events", "version", "why", "plan", "explain", "timeline"}
    assert {name for name, method in methods.METHODS.items() if method.access is Access.LOOK} == look


def test_the_largest_numbers_that_are_taken_harm_nobody(stage: Stage) -> None:
    with Line(stage.path) as line:
        line.ask("submit", text=session_file("a"), base="/")
        assert line.ask("list", ended=True, before=2**63 - 1)["result"] == {"sessions": [], "next": None}
        assert "result" in line.ask("logs", name="a", offset=2**63 - 1)
        assert "result" in line.ask("events", since=2**63 - 1, follow=False)
        assert line.read() is None
    assert stage.bugs == []


def test_a_flood_of_refusals_is_told_once_a_second_with_the_number_left_out(tmp_path: Path) -> None:
    with Stage(tmp_path, bounds=Bounds(clients=1, told_s=0.5)) as stage, Line(stage.path) as only:
        assert only.ask("version")["id"] == 7
        began = time.monotonic()
        for _ in range(200):
            with Line(stage.path) as late:
                assert error_of(late.read()) is Code.BUSY
        stage.run(lambda: _until(lambda: sum(1 + told.left_out for told in stage.told) == 200))
        took_s = time.monotonic() - began
        assert stage.told[0].left_out == 0  # the first is told at once
        assert len(stage.told) <= 2 + took_s / 0.5


def test_what_was_left_out_is_told_when_the_server_closes(tmp_path: Path) -> None:
    with Stage(tmp_path, bounds=Bounds(clients=1, told_s=1e6)) as stage, Line(stage.path) as only:
        assert only.ask("version")["id"] == 7
        for _ in range(5):
            with Line(stage.path) as late:
                assert error_of(late.read()) is Code.BUSY
        assert [told.left_out for told in stage.told] == [0]
        stage.close()
        assert [told.left_out for told in stage.told] == [0, 3]


def test_no_bug_was_met(stage: Stage) -> None:
    with Line(stage.path) as line:
        line.ask("submit", text=session_file("a"), base="/")
        line.ask("status")
    assert stage.bugs == []
