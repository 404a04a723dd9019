"""Which files' items are counted before they are read, where all of a file has to be read for that. Counts none itself.

Of larger ones nobody knows the total until the last item is read. It goes by their sizes alone, so that whoever opens
them, at submission or in a worker, comes to the same answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from daemon.worker.inputs.tfrecord import is_compressed

# A submission waits for it, maybe beside a session that keeps processors and disk busy, and an inspection has three
# minutes (daemon/inspectors.py). At 0.2 GB/s, which is a slow disk, the one takes 86 s; at 0.05 GB/s, at which gzip was
# seen to be unpacked, the other takes 21 s.
PLAIN_BYTES: Final = 16 << 30
PACKED_BYTES: Final = 1 << 30


def are_countable(files: list[Path]) -> bool:
    """Whether all of them together are."""
    share = 0.0
    for file in files:
        share += file.stat().st_size / (PACKED_BYTES if is_compressed(file) else PLAIN_BYTES)
    return share <= 1
