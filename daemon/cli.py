"""`batonctl`: what a person or a script asks of batond, in words. A thin client: it decides nothing.

Its commands lie in daemon/ctl/, those about one thing in one module.
"""

from __future__ import annotations

import os
import sys

import click

from daemon.ctl import insight, lanes, models, sessions, streams, timeline, watch
from daemon.ctl.conversation import EXIT_REFUSED, batonctl
from daemon.ctl.manual import Explained

__all__ = ["COMMANDS", "Explained", "batonctl", "main"]

COMMANDS = (sessions, models, lanes, insight, watch, timeline)  # each adds its own to `batonctl` when it is imported


def main() -> None:
    """The entry point. What could not be printed is an error here, not when the interpreter ends."""
    streams.prepare()
    try:
        try:
            batonctl(prog_name="batonctl")
        finally:
            sys.stdout.flush()
    except OSError as error:  # files and sockets have their own words where they are used: mostly output is left
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still in the buffers goes nowhere, and silently
        what = "write to standard output" if error.filename is None else f"use {os.fsdecode(error.filename)}"
        if not isinstance(error, BrokenPipeError):
            click.echo(f"batonctl: cannot {what}: {error.strerror}", err=True)
        sys.exit(EXIT_REFUSED)


if __name__ == "__main__":
    main()
