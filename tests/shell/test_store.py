"""The store: what the core decided is what is read back, by the next daemon and by whoever asks."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from daemon.store import Store, WorkerRecord
from states.decision import Decision
from states.effects import Promote
from states.events import (
    Cancel,
    Committed,
    DrainLane,
    Exited,
    Failed,
    Move,
    Pause,
    Progress,
    Queued,
    Quiesced,
    Ready,
    Resume,
    Tick,
)
from states.notes import ProfileLearned, SessionMoved
from states.work import Profile, Session, Tier
from tests.shell.recorded_life import Life, spec


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    made = Life(tmp_path / "state")
    yield made
    made.store.close()


def test_an_empty_folder_is_an_empty_queue(tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "a" / "b")) as store:
        loaded = store.load()
        assert (loaded.queue, loaded.specs, loaded.profiles, loaded.held) == ((), {}, {}, frozenset())
        assert (loaded.generation, loaded.seq, loaded.unreadable, store.set_aside) == (0, 0, (), None)
        assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
        assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "a" / "b").glob("*.db"))


def test_the_queue_that_is_read_back_is_the_one_that_was_left(life: Life, tmp_path: Path) -> None:
    life.feed(Pause(0.0, "cpu"))
    for name in ("a", "b", "c"):
        life.submit(name, priority=int(name == "c"), waits_for=frozenset({"a"} if name == "b" else ()))
    life.feed(Move(0.0, "b", before="a"))
    left = life.world.queue
    assert [session.name for session in left] == ["c", "b", "a"]
    loaded = life.store.load()
    assert loaded.queue == left
    assert loaded.specs == {name: spec(name) for name in ("a", "b", "c")}
    assert loaded.held == {"cpu"}
    life.feed(Resume(0.0, "cpu"))
    assert life.store.load().held == frozenset()


def test_a_session_in_a_workers_hands_comes_back_at_its_cursor(life: Life, tmp_path: Path) -> None:
    life.submit("a")
    generation = life.run_to(0)
    life.feed(Progress(0.0, generation, 64, 40, 100))
    life.hand_back(generation, 40)
    life.feed(Resume(0.0, "cpu"))
    life.run_to(40)
    record = life.store.session("a")
    assert record is not None
    assert (record.state, record.cursor, record.lane, record.attempt) == ("active", 40, "cpu", 1)
    life.store.close()
    life.store = Store.open(tmp_path / "state")
    loaded = life.store.load()
    (session,) = loaded.queue
    assert (session.cursor, session.total, session.attempt, session.begun) == (40, 100, 0, True)
    assert loaded.generation == life.generation() == 2


def test_what_was_committed_counts_though_the_worker_has_not_ended(life: Life) -> None:
    life.submit("a")
    generation = life.run_to(0)
    life.feed(DrainLane(0.0, "cpu"))
    life.feed(Quiesced(0.0, generation, life.now, 40, 60))
    life.feed(Committed(0.0, generation, 40))
    assert life.world.queue == ()
    (session,) = life.store.load().queue
    assert session.cursor == 40


def test_a_session_that_was_told_to_go_has_begun_even_if_it_never_said_so(life: Life) -> None:
    """Its output may hold rows: the next worker must be told to go on from them, not to refuse them."""
    life.submit("a")
    assert not life.store.load().queue[0].begun
    decision = life.feed(Ready(0.0, life.generation(), Tier.WARM, 0.5, total=100))
    assert any(isinstance(effect, Promote) for effect in decision.effects)
    assert life.store.load().queue[0].begun


def test_the_whole_life_of_a_session_is_kept(life: Life) -> None:
    life.submit("a")
    life.finish(life.run_to(50))
    record = life.store.session("a")
    assert record is not None
    assert (record.state, record.items, record.cursor, record.lane) == ("done", 100, 100, "cpu")
    assert record.spec == spec("a")
    assert record.submitted_at < record.started_at < record.ended_at <= life.wall  # type: ignore[operator]
    assert life.store.load().queue == ()
    told = [entry.note["event"] for entry in life.store.history("a")]
    assert [event for event in told if event.startswith("session.")] == [
        "session.queued",
        "session.started",
        "session.finished",
    ]
    assert "worker.exited" in told
    assert told.index("standby.ready") < told.index("session.started")


def test_a_cancel_that_was_accepted_is_read_back_as_one(life: Life) -> None:
    """Its worker may outlive the daemon that promised the end."""
    life.submit("a")
    generation = life.run_to(0)
    assert life.store.load().queue[0].cancelled is False
    life.feed(Cancel(0.0, "a"))
    (session,) = life.store.load().queue
    assert (session.name, session.cancelled) == ("a", True)
    life.feed(Exited(0.0, generation, 0))
    assert life.store.load().queue == ()


def test_the_items_that_were_skipped_are_kept_with_the_session(life: Life) -> None:
    life.submit("a")
    generation = life.run_to(0)
    life.feed(Quiesced(0.0, generation, 0.0, 100, 0, errors=3))
    life.feed(Committed(0.0, generation, 100, errors=3))
    record = life.store.session("a")
    assert record is not None
    assert (record.state, record.items, record.core.errors) == ("done", 100, 3)


def test_those_that_wait_for_a_finished_session_are_read_back_as_due(life: Life) -> None:
    life.submit("a")
    life.submit("b", waits_for=frozenset({"a"}))
    assert {s.name: s.waits_for for s in life.store.load().queue} == {"a": frozenset(), "b": {"a"}}
    life.finish(life.run_to(50))
    assert [(s.name, s.waits_for) for s in life.store.load().queue] == [("b", frozenset())]


def test_a_failure_keeps_what_was_said_of_it(life: Life) -> None:
    life.submit("a")
    generation = life.run_to(30)
    life.feed(Failed(0.0, generation, "input", "row 31 is not what caf\udce9 takes", 31))
    life.feed(Exited(0.0, generation, 1))
    record = life.store.session("a")
    assert record is not None
    assert (record.state, record.kind, record.item, record.attempt) == ("failed", "input", 31, 1)
    assert record.reason == "row 31 is not what caf\\udce9 takes"
    assert record.core.begun
    assert record.ended_at is not None


def test_a_second_attempt_is_read_back_as_one(life: Life) -> None:
    life.submit("a")
    generation = life.run_to(30)
    life.feed(Exited(0.0, generation, -9))
    record = life.store.session("a")
    assert record is not None
    assert (record.state, record.kind, record.attempt) == ("queued", "crash", 1)
    assert life.store.load().queue == life.world.queue
    assert life.world.queue[0].not_before > life.now


def test_a_name_is_used_again_once_its_session_has_ended(life: Life) -> None:
    life.feed(Pause(0.0, "cpu"))
    for _ in range(3):
        life.submit("a")
        life.feed(Cancel(0.0, "a"))
    life.submit("a")
    states = [(record.id, record.state) for record in life.store.sessions()]
    assert states == [(1, "cancelled"), (2, "cancelled"), (3, "cancelled"), (4, "queued")]
    latest = life.store.session("a")
    assert latest is not None
    assert (latest.id, latest.state) == (4, "queued")
    assert [entry.note["event"] for entry in life.store.history("a")] == ["session.queued"]
    assert life.store.session("b") is None
    assert life.store.history("b") == ()


def test_sessions_are_listed_in_pages(life: Life) -> None:
    life.feed(Pause(0.0, "cpu"))
    for number in range(6):
        life.submit(f"s{number}")
        if number % 2:
            life.feed(Cancel(0.0, f"s{number}"))

    def names(*args: object, **more: object) -> list[str]:
        return [record.name for record in life.store.sessions(*args, **more)]  # type: ignore[arg-type]

    assert names() == ["s0", "s1", "s2", "s3", "s4", "s5"]
    assert names(limit=2) == ["s0", "s1"]
    assert names(limit=2, after_id=2) == ["s2", "s3"]
    assert names(("cancelled",)) == ["s1", "s3", "s5"]
    assert names(("cancelled", "done"), 2, before_id=6) == ["s3", "s1"]
    assert names(("cancelled",), 2, before_id=1 << 62) == ["s5", "s3"]


def test_decisions_are_numbered_and_read_in_their_order(life: Life) -> None:
    life.submit("a")
    life.finish(life.run_to(50))
    everything = life.store.decisions()
    assert [decision.seq for decision in everything] == list(range(1, len(everything) + 1))
    assert life.store.load().seq == everything[-1].seq
    assert everything[0].notes[0]["session"] == "a"
    assert b'"type":"Queued"' in bytes(everything[0].event)
    assert life.store.decisions(since_seq=2, limit=2) == everything[2:4]
    assert [decision.at for decision in everything] == sorted(decision.at for decision in everything)


def test_a_refusal_is_kept_as_one(life: Life) -> None:
    decision = life.feed(Cancel(0.0, "nobody"))
    assert decision.refused
    assert [each.refused for each in life.store.decisions()] == [decision.refused]


def test_what_was_learned_is_kept(life: Life) -> None:
    first = Decision(life.world, life.world, Tick(1.0), notes=(ProfileLearned("m@cpu", Profile((1.5,), (), 7)),))
    life.store.record(first, life.wall)
    second = Decision(
        life.world, life.world, Tick(1.0), notes=(ProfileLearned("m@cpu", Profile((1.5, 2.5), (3.0,), 8)),)
    )
    life.store.record(second, life.wall)
    assert life.store.load().profiles == {"m@cpu": Profile((1.5, 2.5), (3.0,), 8)}


def test_a_decision_is_recorded_whole_or_not_at_all(life: Life) -> None:
    """A decision that tells of a session nobody queued is a bug of ours, and leaves no trace."""
    life.feed(Pause(0.0, "cpu"))
    life.submit("a")
    before = (life.store.load(), life.store.decisions())
    notes = (SessionMoved("a", 55.0, 0), SessionMoved("ghost", 1.0, 0))
    with pytest.raises(LookupError, match="no live session of that name is recorded"):
        life.store.record(Decision(life.world, life.world, Tick(1.0), notes=notes), life.wall)
    with pytest.raises(LookupError, match="its spec was not given"):
        life.feed(Queued(0.0, Session("b", 1.0)))
    assert (life.store.load(), life.store.decisions()) == before


def test_workers_are_known_until_they_are_seen_to_end(life: Life, tmp_path: Path) -> None:
    life.store.worker_started(3, "a", "cpu", 4711, 1234)
    life.store.worker_started(4, "b", "cpu", 4712, 1235)
    life.store.worker_gone(3)
    life.store.worker_gone(99)
    life.store.close()
    life.store = Store.open(tmp_path / "state")
    assert life.store.workers() == (
        WorkerRecord(generation=4, session="b", pid=4712, started=1235, lane="cpu", promoted=False),
    )


def test_another_boot_of_the_host_forgets_pids_and_monotonic_times(life: Life, tmp_path: Path) -> None:
    life.submit("a")
    life.feed(Exited(0.0, life.run_to(30), -9))
    life.store.worker_started(3, "a", "cpu", 4711, 1234)
    life.store.close()
    with closing(sqlite3.connect(tmp_path / "state" / "batond.db")) as database, database:
        database.execute("UPDATE meta SET value = '\"another boot\"' WHERE key = 'boot'")
    life.store = Store.open(tmp_path / "state")
    (session,) = life.store.load().queue
    assert (session.not_before, session.queued_at, session.cursor) == (0.0, 0.0, 30)
    assert life.store.workers() == ()


def test_history_is_pruned_by_age_and_live_sessions_stay(life: Life) -> None:
    life.feed(Pause(0.0, "cpu"))
    life.submit("live")
    life.submit("old")
    life.feed(Cancel(0.0, "old"))
    life.now += 86400 * 10
    life.submit("new")
    life.feed(Cancel(0.0, "new"))
    pruned = life.store.prune(5, 1 << 30, life.wall)
    assert [record.name for record in life.store.sessions()] == ["live", "new"]
    assert (pruned.decisions, pruned.sessions, pruned.more) == (4, 1, False)
    assert pruned.forgotten == ("old",)
    assert life.store.history("live") == ()
    assert len(life.store.history("new")) == 2
    life.feed(Cancel(0.0, "live"))  # goes on with its numbers
    assert life.store.decisions()[-1].seq == 7


def test_a_name_that_is_in_use_is_not_forgotten_with_its_last_session(life: Life) -> None:
    """What hangs on the name, as its log, is the later session's too."""
    life.feed(Pause(0.0, "cpu"))
    life.submit("again")
    life.feed(Cancel(0.0, "again"))
    life.now += 86400 * 10
    life.submit("again")
    pruned = life.store.prune(5, 1 << 30, life.wall)
    assert (pruned.sessions, pruned.forgotten) == (1, ())


def test_history_is_pruned_by_size_and_the_file_gets_smaller(life: Life) -> None:
    life.feed(Pause(0.0, "cpu"))
    life.submit("live")
    note = (SessionMoved("live", 1.0, 0),) * 100
    decision = Decision(life.world, life.world, Tick(1.0), notes=note)
    for _ in range(300):
        life.store.record(decision, life.wall)
    life.store.checkpoint()
    path = life.store.folder / "batond.db"
    before = path.stat().st_size
    pruned = life.store.prune(30, before // 2, life.wall)
    life.store.checkpoint()
    assert pruned.size_bytes <= before // 2
    assert path.stat().st_size < before * 0.75
    left = life.store.decisions()
    assert [decision.seq for decision in left] == list(range(left[0].seq, 303))
    assert [session.name for session in life.store.load().queue] == ["live"]
    while (pruned := life.store.prune(30, 0, life.wall)).more:
        pass
    assert life.store.decisions() == ()
    assert [session.name for session in life.store.load().queue] == ["live"]


def test_a_record_is_quick_enough_for_a_handover(life: Life) -> None:
    """It lies between the old session's last item and the new one's first; the target of both hops is milliseconds."""
    life.feed(Pause(0.0, "cpu"))
    life.submit("a")
    notes = tuple(SessionMoved("a", float(number), 0) for number in range(4))
    decision = Decision(life.world, life.world, Tick(1.0), notes=notes)
    times = []
    for _ in range(300):
        began = time.perf_counter()
        life.store.record(decision, life.wall)
        times.append(time.perf_counter() - began)
    assert sorted(times)[150] < 0.01
