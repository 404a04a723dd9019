"""Holds every row that the sessions wrote against the model's own prediction for that row's input item.

Run by demo.py as a process of its own, after the daemon has ended: python verify.py OUT.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from data import read_batches
from models import input_name, load_predict
from plan import Session, read_prepared, read_sessions

VERIFIED_FILE = "verified.json"
BATCH = 1024  # far from the sessions' own: equal rows then do not rest on equal batches
TOLERANCE = 1e-4  # of a probability: other batch sizes mean other summation orders in float32


@dataclass(frozen=True)
class Verdict:
    """What was found in one session's output."""

    rows: int  # in the output
    mismatches: int  # items whose row is missing or not the model's own, and rows without an item
    accuracy: float  # share of all items whose row names the right digit
    largest_difference: float  # between a probability written and the model's own
    fault: str = ""  # why the output could not be compared at all


def output_rows(session: Session) -> npt.NDArray[np.float32]:
    """The session's one output tensor, as a memory map of shape (items, 10)."""
    files = sorted(session.output.glob("*.npy"))
    if len(files) != 1:
        raise FileNotFoundError(f"one .npy file was expected in {session.output}, found {len(files)}")
    rows: npt.NDArray[np.float32] = np.load(files[0], mmap_mode="r")
    if rows.shape[1:] != (10,):
        raise ValueError(f"rows of 10 probabilities were expected in {files[0]}, found shape {rows.shape}")
    return rows


def verify(session: Session, items: int) -> Verdict:
    """Predict the session's input anew and compare row by row; a NaN is a mismatch."""
    try:
        rows = output_rows(session)
    except (OSError, ValueError) as error:
        return Verdict(rows=0, mismatches=items, accuracy=0.0, largest_difference=float("inf"), fault=str(error))
    predict, labels = load_predict(session.model), np.load(session.labels)
    seen = equal = right = 0
    largest = 0.0
    for batch in read_batches(session.input, input_name(session.model), BATCH):
        expected = predict(batch)
        written = rows[seen : seen + len(batch)]
        difference = np.abs(written - expected[: len(written)]).max(axis=1, initial=0.0)
        difference[np.isnan(difference)] = np.inf
        equal += int((difference <= TOLERANCE).sum())
        right += int((written.argmax(axis=1) == labels[seen : seen + len(written)]).sum())
        largest = max(largest, float(difference.max(initial=0.0)))
        seen += len(batch)
    return Verdict(
        rows=len(rows),
        mismatches=max(items, seen, len(rows)) - equal,
        accuracy=right / items,
        largest_difference=largest,
    )


def read_verdicts(out: Path) -> dict[str, Verdict]:
    """What was found, by the session's name."""
    verdicts = json.loads((out / VERIFIED_FILE).read_text(encoding="utf-8"))
    return {name: Verdict(**verdict) for name, verdict in verdicts.items()}


def main(out: Path) -> None:
    """Verify every session of OUT/sessions.toml into OUT/verified.json."""
    prepared = read_prepared(out)
    verdicts = {}
    for session in read_sessions(out):
        verdict = verdicts[session.name] = verify(session, prepared[session.name])
        print(
            f"  {session.name}: {verdict.rows:,} rows, {verdict.mismatches:,} mismatches, "
            f"largest difference {verdict.largest_difference:.1e}",
            flush=True,
        )
    found = {name: asdict(verdict) for name, verdict in verdicts.items()}
    (out / VERIFIED_FILE).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
