"""Makes sample.jsonl anew: the log of a real daemon with handovers, waits, failures and a crash. Asserts nothing of it.

    python -m tests.logs.make_sample

Run it when an event that the queries of docs/logs.md need has changed. It takes some ten seconds.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

from batond import STAND_IN, stand_in
from gpu_house import GIB, GpuHouse, gpu_house, stranger

SAMPLE: Final = Path(__file__).with_name("sample.jsonl")
NOISE: Final = (
    "W0000 00:00:1767225600.000000 4242 gpu_device.cc:2342] Cannot dlopen some GPU libraries."  # as TensorFlow logs it
)
BROKEN: Final = f"""
import sys
print("reading the index", flush=True)
print({NOISE!r}, file=sys.stderr)
def parse(row):
    return int(row)
parse("12;13")
"""


def live(house: GpuHouse) -> None:
    """One of everything that is asked for."""
    batond = house.batond
    batond.submit(house.program("resnet", 3, items=200) + house.program("mobilenet", 3, items=120))
    batond.ended("resnet", "mobilenet")
    with stranger(house.gpus, 5 * GIB):
        batond.submit(house.program("bert", 5))
        batond.event("memory.short", session="bert")
    batond.event("memory.waited", session="bert")
    batond.ended("bert")
    script = batond.folder / "parse.py"
    script.write_text(BROKEN)
    table = {"name": "broken", "run": [sys.executable, str(script)], "memory": "1GiB"}
    batond.submit("[[session]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()))
    batond.submit(stand_in("flaky", batond.folder, "--die-at", "7", memory="1GiB", max_attempts=2))
    batond.ended("broken", "flaky")
    batond.submit(house.program("endless", 3, items=1_000_000))
    house.computed("endless", 50)
    batond.kill()
    batond.start()
    batond.event("session.adopted", session="endless")
    batond.ctl("cancel", "endless")
    batond.ended("endless")
    batond.stop()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        with gpu_house(Path(folder), settings='[log]\nlevel = "debug"\n', limits="memory_alarm_s = 0.3\n") as house:
            live(house)
        names = {folder: "/srv/batond", sys.executable: "python3", str(STAND_IN.parents[1]): "/opt/batond"}
        text = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in house.batond.events)
        for own, shown in names.items():
            text = text.replace(own, shown)
        SAMPLE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
