"""`batonctl`: what a person or a script asks of batond, in words. A thin client: it decides nothing.

Exit status: 0 done, 1 refused or failed, 2 usage, 3 no daemon, 130 interrupted.
What prints for a person is imported when it prints: `--json` must start fast.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click
import msgspec

from daemon import results, wire
from daemon.client import SUBMIT_TIMEOUT_S, Client, UnreachableError, find_socket, gone

T = TypeVar("T", bound=msgspec.Struct)
GONE_TIMEOUT_S = 30.0  # for a daemon that waits for nobody: the next one can be started when it is gone
EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_INTERRUPTED = 1, 3, 130
WAIT_HINT = "the sessions go on; see them with `batonctl status`, end one with `batonctl cancel NAME`"


class Conversation:
    """One run of batonctl: where the socket is, whether a program reads what is printed."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.as_json = False
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The connection, made when first needed."""
        if self._client is None:
            self._client = Client(self.socket)
        return self._client

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()

    def ask(self, method: str, params: wire.Params, result: type[T], timeout_s: float | None = None) -> T | None:
        """The answer; None, once printed as it came, where a program asked for that."""
        extra = {} if timeout_s is None else {"timeout_s": timeout_s}
        answer = self.client.call(method, params, result, **extra)
        if not self.as_json:
            return answer
        self.print_raw(self.client.raw)
        return None

    def print_raw(self, raw: bytes) -> None:
        """One line of JSON, at once: whoever reads may be waiting for it."""
        sys.stdout.buffer.write(raw + b"\n")
        sys.stdout.buffer.flush()

    def tell(self, refusal: wire.Refusal) -> None:
        """Why it was refused, every reason on its line."""
        if self.as_json:
            problems = {"data": {"problems": refusal.problems}} if refusal.problems else {}
            error = {"code": int(refusal.code), "message": refusal.message, **problems}
            self.print_raw(msgspec.json.encode({"error": error}))
            return
        click.echo(f"batonctl: {refusal.message}", err=True)
        for problem in refusal.problems:
            if problem != refusal.message:
                click.echo(f"  {problem}", err=True)


class Batonctl(click.Group):
    """Turns what can go wrong into one line and an exit status. (A pipe that closed, click takes quietly.)"""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except wire.Refusal as refusal:
            ctx.find_object(Conversation).tell(refusal)  # type: ignore[union-attr]  # set before any command runs
            ctx.exit(EXIT_REFUSED)
        except UnreachableError as error:
            click.echo(f"batonctl: {error}", err=True)
            ctx.exit(EXIT_UNREACHABLE)
        except msgspec.DecodeError as error:
            click.echo(f"batonctl: what answers there does not speak batond's protocol: {error}", err=True)
            ctx.exit(EXIT_UNREACHABLE)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)


@click.group(cls=Batonctl, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--socket", envvar="BATON_SOCKET", metavar="PATH", help="batond's control socket  [env: BATON_SOCKET]")
@click.version_option(package_name="batond", prog_name="batonctl")
@click.pass_context
def batonctl(ctx: click.Context, socket: str | None) -> None:
    """Talk to batond, which hands one device from one TensorFlow session to the next."""
    ctx.obj = Conversation(find_socket(socket, os.environ))
    ctx.call_on_close(ctx.obj.close)


def command(function: Callable[..., None]) -> click.Command:
    """A command of batonctl: named as its method, with `--json`, given the conversation first."""

    @click.option("--json", "as_json", is_flag=True, help="Print what the socket said.")
    @click.pass_obj
    @functools.wraps(function)
    def run(talk: Conversation, /, *, as_json: bool, **options: Any) -> None:
        talk.as_json = as_json
        function(talk, **options)

    return batonctl.command(name=function.__name__.rstrip("_").replace("_", "-"))(run)


def lanes(function: Callable[..., None]) -> Callable[..., None]:
    """The lane argument that `drain`, `pause` and `resume` share."""
    everything = click.option("--all", "every", is_flag=True, help="All lanes.")
    return click.argument("lane", required=False)(everything(function))


@command
@click.argument("file", type=click.File("rb"))
@click.option("--wait", is_flag=True, help="Show their progress until they have ended; exit 1 if one is not done.")
def submit(talk: Conversation, *, file: Any, wait: bool) -> None:
    """Queue the sessions of a session file (TOML; - is standard input), all of them or none."""
    piped = file.name == "<stdin>"
    source = "standard input" if piped else file.name
    base = os.path.dirname(os.path.abspath("-" if piped else file.name))  # noqa: PTH100, PTH120 pathlib costs 10 ms
    params = wire.SubmitParams(text=_text(file, source), base=base, source=source)
    answer = talk.client.call("submit", params, results.SubmitResult, SUBMIT_TIMEOUT_S)
    if talk.as_json:
        talk.print_raw(talk.client.raw)
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
    from daemon import waiting

    display = waiting.json_lines(talk.print_raw) if talk.as_json else waiting.for_people()
    try:
        done = waiting.until_ended(talk.client, names, display)
    except KeyboardInterrupt:
        click.echo(f"batonctl: {WAIT_HINT}", err=True)
        raise
    except UnreachableError as error:
        click.echo(f"batonctl: {error}; {WAIT_HINT}", err=True)
        sys.exit(EXIT_UNREACHABLE)
    if not done:
        sys.exit(EXIT_REFUSED)


@command
def status(talk: Conversation) -> None:
    """The daemon, its lanes with what they do and why, and the queue."""
    if answer := talk.ask("status", wire.Params(), results.StatusResult):
        from daemon import screen

        screen.show_status(answer)


@command
@click.option("--all", "ended", is_flag=True, help="Ended sessions too.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(get_args(results.SessionState)),
    help="Only those in this state.",
)
@click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(1, wire.LIST_LIMIT), help="So many ended ones."
)
def list_(talk: Conversation, *, ended: bool, states: tuple[results.SessionState, ...], limit: int) -> None:
    """Sessions, one row each: live ones in the order they will run, then ended ones, newest first."""
    params = wire.ListParams(ended=ended, states=states, limit=limit)
    if answer := talk.ask("list", params, results.ListResult):
        from daemon import screen

        screen.show_list(answer)


@command
@click.argument("name")
def show(talk: Conversation, name: str) -> None:
    """Everything known of the session NAME."""
    if answer := talk.ask("show", wire.NameParams(name=name), results.ShowResult):
        from daemon import screen_show

        screen_show.show_session(answer)


@command
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until the session has ended.")
@click.option("--all", "whole", is_flag=True, help="From the beginning, not the last 64 KiB only.")
def logs(talk: Conversation, *, name: str, follow: bool, whole: bool) -> None:
    """What the worker of the session NAME printed."""
    from daemon import following

    for piece in following.pieces(talk.client, name, 0 if whole else None, follow=follow):
        if talk.as_json:
            talk.print_raw(talk.client.raw)
        else:
            click.echo(piece.text, nl=False)


@command
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def cancel(talk: Conversation, names: tuple[str, ...]) -> None:
    """End sessions: a queued one at once, a running one after the batch in flight."""
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
@click.argument("name")
def retry(talk: Conversation, name: str) -> None:
    """Queue the failed or cancelled session NAME again; it resumes its own output."""
    if answer := talk.ask("retry", wire.NameParams(name=name), results.RetryResult):
        click.echo(f"queued {answer.name} again, {_place(answer.place)}, from item {answer.cursor}")


@command
@click.argument("name")
@click.option("--first", is_flag=True, help="Before all others of its priority.")
@click.option("--last", is_flag=True, help="After all others of its priority.")
@click.option("--before", metavar="OTHER", help="Before the queued session OTHER; takes its priority.")
def move(talk: Conversation, *, name: str, first: bool, last: bool, before: str | None) -> None:
    """Give the queued session NAME another place."""
    if first + last + (before is not None) != 1:
        raise click.UsageError("give one of --first, --last and --before OTHER")
    params = wire.MoveParams(name=name, first=first, last=last, before=before)
    if answer := talk.ask("move", params, results.MoveResult):
        click.echo(f"{answer.name} is at place {answer.place}")


@command
@click.argument("lane", required=False)
@click.option("--to", metavar="NAME", help="To this queued session, not to the next one.")
@click.option("--force", is_flag=True, help="Also a session that cannot resume: it starts again from its first item.")
def swap(talk: Conversation, *, lane: str | None, to: str | None, force: bool) -> None:
    """Hand LANE over now (it may be left out where there is one)."""
    if answer := talk.ask("swap", wire.SwapParams(lane=lane, to=to, force=force), results.SwapResult):
        taker = answer.to or "the next session"
        click.echo(f"{answer.lane}: from {answer.session} to {taker}; the lane is {answer.state}")


@command
@lanes
def drain(talk: Conversation, *, lane: str | None, every: bool) -> None:
    """Pause LANE, and put its sessions back in the queue at their cursors."""
    _hold(talk, "drain", lane, "drained and paused; `batonctl resume` lets it go on", every=every)


@command
@lanes
def pause(talk: Conversation, *, lane: str | None, every: bool) -> None:
    """Start no further session on LANE; what runs goes on."""
    _hold(talk, "pause", lane, "paused; `batonctl resume` lets it go on", every=every)


@command
@lanes
def resume(talk: Conversation, *, lane: str | None, every: bool) -> None:
    """Let LANE start sessions again."""
    _hold(talk, "resume", lane, "goes on", every=every)


def _hold(talk: Conversation, method: str, lane: str | None, done: str, *, every: bool) -> None:
    if lane is not None and every:
        raise click.UsageError("give a lane or --all, not both")
    if answer := talk.ask(method, wire.LaneParams(lane=lane, all=every), results.LanesResult):
        for name in answer.lanes:
            click.echo(f"{name}: {done}")


@command
def devices(talk: Conversation) -> None:
    """The devices and their memory."""
    if answer := talk.ask("devices", wire.Params(), results.DevicesResult):
        from daemon import screen

        screen.show_devices(answer)


@command
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens next.")
@click.option("--since", metavar="SEQ", type=click.IntRange(0), help="The events after this decision.")
@click.option(
    "-n",
    "--last",
    default=20,
    show_default=True,
    type=click.IntRange(0, wire.LIST_LIMIT),
    help="Those of the last so many decisions.",
)
def events(talk: Conversation, *, follow: bool, since: int | None, last: int) -> None:
    """What happened, and what happens."""
    from daemon import following

    for raw, notice in following.notices(talk.client, since, last, follow=follow):
        if talk.as_json:
            talk.print_raw(raw)
        else:
            from daemon import screen

            screen.show_event(notice)


@command
def reload(talk: Conversation) -> None:
    """Have batond read its configuration again: all of it counts from then on, or, where it is wrong, none."""
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
    """Drain every lane and end batond; sessions keep their places and cursors."""
    if now and leave_running:
        raise click.UsageError("give --now or --leave-running, not both")
    params = wire.ShutdownParams(now=now, leave_running=leave_running)
    pid = talk.client.daemon_pid() if leave_running else None
    if answer := talk.ask("shutdown", params, results.ShutdownResult):
        if answer.left_running:
            from daemon.screen import clock

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
    """Look for what would keep batond from working well here, with or without a daemon; exit 1 where something fails.

    --json prints the checks, each with its name, state (ok, warn or fail), text and remedy.
    """
    from daemon import doctor as doctor_module

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
    """The version of the daemon and of its protocol."""
    if answer := talk.ask("version", wire.Params(), results.VersionResult):
        click.echo(f"batond {answer.version}, protocol {answer.protocol}, pid {answer.pid}")


def main() -> None:
    """The entry point. What could not be printed is an error here, not when the interpreter ends."""
    try:
        try:
            batonctl(prog_name="batonctl")
        finally:
            sys.stdout.flush()
    except OSError as error:  # files and sockets have their own words where they are used: only output is left
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still in the buffers goes nowhere, and silently
        if not isinstance(error, BrokenPipeError):
            click.echo(f"batonctl: cannot write to standard output: {error.strerror}", err=True)
        sys.exit(EXIT_REFUSED)


if __name__ == "__main__":
    main()
