"""The commands that answer questions: why something is so, what will be, what a handover was spent on."""

from __future__ import annotations

import click

from daemon import results_insight, wire
from daemon.ctl import completion
from daemon.ctl.conversation import Conversation, command
from daemon.ctl.manual import Number

PLAN_TIMEOUT_S = 60.0  # a long plan is made beside the daemon's work
MOST_DIGITS = len(str(wire.INT64_MAX)) - 1  # of the number of a decision; a session may be called by longer ones


@command
@click.argument("name", required=False, metavar="[LANE|SESSION]", shell_complete=completion.lanes_and_sessions)
def why(talk: Conversation, *, name: str | None) -> None:
    """Why a lane or a session is as it is, with the figures behind it.

    Without a name: every lane, and the first session of the queue.

    Examples:
        batonctl why             # every lane, and who is next
        batonctl why gpu0        # what that lane does, and what it waits for
        batonctl why nightly     # why that session does not run yet, or failed
    """
    if answer := talk.ask("why", wire.WhyParams(name=name), results_insight.WhyResult):
        from daemon.ctl import screen_insight

        screen_insight.show_why(answer)


@command
@click.option("--limit", default=50, show_default=True, type=Number(1, wire.LIST_LIMIT), help="So many runs to come.")
@click.option("--skip", default=0, type=Number(0, wire.SKIP_LIMIT), help="Not the first so many of them.")
def plan(talk: Conversation, *, limit: int, skip: int) -> None:
    """When each session is prepared, begins and ends, and where.

    On which lane, as far as earlier runs allow to say.

    Examples:
        batonctl plan                          # the next 50 runs
        batonctl plan --limit 10               # only the next 10
        batonctl plan --skip 50                # the 50 after those
        batonctl submit --dry-run night.toml   # with the sessions of a file in it
    """
    params = wire.PlanParams(limit=limit, skip=skip)
    if answer := talk.ask("plan", params, results_insight.PlanResult, PLAN_TIMEOUT_S):
        from daemon.ctl import screen_insight

        screen_insight.show_plan(answer)
        if skip and not answer.runs:
            click.echo(f"no run is planned after the first {skip}; give a smaller --skip, or none")


@command
@click.argument("handover", required=False, shell_complete=completion.sessions())
@click.option("--worst", type=Number(1, wire.LIST_LIMIT), help="The slowest so many, a row each.")
def explain(talk: Conversation, *, handover: str | None, worst: int | None) -> None:
    """What the gap of a handover was spent on, and how to shorten it.

    HANDOVER is its number, as `events` has it, or the session that took over; without it, the last one.

    Examples:
        batonctl explain               # the last handover
        batonctl explain nightly       # the last one to that session
        batonctl explain 1042          # the one that `events` has under 1042
        batonctl explain --worst 10    # the ten with the longest gaps, a row each
    """
    if handover is not None and worst is not None:
        raise click.UsageError("give a handover or --worst, not both")
    if handover is not None and handover.isdecimal() and len(handover) <= MOST_DIGITS:
        params = wire.ExplainParams(handover=int(handover))
    else:
        params = wire.ExplainParams(session=handover, worst=worst)
    if answer := talk.ask("explain", params, results_insight.ExplainResult):
        from daemon.ctl import screen_insight

        if worst is None:
            screen_insight.show_handovers(answer)
        else:
            screen_insight.show_worst(answer)
