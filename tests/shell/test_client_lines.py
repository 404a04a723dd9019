"""What hostile clients of the control socket were found to do, each once: depth, blank lines, long and broken text."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import wire
from daemon.clientlines import Lines
from daemon.control import Bounds, ControlServer
from daemon.wire import Code
from tests.shell.control_stage import Line, Quiet, Stage, error_of, request


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage


@pytest.mark.parametrize(
    "around", ['{"jsonrpc":"2.0","id":%s}', '{"jsonrpc":"2.0","id":1,"method":"version","x":%s}', "%s"]
)
def test_every_depth_is_answered(stage: Stage, around: str) -> None:
    """How deep one reader gets depends on how deep its caller is: there is no depth between two of them."""
    with Line(stage.path) as line:
        for depth in range(900, 1010):
            line.send((around % ("[" * depth + "]" * depth)).encode() + b"\n")
            answer = line.read()
            assert answer is not None, f"hung up on at {depth}"
            assert (answer[0] if isinstance(answer, list) else answer)["jsonrpc"] == "2.0"
        assert line.ask("version")["result"]["protocol"] == 1
    assert stage.bugs == []


def test_blank_lines_keep_nobody_waiting(stage: Stage) -> None:
    """A million of them are dropped at once, not gone through one by one: other clients are served between."""
    with Line(stage.path) as idle, Line(stage.path) as other:
        idle.send(b"\n" * (1 << 20))
        for _ in range(50):
            assert other.ask("version")["id"] == 7
        idle.send(request("version", "last"))
        assert idle.read()["id"] == "last"


def test_blank_lines_are_silence_and_not_a_line_that_does_not_end(tmp_path: Path) -> None:
    with Stage(tmp_path, bounds=Bounds(idle_s=60.0, line_s=0.2)) as stage, Line(stage.path) as line:
        line.send(b"\n \r\n\n")
        with Line(stage.path) as later:
            later.send(b"{")
            assert later.read()["error"]  # the time that a line may take is over for one that began later
        assert line.ask("version")["id"] == 7


@pytest.mark.parametrize(
    "sent",
    [
        request("version\n\x1b[31m" + "x" * 100_000),
        json.dumps({"jsonrpc": "y\n" * 100_000, "id": 1, "method": "version"}).encode() + b"\n",
        request("show", name="a\nb\u202e\x00c"),
        request("swap", lane="cpu\n"),
        request("submit", text="", base="/", source="a\nb" * 1000),
        request("submit", text='[[session]]\nname = "a\\n"\nrun = ["true"]\n' + "x = 1\n" * 3, base="/"),
    ],
)
def test_whatever_it_quotes_a_message_is_one_line_of_bounded_length(stage: Stage, sent: bytes) -> None:
    with Line(stage.path) as line:
        line.send(sent)
        error = line.read()["error"]
        for text in (error["message"], *error.get("data", {}).get("problems", [])):
            assert text.isprintable()
            assert len(text) <= 10 * wire.MESSAGE_LIMIT_CHARACTERS  # each character may be an escape of ten


def test_whoever_hangs_up_before_the_first_event_is_forgotten(stage: Stage) -> None:
    """The reply cannot be written, so nothing is ever read of the stream; its listener goes with it all the same."""
    for _ in range(30):
        with Line(stage.path) as line:
            line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.send(request("events"))
    with Line(stage.path) as line:
        assert line.ask("version")["id"] == 7
        for _ in range(1000):
            if not stage.feed.listeners:
                break
            time.sleep(0.01)
        assert len(stage.feed.listeners) == 0


def test_a_request_whose_id_is_nested_gets_its_error(stage: Stage) -> None:
    with Line(stage.path) as line:
        line.send(b'{"jsonrpc":"2.0","id":' + b'{"a":' * 20_000 + b"\n")
        assert error_of(line.read()) is Code.PARSE_ERROR


@pytest.mark.parametrize("turns", range(6))
def test_a_connection_that_is_ended_ends_also_while_something_arrives(turns: int) -> None:
    """However many turns of the loop lie between the two: one that goes on reading would hold up the daemon's end."""

    async def main() -> None:
        reader = asyncio.StreamReader()
        reading = asyncio.create_task(Lines(reader, 1 << 20, idle_s=60.0, line_s=60.0).read())
        for _ in range(5):
            await asyncio.sleep(0)
        reader.feed_data(b"half a line")
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        done, _ = await asyncio.wait({reading}, timeout=5.0)
        assert done
        assert reading.cancelled()

    asyncio.run(main())


def test_lines_that_are_no_json_give_way_to_others_between_them(tmp_path: Path) -> None:
    """Thousands in one packet: whatever else the loop has to do is done after each, not after all."""
    turns = 0

    async def main() -> None:
        nonlocal turns

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with ControlServer(tmp_path / "s", Quiet().table):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "s", limit=1 << 26)
            turning = asyncio.create_task(turn())
            writer.write(b"x\n" * 5000)
            for _ in range(5000):
                assert error_of(json.loads(await reader.readline())) is Code.PARSE_ERROR
            turning.cancel()
            writer.close()

    asyncio.run(main())
    assert turns >= 5000
