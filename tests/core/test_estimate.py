"""Prediction in tables: what is learned of preparations, how fast a session computes, what a model needs."""

from __future__ import annotations

import math

import pytest

from states.estimate import (
    DRIFT,
    KEPT_SAMPLES,
    Pace,
    Remaining,
    hurried_s,
    lead_s,
    learn_peak,
    learn_preparation,
    need_bytes,
    quantile,
)
from states.work import Profile, Session, Tier

GIB = 1 << 30

LEADS = [
    ("nothing is known of the model at all", None, 60.0),
    ("it is known, and nothing of its preparation", Profile(peak_bytes=GIB), 60.0),
    ("prepared once beside another: a fifth more, and half a second", Profile(prepared_s=(10.0,)), 12.5),
    ("the longest of a few counts", Profile(prepared_s=(2.0, 10.0, 3.0)), 12.5),
    ("of twenty, the longest is the one in twenty", Profile(prepared_s=(*[10.0] * 19, 100.0)), 12.5),
    ("two of twenty are no exception", Profile(prepared_s=(*[10.0] * 18, 100.0, 100.0)), 120.5),
    ("only prepared alone: beside another it may take four times as long", Profile(alone_s=(3.0,)), 12.5),
    ("alone it took so long that the unknown is shorter", Profile(alone_s=(30.0,)), 60.0),
    ("what was seen beside another is believed, however long", Profile(prepared_s=(100.0,)), 120.5),
    ("what was seen beside another counts, not what was seen alone", Profile((10.0,), (500.0,)), 12.5),
]


@pytest.mark.parametrize(("why", "profile", "seconds"), LEADS, ids=[row[0] for row in LEADS])
def test_lead(why: str, profile: Profile | None, seconds: float) -> None:
    assert lead_s(profile) == pytest.approx(seconds)


HURRIED = [
    ("nothing is known", None, 5.0),
    ("never prepared alone: as if nothing were known", Profile(prepared_s=(100.0,)), 5.0),
    ("prepared alone: two and a half times that, and half a second", Profile(alone_s=(1.0, 2.0)), 5.5),
]


@pytest.mark.parametrize(("why", "profile", "seconds"), HURRIED, ids=[row[0] for row in HURRIED])
def test_hurried(why: str, profile: Profile | None, seconds: float) -> None:
    assert hurried_s(profile) == pytest.approx(seconds)


QUANTILES = [
    ("of one, that one", (7.0,), 0.95, 7.0),
    ("of two, the higher", (1.0, 2.0), 0.95, 2.0),
    ("their order does not matter", (9.0, 1.0, 5.0), 0.5, 5.0),
    ("between two, the higher", (1.0, 2.0, 3.0, 4.0), 0.6, 3.0),
    ("all of them", (1.0, 2.0, 3.0, 4.0), 1.0, 4.0),
    ("a share that ends at one is that one", (1.0, 2.0, 3.0, 4.0), 0.5, 2.0),
]


@pytest.mark.parametrize(("why", "samples", "share", "value"), QUANTILES, ids=[row[0] for row in QUANTILES])
def test_quantile(why: str, samples: tuple[float, ...], share: float, value: float) -> None:
    assert quantile(samples, share) == value


def test_a_preparation_is_learned_where_it_was_made() -> None:
    """Beside a running session and alone are two lists, newest last; a model that was unknown is known then."""
    profile = learn_preparation(None, 2.0, beside=False)
    profile = learn_preparation(profile, 8.0, beside=True)
    profile = learn_preparation(profile, 3.0, beside=False)
    assert profile == Profile(prepared_s=(8.0,), alone_s=(2.0, 3.0))


def test_a_hurried_preparation_counts_for_more() -> None:
    """It began too late: the next one's lead grows until nothing has to be hurried."""
    profile = learn_preparation(None, 8.0, beside=True, hurried=True)
    assert profile.prepared_s == (12.0,)
    assert lead_s(profile) > lead_s(learn_preparation(None, 8.0, beside=True))


def test_only_the_newest_preparations_are_kept() -> None:
    """A model on a faster disk is as fast as it is now, after some runs."""
    profile = Profile(peak_bytes=GIB)
    for seconds in range(KEPT_SAMPLES + 5):
        profile = learn_preparation(profile, float(seconds), beside=True)
        profile = learn_preparation(profile, float(seconds), beside=False)
    newest = tuple(float(seconds) for seconds in range(5, KEPT_SAMPLES + 5))
    assert profile == Profile(newest, newest, GIB)


def test_a_peak_never_shrinks() -> None:
    """One short run says nothing of what a long one needs."""
    assert learn_peak(learn_peak(None, 3 * GIB), 2 * GIB) == Profile(peak_bytes=3 * GIB)
    assert learn_peak(Profile((1.0,), (2.0,), GIB), 2 * GIB) == Profile((1.0,), (2.0,), 2 * GIB)


GUESSED, STATED = Session("s", 0.0, guess_bytes=2 * GIB), Session("s", 0.0, guess_bytes=GIB, stated_bytes=3 * GIB)
NEEDS = [
    ("imported needs what importing costs, whatever the model", STATED, Profile(peak_bytes=9 * GIB), Tier.IMPORTED, 7),
    ("nothing measured, nothing stated: the guess", GUESSED, None, Tier.WARM, 2 * GIB),
    ("prepared, and its peak not seen yet: the guess", GUESSED, Profile((1.0,)), Tier.WARM, 2 * GIB),
    ("what was stated before what was guessed", STATED, None, Tier.WARM, 3 * GIB),
    ("what was measured before what was stated, be it less", STATED, Profile(peak_bytes=GIB), Tier.WARM, GIB),
    ("never less than importing costs", Session("s", 0.0, guess_bytes=3), None, Tier.WARM, 7),
    ("nor where a smaller peak was measured", GUESSED, Profile(peak_bytes=3), Tier.WARM, 7),
    ("stated as nothing is stated", Session("s", 0.0, guess_bytes=GIB, stated_bytes=0), None, Tier.WARM, 7),
]


@pytest.mark.parametrize(("why", "session", "profile", "tier", "size"), NEEDS, ids=[row[0] for row in NEEDS])
def test_need(why: str, session: Session, profile: Profile | None, tier: Tier, size: int) -> None:
    assert need_bytes(session, profile, tier, imported_bytes=7, guess_bytes=session.guess_bytes) == size


# The pace


def after(*reports: tuple[float, int]) -> Pace:
    """The pace after reports of a time and a count."""
    (at, done), *rest = reports
    pace = Pace(at, done)
    for at, done in rest:
        pace = pace.after(at, done)
    return pace


def steady(start: float, seconds: int, rate: int, done: int = 0) -> list[tuple[float, int]]:
    """A report every second at a rate."""
    return [(start + second, done + rate * second) for second in range(seconds + 1)]


def left(pace: Pace, at: float, total: int) -> Remaining:
    remaining = pace.remaining(at, total)
    assert remaining is not None
    return remaining


def test_one_report_is_no_rate() -> None:
    """The first report only begins the count: nothing can be predicted from it, however late it came."""
    assert after((100.0, 5)).remaining(101.0, 1000) is None


def test_a_slow_beginning_is_not_held_against_the_rest() -> None:
    """The first call took 30 s and brought one item; what follows makes ten a second."""
    pace = after((30.0, 1), *steady(31.0, 10, 10, done=11))
    assert left(pace, 41.0, 211).seconds == pytest.approx(10.0)


def test_a_session_that_resumes_is_paced_by_what_it_does_now() -> None:
    """The items before its cursor took no time in this run."""
    assert left(after((0.0, 900), (1.0, 910)), 1.0, 1000).seconds == pytest.approx(9.0)


def test_the_first_sample_counts_in_full() -> None:
    """The start of a weighted mean is not pulled towards nothing."""
    assert after((0.0, 0), (1.0, 4)).per_item_s == pytest.approx(0.25)


def test_a_burst_of_reports_is_one_sample() -> None:
    """Reports within a quarter of a second are kept for the next sample, not lost and not weighed one by one."""
    pace = after((0.0, 0), (0.1, 90))
    assert pace == Pace(0.0, 0)
    assert pace.after(1.0, 100).per_item_s == pytest.approx(0.01)


@pytest.mark.parametrize("done", [50, 49])
def test_a_report_without_an_item_is_no_sample(done: int) -> None:
    """The same count again, or a lower one: the time goes on counting from the last sample."""
    pace = after((0.0, 0), (5.0, 50))
    assert pace.after(10.0, done) is pace
    assert left(pace.after(10.0, done), 10.0, 100).seconds == pytest.approx(0.0)


def test_the_rate_follows_a_drift() -> None:
    """Ten a second for a minute, then five: after a minute more, the old rate weighs next to nothing."""
    pace = after(*steady(0.0, 60, 10), *steady(61.0, 60, 5, done=605))
    assert left(pace, 121.0, 905 + 50).seconds == pytest.approx(10.0, rel=0.02)


def test_old_progress_weighs_1_over_e_after_ten_seconds() -> None:
    """By time, not by the number of reports: half the rate for ten seconds, after a long time at the whole."""
    pace = after((0.0, 0), (10_000.0, 10_000), (10_010.0, 10_005))
    assert 1.0 / pace.per_item_s == pytest.approx(math.exp(-1.0) * 1.0 + (1.0 - math.exp(-1.0)) * 0.5)


def test_an_uneven_rate_is_not_taken_for_a_slow_one() -> None:
    """Four items in one second and sixteen in the next are ten a second: the next session must not come late."""
    uneven: list[tuple[float, int]] = [(0.0, 0)]
    for second in range(1, 81):
        uneven.append((float(second), uneven[-1][1] + (4 if second % 2 else 16)))
    assert left(after(*uneven), 80.0, 1800).seconds == pytest.approx(100.0, rel=0.05)


def test_time_since_the_last_report_is_taken_off() -> None:
    """Between two reports the end comes nearer; it never lies in the past."""
    pace = after((0.0, 0), (1.0, 10))
    assert left(pace, 1.0, 100).seconds == pytest.approx(9.0)
    assert left(pace, 4.0, 100).seconds == pytest.approx(6.0)
    assert left(pace, 60.0, 100) == Remaining(0.0, 0.0)


def test_nothing_left_is_nothing_left() -> None:
    """Every item done: no time remains, and none is in doubt."""
    assert left(after((0.0, 0), (1.0, 10)), 1.0, 10) == Remaining(0.0, 0.0)


def test_an_even_rate_is_doubted_only_for_its_drift() -> None:
    """Samples that are all alike leave three percent of the rest."""
    remaining = left(after(*steady(0.0, 20, 10)), 20.0, 1200)
    assert remaining.seconds == pytest.approx(100.0)
    assert remaining.spread_s == pytest.approx(DRIFT * 100.0)
    assert remaining.soonest_s == pytest.approx(100.0 - 1.64 * 3.0)


def test_an_uneven_rate_is_doubted_more() -> None:
    """The same mean from samples that differ: the end may be nearer, so the next is begun sooner."""
    uneven: list[tuple[float, int]] = [(0.0, 0)]
    for second in range(1, 41):
        uneven.append((float(second), uneven[-1][1] + (4 if second % 2 else 16)))
    doubtful, sure = left(after(*uneven), 40.0, 1400), left(after(*steady(0.0, 40, 10)), 40.0, 1400)
    assert doubtful.spread_s > 2 * sure.spread_s
    assert doubtful.soonest_s < sure.soonest_s


def test_the_noise_of_a_long_rest_averages_out() -> None:
    """Four times the time to go has twice the noise, and four times the drift."""
    pace = Pace(at=0.0, done=0, per_item_s=1.0, variance=0.25, sample_s=1.0, weight=1.0)
    near, far = left(pace, 0.0, 100), left(pace, 0.0, 400)
    assert near.spread_s == pytest.approx(0.5 * 10.0 + DRIFT * 100.0)
    assert far.spread_s == pytest.approx(0.5 * 20.0 + DRIFT * 400.0)


def test_the_soonest_end_is_never_in_the_past() -> None:
    """However much is in doubt."""
    assert Remaining(1.0, 100.0).soonest_s == 0.0


def test_the_variance_is_that_of_the_samples() -> None:
    """Every item counts alike: one that took a second and one that took three, weighed by their age."""
    pace = after((0.0, 0), (1.0, 1))
    assert (pace.variance, after((0.0, 0), (1.0, 1), (2.0, 2)).variance) == (0.0, 0.0)
    slower = pace.after(4.0, 2)
    old, new = math.exp(-0.3) * (1.0 - math.exp(-0.1)), (1.0 - math.exp(-0.3)) / 3.0
    share = new / (old + new)
    assert slower.per_item_s == pytest.approx(1.0 + 2.0 * share)
    assert slower.variance == pytest.approx(share * (1.0 - share) * 4.0)
    assert slower.sample_s == pytest.approx(1.0 + 2.0 * share)


def test_a_stop_in_between_says_nothing_about_the_rest() -> None:
    """A worker that stood still for a while goes on at its rate."""
    pace = Pace(at=0.0, done=0)
    for number in range(1, 121):
        pace = pace.after(number * 0.5, number * 50)
    before = pace.remaining(60.0, 100_000)
    pace = pace.after(90.0, 6_050)
    after = pace.remaining(90.0, 100_000)
    assert before is not None
    assert after is not None
    assert before.seconds == pytest.approx(940.0)
    assert after.seconds == pytest.approx(940.0, rel=0.2), "not the hours that it would take at the rate of the stop"
