"""The control socket's server: connections, lines, who may call what, bounds. Knows no session and no lane.

A client that is slow, silent, garbled or greedy costs itself its connection and nobody else anything.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import msgspec

from daemon import endpoint, methods, paramwords, wire
from daemon.clientlines import Lines, decoded, identity_of
from daemon.stories import ClientRefused
from daemon.wire import Access, Code, Refusal

# From 3.13 on, asyncio removes a socket's file when it closes the server: also one that a service manager listens on.
LEAVE_FILE: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
SO_PEERGROUPS = 59  # not in Python's socket module
HUNG_UP_LOOK_S = 0.25  # so often, while an answer is in the making, it is looked whether its client is still there
GROUPS_BUFFER_BYTES = 1024  # the most that Python's getsockopt takes: 256 groups


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one client, and all of them, may take: counts, bytes, seconds.

    `idle_s` is between two requests, `line_s` from a line's first byte to its last, `write_s` for the client to
    take what it asked for, `closing_s` for requests in hand when the server closes, `told_s` between two refusals
    of one kind that are told: whoever is refused as fast as it can ask must not fill the log.
    """

    clients: int = 64
    lookers: int = 32  # of these, clients that may not act: they cannot lock out those who may
    line_bytes: int = wire.LINE_LIMIT_BYTES
    idle_s: float = 600.0
    line_s: float = 10.0
    write_s: float = 10.0
    closing_s: float = 2.0
    told_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the kernel says."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]
    may_act: bool


@dataclass(frozen=True, slots=True)
class Stream:
    """The answer of a method whose reply is followed by notifications, until either side ends."""

    result: msgspec.Struct
    notices: AsyncGenerator[Mapping[str, Any], None]


Handler: TypeAlias = Callable[[Any, Peer], Awaitable[msgspec.Struct | Stream]]


class ControlServer:
    """Serves `handlers` on the socket at `where`, or on a socket that listens already (it is left as it is found).

    The daemon's own user, root and the group `allowed_gid` may act, everyone else may look. `tell` is told of
    clients that did what they may not. A bug in a handler is told to the event loop's exception handler and
    answered as internal.
    """

    def __init__(
        self,
        where: str | os.PathLike[str] | socket.socket,
        handlers: Mapping[str, Handler],
        allowed_gid: int | None = None,
        *,
        mode: int = 0o660,
        bounds: Bounds = Bounds(),
        tell: Callable[[ClientRefused], None] | None = None,
    ) -> None:
        if unknown := sorted(set(handlers) - set(methods.METHODS)):
            raise ValueError(f"no such methods declared: {', '.join(unknown)}")
        self._where = where
        self._handlers = handlers
        self._allowed_gid = allowed_gid
        self._mode = mode
        self._bounds = bounds
        self._refusals = _Refusals(tell, bounds.told_s)
        self._endpoint: endpoint.Endpoint | None = None
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[None], Peer] = {}
        self._busy: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises `endpoint.UnusableError`, with one line for a person, where that cannot be."""
        where = self._where
        if not isinstance(where, socket.socket):
            self._endpoint = endpoint.claim(os.fspath(where), self._mode, self._allowed_gid)
            where = self._endpoint.socket
        self._server = await asyncio.start_unix_server(self._accepted, sock=where, **LEAVE_FILE)

    async def close(self) -> None:
        """Listen no more, let requests in hand finish for a moment, end every connection, remove the socket's file."""
        if self._server is not None:
            self._server.close()
        if self._busy:
            await asyncio.wait(self._busy, timeout=self._bounds.closing_s)
        clients = list(self._clients)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        self._refusals.close()
        if self._endpoint is not None:
            self._endpoint.release()

    async def __aenter__(self) -> ControlServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            peer = peer_of(writer.get_extra_info("socket"), self._allowed_gid)
            if self._full(peer):
                busy = Refusal(Code.BUSY, f"batond serves {len(self._clients)} clients already; try again later")
                self._refusals.add(None, busy, peer)
                await self._write(writer, wire.encode_error(None, busy))
                return
            self._clients[task] = peer
            await self._converse(
                Lines(reader, self._bounds.line_bytes, self._bounds.idle_s, self._bounds.line_s), writer, peer
            )
        except (ConnectionError, TimeoutError):
            writer.transport.abort()  # gone, or not taking what it asked for: nothing is left to say to it
        except asyncio.CancelledError:
            # The client is gone before its answer was made, or the server closes, and waits for nobody's reading. The
            # task ends here: Python 3.11's streams take a cancelled one for a bug.
            writer.transport.abort()
        finally:
            self._clients.pop(task, None)
            self._busy.discard(task)
            await self._hang_up(writer)

    def _full(self, peer: Peer) -> bool:
        lookers = sum(not other.may_act for other in self._clients.values())
        return len(self._clients) >= self._bounds.clients or (not peer.may_act and lookers >= self._bounds.lookers)

    async def _converse(self, lines: Lines, writer: asyncio.StreamWriter, peer: Peer) -> None:
        task = asyncio.current_task()
        assert task is not None
        while True:
            try:
                line = await lines.read()
            except Refusal as refusal:
                self._refusals.add(None, refusal, peer)
                await self._write(writer, wire.encode_error(None, refusal))
                return
            if line is None:
                return
            self._busy.add(task)
            answer = await self._answer(line, writer, peer)
            if isinstance(answer, _Begun):
                self._busy.discard(task)
                await self._stream(lines, writer, answer)
                return
            if answer:
                await self._write(writer, answer)
            self._busy.discard(task)

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter, peer: Peer) -> bytes | _Begun:
        """What goes back for one line: an answer, the answers to a batch as one array, nothing, or a stream."""
        await asyncio.sleep(0)  # whoever sends many lines at once must not keep the event loop from the workers
        try:
            batch = decoded(line, Any)
        except Refusal as refusal:
            return wire.encode_error(None, refusal)
        if not isinstance(batch, list):
            return await self._answer_one(line, writer, peer, alone=True)
        if not 0 < len(batch) <= wire.BATCH_LIMIT:
            wrong = f"a batch holds 1 to {wire.BATCH_LIMIT} requests, this one {len(batch)}"
            return wire.encode_error(None, Refusal(Code.INVALID_REQUEST, wrong))
        answers = []
        for raw in msgspec.json.decode(line, type=list[msgspec.Raw]):
            await asyncio.sleep(0)
            answer = await self._answer_one(bytes(raw), writer, peer, alone=False)
            if isinstance(answer, bytes) and answer:
                answers.append(answer.rstrip(b"\n"))
        return b"[" + b",".join(answers) + b"]\n" if answers else b""

    async def _answer_one(
        self, line: bytes, writer: asyncio.StreamWriter, peer: Peer, *, alone: bool
    ) -> bytes | _Begun:
        try:
            request = decoded(line, wire.Request)
        except msgspec.ValidationError as error:
            wrong = Refusal(Code.INVALID_REQUEST, f"not a JSON-RPC 2.0 request: {error}")
            return wire.encode_error(identity_of(line), wrong)
        except Refusal as refusal:
            return wire.encode_error(None, refusal)
        identity = None if request.id is msgspec.UNSET else request.id
        try:
            answer = await self._call(request, writer, peer, alone=alone)
            reply = answer.result if isinstance(answer, Stream) else answer
            encoded = wire.encode_result(identity, reply)
            if isinstance(answer, Stream):
                return _Begun(encoded, answer.notices)
        except Refusal as refusal:
            if refusal.code is Code.NOT_PERMITTED:
                self._refusals.add(request.method, refusal, peer)
            encoded = wire.encode_error(identity, refusal)
        except Exception as error:  # noqa: BLE001 a bug in one method must cost its caller an answer, not everyone the socket
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"control method {request.method} failed", "exception": error, "peer": peer}
            )
            internal = Refusal(Code.INTERNAL, f"batond failed in {request.method}: {type(error).__name__}; see its log")
            encoded = wire.encode_error(identity, internal)
        return b"" if request.id is msgspec.UNSET else encoded

    async def _call(
        self, request: wire.Request, writer: asyncio.StreamWriter, peer: Peer, *, alone: bool
    ) -> msgspec.Struct | Stream:
        method = methods.METHODS.get(request.method)
        handler = self._handlers.get(request.method)
        if method is None or handler is None:
            there = ", ".join(self._handlers)
            raise Refusal(Code.METHOD_NOT_FOUND, f"no method {request.method!r}; there are {there}")
        if method.access is Access.ACT and not peer.may_act:
            raise Refusal(
                Code.NOT_PERMITTED,
                f"{method.name}: user id {peer.uid} may look, but not act; batond's own user, root"
                + (f" and the group {self._allowed_gid} may" if self._allowed_gid is not None else " may"),
            )
        if method.stream is not None and (not alone or request.id is msgspec.UNSET):
            raise Refusal(Code.INVALID_REQUEST, f"{method.name} is a stream: send it with an id, outside any batch")
        if method.alone and not alone:
            raise Refusal(Code.INVALID_REQUEST, f"{method.name} may take long: send it outside any batch")
        try:
            params = decoded(request.params, method.params)
        except msgspec.ValidationError as error:
            wrong = paramwords.wrong(error, method.params)
            raise Refusal(Code.INVALID_PARAMS, f"{method.name}: {wrong}") from None
        if method.access is Access.ACT:
            return await handler(params, peer)  # what was asked for is done, also where nobody waits for its answer
        with _cancelled_on_hang_up(writer):
            return await handler(params, peer)

    async def _stream(self, lines: Lines, writer: asyncio.StreamWriter, begun: _Begun) -> None:
        """Notifications until the source ends, the client hangs up, or it does not read what it is sent."""

        async def pump() -> None:
            await self._write(writer, begun.reply)
            async for notice in begun.notices:
                await self._write(writer, wire.encode_notice(notice))
                await asyncio.sleep(0)  # whoever reads fast must not keep the event loop from the workers

        tasks = [asyncio.create_task(pump()), asyncio.create_task(lines.drop())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            await begun.notices.aclose()
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        if writer.transport.get_write_buffer_size() or writer.transport.is_closing():
            async with asyncio.timeout(self._bounds.write_s):
                await writer.drain()

    async def _hang_up(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        try:
            async with asyncio.timeout(self._bounds.write_s):
                await writer.wait_closed()
        except (OSError, TimeoutError):
            writer.transport.abort()


@contextmanager
def _cancelled_on_hang_up(writer: asyncio.StreamWriter) -> Iterator[None]:
    """Cancels the task within, once its client is gone: nobody waits for its answer, and others may wait behind it."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal timer
        if _hung_up(writer):
            task.cancel()
        else:
            timer = loop.call_later(HUNG_UP_LOOK_S, look)

    timer = loop.call_later(HUNG_UP_LOOK_S, look)
    try:
        yield
    finally:
        timer.cancel()


def _hung_up(writer: asyncio.StreamWriter) -> bool:
    """Whether the client is gone. One that only sends no more waits for its answers: reading cannot tell the two."""
    if writer.transport.is_closing():
        return True
    poll = select.poll()
    poll.register(writer.get_extra_info("socket"), 0)  # POLLHUP, that both directions are closed, is told unasked
    return bool(poll.poll(0))


class _Refusals:
    """Tells of refusals: the first of its kind at once, then the latest of each `told_s`, with how many it is for."""

    def __init__(self, tell: Callable[[ClientRefused], None] | None, told_s: float) -> None:
        self._tell = tell
        self._told_s = told_s
        self._timers: dict[tuple[str | None, int], asyncio.TimerHandle] = {}
        self._latest: dict[tuple[str | None, int], ClientRefused] = {}

    def add(self, method: str | None, refusal: Refusal, peer: Peer) -> None:
        """One more. A kind is a method and a user: neither hides the others."""
        kind = (method, peer.uid)
        told = ClientRefused(method, refusal.message, peer.uid, peer.pid)
        if kind in self._timers:
            held = self._latest.get(kind)
            self._latest[kind] = told if held is None else replace(told, left_out=held.left_out + 1)
        else:
            self._say(kind, told)

    def close(self) -> None:
        """Tell what is held back."""
        for kind, timer in self._timers.items():
            timer.cancel()
            if self._tell is not None and kind in self._latest:
                self._tell(self._latest[kind])
        self._timers.clear()
        self._latest.clear()

    def _say(self, kind: tuple[str | None, int], told: ClientRefused) -> None:
        self._timers[kind] = asyncio.get_running_loop().call_later(self._told_s, self._over, kind)
        if self._tell is not None:
            self._tell(told)

    def _over(self, kind: tuple[str | None, int]) -> None:
        del self._timers[kind]
        if kind in self._latest:
            self._say(kind, self._latest.pop(kind))


@dataclass(frozen=True, slots=True)
class _Begun:
    """A stream whose reply is still to be written."""

    reply: bytes
    notices: AsyncGenerator[Mapping[str, Any], None]


def peer_of(connection: socket.socket, allowed_gid: int | None) -> Peer:
    """Who connected, by SO_PEERCRED, with the supplementary groups of SO_PEERGROUPS."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", raw)
    try:
        listed = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_BUFFER_BYTES)
    except OSError:  # ERANGE: in more groups than the buffer holds; then only its primary group speaks for it
        listed = b""
    groups = frozenset((gid, *struct.unpack(f"{len(listed) // 4}I", listed)))
    may_act = uid in (0, os.geteuid()) or (allowed_gid is not None and allowed_gid in groups)
    return Peer(pid, uid, gid, groups, may_act)
