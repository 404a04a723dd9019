"""The log: one line an event, on standard output or in the journal. Formats; says nothing of its own, never waits.

Lines go into a bounded buffer that one thread writes out (`daemon.backlog`): the daemon's decisions do not wait for a
terminal, nor for a journal that is behind.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, get_type_hints

import msgspec

from daemon import journal
from daemon.backlog import BUFFER_BYTES, CLOSE_WAIT_S, Backlog, Descriptor, Outlet
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

Style: TypeAlias = Literal["auto", "json", "journal", "pretty"]

SCHEMA: Final = 1  # raised when a field is renamed, removed, or means something else


def line(told: dict[str, Any], seq: int | None, at: datetime) -> dict[str, Any]:
    """A whole line from `fields(note)`: the keys that every line has first, in their order."""
    ts = at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    head = {"ts": ts, "level": told["level"], "event": told["event"], "lane": told["lane"]}
    head |= {"session": told["session"], "seq": seq, "schema": SCHEMA}
    return head | {key: value for key, value in told.items() if key not in head}


class Log:
    """The log of one daemon, on the file descriptor `fd`. Any thread may emit; `close` gets the last lines out."""

    def __init__(
        self,
        fd: int = 1,
        *,
        style: Style = "auto",
        level: str = "info",
        buffer_bytes: int = BUFFER_BYTES,
        journal_socket: str = journal.SOCKET,
        lost: Path | None = None,
    ) -> None:
        """Raises `UnusableJournalError` where `style` says "journal" and none listens.

        lost: a file for the count of lines that did not get out at the end; the next log begins with telling it.
        """
        self.style, outlet = _outlet(fd, style, journal_socket)
        self._render = _renderer(self.style, colors=os.isatty(fd))
        self._writer = Backlog(outlet, buffer_bytes, self._dropped)
        self._logger = self._filtered(level)
        self._lost = lost
        if lost is not None and not _leads_nowhere(fd, self.style) and (lines := _read_count(lost)):
            self._writer.put(self._dropped(lines))
            with suppress(OSError):  # it is told twice, then
                lost.unlink()

    def _filtered(self, level: str) -> structlog.typing.FilteringBoundLogger:
        logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
            _Sink(self._writer),
            processors=[self._render],
            wrapper_class=structlog.make_filtering_bound_logger(level),
        ).bind()
        return logger

    def emit(self, note: Note | Story, seq: int | None = None, at: datetime | None = None) -> None:
        """Log one event; `seq` is the number of the decision it belongs to, `at` its time where that is known."""
        told = line(fields(note), seq, at or datetime.now(UTC))
        getattr(self._logger, note.level)(told.pop("event"), **told)

    def set_level(self, level: str) -> None:
        """Log from now on what has at least this weight."""
        self._logger = self._filtered(level)

    def take_warnings(self) -> None:
        """From now on, what libraries say by the standard library's `logging` and `warnings` is logged here."""
        logging.basicConfig(level=logging.WARNING, handlers=[_Bridge(self)], force=True)
        logging.captureWarnings(capture=True)

    def close(self, wait_s: float = CLOSE_WAIT_S) -> bool:
        """Write what is left, for at most `wait_s`; False where some of it could not be written."""
        written = self._writer.close(wait_s)
        if self._lost is not None and (lines := self._writer.unwritten):
            with suppress(OSError):  # a full disk: then nobody is told
                self._lost.write_text(str(_read_count(self._lost) + lines))
        return written

    def _dropped(self, lines: int) -> bytes:
        return self._render(None, "warning", line(fields(LogDropped(lines)), None, datetime.now(UTC)))


def _outlet(fd: int, style: Style, journal_socket: str) -> tuple[Style, Outlet]:
    """The style that "auto" is here, and where lines go."""
    if style == "journal":
        return style, journal.Journal(journal_socket)
    if style == "auto" and journal.reads(fd, os.environ):
        try:
            return "journal", journal.Journal(journal_socket)
        except journal.UnusableJournalError:
            pass  # a sandbox hides its socket: it has the lines from standard output, without fields
    if style == "auto":
        style = "pretty" if os.isatty(fd) else "json"
    return style, Descriptor(fd)


def _leads_nowhere(fd: int, style: Style) -> bool:
    """Whether nobody ever reads `fd`: so does systemd start what logs to a journal that is not there."""
    try:
        return style != "journal" and os.fstat(fd).st_rdev == Path(os.devnull).stat().st_rdev
    except OSError:  # it is closed
        return True


def _read_count(path: Path) -> int:
    try:
        text = path.read_text("ascii")
    except (OSError, ValueError):
        return 0
    return int(text) if text.isdecimal() else 0


Render: TypeAlias = Callable[[object, str, MutableMapping[str, Any]], bytes]


def _renderer(style: Style, *, colors: bool) -> Render:
    """structlog's last processor."""
    match style:
        case "journal":
            return _entry
        case "pretty":
            return _pretty(colors=colors)
        case _:
            return _json


_FIRST = ("ts", "level", "event", "lane", "session", "seq", "schema")


def _json(_logger: object, _method: str, told: MutableMapping[str, Any]) -> bytes:
    """structlog gives the event's name last."""
    ordered = {key: told[key] for key in _FIRST}
    ordered |= told
    return msgspec.json.encode(ordered) + b"\n"


def _entry(_logger: object, _method: str, told: MutableMapping[str, Any]) -> bytes:
    return journal.entry(_json(_logger, _method, told)[:-1], told["level"], told)


def _pretty(*, colors: bool) -> Render:
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors and not os.environ.get("NO_COLOR"), sort_keys=False, timestamp_key="ts", pad_event_to=20
    )

    def render(logger: object, method: str, told: MutableMapping[str, Any]) -> bytes:
        kept = {key: _printable(told[key]) for key in (*_FIRST[:-1], *(key for key in told if key not in _FIRST))}
        kept["ts"] = datetime.fromisoformat(kept["ts"]).astimezone().isoformat(" ", "milliseconds")  # the reader's zone
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

    def __init__(self, writer: Backlog) -> None:
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
