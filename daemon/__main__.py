"""`batond`: reads the command line and the configuration, and runs the service in the foreground."""

from __future__ import annotations

import asyncio
import os
import socket as socket_module
import sys
import traceback
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import click
from msgspec.structs import replace

from daemon.config import Config, Problems, load, prepare_folders
from daemon.endpoint import UnusableError
from daemon.journal import UnusableJournalError
from daemon.logs import Log
from daemon.notify import Manager, listening_socket
from daemon.service import Service
from daemon.store import Store, StoreError
from daemon.stories import DaemonBroke
from daemon.wire import Code, Refusal, encode_error

FAILED = 1
BROKEN = 70  # EX_SOFTWARE
MISCONFIGURED = 78  # EX_CONFIG: starting again does not help, and the unit does not
LOST = "log.lost"  # in the state folder: how many lines of the log did not get out at the end


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(path_type=Path), help="The configuration file (TOML).")
@click.option("--state-dir", type=click.Path(), help="Where the record of sessions and decisions is kept.")
@click.option("--socket", type=click.Path(), help="The control socket.")
@click.option(
    "--launcher",
    type=click.Choice(["auto", "forkserver", "exec"]),
    help="How workers start: forked from a server that has TensorFlow imported, or each by itself.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "journal", "pretty"]),
    help="auto: pretty on a terminal, entries where systemd's journal listens, json elsewhere.",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What is logged at least.")
@click.version_option(version("batond"), prog_name="batond")
def command(
    config: Path | None,
    state_dir: str | None,
    socket: str | None,
    launcher: str | None,
    log_format: str | None,
    log_level: str | None,
) -> None:
    """Run TensorFlow sessions one after another on each device, with no gap between them.

    Stays in the foreground and logs to standard output. Ctrl-C drains and ends; a second one ends at once. SIGHUP does
    as Ctrl-C where batond was started from a terminal, for then that was closed; elsewhere, as under systemd, it has
    the configuration read again.
    """
    overrides = {
        "state_dir": state_dir,
        "control.socket": socket,
        "launcher": launcher,
        "log.format": log_format,
        "log.level": log_level,
    }
    given: tuple[socket_module.socket, Path] | None = None

    def read() -> Config:
        settings = load(config, overrides=overrides)
        if given is None:
            return settings
        return replace(settings, control=replace(settings.control, socket=given[1]))  # whatever the file says

    try:
        given = listening_socket(os.environ)
        settings = read()
        prepare_folders(settings)
        store = Store.open(settings.state_dir)
    except Problems as wrong:
        for line in wrong.problems:
            click.echo(f"batond: {line}", err=True)
        if given is not None:
            _turn_away(given[0], wrong.problems)
        sys.exit(MISCONFIGURED)
    except (StoreError, ValueError) as wrong:
        click.echo(f"batond: {wrong}", err=True)
        sys.exit(FAILED)
    try:
        log = Log(style=settings.log.format, level=settings.log.level, lost=settings.state_dir / LOST)
    except UnusableJournalError as wrong:
        store.close()
        click.echo(f"batond: {wrong}", err=True)
        sys.exit(FAILED)
    log.take_warnings()
    try:
        listener = None if given is None else given[0]
        status = asyncio.run(Service(settings, store, log, Manager(os.environ), read, listener).run())
    except (UnusableError, Problems) as wrong:
        click.echo(f"batond: {wrong}", err=True)
        status = FAILED
    except Exception as bug:  # noqa: BLE001 - whatever it is, it goes into the log whole, and a person gets one line
        trace = "".join(traceback.format_exception(bug))
        log.emit(DaemonBroke(f"{type(bug).__name__}: {bug}", trace))
        click.echo(
            f"batond: a fault of its own ended it ({type(bug).__name__}: {bug}); the log has the report", err=True
        )
        status = BROKEN
    finally:
        store.close()
        log.close()
    sys.exit(status)


def _turn_away(listener: socket_module.socket, problems: tuple[str, ...]) -> None:
    """Tell the clients that wait why nobody serves them. Left waiting, they would have systemd start batond again."""
    refusal = Refusal(Code.REFUSED, "batond cannot start with its configuration", problems)
    while True:
        try:
            client, _ = listener.accept()
        except OSError:  # it does not block: nobody waits any more
            return
        with client, suppress(OSError):  # or that one has gone
            client.setblocking(False)  # noqa: FBT003 - the standard library's signature
            client.send(encode_error(None, refusal))


def main() -> None:
    """The entry point of `batond` and `python -m daemon`."""
    command(prog_name="batond")


if __name__ == "__main__":
    main()
