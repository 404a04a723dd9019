"""What is left of a channel that was closed: nothing, at once."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

from states.events import Exited, Hello
from tests.shell.crew_scene import Scene, in_loop


@in_loop
async def test_a_worker_that_has_ended_is_freed_without_the_collector(tmp_path: Path) -> None:
    """Thousands end in a night; what waited in circles for the collector grew by kilobytes with each."""
    async with Scene(tmp_path) as scene:
        await scene.running(1)
        worker = weakref.ref(scene.crew._living[1])
        channel = weakref.ref(scene.crew._living[1].channel)  # type: ignore[arg-type]
        await scene.fact(Hello, 1)
        gc.disable()
        try:
            await scene.fact(Exited, 1)
            await scene.until(lambda: worker() is None)
            assert channel() is None
        finally:
            gc.enable()
