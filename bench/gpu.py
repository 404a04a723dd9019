"""What a GPU does to a handover, measured: release lag, the cost of a reading, contexts, gaps, out-of-memory.

    python bench/gpu.py         # or: make bench-gpu; a table, and bench/out/gpu.json

Needs NVIDIA's driver and batond installed; TensorFlow's part is measured where TensorFlow sees the GPU. What the
figures mean: docs/gpu.md. Decides nothing, and is no test.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "e2e"))

from batond import Batond  # tests/e2e/batond.py: a real daemon below one folder

from daemon.devices import Device, Devices, Read
from states.estimate import context_bytes
from states.snapshot import Limits
from tests.gpu_program import lines

ROOT: Final = Path(__file__).resolve().parents[1]
HOLDER: Final = ROOT / "bench" / "gpu_holder.py"
MIB: Final = 1 << 20
GIB: Final = 1 << 30
BACK_BYTES: Final = 32 * MIB  # so much less than before counts as back: others' drivers breathe
BACK_WAIT_S: Final = 30.0
POLL_S: Final = 0.001
READS: Final = 500
SETTINGS: Final = "[limits]\nbackoff_s = 0.1\n"
FILLED: Final = 0.9
STATED_BYTES: Final = 4 * GIB  # of each TensorFlow session
BATCH: Final = 256
TIERS: Final = ("imported", "staged", "warm")

Figures = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """One device, and what is to be done on it."""

    device: Device
    options: argparse.Namespace
    folder: Path
    free: int  # bytes, before anything was done on it

    @property
    def uuid(self) -> str:
        assert self.device.lane.uuid is not None
        return self.device.lane.uuid

    def read(self) -> Read:
        """Its memory now."""
        found = self.device.read()
        if not isinstance(found, Read):
            sys.exit(f"bench/gpu.py: {found.reason}")
        return found

    def holder(self, *arguments: object) -> list[str]:
        return [sys.executable, str(HOLDER), "--holder", self.options.holder, *map(str, arguments)]

    @contextmanager
    def held(self, size: int) -> Iterator[subprocess.Popen[str]]:
        """A process of nobody's that holds so much of the device, beside its context."""
        process = subprocess.Popen(
            self.holder("--bytes", size),
            env={**os.environ, "CUDA_VISIBLE_DEVICES": self.uuid, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            said = process.stdout.readline().strip()
            if said != "held":
                sys.exit(f"bench/gpu.py: cannot hold {size >> 20} MiB of {self.device.name}: {said or 'see above'}")
            yield process
        finally:
            process.stdin.close()
            process.wait()
            process.stdout.close()

    def is_back(self) -> bool:
        """Whether as much is free as in the beginning, within BACK_WAIT_S."""
        until = time.monotonic() + BACK_WAIT_S
        while self.read().free < self.free - BACK_BYTES:
            if time.monotonic() > until:
                return False
            time.sleep(POLL_S)
        return True

    def wait_until_back(self) -> None:
        """Ends the benchmark where memory does not come back: what follows would be measured on a device in use."""
        if not self.is_back():
            sys.exit(
                f"bench: memory that a process held is not free again after {BACK_WAIT_S:.0f} s; nvidia-smi tells who"
            )


def spread(values: list[float]) -> Figures:
    """Median and 95th percentile (nearest rank) of so many."""
    if not values:
        return {"n": 0, "median": None, "p95": None}
    ranked = sorted(values)
    return {
        "n": len(ranked),
        "median": round(statistics.median(ranked), 6),
        "p95": round(ranked[-(-95 * len(ranked) // 100) - 1], 6),
    }


# Memory


def release(bench: Bench, end: Callable[[subprocess.Popen[str]], None]) -> Figures:
    """Seconds from a process's end, and from when it was asked to end, to when its memory can be had again."""
    after_end, after_ask = [], []
    lost = 0
    for _ in range(bench.options.rounds):
        with bench.held(bench.free // 2) as process:
            pidfd = os.pidfd_open(process.pid)
            asked = time.monotonic()
            end(process)
            select.select([pidfd], [], [], BACK_WAIT_S)
            ended = time.monotonic()
            os.close(pidfd)
            if not bench.is_back():
                lost += 1
                continue
            back = time.monotonic()
        after_end.append(back - ended)
        after_ask.append(back - asked)
    return {"after_end_s": spread(after_end), "after_ask_s": spread(after_ask), "not_back_in_30_s": lost}


def closes_input(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def context(bench: Bench) -> int:
    """Bytes that a process takes before it has allocated anything."""
    with bench.held(0):
        taken = bench.free - bench.read().free
    bench.wait_until_back()
    return taken


def reading(bench: Bench) -> Figures:
    """Microseconds of one reading as the daemon makes it, while one process holds memory."""
    figures: Figures = {}
    with bench.held(0):
        for name, lists in (("memory_us", False), ("with_processes_us", True)):
            bench.read()
            took: list[float] = []
            for _ in range(READS):
                bench.device._listed_at = float("-inf") if lists else time.monotonic()  # noqa: SLF001 - as later
                began = time.perf_counter()
                bench.read()
                took.append((time.perf_counter() - began) * 1e6)
            figures[name] = spread(took)
    bench.wait_until_back()
    return figures


# Handovers


def table(**keys: Any) -> str:
    return "[[session]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


def handed_over(batond: Batond, names: list[str]) -> Figures:
    """The gaps between these sessions, by how far the next one was prepared; and what went wrong."""
    batond.ended(*names)
    gaps: dict[str, list[float]] = {}
    for event in batond.told("handover.completed"):
        gaps.setdefault(event["tier"], []).append(event["gap_s"])
    return {
        "handovers": sum(map(len, gaps.values())),
        "gap_s": {tier: spread(values) for tier, values in gaps.items()},
        "failed": len(batond.told("session.failed")),
        "retried": len(batond.told("session.retried")),
        "reasons": sorted(
            {event["reason"] for event in batond.told("session.retried") + batond.told("session.failed")}
        ),
    }


def programs(bench: Bench, what: str, share: float, count: int, beside: int) -> Figures:
    """`count` handovers between programs that hold such a share each of what is free. beside: bytes of a context."""
    folder = bench.folder / what
    folder.mkdir()
    ledger = folder / "ledger.jsonl"
    ledger.touch()
    stated = int(bench.free * share)
    names = [f"{what}-{number}" for number in range(count + 1)]
    with Batond(folder, "--launcher", "exec", settings=SETTINGS) as batond:
        batond.submit(
            "".join(
                table(
                    name=name,
                    run=bench.holder(
                        *("--bytes", max(0, stated - beside), "--items", bench.options.items),
                        *("--item-ms", bench.options.item_ms, "--name", name, "--ledger", ledger),
                    ),
                    device=bench.uuid,
                    prepare=True,
                    memory=stated,
                )
                for name in names
            )
        )
        figures = handed_over(batond, names)
    bench.wait_until_back()
    out = [line for line in lines(ledger) if line["what"] == "oom"]
    return figures | {"out_of_memory": len(out), "stated_bytes": stated, "share": share}


# 512 MiB of weights, small rows, and enough to compute that the next one can be prepared meanwhile.
MAKE_MODEL: Final = """
import sys, numpy as np, tensorflow as tf
module = tf.Module()
module.layers = [tf.Variable(tf.random.normal([4096, 4096], stddev=0.01)) for _ in range(8)]
def call(x):
    x = tf.tile(x, [1, 64])
    for _ in range(20):
        for layer in module.layers:
            x = tf.nn.relu(x @ layer)
    return {"y": tf.reduce_mean(x, axis=1)}
spec = [tf.TensorSpec([None, 64], tf.float32, "x")]
tf.saved_model.save(module, sys.argv[1] + "/model", signatures=tf.function(call, input_signature=spec))
np.save(sys.argv[1] + "/x.npy", np.random.default_rng(1).random((int(sys.argv[2]), 64), np.float32))
"""
SEEN: Final = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"


def why_no_tensorflow(bench: Bench) -> str | None:
    """Why TensorFlow's part cannot be measured; None where it can."""
    if bench.options.holder != "cuda":
        return "the GPU is a stand-in"
    if importlib.util.find_spec("tensorflow") is None:
        return "TensorFlow is not installed"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": bench.uuid, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", SEEN], env=environment, capture_output=True, text=True, check=False)
    return None if done.stdout.strip() == "1" else "TensorFlow does not see the GPU"


def tensorflow(bench: Bench, tier: str) -> Figures:
    """Handovers between TensorFlow sessions whose next one has room for that tier and no more."""
    folder = bench.folder / tier
    folder.mkdir()
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    count = bench.options.tensorflow_batches * BATCH
    subprocess.run([sys.executable, "-c", MAKE_MODEL, str(folder), str(count)], env=hidden, check=True)
    headroom, taken = Limits().headroom_bytes, context_bytes(None)
    beside = {"imported": taken // 2, "staged": taken + taken // 2, "warm": STATED_BYTES}[tier]
    room = STATED_BYTES + headroom + beside
    names = [f"{tier}-{number}" for number in range(bench.options.tensorflow_handovers + 1)]
    keys = {"model": str(folder / "model"), "input": str(folder / "x.npy"), "batch_size": BATCH, "memory": STATED_BYTES}
    if bench.free < room + taken:
        return {"skipped": f"{(room + taken) >> 20} MiB are needed, {bench.free >> 20} MiB are free"}
    bench.wait_until_back()
    with bench.held(bench.free - room - taken), Batond(folder, settings=SETTINGS) as batond:
        batond.submit("".join(table(name=name, output=str(folder / name), device=bench.uuid, **keys) for name in names))
        return handed_over(batond, names)


# All of it


def measure(bench: Bench, say: Callable[[str], None]) -> Figures:
    options, device = bench.options, bench.device
    total = bench.read().total
    say(f"{device.name}: {total >> 20} MiB, {bench.free >> 20} MiB free")
    figures: Figures = {
        "device": {
            "name": device.name,
            "uuid": bench.uuid,
            "total_bytes": total,
            "free_bytes": bench.free,
            "stand_in": options.holder == "stand-in",
        }
    }
    say("a context")
    figures["context_bytes"] = beside = context(bench)
    say("readings")
    figures["reading"] = reading(bench)
    say(f"release: {options.rounds} exits, {options.rounds} by SIGKILL")
    figures["release"] = {"exit": release(bench, closes_input), "sigkill": release(bench, subprocess.Popen.kill)}
    say(f"programs: {options.gaps} handovers that fit beside each other, {options.gaps} that do not")
    figures["programs"] = {
        "fits_beside": programs(bench, "fits", 0.3, options.gaps, beside),
        "does_not_fit": programs(bench, "alone", 0.6, options.gaps, beside),
    }
    say(f"{options.handovers} handovers on a card filled to {FILLED:.0%}")
    figures["filled"] = programs(bench, "filled", FILLED / 2, options.handovers, beside)
    why = why_no_tensorflow(bench)
    say("TensorFlow: " + (f"not measured: {why}" if why else "a gap by tier"))
    figures["tensorflow"] = {"skipped": why} if why else {tier: tensorflow(bench, tier) for tier in TIERS}
    return figures


def milliseconds(figures: Figures) -> str:
    if figures["median"] is None:
        return "-"
    return f"{figures['median'] * 1e3:.1f} ms median, {figures['p95'] * 1e3:.1f} ms p95, n = {figures['n']}"


def rows(figures: Figures) -> Iterator[tuple[str, str]]:
    """The table."""
    stand_in = " (a stand-in)" if figures["device"]["stand_in"] else ""
    yield "device", f"{figures['device']['name']}{stand_in}, {figures['device']['total_bytes'] >> 20} MiB"
    yield "context", f"{figures['context_bytes'] >> 20} MiB"
    for name, what in (("memory_us", "reading, memory alone"), ("with_processes_us", "reading, with processes")):
        took = figures["reading"][name]
        yield what, f"{took['median']:.0f} µs median, {took['p95']:.0f} µs p95, n = {took['n']}"
    for name, what in (("exit", "exit"), ("sigkill", "SIGKILL")):
        found = figures["release"][name]
        yield f"memory back after {what}", milliseconds(found["after_end_s"])
        yield f"... since it was asked, {what}", milliseconds(found["after_ask_s"])
        if found["not_back_in_30_s"]:
            yield f"... not back in 30 s, {what}", str(found["not_back_in_30_s"])
    parts = {f"programs, {name.replace('_', ' ')}": part for name, part in figures["programs"].items()}
    parts["programs, card filled to 90 %"] = figures["filled"]
    if "skipped" not in figures["tensorflow"]:
        parts |= {f"TensorFlow, room for {tier}": part for tier, part in figures["tensorflow"].items()}
    for name, part in parts.items():
        for tier, gaps in part.get("gap_s", {}).items():
            prepared = "not prepared ahead" if tier == "none" else tier
            yield f"gap, {name}: {prepared}", milliseconds(gaps)
        if part.get("failed") or part.get("retried"):
            yield f"FAILED, {name}", f"{part['failed']} failed, {part['retried']} tried again: {part['reasons']}"
        if "skipped" in part:
            yield f"gap, {name}", f"not measured: {part['skipped']}"
    filled = figures["filled"]
    yield "out of memory", f"{filled['out_of_memory']} in {filled['handovers']} handovers on the filled card"
    if "skipped" in figures["tensorflow"]:
        yield "TensorFlow", f"not measured: {figures['tensorflow']['skipped']}"


def main() -> int:
    """See above. 1 where there is no GPU to measure, or a session was out of memory or failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lane", default="gpu0", help="which GPU, as batond names it (default: %(default)s)")
    parser.add_argument("--holder", choices=("cuda", "stand-in"), default="cuda", help="who holds its memory")
    parser.add_argument("--rounds", type=int, default=20, help="of each release (default: %(default)s)")
    parser.add_argument("--gaps", type=int, default=10, help="handovers of programs (default: %(default)s)")
    parser.add_argument("--handovers", type=int, default=50, help="on the filled card (default: %(default)s)")
    parser.add_argument("--tensorflow-handovers", type=int, default=5, help="for each tier (default: %(default)s)")
    parser.add_argument("--tensorflow-batches", type=int, default=1500, help="of each (default: %(default)s)")
    parser.add_argument("--items", type=int, default=500, help="of each session (default: %(default)s)")
    parser.add_argument("--item-ms", type=float, default=5.0, help="that one takes (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "out" / "gpu.json")
    options = parser.parse_args()
    devices = Devices()
    lanes = {lane.name: lane for lane in devices.discover() if lane.device == "gpu"}
    if options.lane not in lanes:
        there = devices.why_no_gpu or f"no lane {options.lane}; there are {', '.join(lanes)}"
        print(f"bench/gpu.py: {there}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="batond-bench-") as folder:
        device = devices.device(options.lane)
        found = device.read()
        if not isinstance(found, Read):
            print(f"bench/gpu.py: {found.reason}", file=sys.stderr)
            return 1
        bench = Bench(device, options, Path(folder), found.free)
        figures = measure(bench, lambda text: print(f"... {text}", file=sys.stderr, flush=True))
    devices.close()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=2) + "\n")
    for what, said in rows(figures):
        print(f"| {what} | {said} |")
    print(f"... {options.out}", file=sys.stderr)
    parts = [figures["filled"], *figures["programs"].values()]
    parts += [part for part in figures["tensorflow"].values() if isinstance(part, dict)]
    return 1 if any(part.get("out_of_memory") or part.get("failed") for part in parts) else 0


if __name__ == "__main__":
    sys.exit(main())
