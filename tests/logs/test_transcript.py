"""What workers print, as events: from real files that grow, are trimmed, and are read on by a later daemon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import transcript, worklogs
from daemon.stories import WorkerNoise, WorkerOutput, WorkerSuppressed, WorkerTraceback
from daemon.transcript import Told, Transcript

TRACE = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n    f()\nValueError: no\n'


class House:
    """One session's log file, and the daemons that follow it one after another."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.log = folder / "a.log"
        self.kept = folder / "transcript.json"
        self._loop = loop
        self.told: list[Told] = []
        self.next_daemon()

    def next_daemon(self) -> None:
        self.transcript = Transcript(lambda _: self.log, self.told.append, self.kept)

    def call(self, what: str, *arguments: object) -> None:
        async def inside() -> None:
            getattr(self.transcript, what)(*arguments)

        self._loop.run_until_complete(inside())

    def look(self) -> None:
        self.call("_tick")

    def prints(self, data: str | bytes) -> None:
        with self.log.open("ab") as file:
            file.write(data.encode() if isinstance(data, str) else data)

    def trim(self, limit_bytes: int) -> None:
        """As the crew does, and tells of it."""
        cut_bytes = worklogs.trim(self.log, limit_bytes)
        assert cut_bytes
        self.call("trimmed", "a", cut_bytes)

    @property
    def lines(self) -> list[str]:
        return [each.text for each in self.told if isinstance(each, WorkerOutput)]

    @property
    def traces(self) -> list[WorkerTraceback]:
        return [each for each in self.told if isinstance(each, WorkerTraceback)]

    @property
    def left_out(self) -> list[WorkerSuppressed]:
        return [each for each in self.told if isinstance(each, WorkerSuppressed)]

    @property
    def accounted_bytes(self) -> int:
        """Of what was printed: told, or said to be left out."""
        told = [*self.lines, *(each.trace for each in self.traces)]
        return sum(len(text) + 1 for text in told) + sum(each.size_bytes for each in self.left_out)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    loop = asyncio.new_event_loop()
    house = House(tmp_path, loop)
    yield house
    house.call("close")
    loop.close()


def test_lines_come_whole_and_the_last_one_at_the_end(house: House) -> None:
    house.prints("of an earlier attempt\n")
    house.call("begin", "a", "cpu", 1)
    house.prints("one\ntwo\nhal")
    house.look()
    assert house.lines == ["one", "two"]
    house.prints("f\nno newline")
    house.look()
    assert house.lines == ["one", "two", "half"]
    house.call("ended", 1)
    assert house.lines[-1] == "no newline"
    assert all((each.session, each.lane, each.generation) == ("a", "cpu", 1) for each in house.told)


def test_what_is_no_text_is_made_safe(house: House) -> None:
    house.call("begin", "a", "cpu", 1)
    house.prints(b"\x1b[31mred\x1b[0m \x07 caf\xe9\n 1/10\r 2/10\r\n" + b"x" * 5000 + b"\n\n")
    house.look()
    assert house.lines[:2] == ["red \\x07 caf\\xe9", " 2/10"]
    assert len(house.lines[2]) == transcript.LINE_CHARACTERS
    assert len(house.lines) == 3


def test_a_traceback_is_one_event_also_where_it_comes_in_two_parts(house: House) -> None:
    house.call("begin", "a", "cpu", 1)
    house.prints("before\n" + TRACE[:60])
    house.look()
    house.prints(TRACE[60:])
    house.call("ended", 1)
    assert house.lines == ["before"]
    (trace,) = house.traces
    assert (trace.trace, trace.exception) == (TRACE.strip(), "ValueError: no")


def test_a_traceback_whose_exception_is_late_is_waited_for(house: House) -> None:
    house.call("begin", "a", "cpu", 1)
    house.prints(TRACE[:60])
    for _ in range(5):
        house.look()
    assert house.told == []
    house.prints(TRACE[60:])
    for _ in range(3):
        house.look()
    assert [(each.trace, each.exception) for each in house.traces] == [(TRACE.strip(), "ValueError: no")]
    assert house.lines == []


def test_a_traceback_whose_exception_never_comes_is_told_in_the_end(house: House) -> None:
    house.call("begin", "a", "cpu", 1)
    house.prints(TRACE[:60])
    for _ in range(transcript.HALF_TICKS + 1):
        house.look()
    assert len(house.told) == 1


def test_a_traceback_is_told_while_the_worker_goes_on_in_silence(house: House) -> None:
    house.call("begin", "a", "cpu", 1)
    house.prints(TRACE)
    house.look()
    house.look()
    assert [type(each) for each in house.told] == [WorkerTraceback]


def test_tensorflows_own_noise_is_told_apart(house: House) -> None:
    house.call("begin", "a", "cpu", 1)
    house.prints("W0000 00:00:17.1 1 cpu.cc:1] noise\nE0000 00:00:17.1 1 cuda.cc:1] trouble\nmine\n")
    house.look()
    assert [type(each) for each in house.told] == [WorkerNoise, WorkerOutput, WorkerOutput]


def test_of_a_flood_a_part_is_told_and_the_rest_counted(house: House) -> None:
    house.call("begin", "a", "cpu", 1)
    house.prints("".join(f"{number}\n" for number in range(1000)))
    house.look()
    (left_out,) = house.left_out
    assert 100 <= len(house.lines) < 200
    assert len(house.lines) + left_out.lines == 1000
    size = house.log.stat().st_size
    house.prints("".join(f"line {number}\n" for number in range(100_000)) + TRACE)
    told = len(house.lines)
    house.call("ended", 1)
    assert house.left_out[-1].size_bytes > house.log.stat().st_size - size - transcript.READ_BYTES
    assert len(house.lines) - told + house.left_out[-1].lines == 100_000, "each of them, not each block"
    assert house.accounted_bytes == house.log.stat().st_size
    assert isinstance(house.told[-2], WorkerTraceback), "what it died of is not lost in what it printed"


def test_a_log_that_is_trimmed_is_read_on_where_it_was(house: House) -> None:
    """Nothing twice, nothing missed; also where it has grown beyond its old size before it is looked at."""
    house.call("begin", "a", "cpu", 1)
    for number in range(40):
        house.prints(f"{number} {'x' * 300}\n")
    house.look()
    size = house.log.stat().st_size
    house.trim(8000)
    house.prints("".join(f"{number} {'y' * 300}\n" for number in range(40, 80)))
    assert house.log.stat().st_size > size
    house.look()
    assert [int(line.split()[0]) for line in house.lines] == list(range(80))


@pytest.mark.parametrize("read_first", [100_000, 140_000])
def test_a_log_that_is_trimmed_and_repeats_itself_is_read_on_where_it_was(house: House, read_first: int) -> None:
    """All that it holds looks like what was read last, and no byte is lost unsaid: also not one cut off unread."""
    line = "step: loss nan\n"
    house.call("begin", "a", "cpu", 1)
    house.prints(line * read_first)
    house.look()
    printed = line * 50_000 + TRACE + line * 60
    house.prints(printed)
    house.trim(1 << 20)
    house.call("ended", 1)
    assert [each.exception for each in house.traces] == ["ValueError: no"]
    assert house.accounted_bytes == read_first * len(line) + len(printed)


def test_a_trim_is_known_to_the_next_daemon(house: House) -> None:
    line = "again\n"
    house.call("begin", "a", "cpu", 1)
    house.prints(line * 4000)
    house.look()
    house.trim(12_000)  # and then it is killed
    house.prints(TRACE + line * 1000)
    before = house.accounted_bytes
    house.next_daemon()
    house.call("resume", "a", "cpu", 1)
    house.call("ended", 1)
    assert len(house.traces) == 1
    assert house.accounted_bytes - before == len(TRACE + line * 1000), "and nothing twice"


def test_a_log_that_somebody_else_cut_and_that_repeats_itself_is_rather_told_twice(house: House) -> None:
    line = "again and again\n"
    house.call("begin", "a", "cpu", 1)
    house.prints(line * 1000)
    house.look()
    assert worklogs.trim(house.log, 8000)
    house.prints(TRACE + line * 400)
    house.look()
    assert len(house.traces) == 1


def test_the_next_daemon_goes_on_where_this_one_was(house: House) -> None:
    house.call("begin", "a", "cpu", 1)
    house.prints("one\n")
    house.look()  # and then it is killed
    house.prints("two\n")
    house.next_daemon()
    house.call("resume", "a", "cpu", 1)
    house.look()
    assert house.lines == ["one", "two"]
    house.call("close")
    house.prints("of another worker\n")
    house.next_daemon()
    house.call("resume", "a", "cpu", 2)  # what stands there is not its
    house.look()
    assert house.lines == ["one", "two"]


def test_where_it_is_not_wanted_it_is_passed_over(house: House) -> None:
    house.transcript.wanted = False
    house.call("begin", "a", "cpu", 1)
    house.prints("one\n")
    house.look()
    house.transcript.wanted = True
    house.prints("two\n")
    house.look()
    assert house.lines == ["two"]


def test_a_log_that_is_gone_or_a_fifo_harms_nobody(house: House) -> None:
    house.call("begin", "a", "cpu", 1)
    house.prints("one\n")
    house.look()
    house.log.unlink()
    house.look()
    house.prints("two\n")
    house.look()
    assert house.lines == ["one", "two"]
    house.log.unlink()
    os.mkfifo(house.log)
    house.look()
