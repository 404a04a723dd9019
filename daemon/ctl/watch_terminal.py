"""A terminal taken over for a moving picture, and given back as it was: screen, cursor, keys, signals. Knows no daemon.

Only lines that changed are written: little to send over ssh, and nothing flickers.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import sys
import termios
import tty
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

from rich.text import Text

from daemon.ctl.screen import console

# Source of the modes: XTerm Control Sequences, "DEC Private Mode Set". 1049: the other screen; 25: the cursor;
# 7: wrapping at the edge; 2026: what follows is shown at once (a terminal that knows it not passes over it).
ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
LEAVE = "\x1b[?2026l\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
BEGIN, END, CLEAR = "\x1b[?2026h", "\x1b[?2026l", "\x1b[2J"
FALLBACK = os.terminal_size((80, 24))  # a serial line knows no size
KEY = re.compile(rb"(?P<key>\x1b[\[O][0-9;]*[A-Za-z~])|(?P<part>\x1b(?:[\[O][0-9;]*)?\Z)|.", re.DOTALL)
KEYS = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"k": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"j": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1bOH": "home",
    b"\x1b[1~": "home",
    b"\x0c": "redraw",
}
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EndedBySignal(BaseException):
    """A signal asks for the end: no error, so nothing that handles errors takes it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def size() -> os.terminal_size:
    """Columns and lines now."""
    found = os.get_terminal_size(sys.stdout.fileno())
    return found if found.columns and found.lines else FALLBACK


class Terminal:
    """The terminal on standard output, from `with` to its end. Raises EndedBySignal in it."""

    def __init__(self) -> None:
        self._out = sys.stdout.fileno()
        self._in = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._modes: list[Any] | None = None
        self._shown: list[Text] = []
        self._size: os.terminal_size | None = None
        self._typed = b""
        self._handlers: dict[int, Any] = {}
        self._woken, self._waker = socket.socketpair()
        self._woken.settimeout(0.0)
        self._waker.settimeout(0.0)

    def __enter__(self) -> Terminal:
        self._modes = termios.tcgetattr(self._in) if self._in is not None else None
        self._handlers = {number: signal.signal(number, _end) for number in ENDINGS}
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, _pass)
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._stop)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        try:
            self._take()
        except BaseException:  # an interrupt too goes on: only the terminal must be given back first
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for ending in ENDINGS:  # a second Ctrl-C must not keep the terminal from being given back
                signal.signal(ending, signal.SIG_IGN)
        finally:
            self._give_back()
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._woken.close()
        self._waker.close()

    def _take(self) -> None:
        if self._in is not None:
            tty.setcbreak(self._in, termios.TCSANOW)  # keys at once and unseen; Ctrl-C and Ctrl-Z stay what they are
        self._shown, self._size = [], None
        self._write(ENTER)

    def _give_back(self) -> None:
        with contextlib.suppress(OSError):  # it hung up
            self._write(LEAVE)
        if self._in is not None and self._modes is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._in, termios.TCSANOW, self._modes)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its terminal, and when it lets us go on, we take it again."""
        self._give_back()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
        signal.signal(number, self._stop)
        self._take()
        self.wake()

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding, sys.stdout.errors or "strict")
        while data:
            data = data[os.write(self._out, data) :]

    def wake(self) -> None:
        """End the `wait`, now or the next one. From any thread."""
        with contextlib.suppress(OSError):  # full: it is going to wake; or closed
            self._waker.send(b"\0")

    def wait(self, seconds: float | None) -> list[str]:
        """The keys that were pressed; none where it was woken, the size changed, or so many seconds went by."""
        sources = [self._woken.fileno()] + ([] if self._in is None else [self._in])
        ready, _, _ = select.select(sources, [], [], seconds)
        if self._woken.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
        if self._in is None or self._in not in ready:
            return []
        typed = os.read(self._in, 1024)
        if not typed:  # nobody will press any more
            self._in = None
            return []
        return self._keys(typed)

    def _keys(self, typed: bytes) -> list[str]:
        """By their names; one whose end is still to come is kept until then."""
        found = list(KEY.finditer(self._typed + typed))
        self._typed = found.pop().group() if found and found[-1]["part"] else b""
        return [KEYS.get(each.group(), each.group().decode("latin-1")) for each in found]

    def redraw(self) -> None:
        """Write all of it at the next `paint`."""
        self._size = None

    def paint(self, lines: Sequence[Text], size: os.terminal_size) -> None:
        """Show these lines, made for that size."""
        written = []
        if size != self._size:
            self._shown, self._size = [], size
            written.append(CLEAR)
        for row, text in enumerate(lines):
            if row >= len(self._shown) or self._shown[row] != text:
                written.append(f"\x1b[{row + 1};1H{_as_written(text)}")
        self._shown = list(lines)
        if written:
            self._write("".join((BEGIN, *written, END)))


def _as_written(text: Text) -> str:
    """With its colours, as far as the terminal has them and NO_COLOR allows."""
    with console().capture() as captured:
        console().print(text, soft_wrap=True, end="")
    return captured.get()


def _end(number: int, _frame: FrameType | None) -> None:
    raise EndedBySignal(number)


def _pass(_number: int, _frame: FrameType | None) -> None:
    """It has woken whoever waits, which is all."""
