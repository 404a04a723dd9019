"""GPUs that are lost, and NVML that fails or hangs, end to end: what runs goes on where it can, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

from batond import alive
from gpu_house import CARD, EARLY_S, FOR_EVER, GIB, GpuHouse, gpu_house, wait

from tests.nvml_stand_in import Gpu, uuid

OFTEN = "[memory]\ninterval_s = 0.1\n"
LOST = 15  # NVML_ERROR_GPU_IS_LOST
UNKNOWN = 999
MISMATCH = 18  # NVML_ERROR_LIB_RM_VERSION_MISMATCH
TWO = (CARD, Gpu(1, 8 * GIB))


def position(house: GpuHouse, name: str, **fields: object) -> int:
    """Where in the log the first such event is."""
    return house.batond.events.index(house.batond.event(name, **fields))


def reason(house: GpuHouse, lane: str) -> str:
    return str(house.lane(lane)["reason"])


def test_a_lost_gpus_session_goes_on_at_its_cursor_on_another_and_the_gpu_comes_back(tmp_path: Path) -> None:
    with gpu_house(tmp_path, *TWO, settings=OFTEN) as house:
        house.batond.submit(house.program("a", 5, items=300, device="gpu"))
        house.computed("a", 50)
        assert house.batond.event("session.started", session="a")["lane"] == "gpu0"
        wait(lambda: house.lane("gpu0")["active"]["cursor"] >= 50, "it is known to be durable that far")
        house.gpus.show(Gpu(0, 8 * GIB, status=LOST), TWO[1])
        lost = house.batond.event("device.changed", lane="gpu0", usable=False)
        assert "fell off the bus" in lost["reason"]
        again = house.batond.event("session.started", times=2, session="a")
        assert again["lane"] == "gpu1"
        assert again["cursor"] >= 50
        first, second = house.ledger("claim", "a")
        assert (first["uuid"], second["uuid"]) == (uuid(0), uuid(1))
        assert not alive(first["pid"])
        house.all_done(a=300)
        assert house.lane("gpu0")["state"] == "Stopped"
        assert "fell off the bus" in house.lane("gpu0")["reason"]
        house.gpus.show(*TWO)
        house.batond.event("device.changed", lane="gpu0", usable=True)
        house.batond.submit(house.program("b", 5, device="gpu:0"))
        house.all_done(b=40)
        assert house.claim("b")["uuid"] == uuid(0)


def test_while_nvml_fails_nothing_is_begun_and_what_runs_goes_on(tmp_path: Path) -> None:
    with gpu_house(tmp_path, settings=OFTEN) as house:
        house.batond.submit(house.program("a", 3, items=100))
        house.computed("a", 1)
        house.gpus.show(CARD, f"error nvmlDeviceGetMemoryInfo {UNKNOWN}")
        unread = house.batond.event("device.unread", lane="gpu0")
        house.batond.submit(house.program("b", 3))
        house.all_done(a=100)
        house.batond.event("worker.exited", session="a")
        lane = house.lane()
        assert (lane["state"], lane["lost"]) == ("Idle", None)
        assert lane["reason"] == f"waits for the device to be read again, for b: {unread['reason']}"
        (device,) = house.batond.ctl("devices")["devices"]
        assert device["usable"]
        assert device["trouble"] == unread["reason"]
        house.gpus.show(CARD)
        house.all_done(b=40)
        assert position(house, "device.read", lane="gpu0") < position(house, "standby.started", session="b")
        assert house.batond.event("session.finished", session="a")["generation"] == 1


def test_while_nvml_hangs_the_daemon_answers_and_what_runs_goes_on_and_it_can_stop(tmp_path: Path) -> None:
    hanging = (CARD, "hang nvmlDeviceGetMemoryInfo 600")
    with gpu_house(tmp_path, settings=OFTEN) as house:
        house.batond.submit(house.program("a", 3, items=100))
        house.computed("a", 1)
        house.gpus.show(*hanging)
        house.batond.submit(house.program("b", 3))
        assert house.lane()["state"] != "Stopped"
        (device,) = house.batond.ctl("devices")["devices"]
        assert "has not answered" in device["trouble"]
        house.all_done(a=100)
        unread = house.batond.event("device.unread", lane="gpu0")
        assert "NVML has not answered" in unread["reason"]
        started = house.batond.told("standby.started", session="b")
        assert "has not answered" in house.lane()["reason"] or started, "b may have fitted before anybody could know"
        house.gpus.show(CARD)
        house.batond.event("device.read", lane="gpu0")
        house.all_done(b=40)
        house.gpus.show(*hanging)
        wait(lambda: house.batond.ctl("devices")["devices"][0]["trouble"], "NVML hangs again")
        assert house.batond.stop() == 0, "no call that hangs keeps it from ending"


def test_a_killed_daemons_gpu_sessions_are_adopted_and_the_gate_counts_their_memory(tmp_path: Path) -> None:
    with gpu_house(tmp_path, *TWO, settings=OFTEN) as house:
        long = "".join(house.program(name, 5, items=FOR_EVER, lead=EARLY_S) for name in "ab")
        house.batond.submit(long + house.program("c", 5))
        lanes = {name: house.batond.event("session.started", session=name)["lane"] for name in "ab"}
        assert sorted(lanes.values()) == ["gpu0", "gpu1"]
        for name in "ab":
            house.computed(name, 20)
        house.batond.kill()
        there = {name: len(house.items(name)) for name in "ab"}
        house.batond.start()
        for name in "ab":
            assert house.batond.event("session.adopted", session=name)["lane"] == lanes[name]
            house.computed(name, there[name] + 20)
        wait(lambda: any(f"{name} (running) has 5.0 GiB" in reason(house, lanes[name]) for name in "ab"), "c waits")
        assert not house.batond.told("standby.started", session="c")
        house.batond.ctl("cancel", "b")
        house.all_done(c=40)
        assert house.claim("c")["uuid"] == house.claim("b")["uuid"]
        assert house.claim("c")["free"] == 8 * GIB
        house.batond.ctl("cancel", "a")
        house.batond.ended("a", "b")
        for name in "ab":
            items = house.items(name)
            assert items == list(range(len(items)))
            assert len(house.ledger("started", name)) == 1, "it was never begun again"


def test_a_daemon_that_starts_while_its_gpus_cannot_be_opened_interrupts_nothing(tmp_path: Path) -> None:
    """It adopts what runs there, begins nothing, makes no lane of the processor; and goes on when they can be."""
    with gpu_house(tmp_path, *TWO, settings=OFTEN) as house:
        house.batond.submit(house.program("a", 5, items=300) + house.program("b", 5, items=300, device="gpu:1"))
        house.computed("a", 20)
        house.computed("b", 20)
        house.batond.kill()
        house.gpus.show(*TWO, f"init {MISMATCH}")
        house.batond.start()
        assert {lane["name"] for lane in house.batond.ctl("status")["lanes"]} == {"gpu0", "gpu1"}
        assert "differ in version" in str(house.batond.event("daemon.started", times=2)["no_gpu"])
        assert "differ in version" in house.batond.event("device.unread", lane="gpu1")["reason"]
        house.batond.submit(house.program("c", 1, device="gpu:1"))
        house.all_done(a=300, b=300)
        assert [len(house.batond.told("session.started", session=name)) for name in ("a", "b")] == [1, 1]
        assert house.batond.told("standby.started", session="c") == []
        house.gpus.show(*TWO)
        house.batond.event("device.read", lane="gpu1")
        house.all_done(c=40)


def test_a_gpu_that_is_lost_while_the_daemon_is_away_takes_no_durable_item_with_it(tmp_path: Path) -> None:
    with gpu_house(tmp_path, *TWO, settings=OFTEN) as house:
        house.batond.submit(house.program("a", 5, items=200, device="gpu"))
        house.computed("a", 50)
        house.batond.kill()
        house.gpus.show(Gpu(0, 8 * GIB, status=LOST), TWO[1])
        house.batond.start()
        assert "fell off the bus" in house.batond.event("device.unread", lane="gpu0")["reason"]
        house.all_done(a=200)
        assert len(house.batond.told("session.started", session="a")) == 1
