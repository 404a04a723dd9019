"""All parts of the benchmark, one after another, into bench/out/results.json; then docs/performance.md's table.

    python -m bench                     # four to five hours; the host should have nothing else to do
    python -m bench idle flood          # these parts, beside what the file has of the others
    python -m bench --small             # tiny sizes, parts side by side, under a minute: whether it runs

The results are written part by part: what was measured stays when a later one fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from bench import document
from bench.figures import OUT, ROOT
from bench.samples import SIX, SMALL, samples

PARTS: Final = ("idle", "flood", "longqueue", "startup", "prediction", "gap", "cost", "makespan", "cluster")
WITH_MODELS: Final = frozenset({"gap", "cost", "makespan"})
WORKER: Final = ROOT / "bench" / "worker.py"  # its own command, table and file
SIDE_BY_SIDE: Final = 4


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--small", action="store_true", help="tiny sizes; their figures are in no document")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    parts = options.parts or PARTS
    if options.small:
        return _small(parts, options.out)
    if WITH_MODELS & set(parts):
        samples((*SIX, *SMALL), anew=True)
    failed = [part for part in parts if _part(part, options.out) != 0]
    if not options.parts:
        failed += ["worker"] if subprocess.run([sys.executable, str(WORKER)], cwd=ROOT, check=False).returncode else []
    if options.out == OUT:
        document.write(json.loads(OUT.read_text()))
    if failed:
        print(f"bench: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _part(part: str, out: Path, *flags: str) -> int:
    command = [sys.executable, "-m", f"bench.{part}", "--out", str(out), *flags]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode


def _small(parts: tuple[str, ...], out: Path) -> int:
    """Each in a process and a file of its own, some at a time; then all in one file."""
    samples(SMALL)  # before any two of them would make them at once
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="batond-bench-") as folder, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        files = {part: Path(folder) / f"{part}.json" for part in sorted(parts, key=PARTS.index, reverse=True)}
        statuses = dict(zip(files, pool.map(lambda part: _part(part, files[part], "--small"), files), strict=True))
        for part, path in files.items():
            if path.exists():
                found |= json.loads(path.read_text())
            if statuses[part]:
                print(f"bench: failed: {part}", file=sys.stderr)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(statuses.values()))


if __name__ == "__main__":
    sys.exit(main())
