"""The command about a model on disk: what it takes, gives and needs, before any session names it."""

from __future__ import annotations

import os

import click

from daemon import results, wire
from daemon.ctl.client import SUBMIT_TIMEOUT_S
from daemon.ctl.conversation import Conversation, command
from daemon.ctl.manual import Number


@command
@click.argument("model", type=click.Path())
@click.option("--signature", metavar="NAME", help="This signature only.")
@click.option(
    "--batch-size",
    default=32,
    show_default=True,
    type=Number(1, (1 << 31) - 1),
    help="Items of one call; memory is estimated for it.",
)
def inspect(talk: Conversation, *, model: str, signature: str | None, batch_size: int) -> None:
    """What the model at MODEL takes and gives, and memory it may need.

    Nothing is queued. A session file's keys for it follow from what is told.

    Examples:
        batonctl inspect models/digits                          # every signature
        batonctl inspect models/digits --signature predict
        batonctl inspect models/digits.keras --batch-size 256   # memory for that
    """
    path = os.path.abspath(model)  # noqa: PTH100 pathlib costs 10 ms
    params = wire.InspectParams(model=path, signature=signature, batch_size=batch_size)
    if answer := talk.ask("inspect", params, results.InspectResult, SUBMIT_TIMEOUT_S):
        from daemon.ctl import screen_inspect

        screen_inspect.show_model(answer)
