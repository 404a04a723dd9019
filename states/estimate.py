"""Arithmetic of prediction: progress to remaining time, earlier preparations to lead, files and peaks to need.

Knows sessions and numbers, no lanes and no states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from states.work import Profile, Session, Tier

PACE_TAU_S = 10.0  # how far back the rate looks: older progress weighs 1/e at this age
STALL_FACTOR = 4.0  # a sample so much slower than expected was a stop: what is beyond it says nothing about the rest
PACE_WINDOW_S = 0.25  # reports closer together than this are one sample: single batches are noise
UNKNOWN_LEAD_S = 60.0  # where nothing is known of a model's preparation
LEAD_QUANTILE = 0.95
LEAD_MARGIN = 1.2  # on the quantile: a small sample's highest is not the highest
LEAD_FLOOR_S = 0.5
KEPT_SAMPLES = 20
SPREAD_Z = 1.64  # one-sided 95 % of a normal distribution
DRIFT = 0.03  # rates drift: this share of the remaining time is added to its spread
UNKNOWN_HURRIED_S = 5.0  # ResNet50 beside a running MobileNetV2, both cores busy, took 3 to 7 s (measured)
HURRIED_FACTOR = 1.5  # the lead grows by it from run to run, until nothing needs to be hurried
SHARED_CORES = 2.5  # a preparation at normal priority beside a running session, over alone (measured: 2 to 2.5)
SUSPECT_ALONE = 4.0  # a preparation beside a running session takes up to this much longer than alone (measured)
# What TensorFlow 2.21, imported and not used, takes from the host: 234 MiB of anonymous memory were measured. The
# 373 MiB of library files mapped beside it are page cache, which all workers share and the kernel may give up.
IMPORTED_BYTES = 256 << 20
CONTEXT_BYTES = 640 << 20  # of a process on a GPU before any weights, until measured: 0.1 to 0.6 GiB are reported
POOL_SLACK = 1.1  # what a pool takes over the bytes in its tensors: it has gaps
GUESS_SHARE = 0.9  # of a device, the most that a guess asks for: drivers keep some, and a guess may be wrong


@dataclass(frozen=True, slots=True)
class Pace:
    """An online rate with its spread, from progress reports.

    Seconds per item over items, older ones weighing less, from the first report on: the time before it (first call,
    cold caches) says nothing about the rest. `done` counts items, `at` is monotonic seconds.
    """

    at: float
    done: int
    per_item_s: float = 0.0
    variance: float = 0.0  # of per_item_s between samples, in s²
    sample_s: float = 0.0  # mean length of a sample
    weight: float = 0.0  # sum of the samples' weights so far, in items per second: the start's bias is divided out

    def after(self, at: float, done: int) -> Pace:
        """The pace after a report; the same object where the report is too close to the last one to be a sample."""
        items, seconds = done - self.done, at - self.at
        if items <= 0 or seconds < PACE_WINDOW_S:
            return self
        if self.weight:
            seconds = min(seconds, STALL_FACTOR * max(items * self.per_item_s, PACE_WINDOW_S))
        gain = 1.0 - math.exp(-seconds / PACE_TAU_S)
        flow = gain * items / seconds  # by items: a mean of seconds per item, by time, would count slow stretches twice
        weight = (1.0 - gain) * self.weight + flow
        share = flow / weight
        sample = seconds / items
        delta = sample - self.per_item_s
        mean = self.per_item_s + share * delta
        variance = (1.0 - share) * (self.variance + share * delta * delta)
        length = self.sample_s + share * (seconds - self.sample_s)
        return replace(self, at=at, done=done, per_item_s=mean, variance=variance, sample_s=length, weight=weight)

    @property
    def stopped_at(self) -> float:
        """When a silence since the last report is no slow sample any more but a stop: from then on nothing is done."""
        return self.at + STALL_FACTOR * max(self.sample_s, PACE_WINDOW_S)

    def remaining(self, at: float, total: int) -> Remaining | None:
        """Seconds until `total` items are done, seen from `at`; None before there is a rate."""
        if self.weight == 0.0:
            return None
        whole = (total - self.done) * self.per_item_s
        left = max(0.0, whole - (at - self.at))
        noise = math.sqrt(self.variance) / self.per_item_s * math.sqrt(left * self.sample_s)
        return Remaining(left, noise + DRIFT * left)


@dataclass(frozen=True, slots=True)
class Remaining:
    """A predicted remaining time and one standard deviation of it, in seconds."""

    seconds: float
    spread_s: float

    @property
    def soonest_s(self) -> float:
        """The remaining time that is undercut once in twenty."""
        return max(0.0, self.seconds - SPREAD_Z * self.spread_s)


def quantile(samples: tuple[float, ...], share: float) -> float:
    """The `share` quantile of the samples, the higher one where it falls between two."""
    ranked = sorted(samples)
    return ranked[min(len(ranked) - 1, math.ceil(share * len(ranked)) - 1)]


def lead_s(profile: Profile | None) -> float:
    """Seconds that preparing this model beside a running session may take: when its preparation must begin."""
    if profile is not None and profile.prepared_s:
        return quantile(profile.prepared_s, LEAD_QUANTILE) * LEAD_MARGIN + LEAD_FLOOR_S
    if profile is not None and profile.alone_s:
        return min(UNKNOWN_LEAD_S, quantile(profile.alone_s, LEAD_QUANTILE) * SUSPECT_ALONE + LEAD_FLOOR_S)
    return UNKNOWN_LEAD_S


def hurried_s(profile: Profile | None) -> float:
    """Seconds that preparing this model may take at normal priority, with another session on the same cores."""
    if profile is None or not profile.alone_s:
        return UNKNOWN_HURRIED_S
    return quantile(profile.alone_s, LEAD_QUANTILE) * SHARED_CORES + LEAD_FLOOR_S


def learn_preparation(profile: Profile | None, seconds: float, *, beside: bool, hurried: bool = False) -> Profile:
    """The profile with one more preparation time, made beside a running session or alone.

    One that had to be hurried began too late: at low priority it would have taken longer, and counts for more.
    """
    known = profile or Profile()
    if hurried:
        seconds *= HURRIED_FACTOR
    if beside:
        return replace(known, prepared_s=(*known.prepared_s, seconds)[-KEPT_SAMPLES:])
    return replace(known, alone_s=(*known.alone_s, seconds)[-KEPT_SAMPLES:])


def learn_peak(profile: Profile | None, peak_bytes: int, host_peak_bytes: int = 0) -> Profile:
    """The profile with measured peaks; never lower than those measured before."""
    known = profile or Profile()
    return replace(
        known,
        peak_bytes=max(known.peak_bytes, peak_bytes),
        host_peak_bytes=max(known.host_peak_bytes, host_peak_bytes),
    )


def need_bytes(
    session: Session,
    profile: Profile | None,
    tier: Tier,
    imported_bytes: int,
    guess_bytes: int,
    most: int | None = None,
) -> int:
    """Bytes of host memory the session needs at `tier`: measured, else stated, else guessed from its files.

    `imported_bytes` is what a process costs that has only imported TensorFlow; `most` bounds the guess.
    """
    if tier is Tier.IMPORTED:
        return imported_bytes
    if profile is not None and profile.peak_bytes:
        return max(profile.peak_bytes, imported_bytes)
    return max(_stated_or(session, guess_bytes, most), imported_bytes)


def device_need_bytes(session: Session, profile: Profile | None, context: int, most: int | None = None) -> int:
    """Bytes the session needs of a device with memory of its own: measured, else stated, else guessed.

    `context` is what its process takes there before any weights. 0 for a program of which nothing is known. What a
    program was seen to hold now and then is the least it needs: where more is stated, that counts.
    """
    if profile is not None and profile.peak_bytes:
        return profile.peak_bytes if session.stepwise else max(profile.peak_bytes, session.stated_bytes or 0)
    return _stated_or(session, context + session.guess_device_bytes if session.stepwise else 0, most)


def _stated_or(session: Session, guess: int, most: int | None) -> int:
    if session.stated_bytes is not None:
        return session.stated_bytes
    return guess if most is None else min(guess, most)


def context_bytes(profile: Profile | None) -> int:
    """Bytes a process takes of a GPU before any weights, as measured there, else a guess."""
    return profile.peak_bytes if profile is not None and profile.peak_bytes else CONTEXT_BYTES


def pool_need_bytes(context: int, tensors_peak_bytes: int) -> int:
    """Bytes of a GPU for a process whose framework counted that many in tensors at its peak."""
    return context + int(tensors_peak_bytes * POOL_SLACK)
