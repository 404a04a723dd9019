"""What goes on: a log as it grows, events as they happen, as a client reads them. Prints nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from daemon import results, wire
from daemon.ctl.client import Client, UnreachableError

LOG_POLL_S = 0.3


def pieces(client: Client, name: str, offset: int | None, *, follow: bool) -> Iterator[results.LogsResult]:
    """The pieces of a session's log, none empty, up to what is there now or (`follow`) to the session's end."""
    while True:
        params = wire.LogsParams(name=name, offset=offset, max_bytes=wire.LOGS_LIMIT_BYTES if offset == 0 else 1 << 16)
        piece = client.call("logs", params, results.LogsResult)
        offset = piece.next_offset
        if piece.text:
            yield piece
        elif piece.ended or not follow:
            return
        else:
            time.sleep(LOG_POLL_S)


def notices(client: Client, since: int | None, last: int, *, follow: bool) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Past events, then (`follow`) new ones, as they came and decoded. Raises UnreachableError when new ones end."""
    params = wire.EventsParams(since=since, last=0 if since is not None else last, follow=follow)
    seq = client.call("events", params, results.EventsResult).seq
    for raw, line in client.notices(None) if follow else client.notices():
        seq = max(seq, line.get("seq") or 0)
        yield raw, line
    if follow:
        again = f"go on with `batonctl events --follow --since {seq}`"
        raise UnreachableError(f"batond ended the stream of events: it stopped, or this end read too slowly; {again}")
