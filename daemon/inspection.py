"""The control method that looks into a model. The look itself is the inspector's, a process of its own.

A model is a program: whoever may not queue one may not have it looked into.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec

from daemon import results, sessionpaths, wire
from daemon.control import Handler, Peer
from daemon.modelversions import version_of
from daemon.sessionfile import SessionSpec
from daemon.submissions import Inspect
from daemon.wire import Code, Refusal


class Inspection:
    """This method, by name in `table`."""

    def __init__(self, inspect: Inspect) -> None:
        """inspect: as `Submissions` takes it."""
        self._inspect = inspect
        self.table: Mapping[str, Handler] = {"inspect": self.inspect}

    async def inspect(self, params: wire.InspectParams, _peer: Peer) -> results.InspectResult:
        """A model's signatures and needs."""
        model = await asyncio.to_thread(_found, params.model)
        spec = SessionSpec(name="inspect", model=model, signature=params.signature, batch_size=params.batch_size)
        (answer,) = await self._inspect([spec])
        if answer["error"]:
            raise Refusal(Code.REFUSED, answer["error"]["reason"])
        return msgspec.convert(answer["found"], results.InspectResult)


def _found(model: str) -> str:
    """The path, its version resolved. Raises Refusal in the words that `submit` has for it."""
    wrong = next(sessionpaths.problems({"model": model}, Path("/")), None)
    if wrong is not None:
        raise Refusal(Code.REFUSED, wrong[1])
    return str(version_of(Path(model)))
