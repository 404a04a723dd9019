"""The command that makes a picture of the record. What the picture looks like is told beside: one module a format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click
import msgspec

from daemon import results, wire
from daemon.ctl import completion
from daemon.ctl.client import UnreachableError
from daemon.ctl.conversation import Conversation, command

if TYPE_CHECKING:
    from daemon.ctl.timeline_spans import Timeline

SPANS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
ALL: Final = datetime.fromisoformat("1970-01-02T00:00:00+00:00")
SAY_WHEN: Final = 'say it as "2h" (ago; also s, m, d), "today", "all", or a time as 2026-03-01T12:00:00+01:00'


class When(click.ParamType[datetime]):
    """A moment: so long ago, today's beginning, or a time; one without a zone is this machine's."""

    name = "when"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The moment in its zone."""
        text = str(value).strip()
        now = datetime.now().astimezone()
        if ago := re.fullmatch(r"(\d{1,9})([smhd])", text):
            seconds = min(int(ago[1]) * SPANS[ago[2]], (now - ALL).total_seconds())
            return now - timedelta(seconds=seconds)
        if text == "today":
            midnight = now.replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
            return midnight.astimezone()  # with the offset that was right then: it may be the day it changes
        if text == "all":
            return ALL
        try:
            return datetime.fromisoformat(text).astimezone()
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is no time; {SAY_WHEN}", param, ctx)


@command
@click.option("--since", type=When(), help='From then on: "2h" (ago), "today", "all", or a time (RFC 3339).')
@click.option("--until", type=When(), help="Up to then, said in the same way; without it, up to now.")
@click.option("--lane", shell_complete=completion.lanes, help="Of this lane only.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="FILE.html: a page for a browser; FILE.json: a trace for ui.perfetto.dev.",
)
def timeline(
    talk: Conversation, *, since: datetime | None, until: datetime | None, lane: str | None, output: Path
) -> None:
    """A picture of the record: sessions, memory, every handover.

    Each lane's sessions over its device's memory. Without --since, of the last day; where that has fewer than 50
    sessions, of the last 50. --json prints what the socket said of the record, one piece a line, and writes the
    picture too.

    Examples:
        batonctl timeline -o day.html                          # for a browser
        batonctl timeline --since 2h --lane gpu0 -o two.html
        batonctl timeline --since today -o today.json          # for ui.perfetto.dev
    """
    from daemon.ctl import timeline_file

    write, advice = _format(output)
    with timeline_file.written(output) as file:
        made = _read(talk, since, until)
        if lane is not None:
            if lane not in made.lanes:
                there = f"it tells of {', '.join(made.lanes)}" if made.lanes else "it tells of none"
                raise wire.Refusal(wire.Code.NOT_FOUND, f"the record of that time tells of no lane {lane}; {there}")
            made = made.only(lane)
        write(made, file)
    if not talk.as_json:
        counted = f"{_many(made.sessions, 'session')}, {_many(len(made.handovers), 'handover')}"
        click.echo(f"{output}: {counted} on {_many(len(made.lanes), 'lane')}; {advice}")


def _format(output: Path) -> tuple[Callable[[Timeline, IO[str]], None], str]:
    """What writes a file of that name, and what to do with it then. Raises wire.Refusal."""
    match output.suffix.lower():
        case ".html":
            from daemon.ctl import timeline_html

            return timeline_html.writer(), "open it in a browser"
        case ".json":
            from daemon.ctl import timeline_trace

            return timeline_trace.write, "open it at https://ui.perfetto.dev (it stays on your machine)"
        case other:
            why = f"{other!r} is not known here" if other else "its name does not say as what"
            wrong = f"cannot write {output}: {why}; give a name that ends in .html or .json"
            raise wire.Refusal(wire.Code.REFUSED, wrong)


def _read(talk: Conversation, since: datetime | None, until: datetime | None) -> Timeline:
    from daemon.ctl import timeline_spans

    params = wire.TimelineParams(since=since, until=until)
    stretch = talk.client.call("timeline", params, results.TimelineResult)
    return timeline_spans.build(stretch, _pieces(talk))


def _pieces(talk: Conversation) -> Iterator[results.TimelinePiece]:
    for raw, _ in talk.client.notices():
        if talk.as_json:
            talk.print_raw(raw)
        piece = msgspec.json.decode(raw, type=results.TimelinePiece)
        if piece.last:
            return
        yield piece
    raise UnreachableError("batond ended before it had told all of its record; try again")


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
