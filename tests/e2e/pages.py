"""A page of the documentation, as a reader follows it: its blocks, a shell to type them in, what is shown and what is
printed. Knows no page, and no command."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from batond import TIMEOUT_S

BLOCK = re.compile(r"^( *)```([\w-]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PROMPT = "$ "
MARK = "the command has ended with"  # a line that no command prints

# What a reader sees other figures of: what is shown stands for whatever is printed in its place.
FIGURES = (
    (re.compile(r" ± [\d.]+ (?:min|ms|s)(?: \d+ s)?"), ""),  # left out where it is small
    (re.compile(r"\d\d:\d\d:\d\d"), "<time>"),
    (re.compile(r"[━╸]+"), ""),
    (re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?"), "0"),
    (re.compile(r"\b0 (?:ms|s|min|h)\b(?: 0 (?:s|min))?"), "<length>"),
    (re.compile(r"\b0 [KMG]iB"), "<bytes>"),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True)
class Block:
    """A fenced block, and the line of the page on which it begins."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str:
        """The file that it is to be written to: its first line says so."""
        return self.text.splitlines()[0].removeprefix("# ")


@dataclass
class Turn:
    """A line that is typed, and the lines that are shown below it."""

    command: str
    shown: list[str] = field(default_factory=list)


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    return [
        Block(found[2], textwrap.dedent(found[3]), page.count("\n", 0, found.start()) + 1)
        for found in BLOCK.finditer(page)
    ]


def turns(console: Block) -> list[Turn]:
    """What is typed in a console block, each with what is shown for it."""
    found: list[Turn] = []
    for line in console.text.splitlines():
        if line.startswith(PROMPT):
            found.append(Turn(line.removeprefix(PROMPT)))
        elif line.strip():
            found[-1].shown.append(line)
    return found


def links(page: str) -> Iterator[tuple[str, str]]:
    """The relative links of a page: a path, empty for the page itself, and an anchor, empty where there is none."""
    for target in LINK.findall(_unquoted(page)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    plain = [re.sub(r"[^\w -]", "", heading.lower()) for heading in HEADING.findall(BLOCK.sub("", page))]
    times = Counter(heading.replace(" ", "-") for heading in plain)
    return {f"{anchor}-{again}" if again else anchor for anchor, count in times.items() for again in range(count)}


def quoted(page: str) -> list[str]:
    """What stands between single backticks in the text."""
    return [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", BLOCK.sub("", page))]


def _unquoted(page: str) -> str:
    return re.sub(r"`[^`\n]*`", "", BLOCK.sub("", page))


def missing(shown: list[str], printed: str) -> str | None:
    """The first of the lines shown that is not among those printed, in their order; None where all are.

    Figures may be others, and lines between them left out. A `…` in a line stands for anything, or nothing.
    """
    lines = iter([_plain(line) for line in printed.splitlines()])
    for line in shown:
        pattern = re.compile(re.escape(_plain(line)).replace("…", ".*"))
        if line.strip() != "…" and not any(pattern.fullmatch(each) for each in lines):
            return line
    return None


def _plain(line: str) -> str:
    for figure, instead in FIGURES:
        line = figure.sub(instead, line)
    return line.strip()


class Shell:
    """A bash in which lines are typed one after the other: folder, variables and background jobs stay."""

    def __init__(self, folder: Path, home: Path) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "BATON_"))}
        self.process = subprocess.Popen(
            ["bash", "--norc"],
            cwd=folder,
            env=kept | {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def type(self, command: str) -> tuple[int, str]:
        """The exit status of a line, and what it printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n%s %s\\n' '{MARK}' $?\n")
        self.process.stdin.flush()
        printed = ""
        for line in self.process.stdout:
            if line.startswith(MARK):
                return int(line.removeprefix(MARK)), printed
            printed += line
        raise AssertionError(f"the shell ended at: {command}\n{printed}")

    def follow(self, turn: Turn, *, again: bool) -> None:
        """Type the line as a reader does, and hold what it prints to what is shown; `again`: until it is that."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            status, printed = self.type(turn.command)
            absent = missing(turn.shown, printed)
            refused = any(line.startswith("batonctl: ") for line in turn.shown)
            if absent is None and (status != 0) is refused:
                return
            if not again or time.monotonic() > deadline:
                said = f"it exits with {status}" if absent is None else f"there is no line like '{absent}'"
                raise AssertionError(f"$ {turn.command}\n{said}; it printed:\n{printed}")
            time.sleep(0.1)  # nothing rests on it: it leaves the processor to what is waited for

    def on_terminal(self, command: str, until: str, key: str) -> int:
        """Run it as in a second terminal, and press a key once it has shown `until`: its exit status."""
        _, printed = self.type("python -c 'import json, os; print(json.dumps(dict(os.environ)))'")
        environment = json.loads(printed) | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
        ours, theirs = pty.openpty()
        try:
            program = subprocess.Popen(
                command.split(), cwd=environment["PWD"], env=environment, stdin=theirs, stdout=theirs
            )
            shown, deadline = "", time.monotonic() + TIMEOUT_S
            while program.poll() is None:
                assert time.monotonic() < deadline, f"it has not shown '{until}', or does not leave:\n{shown}"
                if select.select([ours], [], [], 0.1)[0]:
                    shown += os.read(ours, 65536).decode(errors="replace")
                if until in shown and key:
                    os.write(ours, key.encode())
                    key = ""
            assert until in shown
            return program.returncode
        finally:
            os.close(ours)
            os.close(theirs)

    def close(self) -> None:
        """End it, and what it left in the background."""
        self.type("kill $(jobs -p) 2>/dev/null; kill $(jobs -p) 2>/dev/null; wait")
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(TIMEOUT_S)
