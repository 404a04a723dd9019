"""What is submitted: sessions of each kind, sized in seconds, drawn from the seed; and what each must leave."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.chaos.place import Place

FACTOR: Final = 3
OFFSET: Final = 7  # no row of an item is all zero, as those that were never written are
BATCH: Final = 4
# Of .keras sessions the items stay small enough for float32 to tell them apart.
LARGEST_KERAS_ITEM: Final = 4_000_000
RECORD_INPUTS: Final = ((50_000_000, 5000), (60_000_000, 3000))  # first item, items
ATTEMPTS: Final = 1000  # no fault may end a session: what is failed nevertheless is a find
COMPUTES_S: Final = (1.5, 4.5)  # alone on a core, called as fast as it can be; shared, and through the disk, twice that
KINDS: Final = {"savedmodel": 4, "keras": 3, "records": 2, "prepared": 2, "tracked": 2, "silent": 2}
BUILT_IN: Final = frozenset({"savedmodel", "keras", "records"})
PROGRAM_ITEM_S: Final = 0.004
PROGRAM: Final = Path(__file__).with_name("program.py")


@dataclass(frozen=True, slots=True)
class Session:
    """One that was submitted: its items are numbered from `base` on."""

    name: str
    kind: str
    base: int
    items: int
    text: str

    @property
    def built_in(self) -> bool:
        """Whether it is a model's, with rows in .npy files; else a program's, with lines."""
        return self.kind in BUILT_IN


def expected(session: Session) -> dict[str, Any]:
    """By output, what the model gives: computed here from its formula, which is exact."""
    x = np.arange(session.base, session.base + session.items, dtype=np.int64)
    y = x * FACTOR + OFFSET
    if session.kind == "keras":
        return {"y": y[:, None].astype(np.float32)}
    return {"y": y, "z": np.stack([x + 1, -x - 1, y], axis=1).astype(np.float64)}


class Author:
    """Writes session files. Each session's name, kind, size and input follow from the seed and its number."""

    def __init__(self, seed: int, place: Place, rates: Mapping[str, float]) -> None:
        """rates: seconds of one call of each model."""
        self._rng = random.Random(f"sessions {seed}")
        self._place = place
        self._rates = rates
        self._count = 0

    def next(self) -> Session:
        """A session that was not there before; its input lies ready."""
        self._count += 1
        kind = self._rng.choices(tuple(KINDS), tuple(KINDS.values()))[0]
        name = f"{self._count:04d}-{kind}"
        seconds = self._rng.uniform(*COMPUTES_S)
        base = self._count * 10_000_000
        table: dict[str, Any] = {"name": name, "max_attempts": ATTEMPTS}
        if kind in BUILT_IN:
            base, items = self._input(kind, name, base, seconds)
            model, source = self._files(kind, name, base)
            table |= {"model": str(model), "input": str(source), "output": str(self._place.outputs / name)}
            table |= {"batch_size": BATCH}
        else:
            items = round(seconds / PROGRAM_ITEM_S)
            rows = self._place.rows / f"{name}.rows"
            table["run"] = [sys.executable, str(PROGRAM), str(rows), "--base", str(base), "--items", str(items)]
            table["run"] += ["--item-ms", str(PROGRAM_ITEM_S * 1000)]
            table["run"] += ["--silent"] if kind == "silent" else []
            table["prepare"] = kind == "prepared"
        text = "[[session]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        return Session(name, kind, base, items, text)

    def _files(self, kind: str, name: str, base: int) -> tuple[Path, Path]:
        models = self._place.models
        if kind == "records":
            return models / "telling", models / f"{base}.tfrecord"
        return models / ("telling.keras" if kind == "keras" else "telling"), models / f"{name}.npy"

    def _input(self, kind: str, name: str, base: int, seconds: float) -> tuple[int, int]:
        """Write it, where it is not one of those that lie ready. Its first item, its number of items."""
        if kind == "records":
            return self._rng.choice(RECORD_INPUTS)
        items = max(BATCH, round(seconds / self._rates["telling.keras" if kind == "keras" else "telling"] * BATCH))
        if kind == "keras":
            base = self._rng.randrange(1, LARGEST_KERAS_ITEM - items)
        x = np.arange(base, base + items, dtype=np.int64)
        if kind == "keras":
            x = np.stack([x // 1000, x % 1000], axis=1).astype(np.float32)
        np.save(self._place.models / f"{name}.npy", x)
        return base, items
