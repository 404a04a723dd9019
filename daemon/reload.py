"""The configuration read again while the daemon runs: what may change then, what may not, all of it or nothing.

Reads and compares; what a new value means is applied by whoever holds the parts.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from daemon.config import Config, Problems
from daemon.stories import ConfigRefused, ConfigReloaded

# Each of these is looked at anew whenever it counts. What is not named here was built upon when the daemon started:
# folders are open and locked, the socket listens, the fork server runs.
AT_RUN_TIME: Final = ("adoption_timeout_s", "limits", "memory", "history", "log.level", "log.workers")


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload changed: dotted keys; none, where the file says what it said before."""

    changed: tuple[str, ...]
    source: str | None


class Refused(Exception):  # noqa: N818 - it names what happened, as a refusal on the wire does
    """Nothing was changed. `problems`: why, a line each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Reloader:
    """The configuration in force, and the way to another.

    reread: reads it again as the start did; raises `Problems`. apply: makes the daemon work by it. tell: of either end.
    """

    def __init__(
        self,
        reread: Callable[[], Config],
        apply: Callable[[Config], None],
        tell: Callable[[ConfigReloaded | ConfigRefused], None],
    ) -> None:
        self._reread = reread
        self._apply = apply
        self._tell = tell

    def reload(self, config: Config) -> Reloaded:
        """Go over from `config` to what is written now. Raises Refused; then everything is as it was."""
        try:
            new = self._reread()
        except Problems as wrong:
            raise self.refused(*wrong.problems) from None
        keys = tuple(changed(config, new))
        if fixed := [key for key in keys if not _at_run_time(key)]:
            raise self.refused(_needs_restart(fixed))
        self._apply(new)
        reloaded = Reloaded(keys, None if new.source is None else str(new.source))
        self._tell(ConfigReloaded(reloaded.changed, reloaded.source))
        return reloaded

    def refused(self, *problems: str) -> Refused:
        """Tell that nothing is changed, and why; gives what to raise."""
        self._tell(ConfigRefused(problems))
        return Refused(problems)


def hangup_reloads() -> bool:
    """Whether SIGHUP asks for a reload. Not with a controlling terminal: then it says that this was closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return True
    return False


def changed(old: Config, new: Config) -> Iterator[str]:
    """The dotted keys whose values differ. Where they were read from is no key."""
    before, after = _flat(old), _flat(new)
    return (key for key in before if before[key] != after[key])


def _flat(config: Config) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in config.__struct_fields__:
        value = getattr(config, name)
        if isinstance(value, msgspec.Struct):
            values |= {f"{name}.{inner}": getattr(value, inner) for inner in value.__struct_fields__}
        elif dataclasses.is_dataclass(value):
            values |= {f"{name}.{field.name}": getattr(value, field.name) for field in dataclasses.fields(value)}
        elif name != "source":
            values[name] = value
    return values


def _at_run_time(key: str) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in AT_RUN_TIME)


def _needs_restart(keys: list[str]) -> str:
    it, value = ("them", "values") if len(keys) > 1 else ("it", "value")
    return f"{', '.join(keys)}: cannot change while batond runs; restart it for {it}, or put the old {value} back"
