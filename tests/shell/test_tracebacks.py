"""The traceback in what a program printed: real ones, of real interpreters, with what else stands in a log."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from daemon.tracebacks import has_exception, last_traceback, passages

NOISE = (
    "2026-03-01 12:00:00.123456: W tensorflow/core/framework/local_rendezvous.cc:407] Local rendezvous is aborting\n"
    "W0000 00:00:1723456789.123456   12345 gpu_device.cc:2344] Cannot dlopen some GPU libraries.\n"
    "WARNING:tensorflow:5 out of the last 5 calls triggered tf.function retracing.\n"
)


def printed(code: str, *flags: str) -> str:
    """What a program writes to standard error."""
    command = (sys.executable, *flags, "-c", textwrap.dedent(code))
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stderr


def picked(text: str) -> list[str]:
    found = last_traceback(text)
    assert found is not None
    return found.splitlines()


RAISES = """
def f():
    raise ValueError("no such item")
f()
"""


def test_the_traceback_is_picked_out_of_what_stands_around_it() -> None:
    raised = printed(RAISES)
    assert picked(f"epoch 1\n  loss 0.5\n{NOISE}{raised}{NOISE}") == raised.splitlines()


@pytest.mark.parametrize("text", ["", "\n", "epoch 1\n", NOISE, "x" * (1 << 14), "\x00\x1b[31m\xff\n" * 9])
def test_where_there_is_none_none_is_found(text: str) -> None:
    assert last_traceback(text) is None


def test_it_is_the_last_one() -> None:
    first, last = printed("1 / 0"), printed(RAISES)
    assert picked(first + last) == last.splitlines()
    assert picked(first + "going on\n" + last + NOISE) == last.splitlines()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            """
            try:
                try:
                    1 / 0
                except ZeroDivisionError as error:
                    raise KeyError("a") from error
            except KeyError:
                raise RuntimeError("twice")
            """,
            ["ZeroDivisionError", "direct cause", "KeyError", "During handling", "RuntimeError: twice"],
        ),
        (
            """
            def f():
                raise ExceptionGroup("two", [ValueError(1), ExceptionGroup("in it", [TypeError("a\\nb")])])
            f()
            """,
            ["Exception Group Traceback", "| ValueError: 1", "| TypeError: a", "b", "+------------"],
        ),
        (
            """
            try:
                raise ExceptionGroup("two", [ValueError(1), OSError(2)])
            except* OSError as group:
                raise RuntimeError("after the group") from group
            """,
            ["Exception Group Traceback", "ValueError", "RuntimeError: after the group"],
        ),
        (
            """
            try:
                1 / 0
            except ZeroDivisionError as error:
                raise ExceptionGroup("a group", [ValueError(1)]) from error
            """,
            ["ZeroDivisionError", "direct cause", "ExceptionGroup: a group", "ValueError: 1"],
        ),
        (
            """
            error = ValueError("seen\\n\\nDimensions must be equal, but are 3 and 4\\n\\nArguments received:\\n  • x=1")
            error.add_note("a note")
            raise error
            """,
            ["ValueError: seen", "Dimensions must be equal, but are 3 and 4", "  • x=1", "a note"],
        ),
        (
            """
            import traceback
            try:
                1 / 0
            except ZeroDivisionError:
                # as tf.py_function reports what it called
                quoted = traceback.format_exc().replace("\\n", "\\n\\n")
            raise OSError(f"Graph execution error:\\n\\n{quoted}\\n\\t [[{{{{node PyFunc}}}}]]") from None
            """,
            ["OSError: Graph execution error:", "ZeroDivisionError: division by zero", "[[{{node PyFunc}}]]"],
        ),
        ("compile('a = = 3', 'x.py', 'exec')", ["SyntaxError: invalid syntax"]),
        ("def f(): f()\nf()", ["[Previous line repeated", "RecursionError"]),
    ],
    ids=["chain", "group", "cause is a group", "group with a cause", "long text", "quoted", "syntax", "recursion"],
)
def test_it_is_whole(code: str, words: list[str]) -> None:
    """Every line, from the first of its chain to the last of its message; and nothing of what stands around it."""
    raised = printed(code)
    found = picked(f"epoch 1\n{NOISE}{raised}{NOISE}epoch 2\n")
    assert found == raised.splitlines()
    for each in words:
        assert any(each in line for line in found), each


def test_what_a_logger_of_another_thread_wrote_in_between_is_left_out() -> None:
    raised = printed(RAISES).splitlines()
    mixed = [line for each in raised for line in (*NOISE.splitlines(), each)]
    assert picked("\n".join(mixed)) == raised


def test_one_that_stands_behind_a_progress_bar_is_found() -> None:
    raised = printed(RAISES)
    bar = "Epoch 1/2\n\r\x1b[1m 1/10\x1b[0m ━━━━ \x1b[1m3s\x1b[0m 400ms/step - loss: 0.5"
    assert picked(bar + raised) == raised.splitlines()


def test_one_whose_beginning_is_gone_is_given_from_where_the_text_begins() -> None:
    raised = printed("""
        try:
            1 / 0
        except ZeroDivisionError:
            raise KeyError("a")
        """)
    cut = raised[raised.index("in <module>") :]
    assert picked(cut) == cut.splitlines()
    alone = printed(RAISES)
    cut = alone[alone.index("string") :] + NOISE
    assert picked(cut)[-1] == "ValueError: no such item"


def test_one_of_a_finalizer_does_not_hide_the_one_that_ended_the_program() -> None:
    code = """
    class Late:
        def __del__(self):
            raise AttributeError("at the end")
    late = Late()
    """
    aside = printed(code)
    assert aside.startswith("Exception ignored")
    raised = printed(code + "raise ValueError('why it ended')")
    assert "AttributeError" in raised
    assert picked(raised)[-1] == "ValueError: why it ended"
    assert picked(aside)[-1] == "AttributeError: at the end"


def test_one_of_another_process_comes_with_its_quotes() -> None:
    raised = printed("""
        import concurrent.futures, multiprocessing
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            pool.submit(int, "x").result()
        """)
    assert picked(NOISE + raised + NOISE) == raised.splitlines()


def test_what_faulthandler_prints_is_one() -> None:
    raised = printed("import ctypes\nctypes.string_at(0)", "-X", "faulthandler")
    found = picked("epoch 1\n" + raised)
    assert found[0].startswith("Fatal Python error: Segmentation fault")
    assert found == raised.splitlines()


def test_a_message_that_seems_to_go_on_for_ever_ends() -> None:
    """What a program printed below a traceback that it had caught is not to be told from its text."""
    raised = printed(RAISES)
    found = picked(raised + "".join(f"epoch {n}\n" for n in range(500)))
    assert found[: len(raised.splitlines())] == raised.splitlines()
    assert len(found) <= len(raised.splitlines()) + 40


@pytest.mark.parametrize(
    "code",
    [
        RAISES,
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise ValueError('a\\n  b') from error",
        "raise ExceptionGroup('g', [ValueError('a'), ExceptionGroup('h', [KeyError('b')])])",
        "eval('1 +')",
    ],
)
def test_one_that_is_whole_has_its_exception_and_a_part_has_not(code: str) -> None:
    """Of a chain the first traceback alone looks whole; up to the exception none does."""
    text = printed(code).rstrip("\n")
    assert has_exception(text)
    lines = text.splitlines()
    assert not has_exception("\n".join(lines[:2]))
    chained = [index for index, line in enumerate(lines) if "direct cause" in line]
    assert not any(has_exception("\n".join(lines[: index + more])) for index in chained for more in (1, 4))


class Counted(list[str]):
    """Lines that count how many of them were copied."""

    copied = 0

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if isinstance(index, slice):
            self.copied += len(found)
        return found


def test_lines_that_are_no_traceback_are_not_copied_to_see_that() -> None:
    lines = Counted([""] * 32_768)
    assert sum(passage.trace is None for passage in passages(lines)) == len(lines)
    assert lines.copied < len(lines)


def test_whatever_is_there_nothing_breaks() -> None:
    """Pieces of tracebacks in any order: it may find what it likes, but it ends, and raises nothing."""
    pieces = [
        "Traceback (most recent call last):", "  + Exception Group Traceback (most recent call last):",
        '  File "x", line 3, in f', "    code", "", "ValueError: x", "  | ", "    +----", "epoch\r",
        "Fatal Python error: x",
        "During handling of the above exception, another exception occurred:", '"""', "Exception ignored in: f",
        "The above exception was the direct cause of the following exception:", *NOISE.splitlines(), "\x1b[1m", " ",
    ]  # fmt: skip
    chance = random.Random(7)
    for _ in range(5000):
        text = "\n".join(chance.choices(pieces, k=chance.randrange(30)))
        found = last_traceback(text)
        assert found is None or found.strip()


def test_a_line_without_end_is_read_once() -> None:
    """Nothing here is tried again for each of its characters."""
    assert last_traceback("Traceback (most " * 4096) is None
    assert last_traceback(" " * (1 << 16)) is None
    assert last_traceback("|+" * (1 << 15) + "Traceback (most recent call last):") is None
    assert last_traceback("=" * (1 << 16) + "Traceback (most recent call last):") is not None
