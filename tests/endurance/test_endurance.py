"""Some forty handovers of a real daemon: all done, and at rest nothing is left of the sessions but their logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.endurance.figures import WARM_UP, Account, Sample, slope
from tests.endurance.marathon import Marathon


def test_some_handovers_leave_no_descriptor_no_process_and_no_file(tmp_path: Path) -> None:
    """Two relays with a rest after each: what there is at the second rest, there was at the first."""
    with Marathon(tmp_path, items=4, item_ms=1.0, batch=10) as run:
        before = run.on_to(1)
        after = run.on_to(30)
        account = run.account()
        sessions = sum(account.ended.values())
        rows = run.sessions(f"s{number:06d}" for number in range(1, sessions + 1))
    assert account.ended == {"session.finished": sessions}
    assert account.handovers == sessions - 2, "in each relay all but the first take over from another"
    assert run.batond.alarms == []
    assert [(row["state"], row["done"]) for row in rows] == [("done", 4)] * sessions
    for each in (before, after):
        assert (each.children, each.live, each.exit_files) == (0, 0, 0)
    assert after.descriptors == before.descriptors
    assert after.state_files == before.state_files
    assert after.log_files == sessions, "one for each; docs/reliability.md says how long they stay"
    assert account.problems() == []


def sample(handovers: int, **fields: int) -> Sample:
    known = dict.fromkeys(Sample.__dataclass_fields__, 0) | {"at_rest": True, "handovers": handovers} | fields
    return Sample(**known)  # type: ignore[arg-type]


def account(*samples: Sample) -> Account:
    return Account(samples, samples[-1].handovers, {"session.finished": samples[-1].handovers}, 1.0, 1)


@pytest.mark.parametrize(
    ("field", "last", "words"),
    [
        ("descriptors", 15, "descriptors at rest grew from 14 to 15"),
        ("threads", 15, "threads at rest grew from 14 to 15"),
        ("rss_kib", 40_000, "RSS grew by"),
        ("children", 14, "14 processes at rest"),
        ("exit_files", 14, "14 exit records at rest"),
    ],
)
def test_what_grows_is_named(field: str, last: int, words: str) -> None:
    """Planted, for a run that finds nothing says nothing of whether it would."""
    steps = [0, WARM_UP, 2 * WARM_UP, 3 * WARM_UP]
    values = [0, 14, (14 + last) // 2, last]
    found = account(*(sample(at, **{field: value}) for at, value in zip(steps, values, strict=True))).problems()
    assert [words in problem for problem in found] == [True]


def test_what_grows_before_it_is_warm_is_none_of_it() -> None:
    grown = [sample(0, rss_kib=1000), *(sample(WARM_UP * n, rss_kib=40_000) for n in (1, 2, 3))]
    assert account(*grown).problems() == []


def test_a_session_that_is_not_done_is_named() -> None:
    whole = Account((sample(300),), 300, {"session.finished": 299, "session.failed": 1}, 1.0, 1)
    assert whole.problems() == ["not every session was done: {'session.finished': 299, 'session.failed': 1}"]


def test_the_slope_is_that_of_the_least_squares() -> None:
    points = [sample(1000, rss_kib=10), sample(2000, rss_kib=14), sample(3000, rss_kib=12)]
    assert slope(points, lambda each: each.rss_kib) == pytest.approx(1.0)
    assert slope(points[:1], lambda each: each.rss_kib) is None
