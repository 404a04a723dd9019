"""What a benchmark leaves: spreads of samples, and the file that all parts write into. Measures nothing itself.

Every part is a function `measure(*, small: bool) -> Figures`; `small` does the same with sizes that take seconds. The
figures of a part are a tree of names; its leaves are numbers with their unit in the name, words, or `spread`s.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

ROOT: Final = Path(__file__).resolve().parents[1]
OUT: Final = ROOT / "bench" / "out" / "results.json"
OUT_SMALL: Final = OUT.with_name("small.json")  # of tiny sizes: they are not to take the place of any figure

Figures = dict[str, Any]


class Measure(Protocol):
    """One part of the benchmark. Its docstring's first line says what is measured."""

    __doc__: str | None

    def __call__(self, *, small: bool) -> Figures: ...


def quantile(samples: Sequence[float], share: float) -> float:
    """The `share` quantile, the higher sample where it falls between two."""
    ranked = sorted(samples)
    return ranked[max(0, min(len(ranked) - 1, math.ceil(share * len(ranked)) - 1))]


def spread(samples: Sequence[float]) -> Figures:
    """How many, their median, and what the twentieth, the hundredth and the worst of them came to.

    Of fewer than a hundred, `p99` is the worst; of fewer than twenty, `p95` is, too, and `p05` the least.
    """
    return {
        "n": len(samples),
        "median": round(statistics.median(samples), 6),
        "p05": round(quantile(samples, 0.05), 6),
        "p95": round(quantile(samples, 0.95), 6),
        "p99": round(quantile(samples, 0.99), 6),
        "max": round(max(samples), 6),
    }


def host() -> Figures:
    """Where it was measured, as far as it matters to a figure."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def run(name: str, measure: Measure, *, takes: str) -> None:
    """The command line of one part. takes: how long, for a person."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=f"{measure.__doc__} Takes {takes}.")
    parser.add_argument("--small", action="store_true", help="tiny sizes: whether it runs, not what is true")
    parser.add_argument("--out", type=Path, help="the file whose part of this name is replaced")
    options = parser.parse_args()
    figures = take(name, measure, options.out or (OUT_SMALL if options.small else OUT), small=options.small)
    print(json.dumps(figures, indent=1))


def take(name: str, measure: Measure, out: Path, *, small: bool) -> Figures:
    """Measure one part, and put its figures into the file beside those of the others.

    SIGTERM is as Ctrl-C here: whichever comes, daemons are ended and folders removed.
    """
    check(out, small=small)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    print(f"{name} …", end=" ", file=sys.stderr, flush=True)
    where = host()  # the load before it: what it adds itself says nothing
    try:
        figures = measure(small=small)
    except KeyboardInterrupt:
        sys.exit(f"\nbench: {name} was interrupted; the file has of it what it had before")
    seconds = round(time.monotonic() - began, 3)
    print(f"{seconds:.0f} s", file=sys.stderr, flush=True)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    part = {"at": at, "small": small, "took_s": seconds, "host": where, "figures": figures}
    keep(kept(out) | {name: part}, out)
    return figures


def kept(out: Path) -> Figures:
    """What the file has, of all parts; nothing where there is no file. Ends the program where it cannot be read."""
    advice = "mend it, move it away, or name another file with --out"
    try:
        found: Figures = json.loads(out.read_text()) if out.exists() else {}
    except OSError as error:
        sys.exit(f"bench: cannot read {out}: {error.strerror}; {advice}")
    except ValueError as error:
        sys.exit(f"bench: {out} is no JSON ({error}); {advice}")
    if not isinstance(found, dict) or not all(isinstance(part, dict) for part in found.values()):
        sys.exit(f"bench: {out} has no figures: it should be a table of parts; {advice}")
    return found


def check(out: Path, *, small: bool) -> None:
    """End the program where the figures cannot be put there, or are not to be: before hours are spent on them."""
    if small and out.resolve() == OUT:
        sys.exit(f"bench: tiny sizes are not to take the place of the figures in {OUT}; name another file with --out")
    kept(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        sys.exit(f"bench: cannot write {out}: {error.strerror}; name another file with --out")


def keep(parts: Figures, out: Path) -> None:
    """Make that the file: the whole of it, or what was there before."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    partial.write_text(json.dumps(parts, indent=1) + "\n")
    partial.replace(out)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
