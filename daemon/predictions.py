"""What runs and handovers came to, and what was predicted of them, kept in the record. Predicts nothing itself.

A run stays as long as its session's record, a handover as long as its decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Final

import msgspec

from daemon.logtails import Rows
from daemon.records import from_text, to_json, to_text
from states.hindsight import Learned, Run, Span

KEPT_SAMPLES: Final = 20  # of a model's runs, of a lane's gaps of one tier: older ones say less
SCORED: Final = 20
GAPS_LOOKED_AT: Final = 200
CACHED_MODELS: Final = 4096


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a session: what was predicted when it began, and what it came to; None: not known, or not over."""

    lane: str
    begun_at: datetime
    cursor: int
    predicted_s: float | None
    margin_s: float | None
    items: int | None
    seconds: float | None
    finished: bool


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Of the latest runs that had a predicted length with a margin, how many there are, and how many held it."""

    judged: int
    within: int


class Predictions:
    """The tables `runs` and `handovers`."""

    def __init__(self, rows: Rows, transaction: Callable[[str], AbstractContextManager[None]]) -> None:
        """rows, transaction: the store's own."""
        self._rows = rows
        self._transaction = transaction
        self._cached: dict[str, tuple[Run, ...]] = {}

    def begin(
        self,
        generation: int,
        session: str,
        lane: str,
        model: str,
        cursor: int,
        predicted: Span | None,
        at: datetime,
    ) -> None:
        """Keep that a run has begun, and how long it was predicted to be."""
        seconds, margin_s = (None, None) if predicted is None else (predicted.seconds, predicted.margin_s)
        with self._transaction("record a prediction"):
            self._rows(
                "INSERT OR REPLACE INTO runs "
                "(generation, session, lane, model, begun_at, cursor, predicted_s, margin_s) "
                "SELECT ?, MAX(id), ?, ?, ?, ?, ?, ? FROM sessions WHERE name = ? HAVING MAX(id) IS NOT NULL",
                (generation, lane, model, to_text(at), cursor, seconds, margin_s, session),
            )

    def end(self, generation: int, items: int, seconds: float, *, finished: bool) -> None:
        """Keep what a run came to. `finished`: its session reached its end with it."""
        with self._transaction("record what a run came to"):
            self._rows(
                "UPDATE runs SET items = ?, seconds = ?, finished = ? WHERE generation = ?",
                (items, seconds, finished, generation),
            )
        self._cached.clear()

    def run(self, generation: int) -> RunRecord | None:
        """That worker's run."""
        return next(iter(self._runs("generation = ?", (generation,))), None)

    def runs_of(self, session: int) -> tuple[RunRecord, ...]:
        """The runs of the session of that number in the record, oldest first."""
        return self._runs("session = ?", (session,))

    def _runs(self, where: str, values: tuple[object, ...]) -> tuple[RunRecord, ...]:
        columns = "lane, begun_at, cursor, predicted_s, margin_s, items, seconds, finished"
        sql = f"SELECT {columns} FROM runs WHERE {where} ORDER BY generation"  # noqa: S608 - no value in it
        rows = self._rows(sql, values)
        names = RunRecord.__struct_fields__
        return tuple(
            RunRecord(**dict(zip(names, (lane, from_text(begun_at), *rest, bool(finished)), strict=True)))
            for lane, begun_at, *rest, finished in rows
        )

    def score(self) -> Score:
        """How the latest predictions held."""
        rows = self._rows(
            "SELECT ABS(seconds - predicted_s) <= margin_s FROM runs "
            "WHERE finished AND margin_s IS NOT NULL AND seconds IS NOT NULL ORDER BY generation DESC LIMIT ?",
            (SCORED,),
        )
        return Score(judged=len(rows), within=sum(held for (held,) in rows))

    def learned(self, models: Iterable[str], lanes: Iterable[str]) -> Learned:
        """What is known of these models (as profiles call them), and of handovers on these lanes."""
        gaps: dict[tuple[str, str], list[float]] = {}
        for lane in lanes:
            sql = "SELECT tier, gap_s FROM handovers WHERE lane = ? ORDER BY seq DESC LIMIT ?"
            for tier, gap_s in self._rows(sql, (lane, GAPS_LOOKED_AT)):
                known = gaps.setdefault((lane, tier), [])
                if len(known) < KEPT_SAMPLES:
                    known.insert(0, gap_s)
        return Learned({model: self._runs_of_model(model) for model in models}, gaps)

    def _runs_of_model(self, model: str) -> tuple[Run, ...]:
        if model not in self._cached:
            rows = self._rows(
                "SELECT items, seconds, finished AND cursor = 0 FROM runs "
                "WHERE model = ? AND seconds IS NOT NULL ORDER BY generation DESC LIMIT ?",
                (model, KEPT_SAMPLES),
            )
            if len(self._cached) >= CACHED_MODELS:
                self._cached.clear()
            self._cached[model] = tuple(Run(items, seconds, bool(whole)) for items, seconds, whole in reversed(rows))
        return self._cached[model]

    # Handovers

    def keep_handover(self, seq: int, line: Mapping[str, Any]) -> None:
        """Keep a handover with everything that was told of it; `seq`: of its decision."""
        with self._transaction("record a handover"):
            self._rows(
                "INSERT OR REPLACE INTO handovers (seq, lane, session, tier, gap_s, line) VALUES (?, ?, ?, ?, ?, ?)",
                (seq, line["lane"], line["session"], line["tier"], line["gap_s"], to_json(line)),
            )

    def handovers(
        self, *, seq: int | None = None, session: str | None = None, worst: bool = False, limit: int = 1
    ) -> Sequence[dict[str, Any]]:
        """What was told of handovers, with `seq` and `ts`: the newest first or (`worst`) those with the longest gap."""
        clauses, values = ["1"], list[object]()
        if seq is not None:
            clauses.append("h.seq = ?")
            values.append(seq)
        if session is not None:
            clauses.append("h.session = ?")
            values.append(session)
        order = "h.gap_s DESC, h.seq DESC" if worst else "h.seq DESC"
        where = " AND ".join(clauses)
        joined = "handovers h JOIN decisions d ON d.seq = h.seq"
        sql = f"SELECT h.seq, d.ts, h.line FROM {joined} WHERE {where} ORDER BY {order} LIMIT ?"  # noqa: S608 - no value in it
        rows = self._rows(sql, (*values, limit))
        return [{**msgspec.json.decode(line), "seq": number, "ts": from_text(ts)} for number, ts, line in rows]
