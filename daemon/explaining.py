"""A handover's figures in words: what its gap was spent on, and what would make it shorter. Pure; decides nothing."""

from __future__ import annotations

from collections.abc import Iterator

from daemon.results_insight import Handover

TOP = "warm"
NOTABLE_S = 0.05  # below, a part of a gap is the usual cost of a handover
AT_ONCE_S = 0.25  # what was begun so soon after it was queued was begun as soon as it could be


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
    return (*_early(handover), *_gap(handover), *_idle(handover), *_predictions(handover))


def _away(handover: Handover, restarted_s: float) -> str:
    return (
        f"{length(restarted_s)} of it passed before this batond began: the one that was there when"
        f" {handover.from_session} ended was gone, or was being replaced; batonctl events tells which"
    )


def _early(handover: Handover) -> Iterator[str]:
    if handover.ended_by is not None:
        yield f"{handover.from_session} ended before its last item: {handover.ended_by}"


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
    yield from _how_far(handover)
    if memory >= late / 2:
        told = handover.tier != TOP  # with how far it was prepared
        kept = "" if told or not handover.held_back else f": {handover.held_back}"
        yield f"{length(memory)} of it went by waiting for memory{kept}"
    elif handover.lead_s > 0:
        yield _begun_before(handover, late)
    else:
        begun = (
            f"{length(late)} of it went by preparing {handover.session}, begun {length(-handover.lead_s)} after the end"
        )
        yield begun + (f"; {_sooner(handover)}" if _was_queued_late(handover) else "")


def _how_far(handover: Handover) -> Iterator[str]:
    """How far the new session was when the old one ended, and what kept it there."""
    ended = f"when {handover.from_session} ended"
    if handover.tier == TOP:
        return
    if handover.tier != "none":
        kept = f": {handover.held_back}" if handover.held_back else ""
        yield f"{handover.session} was prepared as far as {handover.tier} {ended}{kept}"
    elif handover.lead_s > 0:
        kept = f": {handover.held_back}" if handover.held_back else ""
        yield f"{handover.session} was not prepared {ended}: it was not ready{kept}"
    else:
        kept = handover.unprepared or "its preparation began only when the device was free"
        yield f"{handover.session} was not prepared {ended}: {kept}"


def _begun_before(handover: Handover, late: float) -> str:
    """What made it late, though its preparation had begun before the end."""
    lead, needed = length(handover.lead_s), length(handover.lead_s + late)
    if handover.tier not in ("none", TOP):
        return f"{length(late)} of it went by preparing the rest"
    if handover.ended_by is not None:
        return f"{handover.session} had been prepared for {lead} of the {needed} that it needed"
    if handover.queued_s is not None and handover.queued_s - handover.lead_s < AT_ONCE_S:
        return f"it was late by {length(late)}; {_sooner(handover)}"
    return (
        f"the standby was late by {length(late)}: its lead was {lead}, it needed {needed}; the lead is"
        f" {length(handover.lead_next_s)} from now on"
    )


def _was_queued_late(handover: Handover) -> bool:
    """Whether it could have been prepared before the end, had it only been there."""
    if handover.unprepared is not None or handover.ended_by is not None or handover.queued_s is None:
        return False
    return handover.queued_s < handover.lead_next_s


def _sooner(handover: Handover) -> str:
    queued = handover.queued_s or 0.0
    when = f"{length(queued)} before that end" if queued >= 0 else f"{length(-queued)} after that end"
    ahead = length(handover.lead_next_s)
    return f"it was queued only {when}; queued sooner, it is prepared {ahead} before an end from now on"


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
