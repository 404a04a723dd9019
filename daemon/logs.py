"""The log: one line an event, on standard output. Formats and writes; says nothing of its own, and never waits.

Lines go into a bounded buffer that one thread writes out. Where nobody reads them fast enough they are dropped and
counted, and the count is said as soon as there is room: the daemon's decisions do not wait for a terminal.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from typing import Annotated, Any, Final, Literal, TypeAlias, get_type_hints

import msgspec

from daemon.stories import EVENTS, RENAMED, LibrarySpoke, LogDropped, Story, fields
from states.notes import Note, ProfileLearned, SessionQueued
from states.work import Profile, Session

# structlog imports rich where it is installed, to paint tracebacks that this log never paints: 4 MB for nothing
# in a process that is to stay small. None in sys.modules is Python's own way to say that a module is not there.
_without_rich = "rich" not in sys.modules
if _without_rich:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

if _without_rich:
    del sys.modules["rich"]

__all__ = ["EVENTS", "SCHEMA", "Log", "fields", "json_schema", "line", "line_type"]

Style: TypeAlias = Literal["auto", "json", "pretty"]

SCHEMA: Final = 1  # raised when a field is renamed, removed, or means something else
BUFFER_BYTES: Final = 4 << 20
WRITE_BYTES: Final = 1 << 16  # lines are joined up to this for one write
CLOSE_WAIT_S: Final = 2.0  # how long the last lines may take to get out
RETRY_S: Final = 1.0  # between attempts while the disk that the log goes to is full


def line(told: dict[str, Any], seq: int | None, at: datetime) -> dict[str, Any]:
    """A whole line from `fields(note)`: the keys that every line has first, in their order."""
    ts = at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    head = {"ts": ts, "level": told["level"], "event": told["event"], "lane": told["lane"]}
    head |= {"session": told["session"], "seq": seq, "schema": SCHEMA}
    return head | {key: value for key, value in told.items() if key not in head}


class Log:
    """The log of one daemon, on the file descriptor `fd`. Any thread may emit; `close` gets the last lines out."""

    def __init__(
        self, fd: int = 1, *, style: Style = "auto", level: str = "info", buffer_bytes: int = BUFFER_BYTES
    ) -> None:
        self.pretty = style == "pretty" or (style == "auto" and os.isatty(fd))
        self._render = _pretty(colors=os.isatty(fd)) if self.pretty else _json
        self._writer = _Writer(fd, buffer_bytes, self._dropped)
        self._logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
            _Sink(self._writer),
            processors=[self._render],
            wrapper_class=structlog.make_filtering_bound_logger(level),
        ).bind()

    def emit(self, note: Note | Story, seq: int | None = None, at: datetime | None = None) -> None:
        """Log one event; `seq` is the number of the decision it belongs to, `at` its time where that is known."""
        told = line(fields(note), seq, at or datetime.now(UTC))
        getattr(self._logger, note.level)(told.pop("event"), **told)

    def take_warnings(self) -> None:
        """From now on, what libraries say by the standard library's `logging` and `warnings` is logged here."""
        logging.basicConfig(level=logging.WARNING, handlers=[_Bridge(self)], force=True)
        logging.captureWarnings(capture=True)

    def close(self, wait_s: float = CLOSE_WAIT_S) -> bool:
        """Write what is left, for at most `wait_s`; False where some of it could not be written."""
        return self._writer.close(wait_s)

    def _dropped(self, lines: int) -> bytes:
        return self._render(None, "warning", line(fields(LogDropped(lines)), None, datetime.now(UTC)))


_FIRST = ("ts", "level", "event", "lane", "session", "seq", "schema")


def _json(_logger: object, _method: str, told: MutableMapping[str, Any]) -> bytes:
    """structlog's last processor; the event's name comes last there."""
    ordered = {key: told[key] for key in _FIRST}
    ordered |= told
    return msgspec.json.encode(ordered) + b"\n"


def _pretty(*, colors: bool) -> Callable[[object, str, MutableMapping[str, Any]], bytes]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors and not os.environ.get("NO_COLOR"), sort_keys=False, timestamp_key="ts", pad_event_to=20
    )

    def render(logger: object, method: str, told: MutableMapping[str, Any]) -> bytes:
        kept = {key: _printable(told[key]) for key in (*_FIRST[:-1], *(key for key in told if key not in _FIRST))}
        text = renderer(logger, method, {key: value for key, value in kept.items() if value is not None})
        return text.encode("utf-8", "backslashreplace") + b"\n"

    return render


def _printable(value: Any) -> Any:
    """What a worker says must not move a terminal's cursor or change its colours."""
    if isinstance(value, str) and not value.isprintable():
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    return value


class _Sink:
    """Where structlog puts a rendered line."""

    def __init__(self, writer: _Writer) -> None:
        self.debug = self.info = self.warning = self.error = writer.put


class _Bridge(logging.Handler):
    """What libraries say, as events."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            trace = None if record.exc_info is None else logging.Formatter().formatException(record.exc_info)
            self._log.emit(LibrarySpoke(record.name, record.getMessage(), trace))
        except Exception:  # noqa: BLE001 - a library's bad format string must not end what it was logging from
            self.handleError(record)


_NEVER_AGAIN: Final = {errno.EPIPE, errno.EBADF, errno.EIO, errno.ENXIO}  # the reader, the file or the terminal is gone


class _Writer:
    """Writes lines in their order from a thread of its own; `put` never waits for the file."""

    def __init__(self, fd: int, limit_bytes: int, dropped_line: Callable[[int], bytes]) -> None:
        self._fd = fd
        self._limit = limit_bytes
        self._dropped_line = dropped_line
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._size = 0  # bytes in _lines
        self._dropped = 0  # lines that the reader has not been told of
        self._closing = False
        self._gone = False  # nobody will ever read on
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, text: bytes) -> None:
        with self._changed:
            if self._gone:
                return
            # Once lines were lost, half of the buffer gets free before more are taken: one long hole, not many.
            room = self._limit // 2 if self._dropped else self._limit
            if self._size + len(text) > room:
                self._dropped += 1
                return
            if self._dropped:
                self._append(self._dropped_line(self._dropped))
                self._dropped = 0
            self._append(text)
            self._changed.notify()

    def close(self, wait_s: float) -> bool:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(wait_s)
        return not (self._thread.is_alive() or self._gone)

    def _append(self, text: bytes) -> None:
        self._lines.append(text)
        self._size += len(text)

    def _run(self) -> None:
        while chunk := self._take():
            try:
                self._write(chunk)
            except OSError:  # of a kind that does not pass: there is no place left to say so
                with self._changed:
                    self._gone = True
                    self._lines.clear()
                return

    def _take(self) -> bytes:
        """The next lines to write, as soon as there are any; nothing when all is written and the log is closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._dropped or self._closing)
            if not self._lines and self._dropped:
                self._append(self._dropped_line(self._dropped))
                self._dropped = 0
            taken: list[bytes] = []
            size = 0
            while self._lines and (not taken or size + len(self._lines[0]) <= WRITE_BYTES):
                taken.append(self._lines.popleft())
                size += len(taken[-1])
            self._size -= size
            return b"".join(taken)

    def _write(self, chunk: bytes) -> None:
        left = memoryview(chunk)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:  # whoever gave us this file set it so
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
            except OSError as error:
                if error.errno in _NEVER_AGAIN:
                    raise
                with self._changed:  # a full disk, mostly: it may have room again
                    if self._closing or self._changed.wait_for(lambda: self._closing, RETRY_S):
                        raise


def line_type(event: type[Note | Story]) -> type[msgspec.Struct]:
    """What a line of this event is, as a type: msgspec decodes a line by it, and refuses one that is not so."""
    hints: dict[str, Any] = {
        name: hint for name, hint in get_type_hints(event).items() if name not in ("event", "level")
    }
    if event is SessionQueued:
        known = get_type_hints(Session)
        hints["session"] = str
        hints |= {name: known[name] for name in ("cursor", "total", "attempt", "priority", "device")}
    if event is ProfileLearned:
        hints |= {name: hint for name, hint in get_type_hints(Profile).items() if name in Profile.__slots__}
        del hints["profile"]
    lane, session = hints.pop("lane", None), hints.pop("session", None)
    head = [
        ("ts", Annotated[datetime, msgspec.Meta(tz=True)]),
        ("level", Literal[event.level]),
        ("lane", lane),
        ("session", session),
        ("seq", int | None),
        ("schema", Literal[SCHEMA]),
    ]
    return msgspec.defstruct(
        event.__name__,
        [*head, *hints.items()],
        tag_field="event",
        tag=event.event,
        rename=RENAMED.get(event),
        kw_only=True,
        forbid_unknown_fields=True,
        namespace={"__doc__": event.__doc__},
    )


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a line: one of the events, told apart by `event`."""
    return msgspec.json.schema(reduce(or_, (line_type(event) for event in EVENTS)))
