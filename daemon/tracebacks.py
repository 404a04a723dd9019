"""Python tracebacks in what a process printed: the last, or all as they come. Reads no file, judges no failure.

What an uncaught exception prints (traceback.print_exception), with the whole chain that led to it and the exceptions
of a group; and what faulthandler prints of a process that died of a signal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

HEADER: Final = re.compile(r"(  \+ Exception Group )?Traceback \(most recent call last\):\s*$")
FATAL: Final = re.compile(r"Fatal Python error: ")
BEGINNING: Final = re.compile(r"Traceback \(most recent call last\):\s*$|Fatal Python error: ")
MARGIN: Final = re.compile(r"[\s|+]*(Exception Group )?")  # of a group, and of the exceptions in it
FATAL_LINE: Final = re.compile(
    r"\s|Fatal Python error: |Python runtime state|(Current thread|Thread) 0x|Extension modules:|$"
)
CHAINS: Final = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)
REMOTE: Final = '"""'  # multiprocessing and concurrent.futures quote the worker's traceback between two of them
BESIDE: Final = (  # of an exception that nobody was to catch: a finalizer's, mostly at the interpreter's end
    "Exception ignored",
    "Error in atexit",
)
FRAME: Final = re.compile(r'\s+File "[^"]*", line \d+')
GROUP: Final = re.compile(r"\s+[|+]")
OF_GROUP: Final = re.compile(r"\s+\| ")
GROUP_FIRST: Final = "  +-+---------------- 1 ----------------"
GROUP_LAST: Final = re.compile(r"\s+\+-{36}$")  # of this group, or of one in it that ends with it
# A line that some logger wrote: TensorFlow's and absl's C++ ("2026-03-01 12:00:00.1: W ", "W0000 00:00:17.1 "), glog's,
# and Python's own ("WARNING:tensorflow:", "2026-03-01 12:00:00,123 INFO").
LOGGED: Final = re.compile(
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d|[IWEF]\d{4} \d\d:\d\d:\d\d"
    r"|(DEBUG|INFO|WARNING|ERROR|CRITICAL|FATAL)\b|\[?libprotobuf "
)
# An exception's text may have any lines, also blank ones (Keras's have), and nothing says where it ends. What stands
# below it in the log and is no logger's line counts as its text, up to so many lines.
MESSAGE_LINES: Final = 40
NEAR_LINES: Final = 200  # within so many the first of a group's exceptions is looked for


@dataclass(frozen=True, slots=True)
class Passage:
    """The lines from `start` to before `end`: one line (`trace` is None), or a whole traceback.

    `beside`: lines among them that another thread's logger wrote; they are not in `trace`.
    """

    start: int
    end: int
    trace: str | None = None
    beside: tuple[str, ...] = ()


def last_traceback(text: str) -> str | None:
    """The last traceback, from the first line of its chain to the last of its message; None where there is none.

    One whose beginning is not in the text any more is given from where the text begins. What is only told of beside
    the program's course ("Exception ignored in …") is taken where there is no other.
    """
    lines = list(lines_of(text))
    starts = [index for index, line in enumerate(lines) if _heads(lines, index) or FATAL.match(line)]
    if not starts and _begins_within(lines):
        starts = [0]
    if not starts:
        return None
    own = [index for index in starts if not _is_beside(lines, index)]
    start = (own or starts)[-1]
    if FATAL.match(lines[start]):
        found = _fatal(lines[start:])
    else:
        first = _first_of_chain(lines, start)
        found = [*_quote(lines, first), *_chain(lines[first:])[0]]
    while found and not found[-1].strip():
        found.pop()
    return "\n".join(found) or None


def passages(lines: Sequence[str]) -> Iterator[Passage]:
    """All of the lines, in their order, as tracebacks and as the lines between them. No line is left out."""
    index = 0
    while index < len(lines):
        end, found = index, list[str]()
        if FATAL.match(lines[index]):
            found = _fatal(lines[index:])
            end = index + len(found)
        elif _heads(lines, index):
            found, length = _chain(lines[index:])
            end = index + length
        if end > index:
            beside = tuple(line for line in lines[index:end] if LOGGED.match(line) and line not in found)
            yield Passage(index, end, "\n".join(found).rstrip("\n"), beside)
        else:
            end = index + 1
            yield Passage(index, end)
        index = end


def headline(trace: str) -> str:
    """What went wrong last, of a traceback: the exception's type and the first line of its text."""
    lines = trace.split("\n")
    if FATAL.match(lines[0]):
        return lines[0]
    last = max((index for index, line in enumerate(lines) if line.startswith("Traceback ")), default=0)
    for line in lines[last + 1 :]:
        inner = OF_GROUP.sub("", line, count=1)
        if inner and not inner[0].isspace() and inner != REMOTE:
            return inner
    return lines[-1].strip()


def has_exception(trace: str) -> bool:
    """Whether a traceback, as it was printed so far, has got to the exception that it leads to."""
    lines = trace.split("\n")
    if FATAL.match(lines[0]) or GROUP_LAST.match(lines[-1]):
        return True
    last = max((index for index, line in enumerate(lines) if HEADER.match(line)), default=0)
    return lines[-1].strip() not in CHAINS and any(line and not line[0].isspace() for line in lines[last + 1 :])


def lines_of(text: str) -> Iterator[str]:
    """The text's lines. A traceback that stands behind a progress bar, which ends no line, begins one of its own."""
    for line in text.split("\n"):
        begins = BEGINNING.search(line)
        if begins is not None and not MARGIN.fullmatch(line, 0, begins.start()):
            yield line[: begins.start()]
            line = line[begins.start() :]
        yield line.rstrip("\r")


def _heads(lines: Sequence[str], index: int) -> bool:
    """Whether a traceback begins there. A group that `except*` made has no frames, and so no header.

    One with a blank line below it stands in an exception's text: TensorFlow quotes that of a Python function so.
    """
    line = lines[index]
    if HEADER.match(line):
        return index + 1 == len(lines) or bool(lines[index + 1].strip())
    bare = line.startswith("  | ") and not (index and GROUP.match(lines[index - 1]))
    return bare and GROUP_FIRST in lines[index : index + NEAR_LINES]


def _begins_within(lines: Sequence[str]) -> bool:
    """Whether the text begins among the frames of a traceback: frames, then a line that is none."""
    for index, line in enumerate(lines):
        if index and line.strip() and not line[0].isspace():  # the first line may be the end of one
            return any(FRAME.match(each) for each in lines[:index])
    return False


def _is_beside(lines: Sequence[str], index: int) -> bool:
    return index > 0 and lines[index - 1].startswith(BESIDE)


def _first_of_chain(lines: Sequence[str], start: int) -> int:
    """The line that the chain of the traceback at `start` begins at, as far as it is in the text."""
    while True:
        above = next((index for index in range(start - 1, -1, -1) if lines[index].strip()), None)
        if above is None or lines[above].strip() not in CHAINS:
            return start
        start = next((index for index in range(above - 1, -1, -1) if _heads(lines, index)), 0)


def _quote(lines: Sequence[str], first: int) -> Sequence[str]:
    """What stands above the traceback of another process: that it is one."""
    return lines[max(0, first - 2) : first] if first and lines[first - 1] == REMOTE else ()


def _chain(lines: Sequence[str]) -> tuple[list[str], int]:
    """The traceback at the first line, and those that it led to; and the index of the first line after them."""
    found: list[str] = []
    index = 0
    while index < len(lines):
        index = _traceback(lines, index, found)
        following = next(
            (after for after in range(index, len(lines)) if lines[after].strip() not in ("", REMOTE)), None
        )
        if following is None or lines[following].strip() not in CHAINS:
            break
        found += lines[index : following + 1]
        index = following + 1
        header = next((after for after in range(index, len(lines)) if lines[after].strip()), None)
        if header is None or not _heads(lines, header):
            break
        found += lines[index:header]
        index = header
    return found, index


def _traceback(lines: Sequence[str], index: int, found: list[str]) -> int:
    """Add the one traceback at `index` to what was found; the index of the first line after it."""
    if GROUP.match(lines[index]) and (end := _end_of_group(lines, index)) is not None:
        found += [line for line in lines[index:end] if not LOGGED.match(line)]
        return end
    found.append(lines[index])
    index += 1
    while index < len(lines) and (lines[index][:1].isspace() or LOGGED.match(lines[index])):
        if not LOGGED.match(lines[index]):  # another thread's logger wrote in between
            found.append(lines[index])
        index += 1
    if index == len(lines) or not lines[index].strip():
        return index
    return _message(lines, index, found)


def _end_of_group(lines: Sequence[str], index: int) -> int | None:
    """The index after the group's last line, told by its margin: texts of exceptions in it may have lines without."""
    for end in range(index, len(lines)):
        if GROUP_LAST.match(lines[end]) and not (end + 1 < len(lines) and GROUP.match(lines[end + 1])):
            return end + 1
    return None


def _message(lines: Sequence[str], index: int, found: list[str]) -> int:
    """Add the exception's type and text, whose first line is at `index`; the index of the first line after it."""
    left = MESSAGE_LINES
    while index < len(lines):
        line = lines[index]
        if line.strip() in CHAINS or line == REMOTE or LOGGED.match(line) or line.startswith(BESIDE):
            break
        if _heads(lines, index) or FATAL.match(line):
            break
        left -= bool(line) and not line[0].isspace()
        if left < 0:
            break
        found.append(line)
        index += 1
    while found and not found[-1].strip():
        found.pop()
        index -= 1
    return index


def _fatal(lines: Sequence[str]) -> list[str]:
    """What faulthandler wrote."""
    found: list[str] = []
    for line in lines:
        if not FATAL_LINE.match(line):
            break
        found.append(line)
    return found
