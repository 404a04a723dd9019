"""The picture of `batonctl watch`, word for word, held against tests/shell/screens; and that it fits any terminal.

With --rewrite-screens the files say what is drawn now; read the difference before it is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.ctl import watch_memory
from daemon.ctl.watch_view import Look, Scene, frame
from daemon.results import NeedView, StatusResult
from tests.shell import watch_scenes
from tests.shell.watch_scenes import EVENTS, GIB, NOON, computing, event, lane, memory, queue, scene, status, worker

FOLDER = Path(__file__).parent / "screens"
LOOK = Look()
SIZES = ((80, 24), (120, 40), (40, 10))
SCENES: Mapping[str, Callable[[], StatusResult]] = {
    "everything": watch_scenes.everything,
    "idle": watch_scenes.idle,
    "waiting": watch_scenes.waiting,
    "stopped": watch_scenes.stopped,
    "three": watch_scenes.three,
    "ten": watch_scenes.ten,
}


@pytest.fixture(autouse=True)
def at_greenwich(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are shown in the reader's zone: here it is one for all."""
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def drawn(shown: Scene, width: int, height: int, look: Look = LOOK) -> list[str]:
    """The lines of a picture; it is as large as the terminal, to the cell."""
    lines = frame(shown, look, width, height)
    assert len(lines) == height
    assert {each.cell_len for each in lines} <= {width}
    assert not any("\n" in each.plain for each in lines)
    return [each.plain.rstrip() for each in lines]


@pytest.mark.parametrize("name", SCENES)
def test_what_is_drawn_is_what_was_kept(name: str, pytestconfig: pytest.Config) -> None:
    """On a terminal of the usual size, a large one, a tiny one."""
    path = FOLDER / f"{name}.txt"
    shown = scene(SCENES[name]())
    pictures = [f"== {w}x{h}\n" + "\n".join(drawn(shown, w, h)) + "\n" for w, h in SIZES]
    now = "".join(pictures)
    if pytestconfig.getoption("--rewrite-screens"):
        path.write_text(now, encoding="utf-8")
    else:
        assert now.splitlines() == path.read_text(encoding="utf-8").splitlines()


def test_every_kept_screen_is_of_a_scene() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(SCENES)


@pytest.mark.parametrize("name", SCENES)
@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 250), height=st.integers(1, 70), first=st.integers(0, 200), helping=st.booleans())
def test_it_fits_every_terminal(name: str, width: int, height: int, first: int, *, helping: bool) -> None:
    drawn(scene(SCENES[name]()), width, height, Look(first=first, helping=helping))
    drawn(scene(SCENES[name](), lost="cannot reach it", lost_since=NOON), width, height)


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(name=NAMES, reason=NAMES, width=st.integers(1, 130), height=st.integers(1, 40))
def test_names_and_reasons_of_any_characters_break_no_line(name: str, reason: str, width: int, height: int) -> None:
    """Wide, combining, right-to-left and control characters, escape sequences: as wide as counted, and none obeyed."""
    held = {"held_bytes": GIB, "reserved_bytes": 2 * GIB}
    shown = lane(
        name,
        "Preloading",
        reason,
        active=computing(name, paused=reason, errors=3, attempt=2),
        standby=worker(name, "ready", tier="staged", **held),
        retiring=(worker(name, "committing", paused=reason, **held),),
        memory=memory(need=NeedView(session=name, tier="warm", needed_bytes=GIB, fits=False)),
    )
    queued = tuple(msgspec.structs.replace(each, name=name, reason=reason) for each in queue(3))
    told = (event("session.failed", 3, name, "error", reason=reason),)
    answer = status(shown, lane(name, "Idle", reason), queued=3, queue=queued)
    for each in drawn(scene(answer, told), width, height):
        assert each.isprintable()


def test_what_would_be_obeyed_by_a_terminal_is_not_shown() -> None:
    said = "\x1b[2Ja\x07b\r\nc\u202ed\x9b31m"
    lines = drawn(scene(status(lane(said, reason=said), queued=0)), 80, 24)
    assert not any(each in "".join(lines) for each in "\x1b\x07\r\u202e\x9b")


# What gives way, and what does not


def test_the_queue_says_how_many_are_not_shown() -> None:
    lines = drawn(scene(watch_scenes.everything()), 80, 24)
    assert "queue  134" in lines
    shown = [each for each in lines if "behind " in each or "next on gpu0, after" in each]
    assert f"       and {134 - len(shown)} more" in lines


def test_a_queue_that_was_moved_begins_with_the_place_asked_for() -> None:
    lines = drawn(scene(watch_scenes.everything()), 80, 24, Look(first=20))
    assert any(each.startswith("   21  ") for each in lines)
    assert not any(each.startswith("    1  ") for each in lines)


def test_every_lane_has_its_line_where_there_are_more_than_can_be_shown_in_full() -> None:
    lines = drawn(scene(watch_scenes.ten()), 80, 24)
    names = [f"gpu{number}" for number in (*range(9), 10)]
    assert [each.split()[0] for each in lines if each.startswith("gpu")] == names


def test_lanes_without_a_line_are_counted_with_their_states() -> None:
    lines = drawn(scene(watch_scenes.ten()), 80, 8)
    shown = sum(each.startswith("gpu") for each in lines)
    assert any(each.startswith(f"and {10 - shown} more: ") and "1 Stopped" in each for each in lines)


def test_a_daemon_that_is_gone_is_said_first_and_what_was_known_stays() -> None:
    gone = scene(watch_scenes.everything(), lost="cannot reach batond at /s: there is no socket", lost_since=NOON)
    lines = drawn(gone, 80, 24)
    assert lines[1].startswith("batond is not there since ")
    assert "looking for it" in lines[1]
    assert any("digits-cnn" in each for each in lines)


def test_a_daemon_that_does_not_answer_is_said_and_a_held_picture_is_not_blamed_on_it() -> None:
    silent = scene(watch_scenes.idle(), age_s=5.0)
    assert "batond has not answered for 5.0 s" in drawn(silent, 80, 24)
    held = drawn(silent, 80, 24, Look(paused=True))
    assert "PAUSED" in held[0]
    assert not any("has not answered" in each for each in held)


def test_what_keeps_batond_from_starting_anything_is_on_every_size() -> None:
    for width, height in SIZES:
        assert any(
            each.startswith("NOTHING NEW IS STARTED") for each in drawn(scene(watch_scenes.stopped()), width, height)
        )


def test_the_end_of_a_session_is_shown_whole_with_its_spread() -> None:
    for shown in (watch_scenes.everything(), watch_scenes.three()):
        assert any("1 min 10 s ± 3.6 s left" in each for each in drawn(scene(shown), 80, 24))


def test_events_are_the_newest_and_what_the_lanes_show_anyway_is_not_among_them() -> None:
    many: list[Mapping[str, Any]] = [event("session.failed", 99 - n, f"s{n}", reason=f"{n}") for n in range(50)]
    lines = drawn(scene(watch_scenes.idle(), (*many, *EVENTS)), 80, 24)
    assert "standby.ready" in lines[-2] or "standby.ready" in lines[-3]
    assert not any("lane.moved" in each for each in lines)
    assert not any(" s0 " in each for each in lines)


def test_many_events_alike_take_one_line() -> None:
    many = tuple(event("session.queued", 1000 - n, f"s{n}", lane=None, reason="submitted") for n in range(50))
    lines = drawn(scene(watch_scenes.idle(), (*many, *EVENTS)), 80, 24)
    (queued,) = (each for each in lines if "submitted" in each)
    assert queued.split()[1:] == ["session.queued", "s49", "submitted", "×50"]


# Memory


def test_the_bar_of_memory_has_its_parts_by_size() -> None:
    """16 GiB in 32 columns: 5 taken and 1 promised, half a GiB of the standby, 1 that is committed, 4 of others."""
    (shown,) = watch_scenes.everything().lanes
    assert shown.memory is not None
    bar = watch_memory.strip(shown, shown.memory, 32).plain
    assert bar == "█" * 10 + "▁" * 2 + "▓" * 1 + "▒" * 2 + "░" * 8 + "·" * 9


def test_the_ruler_reaches_under_what_must_go_first() -> None:
    need = NeedView(session="b", tier="warm", needed_bytes=int(7.75 * GIB), fits=False)
    ruler = watch_memory.need(memory(free=5.5, need=need), 32)
    assert ruler is not None
    assert ruler.plain.endswith("└" + "─" * 14 + "┘")  # 8 GiB with the headroom, of 16 in 32 columns
    assert "b needs 7.8 GiB" in ruler.plain
    assert {span.style for span in ruler.spans if span.style} == {"yellow"}


def test_the_legend_says_who_has_how_much_and_what_was_promised() -> None:
    shown = lane(
        active=computing("a"),
        standby=worker("b", "loading", tier=None, reserved_bytes=2 * GIB),
        memory=memory(free=7.0),
    )
    assert shown.memory is not None
    (entries,) = watch_memory.legend(shown, shown.memory, 120)
    assert entries.plain == "█ a 5.0 GiB ▁ 1.0 GiB promised   ▁ b 2.0 GiB promised   ░ others 4.0 GiB"


def test_what_does_not_fit_into_the_bar_still_adds_up_to_its_width() -> None:
    """A driver that says more than there is, and a worker that was promised more than is left."""
    shown = lane(active=computing("a", held_bytes=40 * GIB, reserved_bytes=90 * GIB), memory=memory(free=15.9))
    assert shown.memory is not None
    for width in range(1, 40):
        assert watch_memory.strip(shown, shown.memory, width).cell_len == width
