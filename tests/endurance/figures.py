"""What was measured of a daemon, moment by moment, and what it says: lines, bounds, a table. Measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

EARLY = 200  # handovers, after which growth is shown from
WARM_UP = 500  # and from here on it is judged: SQLite's cache of pages (2 MiB) is full after some 400
RSS_KIB_PER_1000 = 1024.0  # more than 1 KiB kept of each handover is a leak
ROW = "{:>9} {:>7} {:>7} {:>7} {:>7} {:>4} {:>4} {:>5} {:>7} {:>7} {:>6} {:>6} {:>5}"
HEAD = (
    *("handovers", "seconds", "RSS KiB", "PSS KiB", "USS KiB", "fds", "thr", "child"),
    *("db KiB", "wal KiB", "logs", "exits", "live"),
)


@dataclass(frozen=True)
class Sample:
    """One moment. `children`: of the daemon, grandchildren too. `logs`, `exits`: files. `live`: sessions not ended."""

    at_rest: bool
    seconds: float
    handovers: int
    ended: int
    live: int
    rss_kib: int
    pss_kib: int
    uss_kib: int
    descriptors: int
    threads: int
    children: int
    database_kib: int
    journal_kib: int
    state_files: int
    log_files: int
    log_kib: int
    exit_files: int


def slope(samples: Iterable[Sample], of: Callable[[Sample], float]) -> float | None:
    """Growth per 1,000 handovers, by least squares; None for fewer than two moments."""
    points = [(each.handovers / 1000, of(each)) for each in samples]
    if len({x for x, _ in points}) < 2:
        return None
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


@dataclass(frozen=True)
class Account:
    """A whole run: its samples, and how its sessions ended."""

    samples: Sequence[Sample]
    handovers: int
    ended: dict[str, int]
    seconds: float
    programs: int

    @property
    def rests(self) -> list[Sample]:
        """The moments without a session."""
        return [each for each in self.samples if each.at_rest]

    @property
    def warm(self) -> list[Sample]:
        """The moments at rest that count: after the warm-up."""
        return [each for each in self.rests if each.handovers >= WARM_UP]

    def growth(self, of: Callable[[Sample], float]) -> float | None:
        """Per 1,000 handovers, after the warm-up."""
        return slope(self.warm, of)

    def problems(self, bound_kib: float = RSS_KIB_PER_1000) -> list[str]:
        """Everything that grew and must not."""
        found: list[str] = []
        warm = self.warm
        if warm and warm[-1].descriptors > warm[0].descriptors:
            found.append(f"descriptors at rest grew from {warm[0].descriptors} to {warm[-1].descriptors}")
        if warm and warm[-1].threads > warm[0].threads:
            found.append(f"threads at rest grew from {warm[0].threads} to {warm[-1].threads}")
        if any(each.children for each in self.rests):
            found.append(f"{max(each.children for each in self.rests)} processes at rest")
        if any(each.exit_files for each in self.rests):
            found.append(f"{max(each.exit_files for each in self.rests)} exit records at rest")
        growth = self.growth(lambda each: each.rss_kib)
        if growth is not None and growth > bound_kib:
            found.append(f"RSS grew by {growth:.0f} KiB per 1,000 handovers; {bound_kib:.0f} are allowed")
        if set(self.ended) != {"session.finished"}:
            found.append(f"not every session was done: {self.ended}")
        return found

    def table(self) -> str:
        """The samples, a line each, and what follows from them."""
        lines = [ROW.format(*HEAD)]
        for each in self.samples:
            cells: tuple[object, ...] = (
                f"{each.handovers}{'' if each.at_rest else '*'}",
                f"{each.seconds:.0f}",
                *(each.rss_kib, each.pss_kib, each.uss_kib, each.descriptors, each.threads, each.children),
                *(each.database_kib, each.journal_kib, each.log_files, each.exit_files, each.live),
            )
            lines.append(ROW.format(*cells))
        lines.append("(* at work)")
        for name, value in self.summary().items():
            lines.append(f"{name:<34} {value}")
        return "\n".join(lines)

    def summary(self) -> dict[str, Any]:
        """The figures that matter."""
        growth = {
            name: self.growth(of)
            for name, of in {
                "rss": lambda each: each.rss_kib,
                "uss": lambda each: each.uss_kib,
                "database": lambda each: each.database_kib,
                "log_files": lambda each: each.log_files,
            }.items()
        }
        fds = [each.descriptors for each in self.rests]
        early = [each for each in self.rests if each.handovers >= EARLY] or self.rests
        warm = self.warm or self.rests
        return {
            "handovers": self.handovers,
            "sessions ended": sum(self.ended.values()),
            "seconds": round(self.seconds, 1),
            "handovers per second": round(self.handovers / self.seconds, 2),
            "programs": self.programs,
            "RSS KiB at rest: early, warm, last": (early[0].rss_kib, warm[0].rss_kib, warm[-1].rss_kib),
            "RSS KiB per 1,000, from early on": _rounded(slope(early, lambda each: each.rss_kib)),
            "RSS KiB per 1,000 handovers": _rounded(growth["rss"]),
            "USS KiB per 1,000 handovers": _rounded(growth["uss"]),
            "descriptors at rest, min and max": (min(fds), max(fds)),
            "descriptors at work, max": max(each.descriptors for each in self.samples),
            "database KiB per 1,000 handovers": _rounded(growth["database"]),
            "journal KiB, max": max(each.journal_kib for each in self.samples),
            "log files per 1,000 handovers": _rounded(growth["log_files"]),
            "log files left, and their KiB": (self.rests[-1].log_files, self.rests[-1].log_kib),
            "exit records left": self.rests[-1].exit_files,
            "files in the state directory": self.rests[-1].state_files,
        }

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "summary": self.summary(),
            "ended": self.ended,
            "problems": self.problems(),
            "samples": [asdict(each) for each in self.samples],
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
