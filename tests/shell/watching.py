"""`batonctl watch` on a real pseudo-terminal, and what such a terminal shows of what it writes. Asserts nothing.

The screen obeys what is written to it and knows only what a picture may be made of: anything else is an error.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.shell.batonctl_runs import BATONCTL, environment

PATIENCE_S = 60.0
ROOT = Path(__file__).resolve().parents[2]
SEQUENCE = re.compile(r"\x1b\[(?P<private>\??)(?P<numbers>[0-9;]*)(?P<final>[A-Za-z])|(?P<text>[^\x1b]+)|(?P<odd>\x1b)")
ALTERNATE, CURSOR, WRAP, TOGETHER = 1049, 25, 7, 2026


class Screen:
    """What a terminal shows: both its screens, its modes. `lines` are those of the one that is shown."""

    def __init__(self, columns: int, rows: int) -> None:
        self.modes = {CURSOR: True, WRAP: True, ALTERNATE: False, TOGETHER: False}
        self.coloured = False
        self.main = ""
        self.size = (columns, rows)
        self.cells: list[list[str]] = []
        self.row = self.column = 0
        self._rest = ""
        self.clear()

    def clear(self) -> None:
        self.cells = [[" "] * self.size[0] for _ in range(self.size[1])]

    def resize(self, columns: int, rows: int) -> None:
        self.size = (columns, rows)
        self.clear()

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.cells]

    def feed(self, text: str) -> None:
        text = self._rest + text
        cut = text.rfind("\x1b")
        if cut >= 0 and not re.match(r"\x1b\[\??[0-9;]*[A-Za-z]", text[cut:]):
            text, self._rest = text[:cut], text[cut:]
        else:
            self._rest = ""
        for found in SEQUENCE.finditer(text):
            if found["odd"]:
                raise ValueError(f"an escape that no picture is made of: {text[found.start() : found.start() + 20]!r}")
            if found["text"] is not None:
                self._write(found["text"])
            else:
                self._obey(found["private"] == "?", found["numbers"], found["final"])

    def _write(self, text: str) -> None:
        if not self.modes[ALTERNATE]:
            self.main += text
            return
        for each in text:
            if not each.isprintable():
                raise ValueError(f"written onto the picture: {each!r}")
            if self.column >= self.size[0] or self.row >= self.size[1]:
                continue  # a picture made for a size that is over
            self.cells[self.row][self.column] = each
            self.column += 1

    def _obey(self, private: bool, numbers: str, final: str) -> None:
        if private and final in "hl":
            self.modes[int(numbers)] = final == "h"
        elif final == "H":
            row, column = (int(each or 1) for each in (numbers or "1;1").split(";"))
            self.row, self.column = row - 1, column - 1
        elif (final, numbers) == ("J", "2"):
            self.clear()
        elif final == "m":
            self.coloured = self.coloured or bool(re.search(r"(^|;)(3|9)\d(;|$)", numbers))
        else:
            raise ValueError(f"a sequence that no picture is made of: {numbers}{final}")


class Watcher:
    """A program on a terminal of its own, which is the one that controls it: keys, Ctrl-C and sizes reach it."""

    def __init__(self, command: tuple[str, ...], env: dict[str, str], columns: int = 80, rows: int = 24) -> None:
        self.screen = Screen(columns, rows)
        self._ours, self._theirs = pty.openpty()
        self._set_size(columns, rows)
        self.before = termios.tcgetattr(self._theirs)
        self._changed = threading.Condition()
        self._problem: Exception | None = None
        self.process = subprocess.Popen(
            ("setsid", "--ctty", *command),
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env=env,
            cwd=ROOT,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            shown = "\n".join(self.screen.lines)
            error.add_note(f"the screen:\n{shown}\nbelow it: {self.screen.main!r}; {self._problem}")
        self.process.kill()
        self.process.wait()
        os.close(self._theirs)
        self._reader.join(PATIENCE_S)
        os.close(self._ours)

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            while data := os.read(self._ours, 65536):
                with self._changed:
                    try:
                        self.screen.feed(decoder.decode(data))
                    except ValueError as problem:
                        self._problem = problem
                    self._changed.notify_all()

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, holds: Callable[[Screen], object], what: str) -> None:
        """Wait until the screen is so."""
        with self._changed:
            if not self._changed.wait_for(lambda: holds(self.screen) or self._problem, PATIENCE_S) or self._problem:
                raise AssertionError(f"the screen never showed {what}: {self._problem}")

    def shows(self, *words: str) -> None:
        """Wait until all of these are on the screen at once."""
        self.until(lambda screen: all(any(each in row for row in screen.lines) for each in words), ", ".join(words))

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        with self._changed:
            self.screen.resize(columns, rows)
        self._set_size(columns, rows)

    def ended(self) -> int:
        """Wait for its end; its exit status."""
        return self.process.wait(PATIENCE_S)

    def modes(self) -> list[Any]:
        """How the terminal treats keys now: see termios(3)."""
        return termios.tcgetattr(self._theirs)

    def given_back(self) -> None:
        """Wait until the terminal is as it was before."""
        self.until(lambda screen: not screen.modes[ALTERNATE], "its own screen again")
        assert self.screen.modes[CURSOR], "the cursor is hidden"
        assert self.screen.modes[WRAP], "lines do not wrap"
        assert not self.screen.modes[TOGETHER], "nothing is shown any more"
        until = time.monotonic() + PATIENCE_S
        while self.modes() != self.before and time.monotonic() < until:
            time.sleep(0.01)  # nobody tells
        assert self.modes() == self.before, "keys are not what they were"


@contextmanager
def watching(socket: Path, *options: str, columns: int = 80, rows: int = 24, **more: str) -> Iterator[Watcher]:
    """`batonctl watch` on that socket."""
    with Watcher((*BATONCTL, "watch", *options), environment(socket, **more), columns, rows) as watcher:
        yield watcher
