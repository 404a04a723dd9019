"""What must hold of a run in which the daemon died, held against one that nothing disturbed. Starts nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tests.crashpoints.lives import Lives, Record
from tests.crashpoints.program import ROW_BYTES, row
from tests.crashpoints.stories import ENDS, Script, Story

UNSEEN = "its worker ended while no batond watched it"
TROUBLE = ("session.failed", "session.retried", "count.mismatched", "worker.escalated", "command.refused")


@dataclass(frozen=True)
class Reference:
    """What the undisturbed run left: the bytes of each session's files, and the attempt that it ended in."""

    files: Mapping[str, Mapping[str, bytes]]
    attempts: Mapping[str, int]


def refer(story: Story, lives: Lives) -> Reference:
    """From the run that just ended."""
    return Reference(
        {name: _files(story, lives.folder, name) for name in story.ends},
        {session.name: session.attempt for session in lives.record().sessions},
    )


def _files(story: Story, folder: Path, name: str) -> dict[str, bytes]:
    """What a session left; of its manifest all but which submission it is, as no two runs have the same."""
    files = {path.name: path.read_bytes() for path in story.outputs(folder, name) if path.exists()}
    if "session.json" in files:
        manifest = json.loads(files["session.json"])
        assert manifest.pop("submission"), "nothing tells whose rows these are"
        files["session.json"] = json.dumps(manifest).encode()
    return files


def problems(story: Story, script: Script, reference: Reference) -> Iterator[str]:
    """Everything that is wrong, a line each."""
    record = script.lives.record()
    yield from _ended_once(story, script.lives, record, reference)
    yield from _untroubled(script.lives, record)
    yield from _handed_over(record)
    yield from _same_output(story, script.lives, record, reference)
    yield from _went_on(story, script, record)
    if story.journals:
        for name in story.ends:
            yield from _lives_of(script, name)


def _ended_once(story: Story, lives: Lives, record: Record, reference: Reference) -> Iterator[str]:
    counted = Counter(session.name for session in record.sessions)
    for name, end in story.ends.items():
        if counted[name] != 1:
            yield f"{name} is {counted[name]} times in the record"
            continue
        session = next(each for each in record.sessions if each.name == name)
        if session.state != end:
            yield f"{name} ended as {session.state}, not as {end}"
        if end == "done" and session.attempt > reference.attempts[name]:
            yield f"{name} ended in attempt {session.attempt}, undisturbed in {reference.attempts[name]}"
        recorded = [note for end in ENDS for note in record.told(end, name)]
        logged = [event for end in ENDS for event in lives.told(end, session=name)]
        if len(recorded) != 1:
            yield f"{name} ended {len(recorded)} times in the record: {[note['event'] for note in recorded]}"
        # What a killed daemon had recorded, its log may lack: lines are written by a thread of their own.
        silent = any(lives.left_recorded(name, end) for end in ENDS)
        if len(logged) != 1 and not (silent and not logged):
            yield f"{name} ended {len(logged)} times in the log"


def _untroubled(lives: Lives, record: Record) -> Iterator[str]:
    for word in TROUBLE:
        for note in record.told(word):
            if word != "command.refused" or not lives.deaths:
                yield f"{word} is told: {json.dumps(note)}"
    for event in lives.events:
        if event["level"] in ("error", "critical") or event["event"] in ("store.set_aside", "session.unreadable"):
            yield f"the log has an error: {json.dumps(event)}"


def _handed_over(record: Record) -> Iterator[str]:
    for note in record.told("handover.completed"):
        if note["items_in"] != note["items_done"] + note["items_returned"] + note["items_abandoned"]:
            yield f"a handover does not add up: {json.dumps(note)}"


def _same_output(story: Story, lives: Lives, record: Record, reference: Reference) -> Iterator[str]:
    cursors = {session.name: session.cursor for session in record.sessions}
    for name, end in story.ends.items():
        files = _files(story, lives.folder, name)
        if end == "done":
            theirs = reference.files[name]
            if files.keys() != theirs.keys():
                yield f"{name} left the files {sorted(files)}, undisturbed {sorted(theirs)}"
            for file in files.keys() & theirs.keys():
                if files[file] != theirs[file]:
                    yield f"{name}: {file} differs from that of the undisturbed run{_difference(files[file])}"
        elif story.journals:  # as far as it came: each row once, and as many as the record says
            written = b"".join(files.values())
            rows = b"".join(row(name, item) for item in range(len(written) // ROW_BYTES))
            if written != rows:
                yield f"{name}: its rows are not those of the items from 0 on, once each{_difference(written)}"
            if len(written) // ROW_BYTES != cursors.get(name):
                yield f"{name} left {len(written) // ROW_BYTES} rows, and the record says {cursors.get(name)}"


@dataclass(frozen=True)
class Rows:
    """The rows of all sessions that are done, and how many of them are missing, or there more than once."""

    found: int
    lost: int
    doubled: int


def count(story: Story, lives: Lives, reference: Reference) -> Rows:
    """By what is in the files, whatever anybody says. A row that is not what it should be is lost."""
    found = lost = doubled = 0
    for name, end in story.ends.items():
        if end == "done":
            files = _files(story, lives.folder, name)
            for file, theirs in reference.files[name].items():
                have, want = (Counter(story.rows(file, content)) for content in (files.get(file, b""), theirs))
                found += have.total()
                lost += (want - have).total()
                doubled += sum(have[each] - want[each] for each in want if have[each] > want[each])
    return Rows(found, lost, doubled)


def _difference(written: bytes) -> str:
    lines = Counter(written[at : at + ROW_BYTES] for at in range(0, len(written), ROW_BYTES))
    doubled = [line for line, times in lines.items() if times > 1]
    return f" ({len(written)} bytes, {len(doubled)} rows doubled)"


def _went_on(story: Story, script: Script, record: Record) -> Iterator[str]:
    """Who had been told to go when a daemon died, goes on under the next one, in the same generation.

    One that ended before the next daemon looked is heard of by the exit record that a program's parent leaves; a
    built-in worker leaves its manifest alone, from which the next one of its session goes on.
    """
    found = {event["generation"] for event in script.lives.told("worker.found")}
    ended = {note["session"] for note in record.told("session.queued") if note["reason"] == UNSEEN}
    words = ("session.adopted", "session.started", "session.committed", "session.finished")
    unseen: Counter[str] = Counter()
    for death in script.lives.deaths:
        for generation, session in death.workers.items():
            if generation not in death.told:
                continue  # recorded as told, and the daemon died before it told it: it ended by itself
            gone = not story.journals and (generation not in found or session in ended)
            unseen[session] += gone
            heard = [note["generation"] for word in words for note in record.told(word, session)]
            if generation not in heard and not gone and not record.told("session.cancelled", session):
                yield f"{session}, generation {generation}, was told to go when the daemon died, and not heard of again"
    for name in {note["session"] for note in record.told("session.started")}:
        runs = {note["generation"] for word in words[:2] for note in record.told(word, name)}
        if len(runs) > 1 + script.swaps + unseen[name]:
            yield f"{name} ran {len(runs)} times, in the generations {sorted(runs)}"


def _lives_of(script: Script, name: str) -> Iterator[str]:
    """What the session's own processes say of themselves."""
    path = script.lives.folder / f"{name}.lives"
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for line in lines:
        if line["what"] not in ("loaded", "went", "ended"):
            yield f"{name}: {line['what']} (process {line['pid']})"
    went = [line for line in lines if line["what"] == "went"]
    ended = {line["pid"]: line for line in lines if line["what"] == "ended"}
    for run, after in zip_longest(went, went[1:]):
        end = ended.get(run["pid"])
        if end is None:
            yield f"{name}: process {run['pid']} computed, and did not come to its end"
            continue
        if after is not None:
            if not end["drained"]:
                yield f"{name}: process {run['pid']} came to its end, and process {after['pid']} began anew"
            if after["cursor"] != end["cursor"]:
                yield f"{name}: process {run['pid']} ended at item {end['cursor']}, the next began at {after['cursor']}"
    drained = sum(end["drained"] for end in ended.values())
    asked = script.swaps + script.cancels[name]
    if drained > asked:
        yield f"{name} was told to drain {drained} times, and that was asked for {asked} times"
