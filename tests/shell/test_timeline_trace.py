"""The trace, held against the rules of the Trace Event Format."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.ctl import timeline_trace
from daemon.ctl.timeline_spans import Role, Span, Timeline
from states.events import Memory, Promoted, Quiesced, Ready
from states.snapshot import Lane, World
from states.work import Tier
from tests.shell.recorded_life import GIB, START, Life
from tests.shell.test_timeline_spans import relay
from tests.shell.timeline_stage import DAY, of, sample, timeline

NEEDED = {  # beside ph, by the phase's letter
    "X": {"name", "cat", "ts", "dur", "pid", "tid", "args"},
    "i": {"name", "cat", "ts", "pid", "tid", "s", "args"},
    "C": {"name", "cat", "ts", "pid", "args"},
    "M": {"name", "pid", "args"},
    "s": {"name", "cat", "ts", "pid", "tid", "id"},
    "f": {"name", "cat", "ts", "pid", "tid", "id", "bp"},
}
METADATA = {"process_name": "name", "process_sort_index": "sort_index"}
METADATA |= {"thread_name": "name", "thread_sort_index": "sort_index"}


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    made = Life(tmp_path / "state")
    relay(made)
    made.store.samples.keep([sample(made.wall, used=3 * GIB, active_bytes=GIB, wanted_bytes=6 * GIB)], made.wall)
    yield made
    made.store.close()


def written(made: Timeline) -> Any:
    file = io.StringIO()
    timeline_trace.write(made, file)
    return json.loads(file.getvalue())


def assert_well_formed(trace: Any) -> None:
    """Every rule of the format that an event of ours could break."""
    assert trace["displayTimeUnit"] in ("ms", "ns")
    events = trace["traceEvents"]
    open_until: dict[tuple[int, int], list[tuple[int, int]]] = {}
    flows: dict[int, list[Any]] = {}
    for event in events:
        assert event.keys() - {"ph"} >= NEEDED[event["ph"]], event
        assert isinstance(event["pid"], int)
        if event["ph"] != "M":
            assert isinstance(event["ts"], int), "microseconds"
        match event["ph"]:
            case "X":
                assert event["dur"] >= 0
                open_until.setdefault((event["pid"], event["tid"]), []).append(
                    (event["ts"], event["ts"] + event["dur"])
                )
            case "i":
                assert event["s"] in ("g", "p", "t")
            case "C":
                assert event["args"]
                assert all(isinstance(value, int) for value in event["args"].values())
            case "M":
                assert list(event["args"]) == [METADATA[event["name"]]]
            case "s" | "f":
                flows.setdefault(event["id"], []).append(event)
    for slices in open_until.values():
        for (_, end), (begin, _) in zip(sorted(slices), sorted(slices)[1:], strict=False):
            assert end <= begin, "on one thread slices follow one another"
    for start, finish in flows.values():
        assert (start["ph"], finish["ph"], finish["bp"]) == ("s", "f", "e")
        assert (start["name"], start["cat"]) == (finish["name"], finish["cat"])
        assert start["ts"] <= finish["ts"]
        for end in (start, finish):
            there = open_until[(end["pid"], end["tid"])]
            assert any(begin <= end["ts"] <= until for begin, until in there), "an arrow binds to a slice"


def test_the_trace_keeps_the_formats_rules(life: Life) -> None:
    trace = written(timeline(life))
    assert_well_formed(trace)
    phases = {event["ph"] for event in trace["traceEvents"]}
    assert phases == {"X", "i", "C", "M", "s", "f"}


def test_a_lane_is_a_process_with_its_threads_and_counters(life: Life) -> None:
    events = written(timeline(life))["traceEvents"]
    named = {event["args"]["name"]: event["pid"] for event in events if event["name"] == "process_name"}
    assert list(named) == ["batond", "lane cpu"]
    threads = {event["args"]["name"]: event["tid"] for event in events if event["name"] == "thread_name"}
    slices = [event for event in events if event["ph"] == "X" and event["pid"] == named["lane cpu"]]
    by_thread = {name: [e["name"] for e in slices if e["tid"] == tid] for name, tid in threads.items()}
    assert by_thread["active"] == ["a", "b"]
    assert by_thread["standby"] == ["a: to warm", "a: ready warm", "b: to warm", "b: ready warm"]
    assert by_thread["retiring"] == ["a"]
    assert by_thread["states"][:2] == ["Idle", "Preloading"]
    counters = {event["name"]: event["args"] for event in events if event["ph"] == "C"}
    assert counters["memory taken (bytes)"] == {"active": GIB, "standby": 0, "retiring": 0, "others": 2 * GIB}
    assert counters["memory free (bytes)"] == {"free": 5 * GIB}
    assert counters["memory wanted (bytes)"] == {"wanted": 6 * GIB}


def test_a_handover_is_a_mark_and_two_arrows_to_the_new_session(life: Life) -> None:
    events = written(timeline(life))["traceEvents"]
    (mark,) = [event for event in events if event["ph"] == "i"]
    assert mark["name"] == "a → b"
    assert mark["args"]["tier"] == "warm"
    begun = next(event for event in events if event["ph"] == "X" and event["name"] == "b" and event["cat"] == "active")
    arrows = [event for event in events if event["ph"] == "f"]
    assert {(arrow["name"], arrow["ts"]) for arrow in arrows} == {
        ("promoted", begun["ts"]),
        ("handed over", begun["ts"]),
    }


def test_an_arrow_leads_on_in_time_however_much_happened_on_another_lane_meanwhile(tmp_path: Path) -> None:
    """The new session begins before the daemon heard of it, and it was ready until then: not until it was heard of."""
    lanes = {"cpu": Lane("cpu"), "gpu1": Lane("gpu1", "gpu", index=1, uuid="GPU-1")}
    life = Life(tmp_path / "two", World(lanes=lanes))
    for _ in range(2):
        life.feed(Memory(0.0, "gpu1", 8 * GIB, 8 * GIB))
    life.submit("a", device="cpu")
    life.submit("b", device="cpu")
    old = life.run_to(95)
    new = life.generation()
    life.feed(Ready(0.0, new, Tier.WARM, 0.5, total=100))
    for name in ("c", "d", "e"):
        life.submit(name, device="gpu")
        life.finish(life.run_to(50))
    life.feed(Quiesced(0.0, old, life.now + 1, 100, 0))
    life.feed(Promoted(0.0, new, life.now - 0.75))
    made = timeline(life)
    life.store.close()
    assert made.lanes == ("cpu", "gpu1")
    assert sum(span.lane == "gpu1" for span in made.spans) > 8
    *_, ready, begun = of(made, "b")
    assert (ready.role, ready.end) == (Role.STANDBY, begun.begin)
    assert_well_formed(written(made))


def test_two_that_commit_at_once_have_a_thread_each() -> None:
    spans = tuple(
        Span("cpu", Role.RETIRING, name, g, b, e)
        for name, g, b, e in (("a", 1, 0, 9), ("b", 2, 5, 12), ("c", 3, 9, 20))
    )
    made = Timeline(
        since=0, until=20, lanes=("cpu",), spans=spans, states=(), handovers=(), samples=(), absent=((12, 15),)
    )
    trace = written(made)
    assert_well_formed(trace)
    names = {event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "thread_name"}
    assert {"retiring", "retiring 2", "no daemon"} <= names


def test_an_empty_record_is_a_trace_without_lanes(tmp_path: Path) -> None:
    empty = Life(tmp_path / "empty")
    trace = written(timeline(empty, START, START + DAY))
    empty.store.close()
    assert_well_formed(trace)
    assert {event["ph"] for event in trace["traceEvents"]} == {"M"}
