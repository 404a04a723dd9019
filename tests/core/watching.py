"""The table under watch: while `step` runs, every row's guards are asked, not only those up to the first that holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from states import lifecycle
from states.draft import Draft
from states.snapshot import State
from states.table import TRANSITIONS, Row
from states.triggers import Trigger

ROWS: dict[tuple[State, Trigger], tuple[Row, ...]] = {}
for _row in TRANSITIONS:
    for _state in _row.from_:
        for _trigger in _row.on:
            ROWS[_state, _trigger] = (*ROWS.get((_state, _trigger), ()), _row)


def holding(draft: Draft, trigger: Trigger) -> list[Row]:
    """The rows whose guards all hold now, for the lane in hand."""
    rows = ROWS.get((draft.state, trigger), ())
    return [row for row in rows if all(guard(draft) for guard in row.when)]


def spelt(row: Row) -> str:
    """A row as a person finds it in the table."""
    on, from_ = "/".join(t.value for t in row.on), "/".join(s.value for s in row.from_)
    return f"{on} in {from_} → {row.to.value if row.to else 'stay'} when {row.guard or 'always'}"


@contextmanager
def watched() -> Iterator[Counter[int]]:
    """Check each pull of the table; counts how often each row (by its place) was taken."""
    taken: Counter[int] = Counter()
    places = {id(row): place for place, row in enumerate(TRANSITIONS)}
    pull = lifecycle.pull

    def asked(draft: Draft, trigger: Trigger) -> Row | None:
        rows = holding(draft, trigger)
        state = draft.state
        both = " and ".join(spelt(each) for each in rows)
        assert len(rows) <= 1, f"two rows at once in {state.value} on {trigger.value}: {both}\n{draft.lane}"
        row = pull(draft, trigger)
        assert row is (rows[0] if rows else None), f"the engine took {row}, the guards said {rows}"
        if row is not None:
            taken[places[id(row)]] += 1
            assert draft.state is (row.to or state), f"{spelt(row)} led to {draft.state.value}"
        return row

    lifecycle.pull = asked
    try:
        yield taken
    finally:
        lifecycle.pull = pull
