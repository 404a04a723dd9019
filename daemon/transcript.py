"""What workers print, as events of the log while they print it. Follows their log files; writes none of them.

A worker's output goes to a file, so that it loses nothing when the daemon dies. Here that file is read on, about once a
second while a worker lives: each line becomes an event, and a Python traceback becomes one. What is told is bounded,
for each session; the rest is counted. Nothing is left out that is not.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from daemon import worklogs
from daemon.plaintext import one_line
from daemon.stories import OutputLost, WorkerNoise, WorkerOutput, WorkerSuppressed, WorkerTraceback
from daemon.tracebacks import has_exception, headline, lines_of, passages

INTERVAL_S: Final = 1.0
READ_BYTES: Final = 32 << 10  # of a session at once: what it printed beyond within one interval is left out
LINE_CHARACTERS: Final = 1000
TRACE_CHARACTERS: Final = 12_000
BURST_LINES: Final = 100  # of a session at once, and then
LINES_PER_S: Final = 20.0
BURST_TRACES: Final = 10
TRACES_PER_S: Final = 0.2
HELD_TICKS: Final = 1  # so long more of a traceback is waited for
HALF_TICKS: Final = 10  # and so long its exception
ANCHOR_BYTES: Final = 512  # of what was read last: where it stands in a file that others cut, reading goes on
SEARCH_BYTES: Final = 1 << 20
COUNT_BYTES: Final = 4 << 20  # of what is passed over: some 10 ms. Of more, the lines in so much of it are counted

Told = WorkerOutput | WorkerNoise | WorkerTraceback | WorkerSuppressed | OutputLost

# TensorFlow's C++, absl's before and after its initialisation, glog's: information and warnings, not errors.
NOISE: Final = re.compile(
    r"[IW]\d{4} \d\d:\d\d:\d\d|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] "
    r"|WARNING: All log messages before absl::InitializeLog|To enable the following instructions:"
)
CONTROL_SEQUENCE: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # colours and the like: a terminal's


class Place(msgspec.Struct, frozen=True):
    """How far a worker's output was told: kept for the next daemon."""

    generation: int
    inode: int
    position: int
    anchor: bytes


class _Allowance:
    """So many at once, and then so many a second."""

    def __init__(self, burst: int, per_s: float, now: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._left, self._at = float(burst), now

    def take(self, now: float) -> bool:
        self._left = min(float(self._burst), self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


@dataclass(eq=False, slots=True)
class _Heard:
    """One worker's output, and how far it is read."""

    session: str
    lane: str
    generation: int
    path: Path
    lines: _Allowance
    noise: _Allowance
    traces: _Allowance
    inode: int = 0
    position: int = 0
    anchor: bytes = b""
    seen: tuple[int, int, int] = (0, 0, 0)  # the file as it was looked at last
    held: int = 0  # looks since the position stays before what may be half a traceback
    left_out_lines: int = 0
    left_out_bytes: int = 0
    room: bool = True  # for what it prints


class Transcript:
    """Follows the output of every worker that is begun or resumed here, until it is ended. On the event loop.

    path_of: a session's log file. tell: takes the events. kept: the file with the places, for the next daemon.
    """

    def __init__(
        self, path_of: Callable[[str], Path], tell: Callable[[Told], None], kept: Path, *, wanted: bool = True
    ) -> None:
        self.wanted = wanted  # where it is not, the output is passed over
        self._path_of = path_of
        self._tell = tell
        self._kept = kept
        self._heard: dict[int, _Heard] = {}
        self._places = _read_places(kept)
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, session: str, lane: str, generation: int) -> None:
        """A worker is about to be started: what its session's log has by now is not its."""
        self._to_end(self._follow(session, lane, generation))
        self._keep()

    def resume(self, session: str, lane: str, generation: int) -> None:
        """A worker of an earlier daemon: it is read on from where that daemon was."""
        heard = self._follow(session, lane, generation)
        place = self._places.get(session)
        if place is None or place.generation != generation:
            self._to_end(heard)
        else:
            heard.inode, heard.position, heard.anchor = place.inode, place.position, place.anchor

    def trimmed(self, session: str, cut_bytes: int) -> None:
        """So much was cut off the beginning of the session's log: what was not told of it by now never will be."""
        for heard in self._heard.values():
            if heard.session == session:
                if cut_bytes > heard.position:
                    self._leave_out(heard, cut_bytes - heard.position, lines=1)
                heard.position = max(0, heard.position - cut_bytes)
                heard.anchor = heard.anchor[max(0, len(heard.anchor) - heard.position) :]
        self._keep()

    def ended(self, generation: int) -> None:
        """The worker is gone: the last of what it printed is told now."""
        heard = self._heard.pop(generation, None)
        if heard is not None:
            self._look_for_room(heard)
            self._listen(heard, last=True)
            self._keep()

    def close(self) -> None:
        """Tell what there is, and keep the places: the daemon ends, and workers may go on."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._listen_to_all()
        self._heard.clear()

    def _follow(self, session: str, lane: str, generation: int) -> _Heard:
        now = time.monotonic()
        heard = _Heard(
            session,
            lane,
            generation,
            self._path_of(session),
            _Allowance(BURST_LINES, LINES_PER_S, now),
            _Allowance(BURST_LINES, LINES_PER_S, now),
            _Allowance(BURST_TRACES, TRACES_PER_S, now),
        )
        self._heard[generation] = heard
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._tick)
        return heard

    def _tick(self) -> None:
        self._listen_to_all()
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._tick) if self._heard else None

    def _listen_to_all(self) -> None:
        for heard in self._heard.values():
            self._look_for_room(heard)
        heard_more = [self._listen(heard) for heard in self._heard.values()]  # each of them
        if any(heard_more):
            self._keep()

    def _look_for_room(self, heard: _Heard) -> None:
        """Tell that there is none left: nobody sees what a worker could not write."""
        folder = heard.path.parent
        had, heard.room = heard.room, worklogs.room(folder)
        if had and not heard.room:
            self._tell(OutputLost(heard.session, heard.lane, heard.generation, str(folder)))

    # One log file

    def _to_end(self, heard: _Heard) -> None:
        """Pass over what stands in the file."""
        with suppress(OSError), _open(heard.path) as fd:  # there may be none yet
            found = os.fstat(fd.number)
            heard.seen = _look(found)
            heard.inode, heard.position = found.st_ino, found.st_size
            heard.anchor = fd.read(max(0, found.st_size - ANCHOR_BYTES), ANCHOR_BYTES)
            heard.held = heard.left_out_lines = heard.left_out_bytes = 0

    def _listen(self, heard: _Heard, *, last: bool = False) -> bool:
        """Tell what was printed since; False where that is nothing. `last`: no line is waited for any more."""
        try:
            found = heard.path.stat()
            if _look(found) == heard.seen and not (heard.held or last):
                return False
            if not self.wanted:
                self._to_end(heard)
                return True
            with _open(heard.path) as fd:
                return self._read_on(heard, fd, os.fstat(fd.number), last=last)
        except OSError:  # removed, or not readable: there is nothing to tell, and the session is none the worse
            return False

    def _read_on(self, heard: _Heard, fd: _File, found: os.stat_result, *, last: bool) -> bool:
        heard.seen = _look(found)
        size = found.st_size
        if heard.inode not in (0, found.st_ino):
            heard.position, heard.anchor = 0, b""
        heard.inode = found.st_ino
        before = heard.position - len(heard.anchor)
        amid = False  # whether reading goes on in the midst of a line
        if size < heard.position or fd.read(before, len(heard.anchor)) != heard.anchor:
            heard.held = 0
            behind = _behind(fd, size, heard.anchor)
            if behind is None:
                heard.position, heard.anchor = 0, b""
            else:
                heard.position = behind
        if (skipped := size - heard.position - READ_BYTES) > 0:
            self._leave_out(heard, skipped, _lines(fd, heard.position, skipped))
            heard.position += skipped
            heard.anchor = b""
            amid = True
        data = fd.read(heard.position, READ_BYTES)
        if amid and (cut := data.find(b"\n") + 1):
            self._leave_out(heard, cut, lines=1)
            heard.position += cut
            heard.anchor = data[:cut][-ANCHOR_BYTES:]
            data = data[cut:]
        used = self._tell_lines(heard, data, last=last)
        heard.position += used
        heard.anchor = (heard.anchor + data[:used])[-ANCHOR_BYTES:]
        return bool(used) or amid

    def _leave_out(self, heard: _Heard, size: int, lines: int) -> None:
        heard.left_out_bytes += size
        heard.left_out_lines += lines

    def _tell_lines(self, heard: _Heard, data: bytes, *, last: bool) -> int:
        """Tell the whole lines; how many bytes are done with."""
        whole = data.rfind(b"\n") + 1
        if last or (not whole and len(data) == READ_BYTES):
            whole = len(data)
        raw = data[:whole].split(b"\n")
        if not raw[-1]:
            raw.pop()
        pieces: list[str] = []
        starts: list[int] = []
        offset = 0
        for each in raw:
            for piece in lines_of(_last_written(each.decode("utf-8", "backslashreplace"))):
                pieces.append(piece)
                starts.append(offset)
            offset += len(each) + 1
        now = time.monotonic()
        used = whole
        for passage in passages(pieces):
            if passage.trace is None:
                self._tell_line(heard, pieces[passage.start], now)
                continue
            open_end = not any(piece.strip() for piece in pieces[passage.end :])
            ticks = HELD_TICKS if has_exception(passage.trace) else HALF_TICKS
            may_wait = not last and heard.held < ticks and (starts[passage.start] > 0 or len(data) < READ_BYTES)
            if open_end and may_wait:
                used = starts[passage.start]
                heard.held = heard.held + 1 if used == 0 else 1
                break
            for line in passage.beside:
                self._tell_line(heard, line, now)
            self._tell_trace(heard, passage.trace, now)
        else:
            heard.held = 0
        if heard.left_out_bytes:
            self._tell(
                WorkerSuppressed(
                    heard.session, heard.lane, heard.generation, heard.left_out_lines, heard.left_out_bytes
                )
            )
            heard.left_out_lines = heard.left_out_bytes = 0
        return used

    def _tell_line(self, heard: _Heard, text: str, now: float) -> None:
        if not text.strip():
            return
        noise = NOISE.match(text) is not None
        if not (heard.noise if noise else heard.lines).take(now):
            self._leave_out(heard, len(text.encode("utf-8", "replace")) + 1, lines=1)
            return
        kind = WorkerNoise if noise else WorkerOutput
        safe = one_line(CONTROL_SEQUENCE.sub("", text), LINE_CHARACTERS)
        self._tell(kind(heard.session, heard.lane, heard.generation, safe))

    def _tell_trace(self, heard: _Heard, trace: str, now: float) -> None:
        if not heard.traces.take(now):
            self._leave_out(heard, len(trace.encode("utf-8", "replace")) + 1, trace.count("\n") + 1)
            return
        lines = [one_line(CONTROL_SEQUENCE.sub("", line), LINE_CHARACTERS) for line in trace.split("\n")]
        exception = one_line(headline("\n".join(lines)), LINE_CHARACTERS)
        safe = _middle_cut("\n".join(lines), TRACE_CHARACTERS)
        self._tell(WorkerTraceback(heard.session, heard.lane, heard.generation, exception, safe))

    def _keep(self) -> None:
        """Keep the places. Written whole or not at all; where the disk is full, the next daemon tells less."""
        places = {h.session: Place(h.generation, h.inode, h.position, h.anchor) for h in self._heard.values()}
        new = self._kept.with_suffix(".new")
        with suppress(OSError):
            new.write_bytes(msgspec.json.encode(places))
            new.replace(self._kept)


class _File:
    """A file that is open for reading."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.number)

    def read(self, position: int, size: int) -> bytes:
        return os.pread(self.number, size, position)


def _open(path: Path) -> _File:
    return _File(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))  # a fifo in its place is not waited for


def _look(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read_places(kept: Path) -> dict[str, Place]:
    try:
        return msgspec.json.decode(kept.read_bytes(), type=dict[str, Place])
    except (OSError, msgspec.MsgspecError):  # none, or not ours: then output is told from here on
        return {}


def _behind(fd: _File, size: int, anchor: bytes) -> int | None:
    """Where to go on in a file whose beginning others cut off; None where what was read last is not in it any more.

    What repeats itself has several such places. The first of them: something may be told twice, and nothing is missed.
    """
    for begin in range(0, size, SEARCH_BYTES) if anchor else ():
        found = fd.read(begin, SEARCH_BYTES + len(anchor) - 1).find(anchor)
        if found >= 0:
            return begin + found + len(anchor)
    return None


def _lines(fd: _File, position: int, size: int) -> int:
    """How many lines end there; at least so many, where that is much."""
    end = position + min(size, COUNT_BYTES)
    return sum(fd.read(at, min(SEARCH_BYTES, end - at)).count(b"\n") for at in range(position, end, SEARCH_BYTES))


def _last_written(line: str) -> str:
    """What a terminal would show of a line that was written over, as progress bars are."""
    return line.rstrip("\r").rpartition("\r")[2]


def _middle_cut(text: str, limit: int) -> str:
    """Both ends of a text that is too long: how it began, and more of where it led."""
    if len(text) <= limit:
        return text
    head, tail = limit // 4, limit - limit // 4
    return f"{text[:head]}\n  [... {len(text) - limit} characters left out ...]\n{text[-tail:]}"
