"""A handover's figures in words: what its gap was spent on, and what would make it shorter. Pure; decides nothing."""

from __future__ import annotations

from collections.abc import Iterator

from daemon.results_insight import Handover

NOTABLE_S = 0.05  # below, a part of a gap is the usual cost of a handover


def length(seconds: float) -> str:
    """A length as a person reads it: from tenths of a millisecond on."""
    if abs(seconds) < 0.1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.2f} s" if abs(seconds) < 10 else f"{seconds:.0f} s"


def explained(handover: Handover, restarted_s: float | None = None) -> tuple[str, ...]:
    """What the gap was spent on; the remedy for its largest part; the standby's own wait; the predictions.

    restarted_s: so long after the old session's end a daemon began, where one did within the gap.
    """
    if restarted_s is not None and restarted_s >= handover.gap_s / 2:
        return (_away(handover, restarted_s), *_idle(handover))
    return (*_gap(handover), *_idle(handover), *_predictions(handover))


def _away(handover: Handover, restarted_s: float) -> str:
    return (
        f"{length(restarted_s)} of it passed before this batond began: the one that was there when"
        f" {handover.from_session} ended was gone, or was being replaced; batonctl events tells which"
    )


def _gap(handover: Handover) -> Iterator[str]:
    late, memory = handover.device_waited_s, handover.memory_waited_s
    rest = handover.gap_s - late
    if late >= max(NOTABLE_S, rest):
        yield from _late(handover, late, memory)
        return
    if (handover.waited_s or 0.0) - late >= NOTABLE_S:
        yield (
            f"{handover.session} was prepared, and waited {length((handover.waited_s or 0.0) - late)} to be told to go:"
            " the lane was paused, or two sessions before it were still committing; batonctl events tells which"
        )
        return
    if handover.gap_s < NOTABLE_S:
        idle = length(handover.gap_s)
        yield f"nothing to remove: {handover.session} was prepared in time, and the device idle for {idle}"
        return
    parts = {
        f"until {handover.from_session} had said that its last item was computed: its worker, or the host, was busy": (
            handover.told_s
        ),
        "to write the decision down: the state directory's disk is slow": handover.recorded_s,
        f"until {handover.session} began its first item: what its program does between ready() and that": (
            handover.begun_s
        ),
    }
    known = {text: seconds for text, seconds in parts.items() if seconds is not None}
    if not known:
        yield f"{length(handover.gap_s)} passed, and by what is not known: a batond in between was restarted"
        return
    text, seconds = max(known.items(), key=lambda part: part[1])
    yield f"the largest part: {length(seconds)} {text}"


def _late(handover: Handover, late: float, memory: float) -> Iterator[str]:
    if handover.tier == "none":
        why = f": {handover.held_back}" if handover.held_back else ""
        before = "its preparation began only when the device was free" if handover.lead_s <= 0 else "it was not ready"
        yield f"{handover.session} was not prepared when {handover.from_session} ended: {before}{why}"
    if memory >= late / 2:
        yield f"{length(memory)} of it went by waiting for memory" + (
            f": {handover.held_back}" if handover.held_back else ""
        )
    elif handover.lead_s > 0:
        needed = handover.lead_s + late
        yield (
            f"the standby was late by {length(late)}: its lead was {length(handover.lead_s)}, it needed"
            f" {length(needed)}; the lead is {length(handover.lead_next_s)} from now on"
        )
    else:
        yield (
            f"{length(late)} of it went by preparing {handover.session}, begun {length(-handover.lead_s)} after the"
            f" end; queued sooner, it is prepared {length(handover.lead_next_s)} before an end from now on"
        )


def _idle(handover: Handover) -> Iterator[str]:
    idle = handover.idle_standby_s
    if idle >= 1.0:
        yield (
            f"{handover.session} was ready {length(idle)} before it was needed: it took {length(handover.preparing_s)}"
            f" to prepare, begun {length(handover.lead_s)} before the end; its lead is {length(handover.lead_next_s)}"
            " from now on"
        )


def _predictions(handover: Handover) -> Iterator[str]:
    if handover.lead_predicted_s is not None:
        error = handover.lead_s - handover.lead_predicted_s
        margin = "" if handover.lead_margin_s is None else f" ± {length(handover.lead_margin_s)}"
        yield (
            f"when the preparation began, {handover.from_session} was thought to go on for"
            f" {length(handover.lead_predicted_s)}{margin}; it did for {length(handover.lead_s)}, {_off(error)}"
        )
    if handover.gap_predicted_s is not None:
        margin = "" if handover.gap_margin_s is None else f" ± {length(handover.gap_margin_s)}"
        error = handover.gap_s - handover.gap_predicted_s
        yield f"a gap of {length(handover.gap_predicted_s)}{margin} was to be expected; it was {_off(error)}"


def _off(error: float) -> str:
    return f"{length(abs(error))} {'longer' if error >= 0 else 'shorter'}"
