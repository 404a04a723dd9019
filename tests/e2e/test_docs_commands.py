"""docs/tutorial.md and docs/howto.md, typed line by line; every page: its commands parse, its links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
from batond import ROOT, Batond
from pages import Block, Shell, Turn, anchors, blocks, links, quoted, turns

from daemon import sessionfile
from daemon.__main__ import command as batond_command
from daemon.cli import Explained, batonctl

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
FILES = ("python", "toml")  # blocks to be written to the file that their first line names
TYPED = "console"  # blocks with a prompt and what is shown
READ = ("sh", "crontab")  # blocks whose commands are parsed, and not run
LOOKS = ("status", "why", "list", "show", "events", "explain", "plan")  # they change nothing: asked until it is so

# Lines that a test must not type as they stand, and what is typed instead.
INSTEAD = {
    "make setup": "make -n setup",  # it would change the environment that runs this test; tests/test_make.py runs it
    ". .venv/bin/activate": "command -v batond batonctl",  # this test's own is on PATH already
}


def page(name: str) -> list[Block]:
    return blocks((ROOT / "docs" / name).read_text(encoding="utf-8"))


# Typed


def follow(shell: Shell, read: list[Block]) -> None:
    """What a reader does: write the files, type the lines, see what is shown."""
    for block in read:
        if block.language in FILES:
            _, folder = shell.type("pwd")
            Path(folder.strip(), block.file).write_text(block.text)
        elif block.language == TYPED:
            for turn in turns(block):
                take(shell, turn)
        else:
            assert block.language in READ, f"line {block.line}: a block that nobody follows"


def take(shell: Shell, turn: Turn) -> None:
    if turn.command == "batonctl watch":
        assert shell.on_terminal(turn.command, until="second", key="q") == 0
        return
    turn.command = INSTEAD.get(turn.command, turn.command)
    shell.follow(turn, again=turn.command.startswith(tuple(f"batonctl {look}" for look in LOOKS)))
    if turn.command.startswith("batond "):
        shell.follow(Turn("batonctl version", ["batond …"]), again=True)  # a reader types no faster than it starts


@pytest.mark.tensorflow
def test_the_tutorial(tmp_path: Path) -> None:
    """From the checkout to the clean-up: a swap, a cancel, a retry, a killed daemon, and every row in its place."""
    shell = Shell(ROOT, home=tmp_path)
    try:
        follow(shell, page("tutorial.md"))
        assert not (tmp_path / "batond-tutorial").exists()
        assert shell.type("jobs -r")[1].strip() == ""
    finally:
        shell.type(
            '[ -z "$BATON_SOCKET" ] || batonctl shutdown --now'
        )  # without it, it might be a service of this host
        shell.close()


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A shell in the folder of a daemon whose `python3` is this interpreter."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    with Batond(tmp_path, "--launcher", "exec") as daemon:
        shell = Shell(tmp_path, home=tmp_path)
        shell.type(f"export BATON_SOCKET={daemon.socket}")
        yield shell
        shell.close()


def test_the_how_tos(house: Shell) -> None:
    """A cron job's script, as it is and with two lines more; a swap that costs too much, and the same mended."""
    follow(house, page("howto.md"))


def test_the_session_file_of_the_part_that_needs_a_gpu_is_one(tmp_path: Path) -> None:
    (text,) = (block.text for block in page("howto.md") if block.text.startswith("# large.toml"))
    for there in (tmp_path / "models" / "large-a" / "saved_model.pb", tmp_path / "data" / "a.npy"):
        there.parent.mkdir(parents=True)
        there.write_bytes(b"what is in it is looked at when it is submitted")
    assert [spec.name for spec in sessionfile.parse(text, tmp_path)] == ["large-a", "large-b"]


# Parsed

COMMAND = re.compile(r"(?:^|[\s/|;&(])(?:(batonctl) |(batond) (?=-))(.*)")
SHELL = {"|", "&", ";", ">", "<", ")"}  # what begins the words after a command's own


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """The command lines of batond's in a text, with their words. (Usage, which cli.md has, is made from the code.)"""
    for line in text.splitlines():
        found = COMMAND.search(line.partition(" # ")[0]) if "[OPTIONS]" not in line else None
        while found is not None:
            words = shlex.split(found[3], comments=True)
            end = next((place for place, word in enumerate(words) if word[:1] in SHELL), None)
            yield found[1] or found[2], words[:end]
            found = COMMAND.search(found[3])


def wrong(path: Path) -> Iterator[str]:
    """The command lines of a page that are none: in blocks, but for what is printed there, and in the text."""
    text = path.read_text(encoding="utf-8")
    for block in blocks(text):
        if block.language not in (TYPED, *READ, ""):
            continue
        prompted = block.text.startswith("$ ")
        typed = "\n".join(turn.command for turn in turns(block)) if prompted else block.text
        for program, words in commands(typed):
            if why := refused(program, words):
                yield f"line {block.line}: {program} {shlex.join(words)}: {why}"
    for mention in quoted(text):
        if mention.startswith(("batonctl ", "batond ")):
            for program, words in commands(mention):
                if why := refused(program, words, mention=True):
                    yield f"{mention}: {why}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_line_on_the_page_is_one(path: Path) -> None:
    assert list(wrong(path)) == []


def test_that_would_be_seen() -> None:
    """On the real commands: names, options, values, too many and too few words."""
    assert refused("batonctl", ["submit", "x.toml", "--wait"]) is None
    assert refused("batonctl", ["--socket", "s", "swap", "cpu", "--to", "x"]) is None
    assert refused("batond", ["--config", "x.toml"]) is None
    for words in (
        "wait",
        "swap --now",
        "explain --worst few",
        "list --state gone",
        "move",
        "why a b",
        "events --since",
    ):
        assert refused("batonctl", words.split()) is not None


@pytest.mark.parametrize("name", [None, *batonctl.commands])
def test_every_command_has_examples_and_they_are_commands(name: str | None) -> None:
    """In its help, each on a line that a terminal of 80 columns holds, and of the command itself."""
    command = batonctl if name is None else batonctl.commands[name]
    assert isinstance(command, Explained)
    context = click.Context(command, info_name=name, max_content_width=80, terminal_width=80)
    shown = command.get_help(context).partition("\nExamples:\n")[2].splitlines()
    assert [line[2:] for line in shown] == command.examples.splitlines()
    assert max(map(len, shown)) <= 80
    typed = [words for program, words in commands(command.examples) if program == "batonctl"]
    assert name is None or any(words[:1] == [name] for words in typed)
    assert [why for words in typed if (why := refused("batonctl", words))] == []
    assert typed


def test_the_list_of_commands_says_what_each_is_for_on_a_line_of_80_columns() -> None:
    shown = batonctl.get_help(click.Context(batonctl, info_name="batonctl", max_content_width=80, terminal_width=80))
    lines = shown.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == sorted(batonctl.commands)
    assert [line for line in lines if not line.endswith(".") or line.endswith("...")] == []


def refused(program: str, words: list[str], *, mention: bool = False) -> str | None:
    """Why click would refuse this line; None where it would run it. Nothing is run. A mention may lack arguments."""
    try:
        if program == "batond":
            parse(batond_command, words, None)
            return None
        group = click.Context(batonctl, info_name="batonctl")
        _, rest, _ = batonctl.make_parser(group).parse_args(words)
        if not rest:
            return None
        _, command, rest = batonctl.resolve_command(group, rest)
        assert command is not None
        parse(command, rest, group)
    except click.UsageError as error:
        return None if mention and isinstance(error, click.MissingParameter) else error.format_message()
    return None


def parse(command: click.Command, words: list[str], parent: click.Context | None) -> None:
    context = click.Context(command, info_name=command.name, parent=parent)
    values, rest, _ = command.make_parser(context).parse_args(list(words))
    if rest:
        raise click.UsageError(f"too many words: {shlex.join(rest)}")
    for parameter in command.params:
        if isinstance(parameter.type, click.File) and values.get(parameter.name or ""):
            continue  # it would be opened
        value = values.get(parameter.name or "")
        if isinstance(value, str) and value.isupper():
            continue  # a word that stands for a value
        parameter.handle_parse_result(context, values, [])


# Linked


@cache
def anchors_of(path: Path) -> set[str]:
    return anchors(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_on_the_page_leads_somewhere(path: Path) -> None:
    dead = []
    for target, anchor in links(path.read_text(encoding="utf-8")):
        there = (path.parent / target).resolve() if target else path
        if not there.exists():
            dead.append(f"{target}: there is no such file")
        elif anchor and anchor not in anchors_of(there):
            dead.append(f"{target}#{anchor}: it has no such heading")
    assert dead == []


def test_every_page_is_in_the_index() -> None:
    listed = {target for target, _ in links((ROOT / "docs" / "index.md").read_text(encoding="utf-8"))}
    assert {path.name for path in PAGES} - listed == {"README.md", "index.md"}
