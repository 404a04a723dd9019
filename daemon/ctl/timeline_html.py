"""A timeline as one HTML page that needs nothing else: data, words and Plotly's JavaScript inside. Reads no record.

How it looks is in timeline.html, beside: there the traces are made, in the reader's colours and time zone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from html import escape as escaped
from importlib.metadata import version
from importlib.resources import files
from statistics import median
from typing import IO, Any, Final

import msgspec

from daemon import wire
from daemon.ctl.timeline_spans import Handover, Role, Span, Timeline, micros
from daemon.results import Sample

RUNS: Final = 400  # of sessions, drawn at the most: a browser takes some seconds for so many
SAMPLES: Final = 2000  # of a lane
HANDOVERS: Final = 200  # in the table
NO_PLOTLY: Final = (
    "cannot make a page: Plotly, which draws it, is not installed here; "
    "install it with `pip install 'batond[timeline]'`, or make a trace: -o FILE.json"
)
ROWS: Final = {Role.ACTIVE: 3, Role.STANDBY: 2, Role.RETIRING: 1}  # heights in the picture; 0: the lane's states


def writer() -> Callable[[Timeline, IO[str]], None]:
    """What writes the page. Raises wire.Refusal where Plotly is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise wire.Refusal(wire.Code.REFUSED, NO_PLOTLY) from None

    def write(timeline: Timeline, file: IO[str]) -> None:
        page = files("daemon.ctl").joinpath("timeline.html").read_text("utf-8")
        data = msgspec.json.encode(_data(timeline)).decode()
        for mark, text in (("/*DATA*/", _inert(data)), ("/*PLOTLY*/", _inert(get_plotlyjs(), code=True))):
            head, found, page = page.partition(mark)
            assert found, f"timeline.html has no {mark}"
            file.write(head + text)
        file.write(page)

    return write


def _inert(text: str, *, code: bool = False) -> str:
    """Text that ends no <script>: JSON has "<" in strings only; in code none but a string's or a comment's ends one."""
    return text.replace("</script", "<\\/script") if code else text.replace("<", "\\u003c")


def _data(timeline: Timeline) -> dict[str, Any]:
    whole, timeline = timeline, _newest(timeline)
    return {
        "version": version("batond"),
        "since": timeline.since / 1e3,
        "until": timeline.until / 1e3,
        "runs": len(_runs(timeline)),
        "runs_in_all": len(_runs(whole)),
        "absent": [[begin / 1e3, end / 1e3] for begin, end in timeline.absent],
        "lanes": [_lane(timeline.only(lane)) for lane in timeline.lanes],
        "handovers": [_row(each) for each in sorted(timeline.handovers, key=lambda h: h.at)[-HANDOVERS:]],
        "figures": _figures(timeline),
    }


def _newest(timeline: Timeline) -> Timeline:
    """The timeline since so many runs as can be drawn began, at the most."""
    begins = sorted(span.begin for span in _runs(timeline))
    return timeline if len(begins) <= RUNS else timeline.after(begins[-RUNS])


def _runs(timeline: Timeline) -> list[Span]:
    return [span for span in timeline.spans if span.role is Role.ACTIVE]


def _lane(timeline: Timeline) -> dict[str, Any]:
    return {
        "name": timeline.lanes[0],
        "spans": [_bar(span) for span in timeline.spans],
        "states": [[s.state, s.begin / 1e3, s.end / 1e3, s.cause or "", s.open] for s in timeline.states],
        "handovers": [[h.at / 1e3, h.gap_us / 1e3, _handover(h)] for h in timeline.handovers],
        "memory": [_memory(sample) for sample in _thinned(timeline.samples)],
    }


def _bar(span: Span) -> list[Any]:
    """Row, kind, begin and end (ms), name, what it shows when pointed at, outcome, whether it goes on."""
    kind = span.role.value
    if span.role is Role.STANDBY:
        kind = "ready" if span.ready else f"to {span.tier}"
    words = "<br>".join(_told(span))
    return [
        ROWS[span.role],
        kind,
        span.begin / 1e3,
        span.end / 1e3,
        _text(span.session),
        words,
        span.outcome,
        span.open,
    ]


def _told(span: Span) -> Iterator[str]:
    told = span.told
    match span.role:
        case Role.ACTIVE:
            yield f"<b>{_text(span.session)}</b> runs"
            if told.get("adopted"):
                yield "went on while no daemon was there"
            items, total = told.get("items"), told.get("total")
            if items is not None or total is not None:
                yield f"items: {'…' if items is None else f'{items:,}'}" + ("" if total is None else f" of {total:,}")
            if told.get("cursor"):
                yield f"went on from item {told['cursor']:,}"
            if told.get("errors"):
                yield f"skipped: {told['errors']:,}"
            if told.get("attempt", 1) > 1:
                yield f"attempt {told['attempt']}"
            if "queued_s" in told:
                yield f"began {_seconds(told['queued_s'])} after it was queued"
            if "waited_for_memory_s" in told:
                yield f"waited {_seconds(told['waited_for_memory_s'])} for memory"
            yield "goes on" if span.open else span.outcome or "its daemon went away"
            if told.get("reason"):
                yield _text(str(told["reason"])[:200])
        case Role.STANDBY:
            done = "ready, waits for its turn" if span.ready else "is being prepared"
            yield f"<b>{_text(span.session)}</b> {done}"
            yield f"tier: {span.tier}"
            if "prepared_s" in told:
                yield f"prepared in {_seconds(told['prepared_s'])}"
            if told.get("beside"):
                yield f"beside {_text(told['beside'])}"
            if told.get("need_bytes"):
                yield f"needs {_bytes(told['need_bytes'])}"
            if told.get("held_back"):
                yield f"no further yet: {_text(str(told['held_back'])[:200])}"
            if span.outcome:
                yield f"{span.outcome}: {_text(str(told.get('reason', ''))[:200])}"
        case Role.RETIRING:
            yield f"<b>{_text(span.session)}</b> makes its output durable, and exits"


def _text(said: str) -> str:
    """What somebody else chose, as text for Plotly, which knows tags and "&" but shows "&quot;" letter by letter."""
    return escaped(said, quote=False)


def _handover(handover: Handover) -> str:
    told = handover.told
    lines = [
        f"<b>{_text(told['from_session'])} → {_text(told['session'])}</b>",
        f"gap: {_seconds(told['gap_s'])}, last item to first item",
        f"lead: {_seconds(told['lead_s'])}" + ("" if told["lead_s"] >= 0 else " (after the end)"),
        f"prepared to: {told['tier']}, in {_seconds(told['preparing_s'])}",
        f"stood ready for {_seconds(told['idle_standby_s'])}; the device waited {_seconds(told['device_waited_s'])}",
        f"draining {_seconds(told['draining_s'])}, swapping {_seconds(told['swapping_s'])}",
        f"items: {told['items_in']:,} = {told['items_done']:,} done + {told['items_returned']:,} handed back"
        f" + {told['items_abandoned']:,} abandoned",
    ]
    return "<br>".join(lines)


def _row(handover: Handover) -> dict[str, Any]:
    told = handover.told
    return {
        "at": handover.at / 1e3,
        "lane": handover.lane,
        "from": told["from_session"],
        "to": told["session"],
        "gap_ms": handover.gap_us / 1e3,
        "cells": [
            _seconds(told["gap_s"]),
            _seconds(told["lead_s"]),
            str(told["tier"]),
            _seconds(told["preparing_s"]),
            _seconds(told["idle_standby_s"]),
            _seconds(told["device_waited_s"]),
            f"{told['items_done']:,}",
        ],
    }


def _figures(timeline: Timeline) -> list[list[str]]:
    """What is to be seen at once: a figure, and what it is."""
    handovers = timeline.handovers
    found = [[f"{timeline.sessions:,}", "session" if timeline.sessions == 1 else "sessions"]]
    if handovers:
        gaps = [each.told["gap_s"] for each in handovers]
        ready = sum(each.told["idle_standby_s"] > 0 for each in handovers)
        found.append([f"{len(handovers):,}", "handover" if len(handovers) == 1 else "handovers"])
        found.append([f"{ready:,} of {len(handovers):,}", "ready before they were needed"])
        found.append([_seconds(median(gaps)), "from one session to the next (median)"])
    failed = len({(s.session, s.generation) for s in timeline.spans if s.outcome in ("failed", "tried again")})
    if failed:
        found.append([f"{failed:,}", "failed runs"])
    return found


def _memory(sample: Sample) -> list[float]:
    return [
        micros(sample.ts) / 1e3,
        sample.total_bytes,
        sample.free_bytes,
        sample.active_bytes,
        sample.standby_bytes,
        sample.retiring_bytes,
        sample.foreign_bytes,
        sample.wanted_bytes,
    ]


def _thinned(samples: tuple[Sample, ...]) -> Iterable[Sample]:
    """So many as can be drawn: of each few in a row, the one with the least free."""
    few = -(-len(samples) // SAMPLES) or 1
    return (min(samples[n : n + few], key=lambda each: each.free_bytes) for n in range(0, len(samples), few))


def _seconds(seconds: float) -> str:
    """As a person reads it."""
    size = abs(seconds)
    if size < 1:
        return f"{seconds * 1e3:.1f} ms" if size < 0.1 else f"{seconds * 1e3:.0f} ms"
    if size < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if size < 7200 else f"{seconds / 3600:.1f} h"


def _bytes(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
