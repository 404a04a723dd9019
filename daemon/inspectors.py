"""Inspector processes, asked of specs one by one; where one dies or hangs, it is said of which. Starts none itself.

A process looks into the specs in their order. To look into one may be to run code of a session's, which may do
anything: exit, crash, hang, print without end, close what is not its own. Then the spec that was looked into has that
as its error, and no other: those behind it are looked into by a new process. What is in an answer:
daemon/worker/inspector.py.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from daemon import printed
from daemon.plaintext import one_line
from daemon.printed import Printed
from daemon.processes import CannotStartError, Process, signal_name
from daemon.remains import Remains
from daemon.sessionfile import SessionSpec
from daemon.tracebacks import headline, lines_of, passages

SPEC_TIMEOUT_S: Final = 180.0  # at the lowest priority, beside a running session, with TensorFlow to import
ALL_TIMEOUT_S: Final = 840.0  # of the specs of one request; who asks waits for 900 (SUBMIT_TIMEOUT_S of the client)
END_TIMEOUT_S: Final = 10.0  # for a process that is done, or was killed, to be gone
LAST_WORDS_S: Final = 1.0  # for what a dead process has said to be read, where another one holds its line open
ANSWER_LIMIT_BYTES: Final = 1 << 20
QUOTED_BYTES: Final = 8 << 10  # of the end of what was printed, where the line to quote is looked for

Answer = dict[str, Any]
Start = Callable[[socket.socket, int], Awaitable[Process]]  # on its end of the line; its standard output and error


class _DiedError(Exception):
    """What became of an inspector that gives no answer any more; the words follow "the process that …"."""


class _Inspector:
    """One process, its line, and what it prints."""

    def __init__(self, specs: Sequence[SessionSpec]) -> None:
        self._specs = specs
        self._printed = Printed()
        self._process: Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._part = "model"  # the key of the spec that it is at

    async def start(self, start: Start) -> None:
        """Have it look into the specs. Raises CannotStartError or OSError."""
        try:
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    self._process = await start(theirs, self._printed.its_fd)
            except BaseException:  # a cancellation too goes on: only the socket must not be left open
                ours.close()
                raise
        finally:
            self._printed.handed_over()
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=ANSWER_LIMIT_BYTES)
        self._writer.write(msgspec.json.encode({"type": "inspect", "specs": self._specs}) + b"\n")

    async def answer(self, spec: SessionSpec, until: float) -> Answer:
        """Its answer to the next spec. Raises _DiedError, and TimeoutError when the loop's clock shows `until`."""
        self._part = "model"
        async with asyncio.timeout_at(until):
            try:
                message: Answer = json.loads(await self._line())
                while message["type"] == "inspecting":
                    self._part = message["key"]
                    message = json.loads(await self._line())
                of = message["session"]
            except (ValueError, KeyError, TypeError) as error:  # code of the session's may have written here
                raise _DiedError(f"gave an answer that cannot be read ({one_line(str(error), 80)})") from error
        if of != spec.name:
            raise _DiedError(f"gave an answer that cannot be read (it is of session '{of}')")
        return message

    async def _line(self) -> bytes:
        assert self._process is not None
        reading = asyncio.ensure_future(self._reader.readline())
        try:
            await asyncio.wait((reading, self._process.exited), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():  # a process that it left behind holds the line open
                await asyncio.wait((reading,), timeout=LAST_WORDS_S)
            line = reading.result() if reading.done() else b""
        except ConnectionError:  # it died with our request unread
            line = b""
        finally:
            reading.cancel()
        if line.endswith(b"\n"):
            return line
        raise _DiedError(_ended(await self._process.exited))

    async def blame(self, spec: SessionSpec, what: str, logs: Path) -> Answer:
        """The spec's error, and where it says what was printed."""
        said = self._printed.text()
        remedy = "it printed nothing"
        if last := _last_said(said):
            what = f"{what}; it printed last: {last}"
            log = await asyncio.to_thread(printed.keep, logs, spec.name, said)
            remedy = f"all of that: {log}" if log is not None else "the rest cannot be kept, for lack of room"
        did = {"model": "looked into it", "input": "opened it", "output": "looked at it"}[self._part]
        return _refusal(spec, self._part, f"the process that {did} {what}; mend that ({remedy})")

    async def end(self, *, in_order: bool) -> None:
        """See that it is gone, with all that it started; one that is `in_order` ends by itself, and sees to that."""
        process = self._process
        try:
            if process is not None and in_order:
                await asyncio.wait((process.exited,), timeout=END_TIMEOUT_S)
        finally:
            if process is not None:
                process.signal_group(signal.SIGKILL)
            if self._writer is not None:
                self._writer.close()
            self._printed.close()
        if process is not None and not in_order:
            await asyncio.wait((process.exited,), timeout=END_TIMEOUT_S)
            remains = Remains(process.pid, process.started, strays=True)
            await asyncio.to_thread(remains.wait_for_end, END_TIMEOUT_S)


async def answers(specs: Sequence[SessionSpec], start: Start, logs: Path) -> list[Answer]:
    """One for each spec. logs: the folder for what a process that came to grief has printed."""
    found: list[Answer] = []
    until = asyncio.get_running_loop().time() + ALL_TIMEOUT_S
    while len(found) < len(specs):
        rest = specs[len(found) :]
        if asyncio.get_running_loop().time() >= until:
            late = f"there was no time left, as the sessions before it took {ALL_TIMEOUT_S:.0f} s; submit it by itself"
            return found + [_refusal(spec, "model", late) for spec in rest]
        found += await _of_one_process(rest, start, logs, until)
    return found


async def _of_one_process(specs: Sequence[SessionSpec], start: Start, logs: Path, until: float) -> list[Answer]:
    """The answers to the first specs, at least to one; the last of them says what came of the process, if it did."""
    inspector = _Inspector(specs)
    clock = asyncio.get_running_loop()
    found: list[Answer] = []
    in_order = False
    try:
        await inspector.start(start)
        for spec in specs:
            begun = clock.time()
            found.append(await inspector.answer(spec, min(until, begun + SPEC_TIMEOUT_S)))
        in_order = True
    except TimeoutError:
        found.append(await inspector.blame(spec, f"gave no answer within {clock.time() - begun:.0f} s", logs))
    except _DiedError as error:
        if not found:  # else it may be an earlier one's doing, a thread's: the next process looks into this one first
            found.append(await inspector.blame(spec, str(error), logs))
    except (CannotStartError, OSError) as error:  # no descriptor left, say
        found += [_refusal(spec, "model", f"nothing can look into it: {error}") for spec in specs]
    finally:
        await inspector.end(in_order=in_order)
    return found


def _refusal(spec: SessionSpec, key: str, why: str) -> Answer:
    """The answer to a spec that could not be looked into."""
    fed = spec.input if isinstance(spec.input, str) else ", ".join((spec.input or {}).values())
    doing = {"model": f"load '{spec.model}'", "input": f"read '{fed}'", "output": f"output to '{spec.output}'"}[key]
    return {"type": "inspected", "session": spec.name, "error": {"key": key, "reason": f"cannot {doing}: {why}"}}


def _ended(status: int | None) -> str:
    if status is None:
        return "ended, and nobody knows how"
    if status >= 0:
        return f"ended with status {status}"
    if status == -signal.SIGKILL:
        return "was killed by SIGKILL, as the kernel does where memory runs out"
    return f"was killed by {signal_name(-status)}"


def _last_said(text: str) -> str:
    """The last line of what was printed, or of a traceback that ends it the one that says why."""
    lines = list(lines_of(text[-QUOTED_BYTES:]))
    for passage in reversed(list(passages(lines))):
        said = headline(passage.trace) if passage.trace else lines[passage.start].strip()
        if said:
            return one_line(said, 200)
    return ""
