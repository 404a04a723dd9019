"""The page in a real browser: opened, pointed at, looked at closely, in light and dark, in any zone; and offline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from daemon.ctl import timeline_html
from daemon.ctl.timeline_spans import Handover, Role, Span, StateSpan, Timeline, micros
from states.events import Exited, Failed
from tests.browser import Browser, browser
from tests.shell.recorded_life import GIB, START, Life
from tests.shell.test_timeline_spans import relay
from tests.shell.timeline_stage import DAY, sample, timeline

DAY_US = 86_400_000_000
QUOTED = """a "quoted" word, a & b, and 'another'"""
HOSTILE = "<b>bold</b></script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as made:
        yield made


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    """A relay, with memory over it and a daemon that was away for a while."""
    made = Life(tmp_path / "state")
    relay(made)
    begin = START + timedelta(seconds=100)
    made.store.samples.keep(
        [sample(begin + timedelta(seconds=n), used=(2 + n % 2) * GIB, active_bytes=GIB) for n in range(20)], made.wall
    )
    yield made
    made.store.close()


def page(made: Timeline, folder: Path) -> Path:
    path = folder / "t.html"
    with path.open("w") as file:
        timeline_html.writer()(made, file)
    return path


def bars(chromium: Browser, colour: str) -> list[WebElement]:
    """The bars that are filled with this colour."""
    found: list[WebElement] = chromium.run(
        "return [...document.querySelectorAll('.barlayer .point path')].filter(bar => bar.style.fill === arguments[0])",
        colour,
    )
    return found


def seen(chromium: Browser) -> tuple[float, float]:
    """From when until when is seen, in milliseconds since 1970."""
    begin, end = chromium.run("return picture.layout.xaxis.range.map(utc)")
    return begin, end


def pointed_at(chromium: Browser) -> str:
    """What is shown of what the mouse points at."""
    return str(chromium.until(lambda: chromium.run("return document.querySelector('.hoverlayer')?.textContent")))


def test_it_opens_without_a_word_and_asks_for_nothing(chromium: Browser, life: Life, tmp_path: Path) -> None:
    path = page(timeline(life), tmp_path)
    chromium.open(path)
    assert chromium.said() == []
    assert [url for url in chromium.asked_for() if not url.startswith("data:")] == [path.resolve().as_uri()]
    assert chromium.text("h1") == "batond: sessions and handovers"
    assert "2\nsessions" in chromium.text("#figures")
    assert "1 of 1\nready before they were needed" in chromium.text("#figures")
    assert "lane cpu" in chromium.text("#picture")
    assert "is being prepared" in chromium.text(".legend")
    assert "a → b" in chromium.text("#handovers")


def test_whoever_points_at_something_is_told_what_it_is(chromium: Browser, life: Life, tmp_path: Path) -> None:
    chromium.open(page(timeline(life), tmp_path))
    first, second = bars(chromium, "rgb(0, 114, 178)")
    chromium.actions().move_to_element(first).perform()
    words = chromium.until(lambda: "a runs" in pointed_at(chromium) and pointed_at(chromium))
    assert "items: 100 of 100" in words
    assert "done" in words
    chromium.actions().move_to_element(second).perform()
    assert "goes on" in chromium.until(lambda: "b runs" in pointed_at(chromium) and pointed_at(chromium))
    ready = bars(chromium, "rgb(230, 159, 0)")[-1]
    chromium.actions().move_to_element(ready).perform()
    words = chromium.until(lambda: "b is being prepared" in pointed_at(chromium) or "b ready" in pointed_at(chromium))
    diamond = chromium.driver.find_element(By.CSS_SELECTOR, ".scatterlayer .points path.point")
    chromium.actions().move_to_element(diamond).perform()
    words = chromium.until(lambda: "gap:" in pointed_at(chromium) and pointed_at(chromium))
    for part in ("a → b", "gap: 250 ms", "prepared to: warm", "items: 100 = 100 done"):
        assert part in words


def test_whoever_points_at_the_memory_is_told_the_figures(chromium: Browser, life: Life, tmp_path: Path) -> None:
    chromium.open(page(timeline(life), tmp_path))
    plots = chromium.driver.find_elements(By.CSS_SELECTOR, ".nsewdrag")
    memory = max(plots, key=lambda plot: plot.rect["y"])
    chromium.actions().move_to_element(memory).perform()
    words = chromium.until(lambda: "Memory, lane cpu" in pointed_at(chromium) and pointed_at(chromium))
    assert "the running session: 1.0 GiB" in words
    assert "of 8.0 GiB" in words
    assert chromium.said() == []


def test_the_phases_of_a_handover_are_seen_from_near(chromium: Browser, life: Life, tmp_path: Path) -> None:
    """From afar a swap is a line; one click, and it fills the picture; a double click, and one is back."""
    made = timeline(life)
    chromium.open(page(made, tmp_path))
    before = seen(chromium)
    chromium.click("#handovers button")
    chromium.until(lambda: seen(chromium) != before)
    begin, end = seen(chromium)
    (handover,) = made.handovers
    assert begin < (handover.at - handover.gap_us) / 1e3 < handover.at / 1e3 < end
    assert end - begin < (before[1] - before[0]) / 2
    chromium.until(lambda: "Swapping" in chromium.run("return picture.textContent"))
    chromium.click("#busy")
    chromium.until(lambda: seen(chromium) == pytest.approx(before, abs=1))
    chromium.click("#whole")
    chromium.until(lambda: seen(chromium)[1] == pytest.approx(made.until / 1e3, abs=1))
    assert chromium.said() == []


def test_dragging_across_it_looks_closer_and_a_double_click_comes_back(
    chromium: Browser, life: Life, tmp_path: Path
) -> None:
    chromium.open(page(timeline(life), tmp_path))
    before = seen(chromium)
    plot = chromium.driver.find_element(By.CSS_SELECTOR, ".nsewdrag")
    chromium.actions().move_to_element_with_offset(plot, -100, 0).click_and_hold().move_by_offset(
        100, 0
    ).move_by_offset(100, 0).release().perform()
    chromium.until(lambda: seen(chromium) != before)
    begin, end = seen(chromium)
    assert before[0] < begin < end < before[1]
    chromium.actions().double_click(plot).perform()
    chromium.until(lambda: seen(chromium) == pytest.approx(before, abs=1))


def test_it_is_dark_where_the_reader_likes_it_dark(chromium: Browser, life: Life, tmp_path: Path) -> None:
    chromium.open(page(timeline(life), tmp_path), scheme="dark")
    assert len(bars(chromium, "rgb(86, 180, 233)")) == 2
    chromium.prefer("light")
    chromium.until(lambda: len(bars(chromium, "rgb(0, 114, 178)")) == 2)
    assert chromium.said() == []


@pytest.mark.parametrize(("zone", "clock"), [("Asia/Tokyo", "21:01:4"), ("America/New_York", "07:01:4")])
def test_its_times_are_the_readers(chromium: Browser, life: Life, tmp_path: Path, zone: str, clock: str) -> None:
    chromium.open(page(timeline(life), tmp_path), zone=zone)
    assert zone in chromium.text("#when")
    assert f"time in {zone}" in chromium.text("#picture")
    assert str(chromium.run("return picture.data[0].base[0]")).split("T")[1].startswith(clock)


def test_what_a_worker_said_is_text_and_nothing_else(chromium: Browser, life: Life, tmp_path: Path) -> None:
    life.finish(life.generation())
    life.submit("bad", max_attempts=1)
    generation = life.run_to(30)
    life.feed(Failed(0.0, generation, "program", f"{HOSTILE} {QUOTED}", 31))
    life.feed(Exited(0.0, generation, 1))
    chromium.open(page(timeline(life), tmp_path))
    assert "1\nfailed runs" in chromium.text("#figures")
    failed = bars(chromium, "rgb(0, 114, 178)")[-1]
    chromium.actions().move_to_element(failed).perform()
    words = chromium.until(lambda: "failed" in pointed_at(chromium) and pointed_at(chromium))
    assert f"{HOSTILE} {QUOTED}" in words, "the tags too, letter by letter"
    assert chromium.run("return window.broken ?? null") is None
    assert chromium.said() == []


@pytest.mark.parametrize("change", [datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)])
def test_bars_that_touch_do_so_where_the_clock_changes(chromium: Browser, tmp_path: Path, change: datetime) -> None:
    """An hour forth or back: as long as they were, where they were, and the axis says what it is in."""
    at = micros(change)
    made = replace(at_once(2, at - 60_000_000, 60_000_000), since=at - 70_000_000)
    chromium.open(page(made, tmp_path), zone="Europe/Berlin")
    first, second = (bar.rect for bar in bars(chromium, "rgb(0, 114, 178)"))
    assert first["x"] + first["width"] == pytest.approx(second["x"], abs=10)
    assert first["width"] == pytest.approx(second["width"], abs=3)
    summer = change.month == 3
    assert f"the clock changes within: all of it as GMT+0{2 if summer else 1}:00" in chromium.text("#picture")
    chromium.actions().move_to_element(bars(chromium, "rgb(0, 114, 178)")[0]).perform()
    words = chromium.until(lambda: "s0 runs" in pointed_at(chromium) and pointed_at(chromium))
    assert "01:59:00" in words if summer else "02:59:00" in words, "as the clock on the wall had it"


def test_gaps_are_written_where_there_is_room(chromium: Browser, tmp_path: Path) -> None:
    """Handovers in a cluster, and one alone: no words lie on others, and from near there are more of them."""
    begin = micros(datetime(2026, 3, 1, tzinfo=UTC))
    chromium.open(page(both(at_once(23, begin, 100_000), at_once(2, begin + 100_000_000, 1_000_000)), tmp_path))
    written = gaps(chromium)
    assert 0 < len(written) < 23
    assert_apart(written)
    chromium.run("look_at([arguments[0], arguments[1]])", begin / 1e3, begin / 1e3 + 400)
    chromium.until(lambda: len(gaps(chromium)) in (4, 5))
    assert_apart(gaps(chromium))
    assert chromium.said() == []


@pytest.mark.parametrize(("days", "dated"), [(0, False), (3, True)])
def test_times_of_several_days_have_their_dates(chromium: Browser, tmp_path: Path, days: int, dated: bool) -> None:
    begin = micros(datetime(2026, 3, 1, 12, tzinfo=UTC))
    then = at_once(2, begin + days * DAY_US + 10**7, 1_000_000)
    chromium.open(page(both(at_once(2, begin, 1_000_000), then), tmp_path))
    assert ("Mar 1" in chromium.text("#handovers")) is dated
    assert ("Mar 4" in chromium.text("#handovers")) is dated
    chromium.run("look_at([arguments[0], arguments[1]])", then.since / 1e3, then.until / 1e3)
    chromium.until(lambda: seen(chromium)[0] == pytest.approx(then.since / 1e3, abs=1))
    chromium.actions().move_to_element(bars(chromium, "rgb(0, 114, 178)")[-1]).perform()
    assert ("Mar 4" in chromium.until(lambda: "s1 runs" in pointed_at(chromium) and pointed_at(chromium))) is dated


def test_a_time_without_a_session_says_so(chromium: Browser, tmp_path: Path) -> None:
    """The device's memory, the lane's state, and a word: no empty picture."""
    life = Life(tmp_path / "idle")
    life.store.samples.keep([sample(life.wall + timedelta(minutes=n), used=GIB) for n in range(10)], life.wall)
    life.now += 600
    chromium.open(page(timeline(life), tmp_path))
    life.store.close()
    assert chromium.text("#notice") == "No session ran in this time. Ask for another with --since."
    assert "Idle" in chromium.run("return picture.textContent")
    (state,) = chromium.driver.find_elements(By.CSS_SELECTOR, ".barlayer .point path")
    chromium.actions().move_to_element(state).perform()
    assert ", by" not in chromium.until(lambda: "Idle" in pointed_at(chromium) and pointed_at(chromium))
    assert chromium.said() == []


def test_no_name_ends_the_script_that_holds_it(chromium: Browser, tmp_path: Path) -> None:
    made = busy(2)
    named = tuple(replace(each, told={**each.told, "from_session": HOSTILE}) for each in made.handovers)
    chromium.open(page(replace(made, handovers=named), tmp_path))
    assert HOSTILE in chromium.text("#handovers")
    assert chromium.run("return window.broken ?? null") is None
    assert chromium.said() == []


def test_an_empty_record_says_so(chromium: Browser, tmp_path: Path) -> None:
    empty = Life(tmp_path / "empty")
    chromium.open(page(timeline(empty, START, START + DAY), tmp_path))
    empty.store.close()
    assert "Nothing is recorded of this time" in chromium.text("#notice")
    assert not chromium.driver.find_element(By.ID, "filled").is_displayed()
    assert chromium.said() == []


def test_when_no_daemon_was_there_is_marked(chromium: Browser, life: Life, tmp_path: Path) -> None:
    made = timeline(life)
    chromium.open(page(made, tmp_path))
    assert "no daemon" not in chromium.run("return picture.textContent")
    assert not chromium.driver.find_element(By.ID, "absent-key").is_displayed()
    away = (made.until - 9_000_000, made.until - 4_000_000)
    chromium.open(page(replace(made, absent=(away,)), tmp_path))
    chromium.click("#whole")
    chromium.until(lambda: "no daemon" in chromium.run("return picture.textContent"))
    assert chromium.driver.find_element(By.ID, "absent-key").is_displayed()


def gaps(chromium: Browser) -> list[dict[str, float]]:
    """Where the words beside the marks are."""
    found: list[dict[str, float]] = chromium.run(
        "return [...document.querySelectorAll('.textpoint text')].filter(text => text.textContent.endsWith(' ms'))"
        ".map(text => text.getBoundingClientRect().toJSON())"
    )
    return found


def assert_apart(words: list[dict[str, float]]) -> None:
    for before, after in pairwise(sorted(words, key=lambda each: each["x"])):
        assert before["right"] <= after["x"]


def both(first: Timeline, then: Timeline) -> Timeline:
    """One, and later the other."""
    spans, handovers = (*first.spans, *then.spans), (*first.handovers, *then.handovers)
    return replace(first, until=then.until, spans=spans, handovers=handovers)


def busy(sessions: int) -> Timeline:
    """So many sessions, one after the other, a tenth of a second each."""
    return at_once(sessions, micros(datetime(2026, 3, 1, tzinfo=UTC)), 100_000)


def at_once(sessions: int, begin: int, each: int) -> Timeline:
    """So many sessions, each at once after the one before. begin, each: microseconds."""
    spans: list[Span] = []
    states: list[StateSpan] = []
    handovers: list[Handover] = []
    told = dict.fromkeys(("gap_s", "lead_s", "idle_standby_s", "device_waited_s", "preparing_s", "draining_s"), 0.01)
    told |= {"swapping_s": 0.01}
    items = {"items_in": 5, "items_done": 5, "items_returned": 0, "items_abandoned": 0, "tier": "warm"}
    part = each // 100
    for n in range(sessions):
        at, name = begin + n * each, f"s{n}"
        spans.append(Span("cpu", Role.STANDBY, name, n, at - 80 * part, at - 30 * part, tier="warm"))
        spans.append(Span("cpu", Role.STANDBY, name, n, at - 30 * part, at, tier="warm", ready=True))
        spans.append(Span("cpu", Role.ACTIVE, name, n, at, at + 99 * part, outcome="done"))
        spans.append(Span("cpu", Role.RETIRING, name, n, at + 99 * part, at + 110 * part))
        for k, state in enumerate(("Running", "NearingEnd", "Preloading", "Draining", "Swapping")):
            states.append(StateSpan("cpu", state, at + k * 20 * part, at + (k + 1) * 20 * part, "Tick"))
        note = {**told, **items, "from_session": f"s{n - 1}", "session": name, "generation": n}
        handovers.append(Handover("cpu", at, note))
    end = begin + sessions * each
    samples = [
        sample(datetime.fromtimestamp((begin + n * 50 * part) / 1e6, UTC), used=n % 7 * GIB)
        for n in range(sessions * 2)
    ]
    return Timeline(
        since=begin - 1_000_000,
        until=end,
        lanes=("cpu",),
        spans=tuple(spans),
        states=tuple(states),
        handovers=tuple(handovers),
        samples=tuple(samples),
        absent=(),
    )


def test_of_very_many_sessions_the_newest_are_drawn_and_that_is_said(chromium: Browser, tmp_path: Path) -> None:
    path = page(busy(10_000), tmp_path)
    assert path.stat().st_size < 7_000_000
    chromium.open(path)
    assert "The newest 400 of 10,000 runs" in chromium.text("#notice")
    assert "The newest 200; 200 more are in the picture." in chromium.text("#rows-left-out")
    assert len(bars(chromium, "rgb(0, 114, 178)")) == 400
    assert chromium.said() == []
