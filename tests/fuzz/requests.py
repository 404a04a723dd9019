"""Conversations with the control socket, drawn: requests of every method, sound and not, and ways to send them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from hypothesis import strategies as st

from daemon import methods
from tests.fuzz.frames import Frame, damaged, mutated, raw, values

NAMES = ["a", "b", "c", "bad1", "nobody", "x" * 200]


class Manner(Enum):
    """How a client behaves."""

    POLITE = "polite"  # waits for each answer
    PIPELINED = "pipelined"  # sends all, then reads
    SPLIT = "split"  # in pieces cut anywhere
    HALF_CLOSED = "half-closed"  # sends all, closes its sending side, then reads
    UNENDED = "unended"  # as that, and its last line has no newline
    RUDE = "rude"  # sends all and hangs up
    DEAF = "deaf"  # asks again and again, and never reads


@dataclass(frozen=True)
class Conversation:
    """The same frames from several clients, one after the other. `cuts`: of the stream, as shares of 1,000."""

    manners: tuple[Manner, ...]
    frames: tuple[Frame, ...]
    cuts: tuple[int, ...] = ()


names = st.sampled_from(NAMES)
lanes = st.sampled_from(["cpu", "cpu", "gpu0", "nowhere"])
TOML = ("true", "-1", "1" * 5000, "[" * 2000, "{a=1}", "nan", "inf", "1979-05-27", '"""', "'''x'''", '"\\u0000"')


@st.composite
def session_text(draw: st.DrawFn) -> str:
    """A session file: mostly sound, of programs or of models, with a key or two that are not."""
    tables = []
    for name in draw(st.lists(names, min_size=1, max_size=3)):
        lines = [f'name = "{name}"', 'run = ["true"]', "prepare = true"]
        if draw(st.integers(0, 4)) == 0:
            keys = [
                "name",
                "run",
                "model",
                "input",
                "output",
                "device",
                "after",
                "lead",
                "priority",
                "memory",
                "cwd",
                "x",
            ]
            lines.append(f"{draw(st.sampled_from(keys))} = {draw(st.sampled_from(TOML) | values())}")
        tables.append("[[session]]\n" + "\n".join(lines) + "\n")
    return "".join(tables) + draw(st.sampled_from(["", "", "", "[", "\x00", "session = 3\n", "# é\n", "\ufeff"]))


@st.composite
def parameters(draw: st.DrawFn, method: str) -> dict[str, Any]:
    """Parameters that the method takes (whether they can be done is another matter)."""
    match method:
        case "submit":
            return {"text": draw(session_text()), "base": draw(st.sampled_from(["/", "/tmp", "/nowhere", "/a\nb"]))}
        case "list":
            return draw(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "ended": st.booleans(),
                        "states": st.lists(st.sampled_from(["queued", "running", "done", "failed"]), max_size=3),
                        "names": st.lists(names, max_size=3),
                        "limit": st.integers(1, 1000),
                        "before": st.integers(1, 2**63 - 1),
                    },
                )
            )
        case "show" | "retry":
            return {"name": draw(names)}
        case "cancel":
            return {"names": draw(st.lists(names, min_size=1, max_size=4))}
        case "move":
            place = st.sampled_from(["first", "last"]).map(lambda which: {which: True})
            return {"name": draw(names)} | draw(st.one_of(place, names.map(lambda name: {"before": name})))
        case "swap":
            return draw(st.fixed_dictionaries({}, optional={"lane": lanes, "to": names, "force": st.booleans()}))
        case "drain" | "pause" | "resume":
            return draw(st.sampled_from([{"all": True}, {}, {"lane": "cpu"}, {"lane": "nowhere"}]))
        case "logs":
            return {"name": draw(names)} | draw(
                st.fixed_dictionaries(
                    {}, optional={"offset": st.integers(0, 2**63 - 1), "max_bytes": st.integers(1, 2**18)}
                )
            )
        case "events":
            return draw(
                st.fixed_dictionaries({}, optional={"last": st.integers(0, 1000), "follow": st.booleans()})
                | st.fixed_dictionaries({"since": st.integers(0, 2**63 - 1), "follow": st.booleans()})
            )
        case "timeline":
            times = st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat) | st.datetimes().map(
                datetime.isoformat
            )
            return draw(st.fixed_dictionaries({}, optional={"since": times, "until": times}))
        case "shutdown":
            return {"now": draw(st.booleans())}
        case _:
            return {}


# `resume` often: what is paused shows no more than that. `shutdown` and streams end their conversation.
METHODS = [*methods.METHODS, "submit", "submit", "submit", "resume", "resume", "cancel", "list", "status"]
SELDOM = {"shutdown", "events", "timeline"}


@st.composite
def message(draw: st.DrawFn) -> dict[str, Any]:
    """A sound request, or notification."""
    method = draw(st.sampled_from(METHODS))
    if method in SELDOM and draw(st.integers(0, 9 if method == "shutdown" else 2)):
        method = "version"
    made: dict[str, Any] = {
        "jsonrpc": "2.0",
        "id": draw(st.integers(-5, 2**70) | st.text(max_size=5)),
        "method": method,
    }
    if draw(st.integers(0, 9)) == 0:
        del made["id"]
    params = draw(parameters(method))
    return made | ({"params": params} if params or draw(st.booleans()) else {})


@st.composite
def batch(draw: st.DrawFn) -> Frame:
    """Several in one line, some of them nothing of the kind."""
    parts = draw(st.lists(st.one_of(message().map(json.dumps), values()), max_size=5))
    if draw(st.integers(0, 19)) == 0:
        parts *= draw(st.integers(1, 60))
    return Frame("batch", ("[" + ",".join(parts) + "]").encode("utf-8", "surrogatepass"))


@st.composite
def frame(draw: st.DrawFn) -> Frame:
    """What is sent as one line, or is meant as one."""
    match draw(st.integers(0, 7)):
        case 0 | 1:
            return Frame("sound", json.dumps(draw(message())).encode())
        case 2 | 3:
            return draw(mutated(draw(message())))
        case 4:
            return draw(damaged(draw(mutated(draw(message())))))
        case 5:
            return draw(damaged(Frame("sound", json.dumps(draw(message())).encode())))
        case 6:
            return draw(batch())
        case _:
            return draw(raw())


@st.composite
def conversation(draw: st.DrawFn) -> Conversation:
    """One client's."""
    manners = [manner for manner in Manner if manner is not Manner.DEAF]
    manners = draw(st.lists(st.sampled_from(manners), min_size=1, max_size=len(manners), unique=True))
    if draw(st.integers(0, 299)) == 299:
        manners = [Manner.DEAF]
    frames = draw(st.lists(frame(), min_size=1, max_size=6) | st.lists(frame(), min_size=8, max_size=40))
    return Conversation(tuple(manners), tuple(frames), tuple(draw(st.lists(st.integers(0, 1000), max_size=12))))
