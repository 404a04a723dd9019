"""The commands about sessions: they are queued, looked at, moved, ended."""

from __future__ import annotations

import os
import sys
from typing import Any, get_args

import click

from daemon import results, wire
from daemon.ctl import completion
from daemon.ctl.client import SUBMIT_TIMEOUT_S, UnreachableError
from daemon.ctl.conversation import EXIT_REFUSED, EXIT_UNREACHABLE, Conversation, command
from daemon.ctl.manual import Number

LIVE: tuple[results.SessionState, ...] = ("queued", "preparing", "ready", "running", "draining", "committing")
FAILURES_TOLD = 20  # on standard error; all of them were told on standard output
WAIT_HINT = "the sessions go on; see them with `batonctl status`, end one with `batonctl cancel NAME`"


@command
@click.argument("file", type=click.File("rb"))
@click.option("--wait", is_flag=True, help="Show their progress until they have ended; exit 1 if one is not done.")
@click.option("--dry-run", is_flag=True, help="Check everything, queue nothing, and print the plan with them in it.")
def submit(talk: Conversation, *, file: Any, wait: bool, dry_run: bool) -> None:
    """Queue the sessions of a session file, all of them or none.

    FILE is TOML; - is standard input. Everything that can be checked is checked first.

    Examples:
        batonctl submit night.toml
        batonctl submit night.toml --dry-run    # check it; when would they run?
        batonctl submit night.toml --wait       # and look on; exit 1 if one fails
        ./make-sessions | batonctl submit -     # paths start from this folder
    """
    if wait and dry_run:
        raise click.UsageError("give --wait or --dry-run, not both: nothing is queued that could be waited for")
    piped = file.fileno() == sys.stdin.fileno()
    source = "standard input" if piped else file.name
    base = os.path.dirname(os.path.abspath("-" if piped else file.name))  # noqa: PTH100, PTH120 pathlib costs 10 ms
    params = wire.SubmitParams(text=_text(file, source), base=base, source=source, dry_run=dry_run)
    answer = talk.client.call("submit", params, results.SubmitResult, SUBMIT_TIMEOUT_S)
    if talk.as_json:
        talk.print_raw(talk.client.raw)
    elif answer.plan is not None:
        from daemon.ctl import screen_insight

        for session in answer.sessions:
            click.echo(f"{session.name} would be queued, {_place(session.place)}")
        screen_insight.show_plan(answer.plan)
    elif not wait:
        for session in answer.sessions:
            click.echo(f"queued {session.name}, {_place(session.place)}")
    if wait:
        _wait(talk, tuple(session.name for session in answer.sessions))


def _text(file: Any, source: str) -> str:
    """What the file holds; bounded, for a device may have no end. Raises wire.Refusal."""
    most = wire.LINE_LIMIT_BYTES
    try:
        data = file.read(most + 1)
    except OSError as error:
        refused = f"cannot read {source}: {error.strerror}; give a session file"
        raise wire.Refusal(wire.Code.REFUSED, refused) from None
    if len(data) > most:
        refused = f"{source} has more than {most} bytes, and batond takes no more at once: split it into several"
        raise wire.Refusal(wire.Code.TOO_LARGE, refused)
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        refused = f"{source}: not UTF-8, which TOML is: {error.reason} at byte {error.start}"
        raise wire.Refusal(wire.Code.REFUSED, refused) from None


def _place(place: int) -> str:
    return f"place {place}" if place else "and it is being prepared already"


def _wait(talk: Conversation, names: tuple[str, ...]) -> None:
    from daemon.ctl import waiting

    display = waiting.json_lines(talk.print_raw) if talk.as_json else waiting.for_people()
    try:
        failed = waiting.until_ended(talk.client, names, display)
    except KeyboardInterrupt:
        click.echo(f"batonctl: {WAIT_HINT}", err=True)
        raise
    except UnreachableError as error:
        click.echo(f"batonctl: {error}; {WAIT_HINT}", err=True)
        sys.exit(EXIT_UNREACHABLE)
    if failed:
        if not sys.stdout.isatty():  # that may go where nobody looks; cron sends what is told here
            _tell_failed(failed, len(names))
        sys.exit(EXIT_REFUSED)


def _tell_failed(failed: tuple[results.Row, ...], of: int) -> None:
    from daemon.ctl.screen import safe

    for row in failed[:FAILURES_TOLD]:
        why = f": {safe(row.reason)}" if row.reason else ""
        click.echo(f"batonctl: {row.name} {row.state}{why}", err=True)
    click.echo(f"batonctl: {len(failed)} of {of} not done; batonctl why NAME tells more", err=True)


@command
@click.option("--all", "ended", is_flag=True, help="Ended sessions too.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(get_args(results.SessionState)),
    help="Only those in this state.",
)
@click.option("--limit", default=100, show_default=True, type=Number(1, wire.LIST_LIMIT), help="So many ended ones.")
def list_(talk: Conversation, *, ended: bool, states: tuple[results.SessionState, ...], limit: int) -> None:
    """Sessions, one row each, in the order they will run.

    With --all, ended ones below them, last submitted first.

    Examples:
        batonctl list
        batonctl list --all --limit 1000
        batonctl list --state failed --state cancelled
        batonctl list --json
    """
    params = wire.ListParams(ended=ended, states=states, limit=limit)
    if answer := talk.ask("list", params, results.ListResult):
        from daemon.ctl import screen

        screen.show_list(answer)


@command
@click.argument("name", shell_complete=completion.sessions())
def show(talk: Conversation, name: str) -> None:
    """Everything known of the session NAME.

    Examples:
        batonctl show nightly
        batonctl show nightly --json    # with its file's keys as they are understood
    """
    if answer := talk.ask("show", wire.NameParams(name=name), results.ShowResult):
        from daemon.ctl import screen_show

        screen_show.show_session(answer)


@command
@click.argument("name", shell_complete=completion.sessions())
@click.option("-f", "--follow", is_flag=True, help="Go on until the session has ended.")
@click.option("--all", "whole", is_flag=True, help="From the beginning, not the last 64 KiB only.")
def logs(talk: Conversation, *, name: str, follow: bool, whole: bool) -> None:
    """What the worker of the session NAME printed.

    Examples:
        batonctl logs nightly          # the last 64 KiB
        batonctl logs nightly -f       # and go on until it has ended
        batonctl logs nightly --all
    """
    from daemon.ctl import following

    for piece in following.pieces(talk.client, name, 0 if whole else None, follow=follow):
        if talk.as_json:
            talk.print_raw(talk.client.raw)
        else:
            click.echo(piece.text, nl=False)


@command
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=completion.sessions(*LIVE))
def cancel(talk: Conversation, names: tuple[str, ...]) -> None:
    """End sessions: queued ones at once, running ones after a batch.

    What a running one has computed is kept: `batonctl retry` goes on from there.

    Examples:
        batonctl cancel nightly
        batonctl cancel first second third
    """
    answer = talk.client.call("cancel", wire.CancelParams(names=names), results.CancelResult)
    if talk.as_json:
        talk.print_raw(talk.client.raw)
    else:
        for name in answer.cancelled:
            click.echo(f"cancelled {name}")
        for refused in answer.refused:
            click.echo(f"batonctl: {refused.reason}", err=True)
    if answer.refused:
        sys.exit(EXIT_REFUSED)


@command
@click.argument("name", shell_complete=completion.sessions("failed", "cancelled"))
def retry(talk: Conversation, name: str) -> None:
    """Queue the failed or cancelled session NAME again.

    It resumes its own output.

    Examples:
        batonctl retry nightly
    """
    if answer := talk.ask("retry", wire.NameParams(name=name), results.RetryResult):
        click.echo(f"queued {answer.name} again, {_place(answer.place)}, from item {answer.cursor}")


@command
@click.argument("name", shell_complete=completion.sessions("queued"))
@click.option("--first", is_flag=True, help="Before all others of its priority.")
@click.option("--last", is_flag=True, help="After all others of its priority.")
@click.option(
    "--before",
    metavar="OTHER",
    shell_complete=completion.sessions("queued"),
    help="Before the queued session OTHER; takes its priority.",
)
def move(talk: Conversation, *, name: str, first: bool, last: bool, before: str | None) -> None:
    """Give the queued session NAME another place.

    Examples:
        batonctl move urgent --first
        batonctl move nightly --last
        batonctl move urgent --before nightly    # and with its priority
    """
    if first + last + (before is not None) != 1:
        raise click.UsageError("give one of --first, --last and --before OTHER")
    params = wire.MoveParams(name=name, first=first, last=last, before=before)
    if answer := talk.ask("move", params, results.MoveResult):
        click.echo(f"{answer.name} is at place {answer.place}")
