"""The guards of the table: policy asked about the lane in hand. Each is a word of the table; none changes anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from states import gate, policy
from states.draft import Draft
from states.events import Swap
from states.snapshot import Phase

Guard: TypeAlias = Callable[[Draft], bool]


def negation(guard: Guard) -> Guard:
    """The guard that holds where this one does not."""

    def holds(draft: Draft) -> bool:
        return not guard(draft)

    holds.__name__ = f"not_{guard.__name__}"
    holds.__doc__ = f"Not: {guard.__doc__}"
    return holds


def next_fits(draft: Draft) -> bool:
    """The head of the queue is due, the lane is free to start it, and a tier of it fits now."""
    session = policy.next_session(draft.world, draft.lane, draft.at)
    return session is not None and gate.fitting_tier(draft.world, draft.lane, session) is not None


def near(draft: Draft) -> bool:
    """The active session's predicted end is within the lead."""
    return policy.near(draft.world, draft.lane, draft.at)


def far(draft: Draft) -> bool:
    """The predicted end has moved away again, and no swap was asked for."""
    return not draft.lane.swap_asked and policy.far(draft.world, draft.lane, draft.at)


def urgent(draft: Draft) -> bool:
    """The standby is wanted sooner than it would be ready at low priority: the end is near, or a swap was asked for."""
    standby = draft.lane.standby
    if standby is None or not standby.low_priority or standby.phase is not Phase.LOADING:
        return False
    return draft.lane.swap_asked or policy.urgent(draft.world, draft.lane, draft.at)


def on_time(draft: Draft) -> bool:
    """No worker of the lane is past its deadline."""
    return not policy.overdue(draft.lane, draft.at)


def climb(draft: Draft) -> bool:
    """The standby waits below the top tier, and the gate passes for a higher one."""
    return not draft.stopping and policy.climbing_tier(draft.world, draft.lane) is not None


def go(draft: Draft) -> bool:
    """The standby is warm, nobody computes, the lane is neither held nor stopping, at most one retires."""
    return policy.go(draft.world, draft.lane)


def stopping(draft: Draft) -> bool:
    """The daemon is stopping."""
    return draft.stopping


def active(draft: Draft) -> bool:
    """There is an active session."""
    return draft.lane.active is not None


def standby(draft: Draft) -> bool:
    """There is a standby."""
    return draft.lane.standby is not None


def ready(draft: Draft) -> bool:
    """The standby is prepared as far as it was asked."""
    return policy.waits(draft.lane)


def prepared(draft: Draft) -> bool:
    """The standby is prepared as far as it was asked, and the gate lets it go no further."""
    return ready(draft) and not climb(draft)


def workers(draft: Draft) -> bool:
    """Some process of the lane is not known to be gone."""
    return any(True for _ in draft.lane.workers())


def swap_asked(draft: Draft) -> bool:
    """The active session computes, and its lane is to be handed over now, and not paused."""
    lane = draft.lane
    computing = lane.active is not None and lane.active.phase is Phase.COMPUTING
    return lane.swap_asked and computing and not lane.held


def swaps_alone(draft: Draft) -> bool:
    """A swap was asked for, and the next session can begin only when the active one has let the device go."""
    return swap_asked(draft) and policy.swaps_alone(draft.world, draft.lane, draft.at)


def other_prepared(draft: Draft) -> bool:
    """The swap is to a session other than the one prepared."""
    event, prepared = draft.event, draft.lane.standby
    return (
        isinstance(event, Swap) and event.to is not None and prepared is not None and event.to != prepared.session.name
    )
