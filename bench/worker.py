"""What the built-in worker computes a second, beside the same model called in a bare tf.data loop.

    python bench/worker.py      # or: make bench-worker; a table, and bench/out/worker.json

Both run in turn in processes of their own, ROUNDS times each, from the same files in the page cache; medians, of the
ratios those of each turn. `items` counts from the first item begun to the last one computed, `whole` to the output
durable on disk: rows of the bare loop are kept in a list and saved with np.save at the end. Measures this host's CPU;
decides nothing, and is no test.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
import tensorflow as tf

from daemon.worker import main as worker

ROOT: Final = Path(__file__).resolve().parents[1]
ROUNDS: Final = 5
ITEM: Final = (28, 28, 1)
TARGET: Final = 0.95

Figures = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One pairing: a model, and an input that the bare loop reads with `read`."""

    name: str
    model: str
    input: str
    items: int
    batch_size: int
    read: Callable[[Path, int], Iterator[Any]]  # batches of the file, of that size
    output_format: str = "npy"


def read_npy(path: Path, size: int) -> Iterator[Any]:
    """The array as one tensor in memory: the fastest that tf.data has."""
    yield from tf.data.Dataset.from_tensor_slices(np.load(path)).batch(size).prefetch(tf.data.AUTOTUNE)


def read_tfrecord(path: Path, size: int) -> Iterator[Any]:
    feature = {"x": tf.io.FixedLenFeature(ITEM, tf.float32)}

    @tf.autograph.experimental.do_not_convert
    def parse(records: Any) -> Any:
        return tf.io.parse_example(records, feature)["x"]

    records = tf.data.TFRecordDataset(str(path)).batch(size)
    yield from records.map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def read_images(path: Path, size: int) -> Iterator[Any]:
    @tf.autograph.experimental.do_not_convert
    def decode(file: Any) -> Any:
        return tf.image.resize(tf.io.decode_jpeg(tf.io.read_file(file), 1), ITEM[:2])

    files = tf.data.Dataset.from_tensor_slices([str(file) for file in sorted(path.iterdir())])
    yield from files.map(decode, num_parallel_calls=tf.data.AUTOTUNE).batch(size).prefetch(tf.data.AUTOTUNE)


CASES: Final = (
    Case("convolutions, .npy", "cnn", "x.npy", 12_000, 64, read_npy),
    Case("convolutions, TFRecord", "cnn", "x.tfrecord", 12_000, 64, read_tfrecord),
    Case("convolutions, JPEG", "cnn", "jpeg", 6_000, 64, read_images),
    Case("dense, .npy", "mlp", "x.npy", 12_000, 64, read_npy),
    Case("convolutions, JSON lines out", "cnn", "x.npy", 12_000, 64, read_npy, "jsonl"),
    Case("dense, JSON lines out", "mlp", "x.npy", 12_000, 64, read_npy, "jsonl"),
)


def make(folder: Path) -> None:
    """The models, and the same items in each format."""
    layers = keras.layers
    cnn = keras.Sequential(
        [
            keras.Input(ITEM, name="x"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, "softmax", name="y"),
        ]
    )
    mlp = keras.Sequential([keras.Input(ITEM, name="x"), layers.Flatten(), layers.Dense(1024, "relu")])
    mlp.add(layers.Dense(1024, "relu"))
    mlp.add(layers.Dense(10, "softmax", name="y"))
    for name, model in (("cnn", cnn), ("mlp", mlp)):
        model.export(str(folder / name), verbose=False)
    items = max(case.items for case in CASES)
    x = np.random.default_rng(1).random((items, *ITEM), np.float32)
    np.save(folder / "x.npy", x)
    with tf.io.TFRecordWriter(str(folder / "x.tfrecord")) as writer:
        for row in x:
            example = tf.train.Example()
            example.features.feature["x"].float_list.value.extend(row.ravel())
            writer.write(example.SerializeToString())
    (folder / "jpeg").mkdir()
    for item in range(next(case.items for case in CASES if case.input == "jpeg")):
        pixels = tf.cast(x[item] * 255, tf.uint8)
        (folder / "jpeg" / f"{item:05}.jpg").write_bytes(tf.io.encode_jpeg(pixels).numpy())


def bare(case: Case, folder: Path, output: Path) -> list[float]:
    """Seconds to the last item, and to its rows on disk, of a loop that does nothing else."""
    model = tf.saved_model.load(str(folder / case.model))
    function = model.signatures["serving_default"]
    (name,) = function.structured_input_signature[1]
    function(**{name: tf.zeros((case.batch_size, *ITEM))})
    batches = case.read(folder / case.input, case.batch_size)
    first = next(batches)
    rows = []
    began = time.monotonic()
    batch: Any = first
    while batch is not None:
        (result,) = function(**{name: batch}).values()
        rows.append(result.numpy())
        batch = next(batches, None)
    computed = time.monotonic() - began
    output.mkdir()
    with (output / "y.npy").open("wb") as file:
        np.save(file, np.concatenate(rows))
        file.flush()
        os.fsync(file.fileno())
    return [computed, time.monotonic() - began]


def built_in(case: Case, folder: Path, output: Path) -> list[float]:
    """The same by the worker, as it says itself: from `started` to `quiesced`, and to `committed`."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        worker.serve(theirs.fileno())
    theirs.close()
    spec = {
        "name": "bench",
        "model": str(folder / case.model),
        "input": str(folder / case.input),
        "output": str(output),
        "batch_size": case.batch_size,
        "output_format": case.output_format,
    }
    assign = {
        "type": "assign",
        "protocol": 1,
        "session": "bench",
        "generation": 1,
        "tier": "warm",
        "cursor": 0,
        "resume": False,
        "device": {"kind": "cpu", "index": None, "uuid": None, "memory_limit_bytes": None},
        "spec": spec,
        "rejoin": None,
    }
    at: dict[str, float] = {}
    with ours, ours.makefile("rwb", buffering=0) as line:
        line.write(json.dumps(assign).encode() + b"\n")
        for answer in line:
            said = json.loads(answer)
            at[said["type"]] = said.get("at", time.monotonic())
            if said["type"] == "ready":
                line.write(b'{"type":"go"}\n')
            if said["type"] == "failed":
                sys.exit(f"bench/worker.py: {said['reason']}")
    os.waitpid(pid, 0)
    return [at["quiesced"] - at["started"], at["committed"] - at["started"]]


def in_a_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function gives in a forked process: this one has run no operation, so it may be forked."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        theirs.send(function(*arguments))
        os._exit(0)
    theirs.close()
    result = ours.recv()
    os.waitpid(pid, 0)
    return result


def measured(case: Case, folder: Path) -> Figures:
    """In turn, so that what else this host does weighs on both."""
    taken: dict[str, list[list[float]]] = {"bare": [], "worker": []}
    for turn in range(ROUNDS):
        for name, function in (("bare", bare), ("worker", built_in)):
            output = folder / f"{name}-{turn}"
            taken[name].append(in_a_child(function, case, folder, output))
            shutil.rmtree(output)
    bare_s, worker_s = (statistics.median(computed for computed, _ in taken[name]) for name in ("bare", "worker"))
    ratios = [
        [alone / ours for alone, ours in zip(*turn, strict=True)]
        for turn in zip(taken["bare"], taken["worker"], strict=True)
    ]
    items, whole = (statistics.median(values) for values in zip(*ratios, strict=True))
    return {
        "case": case.name,
        "items": case.items,
        "bare_items_per_s": round(case.items / bare_s),
        "worker_items_per_s": round(case.items / worker_s),
        "ratio_items": round(items, 3),
        "ratio_whole": round(whole, 3),
    }


def main() -> None:
    out = ROOT / "bench" / "out"
    rows = []
    print(f"{'case':30}{'bare/s':>10}{'worker/s':>10}{'items':>9}{'whole':>9}    worker : bare, {TARGET} is wanted")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        in_a_child(make, folder)
        for case in CASES:
            found = measured(case, folder)
            rows.append(found)
            speeds = f"{found['bare_items_per_s']:10}{found['worker_items_per_s']:10}"
            print(f"{case.name:30}{speeds}{found['ratio_items']:9}{found['ratio_whole']:9}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    figures = {"tensorflow": tf.__version__, "rounds": ROUNDS, "cpus": os.cpu_count(), "cases": rows}
    (out / "worker.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
