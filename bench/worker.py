"""What the built-in worker computes a second, beside the same model called in a bare tf.data loop. Decides nothing.

    python -m bench.worker      # or: make bench-worker; about five minutes

Both run in turn in processes of their own, ROUNDS times each, from the same files in the page cache, on this host's
processor. Items a second are medians; a ratio is the median of those of each turn, as what else the host does weighs
on both of a turn. `items` counts from the first item begun to the last one computed, `whole` to the output durable on
disk: rows of the bare loop are kept in a list and saved with np.save at the end, also where the worker writes JSON
lines.

Imports TensorFlow: what is to stay small starts it as a process.
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
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import tensorflow as tf

from bench.figures import Figures, run
from daemon.worker import main as worker

ROUNDS: Final = 5
ITEM: Final = (28, 28, 1)


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
    Case("next to nothing, batches of 8", "tiny", "x.npy", 12_000, 8, read_npy),
)
# Each reader, model and output format once.
TINY: Final = tuple(replace(CASES[number], items=128) for number in (1, 2, 5))


def measure(*, small: bool) -> Figures:
    """The built-in worker's items a second beside a bare tf.data loop's, by turns."""
    cases, rounds = (TINY, 1) if small else (CASES, ROUNDS)
    with tempfile.TemporaryDirectory(prefix="batond-bench-") as name:
        folder = Path(name)
        in_a_child(make, folder, cases)
        return {
            "tensorflow": tf.__version__,
            "rounds": rounds,
            "cases": {case.name: paired(case, folder, rounds) for case in cases},
        }


def make(folder: Path, cases: Sequence[Case]) -> None:
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
    tiny = keras.Sequential([keras.Input(ITEM, name="x"), layers.Flatten(), layers.Dense(10, name="y")])
    for name, model in (("cnn", cnn), ("mlp", mlp), ("tiny", tiny)):
        model.export(str(folder / name), verbose=False)
    items = max(case.items for case in cases)
    x = np.random.default_rng(1).random((items, *ITEM), np.float32)
    np.save(folder / "x.npy", x)
    with tf.io.TFRecordWriter(str(folder / "x.tfrecord")) as writer:
        for row in x:
            example = tf.train.Example()
            example.features.feature["x"].float_list.value.extend(row.ravel())
            writer.write(example.SerializeToString())
    (folder / "jpeg").mkdir()
    for item in range(next(case.items for case in cases if case.input == "jpeg")):
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
                raise RuntimeError(f"the worker failed: {said['reason']}")
    os.waitpid(pid, 0)
    return [at["quiesced"] - at["started"], at["committed"] - at["started"]]


def in_a_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function gives in a forked process: this one has run no operation, so it may be forked."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            theirs.send(function(*arguments))
            status = 0
        except Exception:  # noqa: BLE001 - whatever it is, this process must not go on as if it were its parent
            traceback.print_exc()
        finally:
            os._exit(status)
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        sys.exit("bench: a process of it failed (above)")
    finally:
        os.waitpid(pid, 0)


def paired(case: Case, folder: Path, rounds: int) -> Figures:
    """In turn, so that what else this host does weighs on both."""
    taken: dict[str, list[list[float]]] = {"bare": [], "worker": []}
    for turn in range(rounds):
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
        "items": case.items,
        "bare_items_per_s": round(case.items / bare_s),
        "worker_items_per_s": round(case.items / worker_s),
        "ratio_items": round(items, 3),
        "ratio_whole": round(whole, 3),
    }


if __name__ == "__main__":
    run("worker", measure, takes="about five minutes")
