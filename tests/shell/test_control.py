"""The control socket: what goes in and out of it, who may act, and that a bad client costs itself only."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon import wire
from daemon.control import Bounds, ControlServer, Peer, Stream
from daemon.endpoint import UnusableError
from daemon.feed import BACKLOG
from daemon.results import EventsResult, VersionResult
from daemon.wire import Access, Code
from states.notes import LaneHeld
from tests.shell.control_stage import Line, Stage, session_file

ROOT = os.getuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="only root can become other users")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage


def request(method: str, identity: object = 1, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": identity, "method": method, "params": params}).encode() + b"\n"


def error_of(answer: Any) -> Code:
    return Code(answer["error"]["code"])


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
        (request("why"), Code.METHOD_NOT_FOUND),
        (request("__init__"), Code.METHOD_NOT_FOUND),
        (request("show"), Code.INVALID_PARAMS),
        (request("show", name=5), Code.INVALID_PARAMS),
        (request("show", name=""), Code.INVALID_PARAMS),
        (request("swap", forse=True), Code.INVALID_PARAMS),
        (request("list", limit=0), Code.INVALID_PARAMS),
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
    for name, method in wire.METHODS.items():
        assert method.summary.endswith("."), name
        assert (Code.NOT_PERMITTED in method.errors) is (method.access is Access.ACT), name
    assert set(wire.CODES) == set(Code)


# Bounds


def test_a_line_that_is_too_long_ends_its_connection_only(stage: Stage) -> None:
    with Line(stage.path) as greedy, Line(stage.path) as other:
        threading.Thread(target=_pour, args=(greedy.socket, b"x" * (wire.LINE_LIMIT_BYTES + 2)), daemon=True).start()
        assert other.ask("version")["id"] == 7
        assert error_of(greedy.read()) is Code.TOO_LARGE
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
            stage.run(lambda first=first: _tell(stage, first, 100))
            assert [keen.read()["params"]["seq"] for _ in range(100)] == list(range(first, first + 100))
        stage.run(lambda: _until(lambda: len(stage.feed.listeners) == 1))


async def _tell(stage: Stage, first: int, count: int = 1) -> None:
    for seq in range(first, first + count):
        stage.feed.tell(LaneHeld("x" * 1000, held=True), seq, datetime.now(UTC))
    await asyncio.sleep(0.002)


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - a feed tells nobody that a listener left
        await asyncio.sleep(0.01)


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


# A server of its own: bugs, streams that end, sockets that are given


class Quiet:
    """A few handlers of another kind."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.table = {"version": self.version, "status": self.status, "events": self.events}

    async def version(self, _params: wire.Params, peer: Peer) -> VersionResult:
        return VersionResult(version="x", protocol=1, pid=peer.pid)

    async def status(self, _params: wire.Params, _peer: Peer) -> msgspec.Struct:
        raise ZeroDivisionError("a bug")

    async def events(self, _params: wire.Params, _peer: Peer) -> Stream:
        return Stream(EventsResult(seq=3), self._lines())

    async def _lines(self) -> AsyncGenerator[Mapping[str, Any], None]:
        try:
            yield {"seq": 4}
            await asyncio.Event().wait()
        finally:
            self.ended.set()


def serve(where: Path | socket.socket, test: Callable[[ControlServer, Quiet], Coroutine[Any, Any, None]]) -> list[Any]:
    bugs: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: bugs.append(context.get("exception")))
        quiet = Quiet()
        async with ControlServer(where, quiet.table) as server:
            await test(server, quiet)

    asyncio.run(main())
    return bugs


async def talk(path: Path, *lines: bytes, answers: int = 1) -> list[Any]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.writelines(lines)
    found = [json.loads(await asyncio.wait_for(reader.readline(), 20) or b"null") for _ in range(answers)]
    writer.close()
    return found


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
    with pytest.raises(ValueError, match="plan"):
        ControlServer(tmp_path / "s", {"plan": Quiet.version})  # type: ignore[dict-item]


# The socket's file


def test_the_file_has_the_mode_and_the_group_that_are_configured(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "s"

    async def main() -> None:
        gid = 4242 if ROOT else os.getgid()
        async with ControlServer(path, Quiet().table, gid, mode=0o620):
            found = path.stat()
            assert stat.S_IMODE(found.st_mode) == 0o620
            assert found.st_gid == gid

    asyncio.run(main())


def test_a_dead_daemons_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def test(_server: ControlServer, _quiet: Quiet) -> None:
        assert "result" in (await talk(path, request("version")))[0]

    serve(path, test)


def refused(path: Path) -> str:
    async def test(_server: ControlServer, _quiet: Quiet) -> None:
        raise AssertionError("it must not start")

    with pytest.raises(UnusableError) as found:
        serve(path, test)
    assert "\n" not in str(found.value)
    return str(found.value)


def test_a_living_daemons_socket_is_not_taken(stage: Stage) -> None:
    assert "another batond answers there" in refused(stage.path)
    with Line(stage.path) as line:
        assert line.ask("version")["id"] == 7


def test_a_socket_on_which_something_else_listens_is_not_taken(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen(1)
        assert "another batond answers there" in refused(tmp_path / "s")


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    assert "no socket" in refused(path)
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_is_said_to_be(tmp_path: Path) -> None:
    assert "107 bytes" in refused(tmp_path / ("x" * 200))


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot listen" in refused(tmp_path / "file" / "s")


def test_a_socket_that_listens_already_is_served_and_left(tmp_path: Path) -> None:
    path = tmp_path / "given"
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(path))
        given.listen()

        async def test(_server: ControlServer, _quiet: Quiet) -> None:
            assert "result" in (await talk(path, request("version")))[0]

        serve(given.dup(), test)
        assert path.exists()


def test_a_file_that_another_daemon_put_there_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def test(_server: ControlServer, _quiet: Quiet) -> None:
        path.unlink()
        path.write_text("another's")

    serve(path, test)
    assert path.read_text() == "another's"


# Who may act

PROBE = """
import json, os, socket, sys
path, uid, gid, groups = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
os.setgroups(groups); os.setgid(gid); os.setuid(uid)
with socket.socket(socket.AF_UNIX) as s:
    s.connect(path)
    f = s.makefile("rb")
    for method in ("version", "pause"):
        s.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method}).encode() + b"\\n")
        print(f.readline().decode(), end="")
"""


def probe(path: Path, uid: int, gid: int, groups: list[int]) -> tuple[Any, Any]:
    """The answers to a look and to an act of that user."""
    command = [sys.executable, "-I", "-S", "-c", PROBE, str(path), str(uid), str(gid), json.dumps(groups)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
    look, act = map(json.loads, done.stdout.splitlines())
    return look, act


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="batond-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def open_stage(open_folder: Path) -> Iterator[Stage]:
    """A daemon that the group 4242 may command, on a socket that everybody may connect to."""
    with Stage(open_folder, gid=4242) as stage:
        yield stage


@as_root
@pytest.mark.parametrize(
    ("uid", "gid", "groups", "may"),
    [
        (0, 0, [], True),
        (6001, 6001, [], False),
        (6001, 6001, [6002, 6003], False),
        (6001, 4242, [], True),
        (6001, 6001, [6002, 4242], True),
        (6001, 6001, [*range(7000, 7200), 4242], True),
        (6001, 6001, [*range(7000, 7600), 4242], False),  # more groups than can be read: only the primary counts
    ],
)
def test_the_kernels_word_on_user_and_groups_decides_who_may_act(
    open_stage: Stage, uid: int, gid: int, groups: list[int], may: bool
) -> None:
    look, act = probe(open_stage.path, uid, gid, groups)
    assert "result" in look
    if may:
        assert act["result"] == {"lanes": ["cpu"]}
    else:
        assert error_of(act) is Code.NOT_PERMITTED
        assert f"user id {uid} may look, but not act" in act["error"]["message"]
        with Line(open_stage.path) as line:
            assert not line.ask("status")["result"]["lanes"][0]["held"]


@as_root
def test_clients_that_may_only_look_cannot_lock_out_those_who_may_act(open_folder: Path) -> None:
    script = (
        "import os, socket, sys\nos.setuid(6001)\nsockets = []\nfor _ in range(5):\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sockets.append(s)\n"
        '    s.sendall(b\'{"jsonrpc":"2.0","id":1,"method":"version"}\\n\')\n'
        "    print('busy' if b'error' in s.recv(9999) else 'served', flush=True)\ninput()\n"
    )
    with Stage(open_folder, bounds=Bounds(clients=4, lookers=2)) as stage:
        command = [sys.executable, "-I", "-S", "-c", script, str(stage.path)]
        crowd = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert crowd.stdout is not None
        assert [crowd.stdout.readline().strip() for _ in range(5)] == ["served", "served", "busy", "busy", "busy"]
        with Line(stage.path) as line:
            assert line.ask("pause")["result"] == {"lanes": ["cpu"]}
        crowd.communicate("done\n", timeout=20)


def test_submitting_and_every_other_act_needs_the_right_to_act() -> None:
    look = {"status", "list", "show", "logs", "devices", "events", "version"}
    assert {name for name, method in wire.METHODS.items() if method.access is Access.LOOK} == look


def test_no_bug_was_met(stage: Stage) -> None:
    with Line(stage.path) as line:
        line.ask("submit", text=session_file("a"), base="/")
        line.ask("status")
    assert stage.bugs == []
