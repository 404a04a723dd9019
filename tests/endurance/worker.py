"""The lightest real session: baton.py and nothing else, some items, a commit at the end. Asserts nothing."""

from __future__ import annotations

import sys
import time

import baton


def main() -> None:
    """As many items as the first argument says, each of the second argument's milliseconds."""
    items, item_s = int(sys.argv[1]), float(sys.argv[2]) / 1000
    with baton.session() as session:
        session.ready(items)
        for _ in session.track(range(session.cursor, items), items):
            time.sleep(item_s)
    print("done")


if __name__ == "__main__":
    main()
