"""The gate on a GPU, end to end: real processes hold its memory, and nothing is begun before that is free."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import psutil
from batond import alive
from gpu_house import CARD, EARLY_S, FOR_EVER, GIB, gpu_house, stranger, wait


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """That process does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_two_that_do_not_fit_together_never_overlap_and_swap_when_the_memory_is_back(tmp_path: Path) -> None:
    with gpu_house(tmp_path) as house:
        house.batond.submit("".join(house.program(name, 5) for name in "abc"))
        house.all_done(a=40, b=40, c=40)
        for name in "abc":
            assert house.claim(name)["free"] == 8 * GIB, "nobody else held any of it"
        for before, after in ("ab", "bc"):
            gone = house.batond.event("worker.exited", session=before)
            assert house.batond.event("standby.started", session=after)["seq"] >= gone["seq"]
            handover = house.batond.event("handover.completed", from_session=before, session=after)
            assert handover["items_in"] == handover["items_done"] == 40
            because = house.batond.ctl("explain", str(handover["seq"]))["handovers"][0]["because"]
            kept = (
                f"waits for memory for {after}: warm needs 5.0 GiB and 256 MiB are kept free, 3.0 GiB can be given out"
            )
            assert because[0].startswith(f"{after} was not prepared when {before} ended: it {kept}")
            assert not any("queued" in line for line in because), "when it was queued is not what kept it"


def test_two_that_fit_together_overlap_and_swap_warm(tmp_path: Path) -> None:
    with gpu_house(tmp_path) as house:
        house.batond.submit(house.program("a", 3, items=200) + house.program("b", 3))
        house.batond.event("standby.started", session="b", beside="a")
        with stopped(house.claim("a")["pid"]):
            ready = house.batond.event("standby.ready", session="b")
        assert ready["tier"] == "warm"
        assert house.claim("b")["free"] == 5 * GIB, "a holds the other 3"
        handover = house.batond.event("handover.completed", from_session="a", session="b")
        assert handover["tier"] == "warm"
        house.all_done(a=200, b=40)
        (last,) = (line for line in house.ledger("item", "a") if line["item"] == 199)
        (first,) = (line for line in house.ledger("item", "b") if line["item"] == 0)
        assert last["at"] < first["at"], "one computes at a time"
        assert not house.batond.told("memory.waited")


def test_memory_that_does_not_come_back_holds_the_gate_and_is_told_with_figures(tmp_path: Path) -> None:
    with gpu_house(tmp_path, CARD, "leak", limits="memory_alarm_s = 0.3\n") as house:
        house.batond.submit(house.program("a", 5) + house.program("b", 5))
        short = house.batond.event("memory.short", session="b")
        assert (short["tier"], short["need_bytes"], short["free_bytes"]) == ("warm", 5 * GIB, 3 * GIB)
        wait(lambda: "no process is named" in house.lane()["reason"], "nobody is named for what a held")
        reason = house.lane()["reason"]
        figures = ("warm needs 5.0 GiB", "256 MiB are kept free", "3.0 GiB can be given out", "5.0 GiB are taken")
        shown = house.batond.ctl("show", "b")["session"]["reason"]
        for figure in (*figures, "no process is named for them", " s so far"):
            assert figure in reason
            assert figure in shown
        again = house.batond.event("memory.short", session="b", times=2)
        assert again["waited_s"] > short["waited_s"]
        assert "5.0 GiB are taken, and no process is named for them" in again["reason"]
        assert not house.batond.told("standby.started", session="b")
        assert house.lane()["state"] == "Idle"
        house.gpus.show(CARD)
        assert house.batond.event("memory.waited", session="b")["waited_s"] >= again["waited_s"]
        house.all_done(a=40, b=40)
        assert house.claim("b")["free"] == 8 * GIB


def test_a_process_of_nobodys_is_named_and_left_alone_and_waited_for(tmp_path: Path) -> None:
    with gpu_house(tmp_path, limits="memory_alarm_s = 0.3\n") as house:
        house.batond.submit(house.program("a", 5, items=FOR_EVER) + house.program("b", 5))
        house.computed("a", 1)
        with stranger(house.gpus, 3 * GIB) as pid:
            named = f"pid {pid} ({psutil.Process(pid).name()}), which is not batond's, holds 3.0 GiB"
            house.batond.ctl("cancel", "a")
            house.batond.event("worker.exited", session="a")
            wait(lambda: named in house.lane()["reason"], "it is named")
            assert "5.0 GiB can be given out" in house.lane()["reason"]
            (device,) = house.batond.ctl("devices")["devices"]
            assert [process["pid"] for process in device["processes"]] == [pid]
            house.batond.wait(lambda event: event["event"] == "memory.short" and named in event["reason"])
            assert not house.batond.told("standby.started", session="b")
            assert alive(pid)
        house.all_done(b=40)
        assert house.claim("b")["free"] == 8 * GIB


def test_memory_that_comes_back_late_is_waited_for_and_little_more(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    lag_s = 1.5
    with gpu_house(tmp_path, CARD, f"lag {lag_s}") as house:
        house.batond.submit(house.program("a", 5) + house.program("b", 5))
        house.all_done(a=40, b=40)
        assert house.claim("b")["free"] == 8 * GIB
        gone, begun = (
            house.batond.event("worker.exited", session="a"),
            house.batond.event("standby.started", session="b"),
        )
        seconds = (datetime.fromisoformat(begun["ts"]) - datetime.fromisoformat(gone["ts"])).total_seconds()
        excess_s = round(seconds - lag_s, 3)
        record_property("excess_s", excess_s)
        print(f"begun {excess_s} s later than the memory was back")


def test_one_that_grows_gets_the_room_that_the_standby_took(tmp_path: Path) -> None:
    """More than it stated: the standby goes, and is begun again when there is room. Nobody runs out of memory."""
    with gpu_house(tmp_path, settings="[memory]\ninterval_s = 0.1\n") as house:
        house.batond.submit(house.program("a", 2, items=FOR_EVER, lead=EARLY_S) + house.program("b", 3))
        house.batond.event("standby.ready", session="b")
        (standby,) = house.ledger("claim", "b")
        house.gpus.claim(house.claim("a")["pid"], 5 * GIB - 50 * (1 << 20))
        discarded = house.batond.event("standby.discarded", session="b")
        assert discarded["reason"] == "the active session needs the room"
        wait(lambda: not alive(standby["pid"]), "the standby is gone")

        wait(
            lambda: "a (running) has 5.0 GiB" in house.lane()["reason"], "it counts as what it holds, not as it stated"
        )
        count = len(house.items("a"))
        house.computed("a", count + 10)
        house.batond.ctl("cancel", "a")
        house.all_done(b=40)
        first, second = house.ledger("claim", "b")
        assert first["free"] == 6 * GIB
        assert second["free"] == 8 * GIB
        assert house.items("a") == list(range(len(house.items("a"))))
