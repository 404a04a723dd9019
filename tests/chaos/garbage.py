"""What strangers do to the two sockets: noise, lies, silence, greed. Holds no connection longer than it is told."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

SEND_S: Final = 1.0  # a daemon that is stopped takes nothing
MIB: Final = 1 << 20
STATUS: Final = {"jsonrpc": "2.0", "id": 7, "method": "status", "params": {}}


def line(content: object) -> bytes:
    """As the protocols have it."""
    return json.dumps(content).encode() + b"\n"


def hello(session: str, generation: Any, pid: Any, **other: Any) -> bytes:
    """A worker's greeting; of a worker whose session is done, where nothing else is said."""
    words = {
        "type": "hello", "protocol": 1, "session": session, "generation": generation, "pid": pid,
        "phase": "committed", "tier": "warm", "cursor": 10**6, "done": 10**6, "total": 10**6, "errors": 0,
        "began_at": 1.0, "ended_at": 2.0, "remaining": 0, "paused": None, "tensorflow": True,
    }  # fmt: skip
    return line(words | other)


def noise(rng: random.Random) -> bytes:
    """Bytes that are no line of either protocol."""
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: rng.randbytes(rng.randrange(1, 4000)),
        lambda: rng.randbytes(300) + b"\n" + rng.randbytes(300) + b"\n",
        lambda: line(STATUS)[: rng.randrange(1, 40)],
        lambda: b"x" * rng.choice((MIB - 1, MIB + 1, 5 * MIB)) + rng.choice((b"", b"\n")),
        lambda: b"[" * 200_000 + b"\n",
        lambda: b'{"type": "progress", "done": ' + b"9" * 5000 + b"}\n",
        lambda: b"\n" * 5000,
        lambda: b'{"jsonrpc": "2.0", "id": 1, "method": "\xff\xfe\x00"}\n',
        lambda: rng.choice((b"null", b"[]", b"1", b'"status"', b"{}", b"[[[]]]", b"NaN", b"{1: 2}")) + b"\n",
    )
    return rng.choice(kinds)()


def wrong_types(rng: random.Random, session: str) -> bytes:
    """JSON-RPC in form, and nonsense in its values."""
    odd: Any = rng.choice((None, 7, -1, 1e400, [], {}, "", "x" * 5000, True, ["a", {}], {"name": []}))
    requests = (
        {"jsonrpc": "2.0", "id": odd, "method": odd, "params": odd},
        {"jsonrpc": "2.0", "id": 1, "method": "cancel", "params": {"names": odd}},
        {"jsonrpc": "2.0", "id": 1, "method": "cancel", "params": {"name": session}},
        {"jsonrpc": "2.0", "id": 1, "method": "submit", "params": {"text": odd, "base": odd}},
        {"jsonrpc": "2.0", "id": 1, "method": "submit", "params": {"text": "[[session]]\n" * 2000, "base": "/"}},
        {"jsonrpc": "2.0", "id": 1, "method": "events", "params": {"since": odd, "last": odd}},
        {"jsonrpc": "2.0", "id": 1, "method": "logs", "params": {"name": session, "offset": odd}},
        {"jsonrpc": "2.0", "id": 1, "method": "show", "params": {"name": odd}},
        {"jsonrpc": "2.0", "id": 1, "method": "list", "params": {"states": odd, "limit": odd}},
        {"jsonrpc": "2.0", "id": 1, "method": "move", "params": {"name": session, "before": odd}},
        {"jsonrpc": 2, "method": "shutdown"},
    )
    return line(rng.choice(requests))


def lies(rng: random.Random, session: str, generation: int, pid: int) -> bytes:
    """What a worker would say, said by somebody else."""
    odd: Any = rng.choice((None, -1, 2**70, "1", [], {}, 1e308))
    said = (
        hello(session, generation, pid),
        hello(session, generation, pid, phase="computing", done=3, cursor=3, ended_at=None, remaining=None),
        hello(session, generation + 1, pid),
        hello(session, generation, pid) + line({"type": "committed", "cursor": 10**6, "peak_bytes": 0}),
        line({"type": "committed", "cursor": 10**6, "peak_bytes": 0}),
        line({"type": "failed", "kind": "model", "reason": "a lie", "item": None}),
        hello(session, odd, pid),
        hello(session, generation, pid, cursor=odd, done=odd),
        hello(session, generation, pid, protocol=odd),
        hello(session, generation, pid, phase="nowhere", tier=odd),
    )
    return rng.choice(said)


def throw(address: Path, content: bytes, *, half_open: bool) -> socket.socket | None:
    """Connect and send as much of it as is taken; the connection, which the caller closes. None: nobody is there."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(SEND_S)
    try:
        client.connect(str(address))
    except OSError:
        client.close()
        return None
    with suppress(OSError):  # it was closed in the middle: that is an answer, too
        client.sendall(content)
        if half_open:
            client.shutdown(socket.SHUT_WR)
    return client


def greedy(address: Path, rng: random.Random) -> socket.socket | None:
    """Ask for much, and read nothing of it."""
    follow = line({"jsonrpc": "2.0", "id": 1, "method": "events", "params": {"follow": True, "last": 100}})
    return throw(address, rng.choice((follow, line(STATUS) * 3000)), half_open=False)
