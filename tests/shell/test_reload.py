"""A configuration that is read again: taken whole, or refused with nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from daemon.config import Config, Control, Problems
from daemon.reload import Refused, Reloader
from daemon.stories import ConfigRefused, ConfigReloaded

OLD = Config(
    state_dir=Path("/state"),
    cache_dir=Path("/cache"),
    log_dir=Path("/logs"),
    control=Control(socket=Path("/s.sock")),
)
LOUDER = msgspec.structs.replace(OLD, log=msgspec.structs.replace(OLD.log, level="debug"))
ELSEWHERE = msgspec.structs.replace(LOUDER, log_dir=Path("/elsewhere"))


class Scene:
    """A reloader, what it applied and what it told."""

    def __init__(self, reread: Callable[[], Config]) -> None:
        self.applied: list[Config] = []
        self.told: list[ConfigReloaded | ConfigRefused] = []
        self.reloader = Reloader(reread, self.applied.append, self.told.append)


def unreadable() -> Config:
    raise Problems(["one thing", "another"])


def test_what_may_change_is_applied_and_told() -> None:
    scene = Scene(lambda: LOUDER)
    assert scene.reloader.reload(OLD).changed == ("log.level",)
    assert scene.applied == [LOUDER]
    assert scene.told == [ConfigReloaded(("log.level",), None)]


@pytest.mark.parametrize(
    ("reread", "problems"),
    [
        (unreadable, ("one thing", "another")),
        (
            lambda: ELSEWHERE,
            ("log_dir: cannot change while batond runs; restart it for it, or put the old value back",),
        ),
    ],
)
def test_what_is_refused_is_told_and_not_applied(reread: Callable[[], Config], problems: tuple[str, ...]) -> None:
    """Not a part of it either: what could have changed stays with what could not."""
    scene = Scene(reread)
    with pytest.raises(Refused) as caught:
        scene.reloader.reload(OLD)
    assert caught.value.problems == problems
    assert scene.applied == []
    assert scene.told == [ConfigRefused(problems)]
