"""A handover in words: which part of the gap is told as the largest, and what would remove it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from daemon.explaining import explained
from daemon.results_insight import Handover

IN_TIME: dict[str, Any] = {
    "seq": 7,
    "ts": datetime(2026, 3, 1, tzinfo=UTC),
    "lane": "gpu0",
    "from_session": "old",
    "session": "new",
    "generation": 2,
    "tier": "warm",
    "gap_s": 0.002,
    "gap_predicted_s": None,
    "gap_margin_s": None,
    "lead_s": 12.0,
    "lead_predicted_s": None,
    "lead_margin_s": None,
    "lead_next_s": 14.9,
    "idle_standby_s": 0.4,
    "device_waited_s": 0.0,
    "memory_waited_s": 0.0,
    "preparing_s": 11.6,
    "draining_s": 0.01,
    "swapping_s": 0.002,
    "told_s": 0.0005,
    "waited_s": 0.0,
    "recorded_s": 0.0005,
    "begun_s": 0.001,
    "held_back": None,
}

PREPARED_AFTER: dict[str, Any] = {
    "gap_s": 5.0,
    "device_waited_s": 4.9,
    "waited_s": 4.9,
    "tier": "none",
    "lead_s": -0.1,
    "queued_s": 90.0,
}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "nothing to remove: new was prepared in time, and the device idle for 2.0 ms"),
        (
            {"gap_s": 3.102, "device_waited_s": 3.1, "waited_s": 3.1, "tier": "none", "lead_next_s": 18.6},
            "the standby was late by 3.10 s: its lead was 12 s, it needed 15 s; the lead is 19 s from now on",
        ),
        (
            {
                "gap_s": 3.102,
                "device_waited_s": 3.1,
                "waited_s": 3.1,
                "memory_waited_s": 2.5,
                "held_back": "pid 4121 (other), which is not batond's, holds 6.0 GiB",
            },
            "2.50 s of it went by waiting for memory: pid 4121 (other), which is not batond's, holds 6.0 GiB",
        ),
        (
            {**PREPARED_AFTER, "queued_s": 0.4},
            "4.90 s of it went by preparing new, begun 0.10 s after the end; it was queued only 0.40 s before that end;"
            " queued sooner, it is prepared 15 s before an end from now on",
        ),
        (
            {**PREPARED_AFTER, "lead_s": 2.0, "queued_s": 2.0},
            "it was late by 4.90 s; it was queued only 2.00 s before that end; queued sooner, it is prepared 15 s"
            " before an end from now on",
        ),
        (
            {**PREPARED_AFTER, "tier": "staged", "lead_s": 30.0, "held_back": "waits for memory for new: …"},
            "new was prepared as far as staged when old ended: waits for memory for new: …",
        ),
        (
            {**PREPARED_AFTER, "lead_s": 2.63, "device_waited_s": 4.9, "ended_by": "it was cancelled"},
            "new had been prepared for 2.63 s of the 7.53 s that it needed",
        ),
        ({"ended_by": "a swap was asked for"}, "old ended before its last item: a swap was asked for"),
        (
            {"gap_s": 2.0, "waited_s": 1.99},
            "new was prepared, and waited 1.99 s to be told to go: the lane was paused, or two sessions before it were"
            " still committing; batonctl events tells which",
        ),
        (
            {"gap_s": 0.6, "recorded_s": 0.58},
            "the largest part: 0.58 s to write the decision down: the state directory's disk is slow",
        ),
        (
            {"gap_s": 0.6, "begun_s": 0.58},
            "the largest part: 0.58 s until new began its first item: what its program does between ready() and that",
        ),
        (
            {"idle_standby_s": 8.0},
            "new was ready 8.00 s before it was needed: it took 12 s to prepare, begun 12 s before the end; its lead is"
            " 15 s from now on",
        ),
        (
            {"lead_predicted_s": 10.0, "lead_margin_s": 1.0},
            "when the preparation began, old was thought to go on for 10 s ± 1.00 s; it did for 12 s, 2.00 s longer",
        ),
        (
            {"gap_predicted_s": 0.003, "gap_margin_s": 0.001},
            "a gap of 3.0 ms ± 1.0 ms was to be expected; it was 1.0 ms shorter",
        ),
    ],
    ids=[
        "in-time",
        "late",
        "memory",
        "queued-late",
        "begun-when-queued",
        "held-back",
        "cut-short",
        "swapped",
        "paused",
        "slow-disk",
        "slow-start",
        "idle",
        "end",
        "gap",
    ],
)
def test_the_largest_part_is_named_with_what_removes_it(changed: dict[str, Any], words: str) -> None:
    assert words in explained(Handover(**(IN_TIME | changed)))


@pytest.mark.parametrize(
    "changed",
    [
        {"unprepared": "it waits for memory for new: warm needs 12.0 GiB"},
        {"unprepared": "it came after other"},
        {"ended_by": "it failed: its process was killed by signal 9 while computing", "queued_s": 3.0},
        {"queued_s": None},  # as a record of an earlier version has it
    ],
    ids=["memory", "after", "lost", "unknown"],
)
def test_only_what_was_queued_late_is_told_to_be_queued_sooner(changed: dict[str, Any]) -> None:
    lines = explained(Handover(**(IN_TIME | PREPARED_AFTER | changed)))
    assert not any("queued" in line or "its lead was" in line for line in lines)
    assert "4.90 s of it went by preparing new, begun 0.10 s after the end" in lines
    for known in (changed.get("unprepared"), changed.get("ended_by")):
        assert known is None or any(line.endswith(f": {known}") for line in lines)


def test_a_gap_without_a_daemon_is_not_blamed_on_the_lead() -> None:
    late = {"gap_s": 9.0, "device_waited_s": 8.9, "waited_s": 8.9, "tier": "none"}
    (line,) = explained(Handover(**(IN_TIME | late)), restarted_s=7.5)
    assert line.startswith("7.50 s of it passed before this batond began: ")
    assert "its lead was" in explained(Handover(**(IN_TIME | late)), restarted_s=1.0)[1]


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    """A daemon that was restarted in between did not see the parts."""
    unseen = {"told_s": None, "waited_s": None, "recorded_s": None, "begun_s": None, "gap_s": 0.6}
    (line,) = explained(Handover(**(IN_TIME | unseen)))
    assert line == "0.60 s passed, and by what is not known: a batond in between was restarted"
