"""The commands about the daemon and its lanes: what they do, what happened, and what they are told to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import click
import msgspec

from daemon import results, wire
from daemon.ctl import completion
from daemon.ctl.client import gone
from daemon.ctl.conversation import EXIT_REFUSED, Conversation, command
from daemon.ctl.manual import Number

QUEUE_SHOWN = 20  # of the queue, to a person; `list` has all of it
GONE_TIMEOUT_S = 30.0  # for a daemon that waits for nobody: the next one can be started when it is gone


def lanes(function: Callable[..., None]) -> Callable[..., None]:
    """The lane argument that `drain`, `pause` and `resume` share."""
    everything = click.option("--all", "every", is_flag=True, help="All lanes.")
    return click.argument("lane", required=False, shell_complete=completion.lanes)(everything(function))


@command
def status(talk: Conversation) -> None:
    """The daemon, its lanes with what they do and why, and the queue.

    Examples:
        batonctl status
        batonctl status --json    # all of the queue, and every figure
    """
    params = wire.StatusParams(queue=None if talk.as_json else QUEUE_SHOWN)
    if answer := talk.ask("status", params, results.StatusResult):
        from daemon.ctl import screen

        screen.show_status(answer)


@command
@click.argument("lane", required=False, shell_complete=completion.lanes)
@click.option(
    "--to",
    metavar="NAME",
    shell_complete=completion.sessions("queued"),
    help="To this queued session, not to the next one.",
)
@click.option("--force", is_flag=True, help="Also a session that cannot resume: it starts again from its first item.")
def swap(talk: Conversation, *, lane: str | None, to: str | None, force: bool) -> None:
    """Hand LANE over now, to the next session or to NAME.

    LANE may be left out where there is one. Who ran goes back to the queue, and resumes where it was.

    Examples:
        batonctl swap                    # to the next session
        batonctl swap --to urgent        # to that one
        batonctl swap gpu0 --to urgent --force
    """
    if answer := talk.ask("swap", wire.SwapParams(lane=lane, to=to, force=force), results.SwapResult):
        taker = answer.to or "the next session"
        click.echo(f"{answer.lane}: from {answer.session} to {taker}; the lane is {answer.state}")


@command
@lanes
def drain(talk: Conversation, *, lane: str | None, every: bool) -> None:
    """Pause LANE, and put its sessions back in the queue.

    They resume at their cursors, on another lane or on this one once it is resumed.

    Examples:
        batonctl drain gpu0     # free that device
        batonctl drain --all    # every one; `batonctl resume --all` lets them go on
    """
    _hold(talk, "drain", lane, "drained and paused; `batonctl resume` lets it go on", every=every)


@command
@lanes
def pause(talk: Conversation, *, lane: str | None, every: bool) -> None:
    """Start no further session on LANE; what runs goes on.

    Examples:
        batonctl pause gpu0
        batonctl pause --all
    """
    _hold(talk, "pause", lane, "paused; `batonctl resume` lets it go on", every=every)


@command
@lanes
def resume(talk: Conversation, *, lane: str | None, every: bool) -> None:
    """Let LANE start sessions again.

    Examples:
        batonctl resume gpu0
        batonctl resume --all
    """
    _hold(talk, "resume", lane, "goes on", every=every)


def _hold(talk: Conversation, method: str, lane: str | None, done: str, *, every: bool) -> None:
    if lane is not None and every:
        raise click.UsageError("give a lane or --all, not both")
    if answer := talk.ask(method, wire.LaneParams(lane=lane, all=every), results.LanesResult):
        for name in answer.lanes:
            click.echo(f"{name}: {done}")


@command
def devices(talk: Conversation) -> None:
    """The devices and their memory.

    Examples:
        batonctl devices
        batonctl devices --json    # in bytes
    """
    if answer := talk.ask("devices", wire.Params(), results.DevicesResult):
        from daemon.ctl import screen

        screen.show_devices(answer)


@command
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens next.")
@click.option("--since", metavar="SEQ", type=Number(0, wire.INT64_MAX), help="The events after this decision.")
@click.option(
    "-n",
    "--last",
    default=20,
    show_default=True,
    type=Number(0, wire.LIST_LIMIT),
    help="Those of the last so many decisions.",
)
def events(talk: Conversation, *, follow: bool, since: int | None, last: int) -> None:
    """What happened, and what happens.

    Examples:
        batonctl events -n 100           # those of the last 100 decisions
        batonctl events --follow         # and go on
        batonctl events -f --since 1042  # go on where a reader was cut off
        batonctl events -f --json        # a line of JSON each, for a program
    """
    from daemon.ctl import following

    for raw, notice in following.notices(talk.client, since, last, follow=follow):
        if talk.as_json:
            talk.print_raw(raw)
        else:
            from daemon.ctl import screen

            screen.show_event(notice)


@command
def reload(talk: Conversation) -> None:
    """Have batond read its configuration again.

    All of it counts from then on, or, where it is wrong, none.

    Examples:
        batonctl reload
    """
    if answer := talk.ask("reload", wire.Params(), results.ReloadResult):
        changed = f"changed {', '.join(answer.changed)}" if answer.changed else "nothing is changed"
        click.echo(f"{answer.config or 'no configuration file; the defaults'}: {changed}")


@command
@click.option("--now", is_flag=True, help="End the workers at once; work since their last commit is done again.")
@click.option(
    "--leave-running",
    is_flag=True,
    help="Drain nothing: what runs goes on, and the next batond takes it over. For a restart, as after an upgrade.",
)
def shutdown(talk: Conversation, *, now: bool, leave_running: bool) -> None:
    """Drain every lane and end batond.

    Sessions keep their places and cursors: the next batond goes on with them.

    Examples:
        batonctl shutdown                    # each worker finishes its batch
        batonctl shutdown --leave-running    # before an upgrade: nothing is drained
        batonctl shutdown --now              # at once
    """
    if now and leave_running:
        raise click.UsageError("give --now or --leave-running, not both")
    params = wire.ShutdownParams(now=now, leave_running=leave_running)
    pid = talk.client.daemon_pid() if leave_running else None
    if answer := talk.ask("shutdown", params, results.ShutdownResult):
        if answer.left_running:
            from daemon.ctl.screen import clock

            names, until = ", ".join(answer.left_running), clock(answer.back_by)
            click.echo(f"batond ends; {_sessions(len(answer.left_running))} on without it: {names}")
            click.echo(f"start batond again by {until}, or they drain, and go back to the queue")
        else:
            waits = f", once {', '.join(answer.waits_for)} came to a stop" if answer.waits_for else ""
            click.echo(f"batond ends{waits}")
    if pid is not None and not gone(pid, GONE_TIMEOUT_S):
        click.echo(f"batonctl: batond (pid {pid}) has not ended in {GONE_TIMEOUT_S:.0f} s; see its log", err=True)
        sys.exit(EXIT_REFUSED)


def _sessions(count: int) -> str:
    return "one session goes" if count == 1 else f"{count} sessions go"


@command
def doctor(talk: Conversation) -> None:
    """Look for what would keep batond from working well here.

    With or without a daemon; exit 1 where something fails. --json prints the checks, each with its name, state (ok,
    warn or fail), text and remedy.

    Examples:
        batonctl doctor
        sudo -u batond batonctl doctor    # as the user of the service sees it
    """
    from daemon.ctl import doctor as doctor_module

    checks = doctor_module.examine(talk.socket, os.environ)
    if talk.as_json:
        talk.print_raw(msgspec.json.encode({"checks": checks}))
    else:
        for check in checks:
            click.echo(check.line())
    if any(check.state == "fail" for check in checks):
        sys.exit(EXIT_REFUSED)


@command
def version(talk: Conversation) -> None:
    """The version of the daemon and of its protocol.

    Examples:
        batonctl version      # the daemon's, which answers
        batonctl --version    # this command's own
    """
    if answer := talk.ask("version", wire.Params(), results.VersionResult):
        click.echo(f"batond {answer.version}, protocol {answer.protocol}, pid {answer.pid}")
