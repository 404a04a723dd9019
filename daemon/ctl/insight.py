"""The commands that answer questions: why something is so, what will be, what a handover was spent on."""

from __future__ import annotations

import click

from daemon import results_insight, wire
from daemon.ctl import completion
from daemon.ctl.conversation import Conversation, command

PLAN_TIMEOUT_S = 60.0  # a long plan is made beside the daemon's work


@command
@click.argument("name", required=False, metavar="[LANE|SESSION]", shell_complete=completion.sessions())
def why(talk: Conversation, *, name: str | None) -> None:
    """Why a lane or a session is as it is, with the figures behind it.

    Without a name: every lane, and the first session of the queue.
    """
    if answer := talk.ask("why", wire.WhyParams(name=name), results_insight.WhyResult):
        from daemon.ctl import screen_insight

        screen_insight.show_why(answer)


@command
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, wire.LIST_LIMIT), help="So many runs to come."
)
@click.option("--skip", default=0, type=click.IntRange(0), metavar="NUMBER", help="Not the first so many of them.")
def plan(talk: Conversation, *, limit: int, skip: int) -> None:
    """When each session is prepared, begins and ends, on which lane, as far as earlier runs allow to say."""
    params = wire.PlanParams(limit=limit, skip=skip)
    if answer := talk.ask("plan", params, results_insight.PlanResult, PLAN_TIMEOUT_S):
        from daemon.ctl import screen_insight

        screen_insight.show_plan(answer)


@command
@click.argument("handover", required=False, shell_complete=completion.sessions())
@click.option(
    "--worst", metavar="NUMBER", type=click.IntRange(1, wire.LIST_LIMIT), help="The slowest so many, a row each."
)
def explain(talk: Conversation, *, handover: str | None, worst: int | None) -> None:
    """What the gap of a handover was spent on, and what would make it shorter.

    HANDOVER is its number, as `events` has it, or the session that took over; without it, the last one.
    """
    if handover is not None and worst is not None:
        raise click.UsageError("give a handover or --worst, not both")
    if handover is not None and handover.isdecimal():
        params = wire.ExplainParams(handover=int(handover))
    else:
        params = wire.ExplainParams(session=handover, worst=worst)
    if answer := talk.ask("explain", params, results_insight.ExplainResult):
        from daemon.ctl import screen_insight

        if worst is None:
            screen_insight.show_handovers(answer)
        else:
            screen_insight.show_worst(answer)
