"""Lives of lying workers, drawn: true words in wrong orders, wrong counts and generations, and no words at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from hypothesis import strategies as st

from tests.fuzz.frames import Frame, damaged, mutated, pairs, raw, text

SESSION, GENERATION, NOW = b'"@session"', b'"@generation"', b'"@now"'  # put in when it is known
HUGE = 2**63 - 1

Word: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Say:
    """A line, or several, or none."""

    frame: Frame


@dataclass(frozen=True)
class Do:
    """Something other than saying a line.

    go: wait (a moment) to be told to go. look: somebody asks for status and list. The next four are a person's
    commands. reborn: the daemon is killed, and another one started. half_close, close: of the channel.
    """

    what: Literal["go", "breathe", "look", "cancel", "swap", "drain", "pause", "reborn", "half_close", "close"]


Act: TypeAlias = Say | Do


@dataclass(frozen=True)
class Life:
    """One process of the liar's session: what it does, and how it ends (its exit status, −N: by signal N)."""

    acts: tuple[Act, ...]
    status: int


@dataclass(frozen=True)
class Performance:
    """A liar and an honest session on one lane, and strangers at the worker socket."""

    lives: tuple[Life, ...]
    prepares: bool
    liar_first: bool
    strangers: tuple[tuple[Frame, ...], ...]

    @property
    def reborn(self) -> bool:
        """Whether the daemon is killed in it."""
        return any(Do("reborn") in life.acts for life in self.lives)


counts = st.integers(0, 30) | st.sampled_from([0, 20, 10**6, 2**31, 2**53 + 1, HUGE - 1, HUGE])
times = st.just("@now") | st.sampled_from([0.0, -1.0, 1e-300, 1e9, 1e300, -1e308])
tiers = st.sampled_from(["warm", "warm", "warm", "imported", "staged"])
seconds = st.sampled_from([0.0, 0.1, 5.0, 1e6, 1e308])


@st.composite
def hello(draw: st.DrawFn, *, true: bool = False) -> Word:
    """A greeting; a true one, or one with lies about itself."""
    word: Word = {"type": "hello", "protocol": 1, "session": "@session", "generation": "@generation", "pid": 1}
    word |= {"phase": "loading", "tier": None, "cursor": 0, "done": 0, "total": None, "tensorflow": False}
    if true:
        return word
    word |= {
        "phase": draw(st.sampled_from(["loading", "ready", "computing", "draining", "committed"])),
        "cursor": draw(counts),
        "done": draw(counts),
        "total": draw(st.none() | counts),
        "began_at": draw(st.none() | times),
        "ended_at": draw(st.none() | times),
        "remaining": draw(st.none() | counts),
        "paused": draw(st.none() | st.just("the disk\nis full")),
    }
    who = draw(st.integers(0, 11))
    if who == 0:
        word["generation"] = draw(st.sampled_from([0, -1, 1, 2**63, 10**30]))
    elif who == 1:
        word["session"] = draw(st.sampled_from(["", "honest", "a\x00b", "x" * 5000]))
    elif who == 2:
        word["protocol"] = draw(st.sampled_from([0, 2, -(2**70)]))
    return word


@st.composite
def word(draw: st.DrawFn) -> Word:
    """Any word of the protocol."""
    match draw(st.sampled_from(sorted(KINDS))):
        case "hello":
            return draw(hello())
        case "advanced":
            return {"type": "advanced", "tier": draw(tiers), "seconds": draw(seconds)}
        case "ready":
            total, peak = draw(st.none() | counts), draw(counts)
            return {"type": "ready", "tier": draw(tiers), "seconds": draw(seconds), "total": total, "peak_bytes": peak}
        case "started":
            return {"type": "started", "at": draw(times)}
        case "progress":
            found: Word = {"type": "progress", "done": draw(counts), "cursor": draw(counts)}
            return found | {"total": draw(st.none() | counts), "errors": draw(counts), "rss_bytes": draw(counts)}
        case "quiesced":
            found = {"type": "quiesced", "at": draw(times), "done": draw(counts)}
            return found | {"remaining": draw(st.none() | counts), "errors": draw(counts)}
        case "committed":
            return {"type": "committed", "cursor": draw(counts), "errors": draw(counts), "peak_bytes": draw(counts)}
        case "failed":
            kind = draw(st.sampled_from(["model", "input", "output", "memory", "program", "internal"]))
            reason = draw(st.sampled_from(["", "bad luck", "two\nlines\x1b[31m", "x" * 5000, "😀"]))
            return {"type": "failed", "kind": kind, "reason": reason, "item": draw(st.none() | counts)}
        case "paused":
            return {"type": "paused", "reason": draw(st.sampled_from(["no room", "a\nb", "x" * 5000]))}
        case kind:
            return {"type": kind}


KINDS = (
    *("hello", "advanced", "ready", "started", "progress", "last_batch", "quiesced", "committed", "failed", "paused"),
    "resumed",
)
TOTAL = 20


def _said(*words: Word) -> list[Act]:
    return [Say(Frame(str(each["type"]), text(pairs(each)).encode())) for each in words]


def in_order() -> list[Act]:
    """The life of a worker in order."""
    ready: Word = {"type": "ready", "tier": "warm", "seconds": 0.1, "total": TOTAL, "peak_bytes": 1 << 20}
    acts = _said({"type": "hello", "protocol": 1, "session": "@session", "generation": "@generation", "pid": 1,
                  "phase": "loading"}, ready)  # fmt: skip
    acts.append(Do("go"))
    acts += _said({"type": "started", "at": "@now"})
    acts += _said(*({"type": "progress", "done": done, "cursor": done - 1, "total": TOTAL} for done in (1, 8, 20)))
    acts += _said({"type": "last_batch"}, {"type": "quiesced", "at": "@now", "done": TOTAL, "remaining": 0})
    return acts + _said({"type": "committed", "cursor": TOTAL})


@st.composite
def lie(draw: st.DrawFn) -> Act:
    """One act that does not belong where it comes."""
    choice = draw(st.integers(0, 19))
    if choice < 12:
        return _said(draw(word()))[0]
    if choice < 14:
        return Say(draw(mutated(draw(word()))))
    if choice == 14:
        return Say(draw(damaged(Frame("bytes", text(pairs(draw(word()))).encode()))))
    if choice == 15:
        return Say(draw(raw()))
    doings: list[Any] = ["breathe", "look", "look", "cancel", "swap", "drain", "pause", "half_close", "close"]
    return Do(draw(st.sampled_from(doings)))


@st.composite
def life(draw: st.DrawFn, *, reborn: bool = False) -> Life:
    """A life in order with some of it lost, doubled, out of its place or made up."""
    acts = in_order() if draw(st.integers(0, 5)) else [*in_order()[: draw(st.integers(0, 4))]]
    for _ in range(draw(st.integers(0, 8))):
        place = draw(st.integers(0, 20)) % (len(acts) + 1)
        match draw(st.integers(0, 7)):
            case 0 if place < len(acts):
                del acts[place]
            case 1 if place < len(acts):
                acts.insert(draw(st.integers(0, 20)) % len(acts), acts[place])
            case 2 if place < len(acts):
                acts.insert(draw(st.integers(0, 20)) % len(acts), acts.pop(place))
            case _:
                acts.insert(place, draw(lie()))
    if reborn:
        place = draw(st.integers(1, max(1, len(acts))))
        acts[place:place] = [Do("reborn"), *_said(draw(hello(true=draw(st.integers(0, 3)) == 0)))]
    return Life(tuple(acts), draw(st.sampled_from([0, 0, 0, 1, 75, -9, -15])))


@st.composite
def performance(draw: st.DrawFn) -> Performance:
    """One evening."""
    reborn = draw(st.integers(0, 4)) == 0
    lives = [draw(life(reborn=reborn)), *draw(st.lists(life(), max_size=2))]
    strangers = st.one_of(word(), hello()).map(lambda made: Frame("stranger", text(pairs(made)).encode()))
    guests = st.lists(st.one_of(strangers, strangers, raw()), max_size=5).map(tuple)
    return Performance(
        tuple(lives), draw(st.booleans()), draw(st.booleans()), tuple(draw(st.lists(guests, max_size=2)))
    )
