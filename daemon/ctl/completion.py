"""What the shell offers at a Tab for names of sessions and lanes. Silent where there is no daemon; starts none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TypeAlias

import click
import msgspec

from daemon import results, wire
from daemon.ctl.client import Client, UnreachableError, find_socket, of_service

PATIENCE_S = 2.0  # somebody waits with a finger on the key
MOST = 500  # more names than that are no help
NOT_ACTIVE = 3  # an exit status of `systemctl is-active`

Completion: TypeAlias = Callable[[click.Context, click.Parameter, str], list[str]]


def sessions(*states: results.SessionState) -> Completion:
    """Names of the sessions in these states; of none in particular: of all that are kept, live ones first."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        def names(client: Client) -> Iterable[str]:
            params = wire.ListParams(ended=not states, states=states, limit=MOST)
            rows = client.call("list", params, results.ListResult, PATIENCE_S).sessions
            given = ctx.params.get("names") or ()
            return [row.name for row in rows if row.name not in given]

        return _asked(ctx, names, incomplete)

    return complete


def lanes(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of the lanes."""
    return _asked(ctx, _lanes, incomplete)


def lanes_and_sessions(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of the lanes, then of the sessions that are kept; one that both have is offered once."""
    return list(dict.fromkeys([*lanes(ctx, parameter, incomplete), *sessions()(ctx, parameter, incomplete)]))


def _lanes(client: Client) -> Iterable[str]:
    answer = client.call("status", wire.StatusParams(queue=0), results.StatusResult, PATIENCE_S)
    return [lane.name for lane in answer.lanes]


def _asked(ctx: click.Context, names: Callable[[Client], Iterable[str]], incomplete: str) -> list[str]:
    path = find_socket(ctx.find_root().params.get("socket"), os.environ)
    if of_service(path) and _inactive():
        return []
    try:
        client = Client(path)
        try:
            return [name for name in names(client) if name.startswith(incomplete)][:MOST]
        finally:
            client.close()
    except (UnreachableError, wire.Refusal, msgspec.DecodeError):  # a line of it would lie across what is being typed
        return []


def _inactive() -> bool:
    """Whether systemd says that no daemon serves: it would start one for whoever connects."""
    import subprocess

    try:
        asked = subprocess.run(
            ["systemctl", "is-active", "--quiet", "batond.service"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == NOT_ACTIVE
