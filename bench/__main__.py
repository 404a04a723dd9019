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
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from bench import document
from bench.figures import OUT, OUT_SMALL, ROOT, Figures, keep, kept
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
    if options.small:
        return _small(parts, options.out or OUT_SMALL)
    if WITH_MODELS & set(parts):
        samples((*SIX, *SMALL), anew=True)
    out: Path = options.out or OUT
    failed = [part for part in parts if _part(part, out) != 0]
    _forget(failed, out)
    if not out.exists():
        print("bench: nothing was measured, so no document is written", file=sys.stderr)
    elif out == OUT:
        document.write(kept(OUT))
    return 1 if failed else 0


def _part(part: str, out: Path, *flags: str) -> int:
    command = [sys.executable, "-m", f"bench.{part}", "--out", str(out), *flags]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode


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
