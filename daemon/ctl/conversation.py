"""One run of `batonctl`: its connection, its exit status, and what every command shares. Has no command itself.

Exit status: 0 done, 1 refused or failed, 2 usage, 3 no daemon, 130 interrupted.
What prints for a person is imported when it prints, what one command alone wants when it runs: each must start fast.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from daemon import wire
from daemon.ctl.client import Client, UnreachableError, find_socket
from daemon.ctl.manual import Explained
from daemon.plaintext import plain

T = TypeVar("T", bound=msgspec.Struct)
EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_INTERRUPTED = 1, 3, 130


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
            if sys.stderr.isatty():
                self._client.on_silence = _tell_silence
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
            self.print_raw(msgspec.json.encode({"error": plain(error)}))
            return
        click.echo(f"batonctl: {refusal.message}", err=True)
        for problem in refusal.problems:
            if problem != refusal.message:
                click.echo(f"  {problem}", err=True)


def _tell_silence(quiet_s: float, patience_s: float) -> None:
    """To whoever sits there: a script has no use for it, and learns at the end."""
    waits = f"waiting for it, {patience_s:.0f} s at most; Ctrl-C gives up"
    click.echo(f"batonctl: batond has not answered for {quiet_s:.0f} s; {waits}", err=True)


class Batonctl(Explained, click.Group):
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
    """Talk to batond, which hands one device from one TensorFlow session to the next.

    Each command has examples: `batonctl COMMAND --help`.

    Examples:
        batonctl submit sessions.toml    # queue what is to run
        batonctl watch                   # look on; q leaves
        batonctl why                     # why every lane is as it is
        eval "$(_BATONCTL_COMPLETE=bash_source batonctl)"   # names at a Tab; or zsh
        _BATONCTL_COMPLETE=fish_source batonctl | source    # the same in fish
    """
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

    name = function.__name__.rstrip("_").replace("_", "-")
    return batonctl.command(name, cls=Explained)(run)
