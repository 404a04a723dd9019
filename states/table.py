"""The table of a lane's life: every move it can make. The one description; the diagram and the tests read it.

A row: on these triggers, in these states, when every guard holds, go there (None: stay) and ask for that. For one
state and trigger at most one row's guards hold; the tests search for a world in which that is not so.
"""

from __future__ import annotations

from dataclasses import dataclass

from states import actions as do
from states import guards as when_
from states.actions import Action
from states.guards import Guard, negation
from states.snapshot import State
from states.triggers import Trigger

T = Trigger
IDLE, RUNNING, NEARING_END, PRELOADING, DRAINING, SWAPPING, STOPPED = State
ALIVE = (IDLE, RUNNING, NEARING_END, PRELOADING, DRAINING, SWAPPING)

no_active = negation(when_.active)
no_standby = negation(when_.standby)
no_workers = negation(when_.workers)
nothing_fits = negation(when_.next_fits)
not_far = negation(when_.far)
not_prepared = negation(when_.prepared)
not_ready = negation(when_.ready)
not_stopping = negation(when_.stopping)
late = negation(when_.on_time)
same_prepared = negation(when_.other_prepared)


@dataclass(frozen=True)
class Row:
    """One move: `on` a trigger, `from_` a state, `when` all guards hold, `to` a state (None: stay), `then` actions."""

    on: tuple[T, ...]
    from_: tuple[State, ...]
    to: State | None
    when: tuple[Guard, ...] = ()
    then: tuple[Action, ...] = ()

    @property
    def guard(self) -> str:
        """The guards as the log spells them."""
        return " and ".join(guard.__name__ for guard in self.when)


TRANSITIONS: tuple[Row, ...] = (
    # A session is begun on an idle lane.
    Row(
        (T.QUEUED, T.MEMORY, T.TICK, T.RESUME, T.RETIRING_GONE),
        (IDLE,),
        PRELOADING,
        (when_.on_time, when_.next_fits),
        (do.start_standby,),
    ),
    # Its end comes near, or moves away again.
    Row((T.PROGRESS, T.QUEUED, T.TICK), (RUNNING,), NEARING_END, (when_.on_time, when_.near), (do.reserve_next,)),
    Row((T.PROGRESS, T.TICK), (NEARING_END,), RUNNING, (when_.on_time, when_.far), (do.release,)),
    # The next one is prepared, as far as memory allows, and further when it allows more.
    Row(
        (T.QUEUED, T.MEMORY, T.TICK, T.RESUME),
        (NEARING_END,),
        PRELOADING,
        (when_.on_time, not_far, when_.next_fits),
        (do.start_standby,),
    ),
    Row(
        (T.QUEUED, T.TICK),
        (DRAINING,),
        None,
        (when_.on_time, when_.active, no_standby, when_.next_fits),
        (do.start_standby,),
    ),
    Row(
        (T.READY, T.MEMORY, T.RETIRING_GONE),
        (PRELOADING, DRAINING, SWAPPING),
        None,
        (when_.climb,),
        (do.advance_standby,),
    ),
    Row((T.TICK,), (PRELOADING, DRAINING, SWAPPING), None, (when_.on_time, when_.climb), (do.advance_standby,)),
    Row((T.PROGRESS, T.TICK), (PRELOADING,), None, (when_.on_time, when_.urgent), (do.raise_standby,)),
    # A preparation ends without a standby.
    Row((T.STANDBY_FAILED,), (PRELOADING,), NEARING_END, (when_.active,), (do.reserve_next,)),
    Row((T.STANDBY_FAILED,), (PRELOADING, SWAPPING), IDLE, (no_active,), ()),
    Row((T.STANDBY_FAILED,), (DRAINING,), None, (when_.workers,), ()),
    Row((T.CANCEL_STANDBY,), (PRELOADING,), NEARING_END, (when_.active,), (do.cancel_standby, do.reserve_next)),
    Row((T.CANCEL_STANDBY,), (PRELOADING, SWAPPING), IDLE, (no_active,), (do.cancel_standby,)),
    Row((T.CANCEL_STANDBY,), (DRAINING,), None, (), (do.cancel_standby,)),
    Row((T.ACTIVE_GROWS,), (PRELOADING,), NEARING_END, (), (do.discard_for_room, do.reserve_discarded)),
    Row((T.ACTIVE_GROWS,), (DRAINING,), None, (), (do.discard_for_room,)),
    # The device is asked for, ahead of the active session's end.
    Row((T.SWAP,), (RUNNING, NEARING_END), NEARING_END, (), (do.mark_swap,)),
    Row((T.SWAP,), (PRELOADING,), NEARING_END, (when_.other_prepared,), (do.discard_for_other, do.mark_swap)),
    Row((T.SWAP,), (PRELOADING,), None, (same_prepared, not_prepared), (do.mark_swap,)),
    Row((T.SWAP,), (PRELOADING,), DRAINING, (same_prepared, when_.prepared), (do.mark_swap, do.drain_to_requeue)),
    Row((T.READY,), (PRELOADING,), DRAINING, (when_.swap_asked, when_.prepared), (do.drain_to_requeue,)),
    Row((T.TICK,), (PRELOADING,), DRAINING, (when_.on_time, when_.swap_asked, when_.prepared), (do.drain_to_requeue,)),
    Row((T.TICK, T.MEMORY), (NEARING_END,), DRAINING, (when_.on_time, when_.swaps_alone), (do.drain_to_requeue,)),
    # The active session ends.
    Row((T.LAST_BATCH,), (RUNNING, NEARING_END, PRELOADING), DRAINING, (), (do.expect_end,)),
    Row((T.QUIESCED,), (DRAINING,), None, (when_.stopping,), (do.retire,)),
    Row(
        (T.QUIESCED,),
        (PRELOADING, DRAINING),
        SWAPPING,
        (not_stopping, when_.standby),
        (do.retire, do.raise_standby, do.promote_if_go),
    ),
    Row(
        (T.QUIESCED,),
        (RUNNING, NEARING_END, DRAINING),
        PRELOADING,
        (not_stopping, no_standby, when_.next_fits),
        (do.retire, do.start_standby),
    ),
    Row(
        (T.QUIESCED,),
        (RUNNING, NEARING_END, DRAINING),
        IDLE,
        (not_stopping, no_standby, nothing_fits),
        (do.retire, do.await_next),
    ),
    # The device is handed over.
    Row((T.READY,), (PRELOADING,), SWAPPING, (no_active, when_.prepared), (do.promote_if_go,)),
    Row((T.READY, T.MEMORY, T.RETIRING_GONE, T.RESUME), (SWAPPING,), None, (when_.go,), (do.promote,)),
    Row((T.TICK,), (SWAPPING,), None, (when_.on_time, when_.go), (do.promote,)),
    Row((T.PROMOTED,), (SWAPPING,), RUNNING, (), (do.begin,)),
    # The active session is lost.
    Row((T.ACTIVE_LOST,), (RUNNING, NEARING_END, SWAPPING), IDLE, (), (do.forget_active,)),
    Row((T.ACTIVE_LOST,), (PRELOADING,), None, (not_ready,), (do.forget_active, do.raise_standby)),
    Row(
        (T.ACTIVE_LOST,),
        (PRELOADING,),
        SWAPPING,
        (when_.ready,),
        (do.forget_active, do.raise_standby, do.promote_if_go),
    ),
    Row(
        (T.ACTIVE_LOST,),
        (DRAINING,),
        SWAPPING,
        (not_stopping, when_.standby),
        (do.forget_active, do.raise_standby, do.promote_if_go),
    ),
    Row((T.ACTIVE_LOST,), (DRAINING,), IDLE, (not_stopping, no_standby), (do.forget_active,)),
    # It is told to end early.
    Row(
        (T.CANCEL_ACTIVE,),
        (RUNNING, NEARING_END, PRELOADING, SWAPPING),
        DRAINING,
        (when_.active,),
        (do.drain_to_cancel,),
    ),
    Row((T.STALLED,), (RUNNING, NEARING_END, PRELOADING), DRAINING, (when_.active,), (do.drain_to_retry,)),
    Row(
        (T.DRAIN_LANE,),
        (RUNNING, NEARING_END, PRELOADING, SWAPPING),
        DRAINING,
        (when_.active,),
        (do.discard_for_drain, do.drain_to_requeue),
    ),
    Row((T.DRAIN_LANE,), (PRELOADING, SWAPPING), IDLE, (no_active,), (do.discard_for_drain, do.forget_active)),
    Row((T.CANCEL_ACTIVE,), (DRAINING,), None, (), (do.drain_cancels,)),
    Row((T.DRAIN_LANE,), (DRAINING,), None, (), (do.discard_for_drain, do.drain_requeues)),
    # The daemon stops, or the device goes and comes back.
    Row((T.STOP,), ALIVE, DRAINING, (when_.workers,), (do.stop_workers,)),
    Row((T.STOP,), (IDLE,), STOPPED, (no_workers,), (do.forget_active,)),
    Row(
        (T.ACTIVE_LOST, T.RETIRING_GONE, T.RETIRING_LOST, T.TICK),
        (DRAINING,),
        STOPPED,
        (when_.stopping, no_workers),
        (do.forget_active,),
    ),
    Row((T.DEVICE_LOST, T.KILL), ALIVE, STOPPED, (), (do.end_all,)),
    Row((T.DEVICE_BACK,), (STOPPED,), IDLE, (not_stopping,), ()),
    # Time runs out for a worker.
    Row((T.TICK,), (*ALIVE, STOPPED), None, (late,), (do.escalate,)),
)
