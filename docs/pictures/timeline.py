"""Makes timeline.png beside this file from what `make demo` left: the page of its record, as Chromium shows it.

    make demo && .venv/bin/python docs/pictures/timeline.py [DEMO]

DEMO is the demo's folder (demo/out). Needs Chromium with its driver; a copy of the demo's record is read, by a daemon.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "digits")]

from child import batond, socket_path  # noqa: E402 - they lie in the repository, not in a package

from tests.browser import browser  # noqa: E402

WIDTH, HEIGHT = 1160, 685


def main() -> None:
    """Make it."""
    demo = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "demo" / "out"
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        (out / "state").mkdir(mode=0o700)
        shutil.copy(demo / "state" / "batond.db", out / "state")
        address, page = socket_path(out), out / "timeline.html"
        with batond(out, address):
            batonctl = [Path(sys.executable).parent / "batonctl", "--socket", address]
            ended = json.loads(subprocess.check_output([*batonctl, "list", "--all", "--json"]))["sessions"]
            until = max(session["ended_at"] for session in ended)
            subprocess.run([*batonctl, "timeline", "--since", "all", "--until", until, "-o", page], check=True)
        with browser(width=WIDTH, height=HEIGHT) as chromium:
            chromium.emulate("setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False)
            chromium.open(page)
            chromium.driver.save_screenshot(str(HERE / "timeline.png"))


if __name__ == "__main__":
    main()
