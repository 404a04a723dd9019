"""All parts of the benchmark, one after another, into bench/out/results.json; then docs/performance.md's tables.

    python -m bench                     # about three hours; the host should have nothing else to do
    python -m bench idle flood          # these parts, beside what the file has of the others
    python -m bench --small             # tiny sizes, some parts side by side: whether they run (bench/out/small.json)

The results are written part by part: what was measured stays when a later one fails. A part that fails has no figures
afterwards, also where an older run had some. How long a batch of each model takes is timed again, once; a part that is
run by itself (`python -m bench.gap`) takes those times as they are, and leaves the document alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Final

from bench import document
from bench.figures import OUT, OUT_SMALL, ROOT, Figures, check, keep, kept
from bench.samples import SIX, SMALL, samples

PARTS: Final = (
    "idle",
    "flood",
    "longqueue",
    "startup",
    "prediction",
    "gap",
    "smallgap",
    "cost",
    "makespan",
    "worker",
    "cluster",
)
WITH_MODELS: Final = frozenset({"gap", "smallgap", "cost", "makespan"})
SIDE_BY_SIDE: Final = 4
INTERRUPTED: Final = 130  # as a shell has it

_running: set[subprocess.Popen[bytes]] = set()


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--small", action="store_true", help="tiny sizes; their figures are in no document")
    parser.add_argument("--out", type=Path, help="another file for the results; the document is left alone then")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    parts = options.parts or PARTS
    # Absolute: the parts run in a folder of their own choice.
    out: Path = options.out.resolve() if options.out else OUT_SMALL if options.small else OUT
    check(out, small=options.small)
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _small(parts, out) if options.small else _all(parts, out)
    except KeyboardInterrupt:
        kept_before = "nothing is kept of it" if options.small else "the figures of the parts before are kept"
        page = "" if out != OUT else ", and the document is as it was (python -m bench.document writes it)"
        print(f"bench: interrupted; {kept_before}{page}", file=sys.stderr)
        return INTERRUPTED


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Tell the parts, each with what it runs; they end their daemons themselves."""
    for part in list(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(part.pid, signal.SIGTERM)
    raise KeyboardInterrupt


def _all(parts: Sequence[str], out: Path) -> int:
    """One after another."""
    if WITH_MODELS & set(parts):
        samples((*SIX, *SMALL), anew=True)
    failed = [part for part in parts if _part(part, out) != 0]
    _forget(failed, out)
    if not out.exists():
        print("bench: nothing was measured, so no document is written", file=sys.stderr)
    elif out == OUT:
        document.write(kept(OUT))
    return 1 if failed else 0


def _part(part: str, out: Path, *flags: str) -> int:
    command = [sys.executable, "-m", f"bench.{part}", "--out", str(out), *flags]
    # In a group of its own: a terminal's Ctrl-C comes once then, from here, and does not disturb its clearing up.
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, process_group=0) as running:
        _running.add(running)
        try:
            return running.wait()
        except KeyboardInterrupt:
            running.wait()
            raise
        finally:
            _running.discard(running)


def _forget(failed: Sequence[str], out: Path) -> None:
    """Say which failed. What an older run found of them is not to pass for what this one did."""
    parts = kept(out)
    for part in failed:
        older = "; its figures of an older run are dropped" if parts.pop(part, None) is not None else ""
        print(f"bench: failed: {part}{older}", file=sys.stderr)
    if failed and out.exists():
        keep(parts, out)


def _small(parts: Sequence[str], out: Path) -> int:
    """Each in a process and a file of its own, some at a time; then all in one file."""
    samples(SMALL)  # before any two of them would make them at once
    found: Figures = {}
    with tempfile.TemporaryDirectory(prefix="batond-bench-") as folder, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        files = {part: Path(folder) / f"{part}.json" for part in sorted(parts, key=PARTS.index, reverse=True)}
        statuses = dict(zip(files, pool.map(lambda part: _part(part, files[part], "--small"), files), strict=True))
        for part, path in files.items():
            found |= kept(path)
            if statuses[part]:
                print(f"bench: failed: {part}", file=sys.stderr)
    keep(found, out)
    return int(any(statuses.values()))


if __name__ == "__main__":
    sys.exit(main())
