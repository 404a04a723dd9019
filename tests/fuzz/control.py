"""A hostile client and a well-behaved one at the real control socket; what every line must be answered with."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from daemon import methods, wire
from daemon.control import Bounds
from daemon.wire import Code
from tests.fuzz.frames import LINE_LIMIT
from tests.fuzz.lab import Broken, Outcome, eventually
from tests.fuzz.peer import TIMEOUT_S, Peer
from tests.fuzz.requests import Conversation, Manner
from tests.shell.control_stage import Stage

BOUNDS = Bounds(write_s=2.0)  # long enough for a client that reads, on a machine that is busy
ANSWER_LIMIT_BYTES = 1 << 22
TEXT_LIMIT_CHARACTERS = 20_010  # each of 2,000 may have to be written as an escape of ten
INTERNALS = (
    "Traceback",
    'File "',
    " object at 0x",
    "<class ",
    "<function ",
    "msgspec.",
    "daemon.",
    "asyncio",
    "NoneType",
)

STREAMS = tuple(method.name.encode() for method in methods.METHODS.values() if method.stream is not None)


@dataclass(frozen=True)
class Due:
    """What a line is owed: from `least` to `most` answers. `identity`: whose, where it can be told."""

    least: int
    most: int
    identity: Any = None
    known: bool = False  # it is a request, under `identity`
    batch: int = -1  # so many answers in one array
    ends: bool = False  # nothing that follows is answered: a stream, or a line that is too long
    unsure: bool = False  # two readers of JSON may differ: it may be a stream, too


NOTHING, ONE = Due(0, 0), Due(1, 1)


class _NoJsonError(Exception):
    pass


def _refuse(_: str) -> Any:
    raise _NoJsonError


def _read(line: bytes) -> Any:
    """The line, by another reader of JSON. Raises _NoJsonError; RecursionError or LookupError where readers differ."""
    doubled: list[str] = []

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            doubled.append("")
        return found

    try:
        read = json.loads(line.decode(), parse_constant=_refuse, object_pairs_hook=members)
        json.dumps(read, ensure_ascii=False, allow_nan=False).encode()  # lone surrogates, and numbers out of range
    except ValueError as error:
        raise _NoJsonError from error
    if doubled:
        raise LookupError
    return read


def due(line: bytes) -> Due:
    """What JSON-RPC 2.0 and docs/control.md promise for a line."""
    if len(line) > LINE_LIMIT:
        return Due(1, 1, ends=True)
    line = line.strip()
    if not line:
        return NOTHING
    try:
        read = _read(line)
    except _NoJsonError:
        return ONE
    except (RecursionError, LookupError):
        return Due(0, 1, ends=any(name in line for name in STREAMS), unsure=True)
    if not isinstance(read, list):
        return _due_one(read, alone=True)
    if not 0 < len(read) <= wire.BATCH_LIMIT:
        return ONE
    owed = sum(_due_one(each, alone=False).least for each in read)
    return Due(1, 1, batch=owed) if owed else NOTHING


def _due_one(read: Any, *, alone: bool) -> Due:
    sound = isinstance(read, dict) and read.get("jsonrpc") == "2.0" and isinstance(read.get("method"), str)
    identity = read.get("id") if isinstance(read, dict) else None
    if not sound or isinstance(identity, bool | list | dict):
        return ONE
    if "id" not in read:
        return NOTHING
    ends = alone and _streams(read["method"], read.get("params", {}))
    return Due(1, 1, identity, known=True, ends=ends)


def _streams(method: str, params: Any) -> bool:
    """Whether the answer is a stream, after which the daemon hangs up."""
    if method.encode() not in STREAMS:
        return False
    try:
        asked = msgspec.convert(params, methods.METHODS[method].params)
    except msgspec.ValidationError:
        return False
    if isinstance(asked, wire.EventsParams):
        return not (asked.since is not None and asked.last)
    assert isinstance(asked, wire.TimelineParams)
    given = [moment for moment in (asked.since, asked.until) if moment is not None]
    until = asked.until or datetime.now(UTC)
    return all(1970 <= moment.year < 9999 for moment in given) and (asked.since is None or asked.since < until)


class ControlPlay:
    """The real loop, record, feed, handlers and server, with acted workers."""

    async def start(self, folder: Path) -> None:
        """Serve, and let the well-behaved client in."""
        self._folder, self._life = folder, 0
        await self._open()

    async def rest(self) -> None:
        """It is at rest after each conversation."""

    async def close(self) -> None:
        """Serve no more."""
        self._witness.drop()
        self._stage._stopped.set()
        await self._serving
        shutil.rmtree(self._stage.folder)

    async def play(self, example: Conversation) -> Outcome:
        """Play one conversation, and wait until the server is at rest again."""
        outcome = Outcome()
        try:
            for manner in example.manners:
                outcome.frames += len(example.frames)
                outcome.kinds.update(frame.kind for frame in example.frames)
                outcome.kinds[f"client: {manner.value}"] += 1
                await self._converse(manner, example, outcome)
                await self._ask_witness()
                await self._at_rest()
        except Broken as broken:
            outcome.problem = str(broken)
        if self._stage.bugs:
            told = f"the loop's exception handler was told: {self._stage.bugs[0]}"
            outcome.problem = told if outcome.problem is None else f"{outcome.problem}; {told}"
        if outcome.problem is not None or self._stage.loop.world.stopping:
            await self.close()
            await self._open()
        return outcome

    async def _open(self) -> None:
        self._life += 1
        folder = self._folder / str(self._life)
        folder.mkdir()
        self._stage = Stage(folder, bounds=BOUNDS)
        self._stage.crew.batch = 500
        self._serving = asyncio.create_task(self._stage._main())
        await asyncio.wrap_future(self._stage._ready)
        self._witness = Peer(self._stage.path)
        await self._ask_witness()
        self._tasks = len(asyncio.all_tasks())

    async def _ask_witness(self) -> None:
        """The well-behaved client is served, whatever the others do."""
        await self._witness.send(b'{"jsonrpc":"2.0","id":"witness","method":"version"}\n')
        line = await self._witness.line()
        if line is None or json.loads(line)["id"] != "witness":
            raise Broken(f"the well-behaved client was answered {line!r}")

    async def _at_rest(self) -> None:
        await eventually(lambda: len(asyncio.all_tasks()) <= self._tasks, lambda: f"tasks are left: {tasks_left()}")
        await eventually(lambda: not self._stage.feed.listeners, lambda: "somebody listens who has hung up")

    async def _converse(self, manner: Manner, example: Conversation, outcome: Outcome) -> None:
        peer = Peer(self._stage.path)
        try:
            if manner is Manner.DEAF:
                await self._deaf(peer, example, outcome)
            elif manner is Manner.POLITE:
                await self._polite(peer, example, outcome)
            else:
                await self._all_at_once(manner, peer, example, outcome)
        finally:
            peer.drop()

    async def _polite(self, peer: Peer, example: Conversation, outcome: Outcome) -> None:
        for number, frame in enumerate(example.frames):
            owed = [due(line) for line in frame.data.split(b"\n")]
            data = frame.data + b"\n" + sentinel(number)
            outcome.sent_bytes += len(data)
            sending = asyncio.ensure_future(peer.send(data))
            ended = not await self._answers(peer, owed, number, outcome)
            await sending
            if ended:
                return
            await self._ask_witness()

    async def _all_at_once(self, manner: Manner, peer: Peer, example: Conversation, outcome: Outcome) -> None:
        stream = b"".join(frame.data + b"\n" + sentinel(number) for number, frame in enumerate(example.frames))
        if manner is Manner.UNENDED:
            stream = stream[:-1]
        outcome.sent_bytes += len(stream)
        sending = asyncio.ensure_future(self._send_pieces(manner, peer, stream, example.cuts))
        try:
            if manner is Manner.RUDE:
                await asyncio.wait({sending}, timeout=0.05)
                return
            for number, frame in enumerate(example.frames):
                owed = [due(line) for line in frame.data.split(b"\n")]
                if not await self._answers(peer, owed, number, outcome):
                    return
            await sending
            if manner in (Manner.HALF_CLOSED, Manner.UNENDED) and (line := await peer.line()) is not None:
                raise Broken(f"one answer more than was asked for: {shown(line)}")
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send_pieces(self, manner: Manner, peer: Peer, stream: bytes, shares: Sequence[int]) -> None:
        cuts = sorted({0, len(stream), *(len(stream) * cut // 1000 for cut in shares)})
        if manner is not Manner.SPLIT:
            cuts = [0, len(stream)]
        for begin, end in pairwise(cuts):
            await peer.send(stream[begin:end])
            await asyncio.sleep(0)
        if manner in (Manner.HALF_CLOSED, Manner.UNENDED):
            peer.end()

    async def _deaf(self, peer: Peer, example: Conversation, outcome: Outcome) -> None:
        """Ask for megabytes and read none of them: it is hung up on, and the others are served meanwhile."""
        ask = b'{"jsonrpc":"2.0","id":1,"method":"status"}\n' * 1000
        # (One that has begun a stream has its lines dropped, and is owed no more than events.)
        more = (
            frame.data
            for frame in example.frames
            if len(frame.data) < 10_000 and not any(name in frame.data for name in STREAMS)
        )
        ask += b"".join(data + b"\n" for data in more)
        deadline = asyncio.get_running_loop().time() + TIMEOUT_S
        while (sent := peer.push(ask)) is not None:
            outcome.sent_bytes += sent
            if asyncio.get_running_loop().time() > deadline:
                raise Broken("a client that never reads was not cut off")
            await self._ask_witness()
            await asyncio.sleep(0 if sent else 0.005)
        outcome.answers["cut off"] += 1

    async def _answers(self, peer: Peer, owed: Sequence[Due], number: int, outcome: Outcome) -> bool:
        """Read what a frame is owed, up to its sentinel's answer; False where nothing more is owed for good."""
        for each in owed:
            if each.ends and each.unsure:
                return False
            if each.ends:
                line = await self._next(peer, outcome)
                while line is not None and is_sentinel(line, number - 1):
                    line = await self._next(peer, outcome)
                if line is None:
                    return False  # hung up on while the rest of a line that is too long was still on its way
                judged(line, each)
                return False
        least, most = sum(each.least for each in owed), sum(each.most for each in owed)
        got: list[bytes] = []
        while (line := await self._next(peer, outcome)) is not None and not is_sentinel(line, number):
            got.append(line)
        if line is None:
            raise Broken(f"hung up on after {shown(got[-1]) if got else 'nothing'}, with an answer owed")
        if not least <= len(got) <= most:
            raise Broken(f"{len(got)} answers, {least} to {most} were owed: {[shown(each) for each in got]}")
        if least == most:
            for answer, each in zip(got, (each for each in owed if each.least), strict=True):
                judged(answer, each)
        return True

    async def _next(self, peer: Peer, outcome: Outcome) -> bytes | None:
        line = await peer.line()
        if line is not None:
            for answer in sound_answers(line):
                outcome.answers[answer] += 1
        return line


def tasks_left() -> list[str]:
    """The tasks there are, and where each waits."""
    return [f"{task.get_coro()!r} {[str(frame) for frame in task.get_stack()]}"[:300] for task in asyncio.all_tasks()]


def sentinel(number: int) -> bytes:
    """A request whose answer shows that all before it was answered."""
    return b'{"jsonrpc":"2.0","id":"sentinel %d","method":"version"}\n' % number


def is_sentinel(line: bytes, number: int) -> bool:
    """Whether this is that one's answer."""
    return b'"sentinel %d"' % number in line[:60] and b'"result"' in line


def sound_answers(line: bytes) -> list[str]:
    """Check that a line is a response as JSON-RPC 2.0 has it, fit for a person; what it says, in words."""
    if len(line) > ANSWER_LIMIT_BYTES:
        raise Broken(f"an answer of {len(line)} bytes: {shown(line)}")
    try:
        read = json.loads(line)
    except ValueError:
        raise Broken(f"an answer that is no JSON: {shown(line)}") from None
    parts = read if isinstance(read, list) else [read]
    return [_sound(part) for part in parts]


def _sound(answer: Any) -> str:
    if not isinstance(answer, dict) or answer.get("jsonrpc") != "2.0":
        raise Broken(f"no response: {shown(answer)}")
    if "method" in answer:
        return "notification"
    if ("result" in answer) is ("error" in answer) or "id" not in answer:
        raise Broken(f"neither a result nor an error, or both: {shown(answer)}")
    if "result" in answer:
        return "result"
    code, message = Code(answer["error"]["code"]), answer["error"]["message"]
    problems = answer["error"].get("data", {}).get("problems", [])
    for text in (message, *problems):
        if not text or not text.isprintable():
            raise Broken(f"not one line for a person: {shown(text)}")
        found = [word for word in INTERNALS if word in text]
        if found:
            raise Broken(f"internals ({found[0]}) in {shown(text)}")
        if len(text) > TEXT_LIMIT_CHARACTERS:
            raise Broken(f"a message of {len(text)} characters: {shown(text)}")
    if code is Code.INTERNAL:
        raise Broken(f"an internal error: {message}")
    return code.name.lower()


def judged(line: bytes, owed: Due) -> None:
    """Check an answer against what the line was owed."""
    answer = json.loads(line)
    if owed.batch >= 0:
        if not isinstance(answer, list) or len(answer) != owed.batch:
            raise Broken(f"a batch that is owed {owed.batch} answers got {shown(answer)}")
    elif isinstance(answer, list):
        raise Broken(f"an array for what is no batch: {shown(answer)}")
    elif owed.known and answer["id"] != owed.identity:
        raise Broken(f"a request {shown(owed.identity)} was answered under {shown(answer['id'])}")
    elif not owed.known and "error" not in answer:
        raise Broken(f"what is no request was answered {shown(answer)}")


def shown(value: object) -> str:
    """The beginning of it."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return repr(text[:300])
