"""Scenes for test_readings.py: real readings of stand-in GPUs into the real core, in a process of its own.

`python -m` runs none of them: `nvml_stand_in.StandIn.run` does, with `play(scene, gpus)`; what it prints is the answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from daemon import config, devices, readings
from states.events import DeviceBack, DeviceLost, Event, HostMemory, Memory, Queued, Unread
from states.lifecycle import step
from states.snapshot import World
from states.work import Session
from tests.nvml_stand_in import Gpu, StandIn, uuid

GIB = 1 << 30
TIMEOUT_S = 60.0
T = TypeVar("T", bound=Event)


class Scene:
    """The devices, the thread that reads them, and a world that takes what they give."""

    def __init__(self, gpus: StandIn, owners: Mapping[int, int] | None = None, interval_s: float = 0.05) -> None:
        found = devices.Devices()
        self.gpus = gpus
        self.world = World({lane.name: lane for lane in found.discover()})
        self.events: list[Event] = []
        self.readings = readings.Readings(
            found,
            pace=lambda: config.Memory(interval_s=interval_s, handover_interval_s=0.005),
            world=lambda: self.world,
            owners=lambda: owners or {},
            post=self.post,
        )

    def post(self, event: Event) -> None:
        """What the loop does with it: decide, then let the readings look."""
        self.events.append(event)
        self.world = step(self.world, event).after
        self.readings.look(self.world)

    async def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait for a fact, looking for hangs meanwhile as the daemon does."""
        watch = asyncio.create_task(self.readings.watch())
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while not holds():  # noqa: ASYNC110 - of files and of a thread, too
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"not {what}: {self.events[-5:]}") from None
        finally:
            watch.cancel()

    def of(self, kind: type[T], lane: str | None = None) -> list[T]:
        """The events of a kind so far."""
        return [each for each in self.events if isinstance(each, kind) and lane in (None, getattr(each, "lane", None))]

    def waits_on_gpu0(self) -> None:
        """Queue what has no room there now."""
        self.post(Queued(0.0, Session("big", 1.0, device="gpu:0", stated_bytes=15 * GIB, stepwise=False)))


def play(scene: Callable[[StandIn], Awaitable[Any]], gpus: StandIn) -> None:
    """Run the scene, and print what it gives as JSON."""
    print(json.dumps(asyncio.run(_run(scene, gpus))))


async def _run(scene: Callable[[StandIn], Awaitable[Any]], gpus: StandIn) -> Any:
    return await scene(gpus)


async def beginning(gpus: StandIn) -> list[str]:
    """The kinds of the first readings."""
    scene = Scene(gpus)
    await scene.readings.start(2)
    scene.readings.close()
    return [type(each).__name__ for each in scene.events]


def _family() -> tuple[subprocess.Popen[bytes], int, subprocess.Popen[bytes]]:
    """A session leader, its child, and a stranger."""
    command = "sleep 600 & echo $!; wait"
    ours = subprocess.Popen(["sh", "-c", command], start_new_session=True, stdout=subprocess.PIPE)
    assert ours.stdout is not None
    return ours, int(ours.stdout.readline()), subprocess.Popen(["sleep", "600"])


async def holders(gpus: StandIn) -> list[Any]:
    """A worker with a child, and a stranger, each with memory; then the child's bytes are not told."""
    ours, child, other = _family()
    try:
        for pid, size in ((ours.pid, 1), (child, 2), (other.pid, 4)):
            gpus.claim(pid, size)
        scene = Scene(gpus, {ours.pid: 7})
        await scene.readings.start(1)
        (told, *_) = scene.of(Memory)
        gpus.show(Gpu(0, 16 * GIB), "no-bytes")
        await scene.until(lambda: not scene.of(Memory)[-1].held, "seen without bytes")
        untold = scene.of(Memory)[-1]
        scene.readings.close()
    finally:
        os.killpg(ours.pid, signal.SIGKILL)
        other.kill()
        ours.wait()
        other.wait()
    strangers = [[each.pid == other.pid, each.name, each.size] for each in told.foreign]
    return [told.held, strangers, untold.held, [each.size for each in untold.foreign]]


async def lost_and_back(gpus: StandIn) -> list[str]:
    """A GPU that is lost, for as long as NVML is opened anew twice, and comes back."""
    readings.REOPEN_S = 0.2  # type: ignore[misc] - a second of a sick driver's is not waited for here
    scene = Scene(gpus)
    await scene.readings.start(1)
    gpus.show(Gpu(0, GIB, status=15))
    await scene.until(lambda: scene.of(DeviceLost), "lost")
    began = len(scene.events)
    host = len(scene.of(HostMemory))
    await scene.until(lambda: len(scene.of(HostMemory)) > host + 20, "read on")
    gpus.show(Gpu(0, GIB))
    await scene.until(lambda: scene.of(DeviceBack), "back")
    await scene.until(lambda: len(scene.events) > began and isinstance(_last_of_gpu(scene), Memory), "read again")
    scene.readings.close()
    names = [type(each).__name__ for each in scene.events if not isinstance(each, HostMemory)]
    return [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]


def _last_of_gpu(scene: Scene) -> Event:
    return next(each for each in reversed(scene.events) if not isinstance(each, HostMemory))


async def unreadable_and_back(gpus: StandIn) -> list[Any]:
    """A GPU whose memory call fails for a while."""
    scene = Scene(gpus)
    await scene.readings.start(1)
    gpus.show(Gpu(0, GIB, status=999))
    await scene.until(lambda: scene.world.lanes["gpu0"].unread, "unread")
    gpus.show(Gpu(0, GIB))
    await scene.until(lambda: scene.world.lanes["gpu0"].unread is None, "read again")
    scene.readings.close()
    return [each.reason for each in scene.of(Unread)]


async def hanging(gpus: StandIn) -> list[str]:
    """A call that does not return: told, in the way of nothing, and not waited for at the end."""
    readings.HUNG_S = 0.5  # type: ignore[misc] - five seconds of a sick driver's are not waited for here
    scene = Scene(gpus)
    await scene.readings.start(1)
    gpus.show(Gpu(0, GIB), "hang nvmlDeviceGetMemoryInfo 3000")
    await scene.until(lambda: scene.of(Unread), "told")
    listing = await scene.readings.listing()
    called = asyncio.Event()
    scene.readings.before("gpu0", called.set)
    await asyncio.wait_for(called.wait(), TIMEOUT_S)
    scene.readings.close()
    return [scene.of(Unread)[0].reason, str(listing[0].trouble)]


async def waiting(gpus: StandIn) -> list[int]:
    """How often the lane that waits for memory was read while the other, in quiet, was ten times."""
    gpus.show(Gpu(0, 16 * GIB, used=8 * GIB), Gpu(1, 16 * GIB))
    return await _counted(gpus)


async def costly(gpus: StandIn) -> list[int]:
    """The same, where a reading takes a twentieth of a second."""
    gpus.show(Gpu(0, 16 * GIB, used=8 * GIB), Gpu(1, 16 * GIB), "hang nvmlDeviceGetMemoryInfo 0.05")
    return await _counted(gpus)


async def _counted(gpus: StandIn) -> list[int]:
    scene = Scene(gpus, interval_s=0.5)
    await scene.readings.start(2)
    scene.waits_on_gpu0()
    before = len(scene.of(Memory, "gpu0")), len(scene.of(Memory, "gpu1"))
    await scene.until(lambda: len(scene.of(Memory, "gpu1")) >= before[1] + 10, "read in quiet")
    scene.readings.close()
    return [len(scene.of(Memory, "gpu0")) - before[0], len(scene.of(Memory, "gpu1")) - before[1]]


async def idle(gpus: StandIn) -> list[int]:
    """How many readings of a lane were posted: without work, at a change, without work again, with work."""
    readings.SAME_S = 1e9  # type: ignore[misc]
    scene = Scene(gpus, interval_s=0.01)

    async def posted(holds: Callable[[], object], what: str) -> int:
        before = len(scene.of(Memory))
        await scene.until(holds, what)
        return len(scene.of(Memory)) - before

    async def hosts(count: int) -> int:
        aim = len(scene.of(HostMemory)) + count
        return await posted(lambda: len(scene.of(HostMemory)) >= aim, "reading the host")

    await scene.readings.start(1)
    await scene.until(lambda: len(scene.world.lanes["gpu0"].readings) >= scene.world.limits.readings, "sure of it")
    quiet = await hosts(20)
    gpus.show(Gpu(0, 16 * GIB, used=GIB))
    changed = await posted(lambda: scene.of(Memory)[-1].free == 15 * GIB, "told of the change")
    quiet_again = await hosts(20)
    scene.waits_on_gpu0()
    working = await hosts(20)
    scene.readings.close()
    return [quiet, changed, quiet_again, working]


async def asked(gpus: StandIn) -> list[str]:
    """A reading that is asked for before something is judged: what it tells is posted first."""
    scene = Scene(gpus, interval_s=600.0)
    await scene.readings.start(2)
    gpus.show(Gpu(0, GIB, status=15))
    before = len(scene.events)
    called = asyncio.Event()
    scene.readings.before("gpu0", called.set)
    await asyncio.wait_for(called.wait(), TIMEOUT_S)
    told = [type(each).__name__ for each in scene.events[before:]]
    scene.readings.close()
    return told


async def by_uuid(gpus: StandIn) -> list[str | None]:
    """The UUIDs of the lanes, as the listing tells them."""
    gpus.show(Gpu(0, GIB), Gpu(1, GIB, migs=((0, GIB, 0), (1, GIB, 0))))
    scene = Scene(gpus)
    await scene.readings.start(1)
    listing = await scene.readings.listing()
    scene.readings.close()
    return [each.uuid for each in listing] + [uuid(0), uuid(1, 0), uuid(1, 1)]
