"""`batonctl watch`: lanes, memory, queue and events as they change. Looks on; changes nothing."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from daemon import wire
from daemon.ctl.conversation import Conversation, command
from daemon.ctl.watch_feed import POLL_S, Feed, Known
from daemon.results import StatusResult

if TYPE_CHECKING:
    from daemon.ctl.watch_terminal import Terminal
    from daemon.ctl.watch_view import Look, Scene

QUIT, HELP = ("q", "Q"), ("?", "h")
JSON_QUEUE = 20  # of the queue, in what a program gets: all of a long one, so often, would hold up the daemon
FIRST_QUEUE = 12  # of the queue, before it is known how many are shown
SILENCE_SHOWN_S = 1.0  # how often the picture is made anew while nothing comes
NO_TERMINAL = (
    "watch draws on a terminal, and standard output is none that can be drawn on; `batonctl watch --once` prints one"
    " picture, `batonctl events --follow` a line for each thing that happens"
)


@command
@click.option("--once", is_flag=True, help="Print one picture, and end.")
def watch(talk: Conversation, *, once: bool) -> None:
    """Look on: lanes with progress and memory, the queue, events.

    q leaves, ? helps. With --json: what `status` answers, with 20 of the queue, four times a second.

    Examples:
        batonctl watch
        batonctl watch --once                             # one picture, plain
        COLUMNS=120 LINES=40 batonctl watch --once | less # as large as that
        batonctl watch --json                             # for a program
    """
    if talk.as_json:
        _print_answers(talk, once=once)
    elif once:
        _print_one(talk)
    else:
        _look_on(talk)


def _print_answers(talk: Conversation, *, once: bool) -> None:
    while True:
        talk.client.call("status", wire.StatusParams(queue=JSON_QUEUE), StatusResult)
        talk.print_raw(talk.client.raw)
        if once:
            return
        time.sleep(POLL_S)


def _print_one(talk: Conversation) -> None:
    """As it would be on the terminal; in a pipe, on one of the size that COLUMNS and LINES say, else 80×24."""
    from daemon.ctl.screen import put_lines
    from daemon.ctl.watch_view import Look, frame

    width, height = shutil.get_terminal_size()
    shown = replace(scene(Feed(talk.client, height).known), age_s=0.0)  # it has answered, however long that took
    lines = frame(shown, Look(keys=False), width, height)
    while lines and not lines[-1].plain.strip():
        lines.pop()
    put_lines(lines)


def _look_on(talk: Conversation) -> None:
    from daemon.ctl.screen import console
    from daemon.ctl.watch_terminal import EndedBySignal, Terminal

    if not sys.stdout.isatty() or console().is_dumb_terminal:
        raise click.UsageError(NO_TERMINAL)
    feed = Feed(talk.client, queue=FIRST_QUEUE)
    try:
        with Terminal() as terminal:
            feed.start(terminal.wake)
            _draw(feed, terminal)
    except EndedBySignal as ended:
        if ended.number == signal.SIGINT:
            raise KeyboardInterrupt from None
        signal.signal(ended.number, signal.SIG_DFL)  # whoever sent it sees that it was obeyed
        signal.raise_signal(ended.number)
    finally:
        feed.close()


def _draw(feed: Feed, terminal: Terminal) -> None:
    """Until q is pressed."""
    from daemon.ctl.watch_terminal import size
    from daemon.ctl.watch_view import Look, frame, places

    look, known = Look(), feed.known
    while True:
        now = size()
        feed.show(places(look, now.lines))
        if not look.paused:
            known = feed.known
        terminal.paint(frame(scene(known), look, now.columns, now.lines), now)
        for key in terminal.wait(None if look.paused else SILENCE_SHOWN_S):
            if key in QUIT:
                return
            if key == "redraw":
                terminal.redraw()
            look = _pressed(key, look, known.status.queued, now.lines)
            feed.hold(held=look.paused)


def _pressed(key: str, look: Look, queued: int, lines: int) -> Look:
    """How it is looked at after a key."""
    from daemon.ctl.watch_view import page

    steps = {"up": -1, "down": 1, "page up": -page(lines), "page down": page(lines), "home": -look.first}
    if key in steps:
        return replace(look, first=max(0, min(look.first + steps[key], queued - 1)))
    if key in HELP:
        return replace(look, helping=not look.helping)
    return replace(look, paused=not look.paused) if key == " " else look


def scene(known: Known) -> Scene:
    """What is known, as of now."""
    from daemon.ctl.watch_view import Scene

    return Scene(
        status=known.status,
        events=known.events,
        now=known.came,
        age_s=time.monotonic() - known.asked_at,
        lost=known.lost,
        lost_since=known.lost_since,
    )
