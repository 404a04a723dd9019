"""The control protocol as both ends speak it: parameters, errors, framing, limits. No sockets and no decisions.

JSON-RPC 2.0 over a Unix stream socket, one object a line. What methods there are is in `methods`, what they answer in
`results`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from daemon.plaintext import one_line
from daemon.results import SessionState

PROTOCOL = 1
LINE_LIMIT_BYTES = 1 << 20
BATCH_LIMIT = 100
LIST_LIMIT = 1000
SKIP_LIMIT = 100_000
LOGS_LIMIT_BYTES = 1 << 18
PATH_LIMIT_BYTES = 107  # sun_path has 108, the last one is NUL
MESSAGE_LIMIT_CHARACTERS = 2000


class Access(Enum):
    """Who may call a method."""

    ACT = "act"  # the daemon's own user, root and the configured group
    LOOK = "look"  # whoever the socket's file mode lets connect


class Code(IntEnum):
    """Why there is no result."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL = -32603
    REFUSED = -32000
    NOT_PERMITTED = -32001
    NOT_FOUND = -32002
    TOO_LARGE = -32003
    BUSY = -32004


CODES: Mapping[Code, str] = {
    Code.PARSE_ERROR: "the line is not JSON",
    Code.INVALID_REQUEST: "the line is JSON, but no JSON-RPC 2.0 request",
    Code.METHOD_NOT_FOUND: "there is no such method",
    Code.INVALID_PARAMS: "a parameter is missing, unknown or of the wrong type",
    Code.INTERNAL: "a fault of batond; it is in batond's log",
    Code.REFUSED: "it cannot be done now, or as it stands; the message says why, `data.problems` lists every reason",
    Code.NOT_PERMITTED: "the caller may look, but not act",
    Code.NOT_FOUND: "there is no session, lane or log of that name",
    Code.TOO_LARGE: "the line is longer than the limit; the connection is closed",
    Code.BUSY: "too many clients are connected; the connection is closed",
}
ANY_METHOD = (Code.INVALID_PARAMS, Code.INTERNAL)  # what every method may answer


class Refusal(Exception):  # noqa: N818 an answer, not an error of batond's
    """The answer is an error: its code, one line for a person, and every single problem where there are several."""

    def __init__(self, code: Code, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.problems = problems


# Parameters. An unknown key is an error: a misspelt `force` must not be taken for its absence.


Moment: TypeAlias = Annotated[datetime, Meta(tz=True)]


class Params(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No parameters."""


Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]
INT64_MAX = (1 << 63) - 1  # SQLite and the kernel count no further


class SubmitParams(Params, frozen=True, kw_only=True):
    """The text of a session file, the absolute folder its relative paths start from, and what messages call it.

    `dry_run`: everything is checked as ever, the inspection of models included, and nothing is queued.
    """

    text: str
    base: Annotated[str, Meta(pattern="^/")]
    source: Annotated[str, Meta(min_length=1, max_length=4096)] = "sessions.toml"
    dry_run: bool = False


class InspectParams(Params, frozen=True, kw_only=True):
    """The absolute path of a model, one of its signatures or all, and the items of one call, for its needs."""

    model: Annotated[str, Meta(pattern="^/", max_length=4096)]
    signature: Name | None = None
    batch_size: Annotated[int, Meta(ge=1, le=(1 << 31) - 1)] = 32


class ListParams(Params, frozen=True, kw_only=True):
    """Which sessions. Without `states` and `names`, the live ones; `ended` adds those that have ended.

    `states` and `names` each narrow the answer down, over live and ended sessions alike. Live sessions come first,
    in the order they will run, then ended ones, last submitted first; `limit` bounds the latter, `before` goes on where
    an answer's `next` said that there are more.
    """

    ended: bool = False
    states: tuple[SessionState, ...] = ()
    names: tuple[Name, ...] = ()
    limit: Annotated[int, Meta(ge=1, le=LIST_LIMIT)] = 100
    before: Annotated[int, Meta(ge=1, le=INT64_MAX)] | None = None


class StatusParams(Params, frozen=True, kw_only=True):
    """How many of the queue, from its head; all of it, where that is left out."""

    queue: Annotated[int, Meta(ge=0, le=INT64_MAX)] | None = None


class NameParams(Params, frozen=True, kw_only=True):
    """The session meant."""

    name: Name


class CancelParams(Params, frozen=True, kw_only=True):
    """The sessions to end, wherever they are."""

    names: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=LIST_LIMIT)]


class SwapParams(Params, frozen=True, kw_only=True):
    """The lane to hand over (it may be left out where there is one), to `to` or to the next session in the queue.

    `force` swaps out a session that cannot resume, too: it starts again from its first item.
    """

    lane: Name | None = None
    to: Name | None = None
    force: bool = False


class LaneParams(Params, frozen=True, kw_only=True):
    """The lane meant, or all of them. It may be left out where there is one."""

    lane: Name | None = None
    all: bool = False


class MoveParams(Params, frozen=True, kw_only=True):
    """The queued session, and its new place: exactly one of `first`, `last` and `before` (another queued session)."""

    name: Name
    first: bool = False
    last: bool = False
    before: Name | None = None


class LogsParams(Params, frozen=True, kw_only=True):
    """Whose output, from which byte on; without `offset`, the last `max_bytes` of it, from the start of a line."""

    name: Name
    offset: Annotated[int, Meta(ge=0, le=INT64_MAX)] | None = None
    max_bytes: Annotated[int, Meta(ge=1, le=LOGS_LIMIT_BYTES)] = 1 << 16


class EventsParams(Params, frozen=True, kw_only=True):
    """Where the stream starts: after the decision `since`, or with the `last` so many, or (neither) from now on.

    Without `follow` it ends, and the connection with it, once what is past is told.
    """

    since: Annotated[int, Meta(ge=0, le=INT64_MAX)] | None = None
    last: Annotated[int, Meta(ge=0, le=LIST_LIMIT)] = 0
    follow: bool = True


class WhyParams(Params, frozen=True, kw_only=True):
    """A lane or a session, by its name; without one, every lane, and the first session of the queue."""

    name: Name | None = None


class PlanParams(Params, frozen=True, kw_only=True):
    """How many runs to tell, after so many that are skipped. What lies further ahead takes longer to find."""

    limit: Annotated[int, Meta(ge=1, le=LIST_LIMIT)] = 50
    skip: Annotated[int, Meta(ge=0, le=SKIP_LIMIT)] = 0


class ExplainParams(Params, frozen=True, kw_only=True):
    """At most one of: a handover by the number of its decision; the last one to a session; the `worst` so many.

    Without any, the last handover.
    """

    handover: Annotated[int, Meta(ge=1, le=INT64_MAX)] | None = None
    session: Name | None = None
    worst: Annotated[int, Meta(ge=1, le=LIST_LIMIT)] | None = None


class TimelineParams(Params, frozen=True, kw_only=True):
    """The stretch of time; without `until`, up to now. Without `since`, the last day.

    Where that has fewer than 50 sessions, it goes back until the fiftieth last began.
    """

    since: Moment | None = None
    until: Moment | None = None


class ShutdownParams(Params, frozen=True, kw_only=True):
    """`now` ends the workers at once; without it, each finishes its batch and commits first.

    `leave_running` lets them go on, for the next daemon to adopt; only one that is still being prepared ends.
    """

    now: bool = False
    leave_running: bool = False


# Framing

Id: TypeAlias = int | float | str | None


class Request(Struct, frozen=True):
    """A request; without an `id`, a notification, which gets no answer."""

    jsonrpc: Literal["2.0"]
    method: str
    params: Raw = Raw(b"{}")
    id: Id | UnsetType = UNSET


class Problems(Struct, frozen=True):
    """An error's `data`."""

    problems: tuple[str, ...]


class ErrorObject(Struct, frozen=True):
    """An answer's `error`."""

    code: int
    message: str
    data: Problems | UnsetType = UNSET


class Response(Struct, frozen=True):
    """An answer, as a client reads it: `result` or `error`."""

    id: Id = None
    result: Raw | UnsetType = UNSET
    error: ErrorObject | UnsetType = UNSET
    jsonrpc: str = "2.0"


class Notification(Struct, frozen=True):
    """One line of a stream, as a client reads it."""

    method: str
    params: Raw
    jsonrpc: str = "2.0"


def encode_request(method: str, params: Params, identity: Id) -> bytes:
    """One line, newline included."""
    return _line({"jsonrpc": "2.0", "id": identity, "method": method, "params": params})


def encode_result(identity: Id, result: Struct) -> bytes:
    """One line, newline included."""
    return _line({"jsonrpc": "2.0", "id": identity, "result": result})


def encode_error(identity: Id, refusal: Refusal) -> bytes:
    """One line, newline included."""
    # A message may quote what a client sent: of any length, line breaks and all.
    problems = tuple(one_line(problem, MESSAGE_LIMIT_CHARACTERS) for problem in refusal.problems)
    message = one_line(refusal.message, MESSAGE_LIMIT_CHARACTERS)
    error = ErrorObject(int(refusal.code), message, Problems(problems) if problems else UNSET)
    return _line({"jsonrpc": "2.0", "id": identity, "error": error})


def encode_notice(line: Mapping[str, Any]) -> bytes:
    """One line of the `events` stream, newline included."""
    return _line({"jsonrpc": "2.0", "method": "event", "params": line})


def _line(message: dict[str, Any]) -> bytes:
    return msgspec.json.encode(message) + b"\n"
