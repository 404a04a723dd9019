"""Draws docs/pictures/watch.svg: one real picture of `batonctl watch`, of real sessions on stand-in GPUs.

`python docs/pictures/watch.py [FILE]`: half a minute; needs a C compiler.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "e2e")]

from gpu_house import EARLY_S, GIB, Gpu, GpuHouse, gpu_house, stranger  # noqa: E402
from rich.console import Console  # noqa: E402

from daemon.ctl.client import Client  # noqa: E402
from daemon.ctl.watch import scene  # noqa: E402
from daemon.ctl.watch_feed import Feed  # noqa: E402
from daemon.ctl.watch_view import Look, frame  # noqa: E402

SIZE: Final = (100, 30)
OUT: Final = Path(__file__).with_suffix(".svg")
QUEUE: Final = ("imagenet-resnet50", "embed-corpus-en", "embed-corpus-de", "finetune-bert", "digits-sweep")


def main(out: Path) -> None:
    """Run the sessions, and draw when the picture has all in it."""
    cards = (Gpu(0, 16 * GIB), Gpu(1, 24 * GIB))
    with (
        tempfile.TemporaryDirectory() as folder,
        gpu_house(Path(folder), *cards) as house,
        stranger(house.gpus, 2 * GIB),
    ):
        submit(house)
        for name in ("digits-cnn", "speech-features"):
            house.batond.event("session.started", session=name)
        house.batond.event("standby.ready", session="digits-mlp")
        wait(lambda: house.lane("gpu0")["active"]["done"] > 700 and house.lane("gpu0")["standby"]["held_bytes"])
        with Client(str(house.batond.socket)) as client:
            draw(Feed(client, SIZE[1]), out)


def submit(house: GpuHouse) -> None:
    """One that ends soon, one that computes beside a standby, one alone on the other GPU, and a long queue."""
    slow = ("--item-ms", "10")
    first = {"device": "gpu:0", "lead": EARLY_S}
    text = house.program("tokenise", 2, *slow, items=1000, **first)
    text += house.program("digits-cnn", 5, *slow, items=2500, **first)
    text += house.program("digits-mlp", 4, *slow, items=1500, device="gpu:0")
    text += house.program("speech-features", 9, *slow, items=9000, device="gpu:1", lead=EARLY_S)
    text += "".join(
        house.program(f"{name}-{number}", 15.5, items=4000, device="gpu") for number in range(1, 8) for name in QUEUE
    )
    house.batond.submit(text)


def wait(holds: Callable[[], object]) -> None:
    """Until it is so."""
    while not holds():
        time.sleep(0.1)


def draw(feed: Feed, out: Path) -> None:
    """As an SVG: the frame that a terminal of that size would show."""
    console = Console(width=SIZE[0], record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in frame(scene(feed.known), Look(), *SIZE):
        console.print(line, soft_wrap=True, highlight=False)
    console.save_svg(str(out), title="batonctl watch", unique_id="watch")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
