"""What the control methods show: status, lists, logs, events; through a real socket, loop and record."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon import methods, obstacles, results, views
from daemon.logs import line_type
from daemon.stories import EVENTS
from daemon.tail import read_piece
from daemon.wire import Code
from states import details, reasons
from states.events import Paused, Progress
from states.forecast import forecast
from states.hindsight import Learned
from states.snapshot import Lane, State, World
from states.work import Session
from tests.core import worlds
from tests.shell.control_stage import Line, Stage, done, ended, now, refused, running, submit


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A daemon in which sessions are started but none computes yet."""
    with Stage(tmp_path) as stage:
        stage.crew.frozen = True
        yield stage
        assert stage.bugs == []


@pytest.fixture
def line(stage: Stage) -> Iterator[Line]:
    with Line(stage.path) as line:
        yield line


# Looking


def test_a_session_without_room_to_write_says_so_and_counts_what_it_skipped(line: Line, stage: Stage) -> None:
    submit(line, "a")
    stage.until(running("a"))
    generation = done(line, "status")["lanes"][0]["active"]["generation"]
    stage.post(Progress(now(), generation, 40, 20, 1000, errors=3))
    stage.post(Paused(now(), generation, "no space left on /out"))
    stage.until(lambda world: (active := world.lanes["cpu"].active) is not None and active.paused is not None)
    lane = done(line, "status")["lanes"][0]
    assert (lane["active"]["paused"], lane["active"]["errors"]) == ("no space left on /out", 3)
    assert "no space left on /out" in lane["reason"]
    row = done(line, "show", name="a")["session"]
    assert (row["errors"], row["reason"]) == (3, "has no room to write, and tries again: no space left on /out")


def test_status_shows_what_a_lane_does_and_why(line: Line, stage: Stage) -> None:
    submit(line, "a", "b", "c")
    stage.until(running("a"))
    lane = done(line, "status")["lanes"][0]
    assert (lane["name"], lane["device"], lane["state"], lane["held"]) == ("cpu", "cpu", "Running", False)
    assert lane["active"]["session"] == "a"
    assert lane["active"]["phase"] == "computing"
    assert lane["active"]["total"] == 1000
    assert lane["reason"]
    stage.crew.batch, stage.crew.total, stage.crew.batch_s = 10, 100_000, 0.01
    done(line, "swap")
    stage.until(running("b"))
    stage.thaw()
    stage.until(lambda world: bool((pace := world.lanes["cpu"].active.pace) and pace.per_item_s))  # type: ignore[union-attr]
    active = done(line, "status")["lanes"][0]["active"]
    assert active["session"] == "b"
    assert active["rate_items_s"] > 0
    assert active["remaining_s"] > 0
    assert active["remaining_spread_s"] is not None


def test_every_queued_session_says_why_it_waits() -> None:
    lane = Lane("cpu", since=0.0)
    queue = (
        Session("a", 1.0),
        Session("b", 2.0, waits_for=frozenset({"x", "a"})),
        Session("c", 3.0, not_before=130.0, attempt=1),
        Session("d", 4.0, device="gpu:7"),
        Session("e", 5.0),
    )
    assert obstacles.waiting_reasons(World({"cpu": lane}, queue), 100.0) == {
        "a": "next on cpu: waits for memory readings of the device before a is prepared",
        "b": "waits for a, x",
        "c": "is tried again in 30 s, attempt 2 of 3",
        "d": "no lane has the device gpu:7; bring it back, or batonctl cancel d takes it out of the queue",
        "e": "behind a",
    }
    lost = Lane("cpu", lost="it fell off the bus")
    assert "fell off the bus" in obstacles.waiting_reasons(World({"cpu": lost}, queue), 100.0)["e"]
    assert obstacles.waiting_reasons(World({"cpu": lane}, queue, stopping=True), 100.0)["e"] == "batond is stopping"


def test_the_attempt_is_the_one_that_runs_or_is_to_come() -> None:
    """As the log's `session.started` and `why` count them: the first is 1; of one that never began there is none."""
    second = worlds.session("second", attempt=1)
    back = worlds.session("back", 1.0, begun=True)
    lane = worlds.lane(state=State.RUNNING, active=worlds.worker(session=second))
    queue = (back, worlds.session("third", 2.0, attempt=2, not_before=130.0), worlds.session("fresh", 3.0))
    world, moment = worlds.world(lane, queue=queue), views.Now(100.0, datetime.now(UTC))
    shown = views.status(world, views.Daemon("", 1, 0.0), 1, moment)
    assert shown.lanes[0].active is not None
    assert shown.lanes[0].active.attempt == 2
    assert [(each.name, each.attempt) for each in shown.queue] == [("back", 1), ("third", 3), ("fresh", 0)]
    rows = views.live_rows(world, moment, {})
    assert {row.name: row.attempt for row in rows} == {"second": 2, "back": 1, "third": 3, "fresh": 0}
    assert "attempt 3 of 3" in shown.queue[1].reason


def test_a_remaining_time_has_the_same_margin_everywhere() -> None:
    """In status, list, show and watch what `why` and the plan say: nine ends in ten lie within it."""
    lane = worlds.lane(state=State.RUNNING, active=worlds.computing(30.0, noise=0.5))
    world, moment = worlds.world(lane), views.Now(0.0, datetime.now(UTC))
    (plan,) = forecast(world, 0.0, Learned())
    shown = views.lane_view(world, lane, moment).active
    assert shown is not None
    assert plan.end.margin_s is not None
    assert shown.remaining_spread_s == pytest.approx(plan.end.margin_s)
    (row,) = views.live_rows(world, moment, {})
    assert row.remaining_spread_s == shown.remaining_spread_s
    said = next(iter(details.of_lane(world, lane, 0.0, {})))
    assert f"± {reasons.seconds(plan.end.margin_s)} to go" in said


def test_a_long_queue_is_looked_through_once() -> None:
    queue = tuple(Session(f"s{number:05}", float(number)) for number in range(20_000))
    reasons = obstacles.waiting_reasons(World({"cpu": Lane("cpu")}, queue), 1.0)
    assert reasons["s19999"] == "behind s19998"


def test_list_shows_live_sessions_then_ended_ones_a_page_at_a_time(line: Line, stage: Stage) -> None:
    stage.thaw()
    submit(line, *(f"old-{number}" for number in range(5)))
    stage.until(ended("old-4"))
    stage.crew.frozen = True
    submit(line, "a", "b")
    stage.until(running("a"))
    rows = done(line, "list")["sessions"]
    assert [(row["name"], row["state"]) for row in rows] == [("a", "running"), ("b", "queued")]
    assert all(datetime.fromisoformat(row["submitted_at"]).tzinfo for row in rows)
    page = done(line, "list", ended=True, limit=2)
    assert [row["name"] for row in page["sessions"]] == ["a", "b", "old-4", "old-3"]
    page = done(line, "list", ended=True, limit=2, before=page["next"])
    assert [row["name"] for row in page["sessions"]] == ["old-2", "old-1"]
    page = done(line, "list", ended=True, limit=2, before=page["next"])
    assert [row["name"] for row in page["sessions"]] == ["old-0"]
    assert page["next"] is None
    assert [row["name"] for row in done(line, "list", states=["queued"])["sessions"]] == ["b"]
    assert len(done(line, "list", states=["done"])["sessions"]) == 5
    found = done(line, "list", names=["b", "old-1", "nobody", "b"])["sessions"]
    assert [(row["name"], row["state"]) for row in found] == [("b", "queued"), ("old-1", "done")]
    old = found[1]
    assert (old["done"], old["total"], old["attempt"]) == (1000, 1000, 1)
    assert old["ended_at"] >= old["started_at"] >= old["submitted_at"]


def test_show_tells_everything_of_a_session(line: Line, stage: Stage) -> None:
    stage.thaw()
    submit(line, "bad", priority="3")
    stage.until(ended("bad"))
    shown = done(line, "show", name="bad")
    assert shown["session"]["state"] == "failed"
    assert "item 300" in shown["session"]["reason"]
    assert shown["spec"]["priority"] == 3
    assert shown["spec"]["run"] == ["true"]
    names = [entry["event"] for entry in shown["history"]]
    assert names[0] == "session.queued"
    assert "session.failed" in names
    assert shown["log_path"] == str(stage.crew.log_path("bad"))
    assert refused(line, "show", name="nobody")[0] is Code.NOT_FOUND


def test_status_tells_how_much_memory_is_free_who_holds_it_and_what_the_next_one_needs(
    line: Line, stage: Stage
) -> None:
    submit(line, "a", "b", "c", memory='"60GiB"')
    stage.until(running("a"))
    (lane,) = done(line, "status")["lanes"]
    memory = lane["memory"]
    assert (memory["total_bytes"], memory["headroom_bytes"]) == (64 << 30, 256 << 20)
    assert memory["spare_bytes"] <= 4 << 30, "what a was given is promised"
    assert memory["next"] == {"session": "b", "tier": "warm", "needed_bytes": 60 << 30, "fits": False}
    assert lane["active"]["reserved_bytes"] == 60 << 30
    done(line, "pause")
    assert done(line, "status")["lanes"][0]["memory"]["next"] is None, "nobody is next on a lane that is paused"


def test_status_tells_no_more_of_the_queue_than_was_asked_for(line: Line, stage: Stage) -> None:
    submit(line, *"abcde")
    stage.until(running("a"))
    whole = done(line, "status")
    assert (whole["queued"], len(whole["queue"])) == (4, 4)
    for most in range(6):
        some = done(line, "status", queue=most)
        assert (some["queued"], some["queue"]) == (4, whole["queue"][:most])
    assert refused(line, "status", queue=-1)[0] is Code.INVALID_PARAMS


def test_devices_shows_memory_and_who_holds_it(line: Line) -> None:
    submit(line, "a")
    device = done(line, "devices")["devices"][0]
    assert (device["lane"], device["usable"], device["total_bytes"]) == ("cpu", True, 64 << 30)
    assert device["holders"] == ["a"]


# Logs


def test_logs_are_read_in_pieces_and_end_with_their_session(line: Line, stage: Stage) -> None:
    submit(line, "a", "b")
    stage.until(running("a"))
    stage.crew.log_path("a").write_text("one\ntwo ✓\nthree\n")
    assert done(line, "logs", name="a", max_bytes=12)["text"] == "three\n"  # from the start of a line
    first = done(line, "logs", name="a", offset=0, max_bytes=9)
    assert first["text"] == "one\ntwo "  # the tick's three bytes are not all there
    rest = done(line, "logs", name="a", offset=first["next_offset"])
    assert rest["text"] == "✓\nthree\n"
    assert not rest["ended"]
    assert done(line, "logs", name="a", offset=rest["next_offset"])["text"] == ""
    stage.crew.log_path("a").write_text("anew\n")
    trimmed = done(line, "logs", name="a", offset=rest["next_offset"])
    assert (trimmed["text"], trimmed["offset"]) == ("anew\n", 0)
    done(line, "cancel", names=["a"])
    stage.until(ended("a"))
    assert done(line, "logs", name="a", offset=0)["ended"]
    assert refused(line, "logs", name="nobody")[0] is Code.NOT_FOUND
    assert refused(line, "logs", name="../../etc/passwd")[0] is Code.NOT_FOUND


def test_a_log_that_is_not_there_or_not_text_is_no_error(tmp_path: Path) -> None:
    assert read_piece(tmp_path / "none", None, 100).text == ""
    path = tmp_path / "log"
    path.write_bytes(b"\xff\xfeab\xe2\x9c")
    piece = read_piece(path, 0, 100)
    assert piece.text == "\ufffd\ufffdab"
    assert (piece.next_offset, piece.whole) == (4, True)
    path.write_bytes("ééé".encode())
    assert read_piece(path, 0, 1).text == "éé"  # a piece always gets on


# Events


def test_events_come_from_the_record_then_live_and_none_is_missed_or_told_twice(line: Line, stage: Stage) -> None:
    submit(line, "a")
    stage.until(running("a"))
    with Line(stage.path) as listener:
        newest = listener.ask("events", since=0)["result"]["seq"]
        submit(line, "b")
        done(line, "pause")
        told: list[dict[str, Any]] = []
        while not told or told[-1]["event"] != "lane.held":
            told.append(listener.read()["params"])
    assert told[0]["event"] == "session.queued"
    assert told[0]["session"] == "a"
    seqs = [each["seq"] for each in told]
    assert seqs == sorted(seqs)
    assert sum(each["event"] == "session.queued" for each in told) == 2
    assert seqs[-1] > newest
    kinds = {kind.event: line_type(kind) for kind in EVENTS}
    for each in told:
        msgspec.convert(each, kinds[each["event"]])  # it is the log's own line


def test_events_without_follow_end_after_the_past(line: Line, stage: Stage) -> None:
    submit(line, "a", "b", "c")
    with Line(stage.path) as listener:
        newest = listener.ask("events", last=1, follow=False)["result"]["seq"]
        told = []
        while message := listener.read():
            told.append(message["params"]["seq"])
        assert set(told) == {newest}
    assert refused(line, "events", since=1, last=1)[0] is Code.INVALID_PARAMS


def test_events_from_now_on_hold_nothing_of_the_past(line: Line, stage: Stage) -> None:
    submit(line, "a")
    stage.until(running("a"))
    with Line(stage.path) as listener:
        listener.ask("events")
        done(line, "pause")
        assert listener.read()["params"]["event"] == "lane.held"


def test_a_long_history_is_told_whole(line: Line, stage: Stage) -> None:
    for _ in range(130):
        done(line, "pause")
        done(line, "resume")
    with Line(stage.path) as listener:
        assert listener.ask("events", since=0, follow=False)["result"]["seq"] >= 260
        held = 0
        while message := listener.read():
            held += message["params"]["event"] == "lane.held"
        assert held == 260


# The daemon ends and begins


def test_after_a_restart_sessions_are_what_they_were(tmp_path: Path) -> None:
    with Stage(tmp_path) as first, Line(first.path) as line:
        done(line, "pause")
        submit(line, "a", "b", priority="2")
        before = done(line, "list")["sessions"]
        done(line, "move", name="b", first=True)
    with Stage(tmp_path) as second, Line(second.path) as line:
        second.crew.frozen = True
        rows = {row["name"]: row for row in done(line, "list")["sessions"]}
        assert rows["a"]["submitted_at"] == before[0]["submitted_at"]
        assert done(line, "show", name="a")["spec"]["priority"] == 2


def test_results_carry_no_field_that_only_the_core_understands() -> None:
    for method in methods.METHODS.values():
        msgspec.json.schema(method.result)
    assert results.Row(name="x", state="queued").ended_at is None
