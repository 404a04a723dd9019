"""`batond`: reads the command line and the configuration, and runs the service in the foreground."""

from __future__ import annotations

import asyncio
import sys
import traceback
from importlib.metadata import version
from pathlib import Path

import click

from daemon.config import Problems, load, prepare_folders
from daemon.endpoint import UnusableError
from daemon.logs import Log
from daemon.service import Service
from daemon.store import Store, StoreError
from daemon.stories import DaemonBroke

FAILED = 1
BROKEN = 70  # EX_SOFTWARE


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(path_type=Path), help="The configuration file (TOML).")
@click.option("--state-dir", type=click.Path(), help="Where the record of sessions and decisions is kept.")
@click.option("--socket", type=click.Path(), help="The control socket.")
@click.option(
    "--launcher",
    type=click.Choice(["auto", "forkserver", "exec"]),
    help="How workers start: forked from a server that has TensorFlow imported, or each by itself.",
)
@click.option("--log-format", type=click.Choice(["auto", "json", "pretty"]), help="auto: pretty on a terminal.")
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

    Stays in the foreground and logs to standard output. Ctrl-C drains and ends; a second one ends at once.
    """
    overrides = {
        "state_dir": state_dir,
        "control.socket": socket,
        "launcher": launcher,
        "log.format": log_format,
        "log.level": log_level,
    }
    try:
        settings = load(config, overrides=overrides)
        prepare_folders(settings)
        store = Store.open(settings.state_dir)
    except Problems as wrong:
        for line in wrong.problems:
            click.echo(f"batond: {line}", err=True)
        sys.exit(FAILED)
    except StoreError as wrong:
        click.echo(f"batond: {wrong}", err=True)
        sys.exit(FAILED)
    log = Log(style=settings.log.format, level=settings.log.level)
    log.take_warnings()
    try:
        status = asyncio.run(Service(settings, store, log).run())
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


def main() -> None:
    """The entry point of `batond` and `python -m daemon`."""
    command(prog_name="batond")


if __name__ == "__main__":
    main()
