"""The models that are handed over, with random weights, and how long a batch of each takes here. Measures no handover.

    python -m bench.samples FOLDER [NAME …]     # make them there (bench/out/models keeps them from run to run)

The images of the networks of keras.applications are made in the model, from one pixel each: so the inputs are small,
and the disk has no part in any figure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.figures import OUT, ROOT

KEPT: Final = OUT.parent / "models"
TWO: Final = ("MobileNetV2", "ResNet50")
SIX: Final = (*TWO, "MobileNetV3Small", "EfficientNetB0", "DenseNet121", "Xception")
SMALL: Final = ("small-a", "small-b")
BATCH: Final = 8
IMAGE: Final = 224
ROWS: Final = 400_000  # of the longest input, which is a file of 100 MB without a block on the disk
DONE: Final = "seconds.json"


@dataclass(frozen=True)
class Sample:
    """One model: its SavedModel, and the seconds of a batch of BATCH on this host, alone."""

    name: str
    path: Path
    batch_s: float

    def items(self, seconds: float) -> int:
        """So many take about so long."""
        return min(ROWS, max(4, round(seconds / self.batch_s)) * BATCH)

    def input(self, items: int) -> Path:
        """A file with so many items for it."""
        return self.path.parent / f"{'vectors' if self.name in SMALL else 'pixels'}-{items}.npy"


def samples(names: tuple[str, ...], folder: Path = KEPT, *, anew: bool = False) -> list[Sample]:
    """These models; made where they are not there yet. anew: how long a batch takes is to be timed again."""
    if anew:
        for name in names:
            (folder / name / DONE).unlink(missing_ok=True)
    if any(not (folder / name / DONE).exists() for name in names):
        command = [sys.executable, "-m", "bench.samples", str(folder), *names]
        subprocess.run(command, cwd=ROOT, check=True)
    return [Sample(name, folder / name, json.loads((folder / name / DONE).read_text())) for name in names]


def write_input(sample: Sample, items: int) -> Path:
    """The file with so many items, written with the standard library: the benchmark itself needs no numpy."""
    path = sample.input(items)
    if not path.exists():
        shape = (items, 64) if sample.name in SMALL else (items, 1, 1, 3)
        header = repr({"descr": "<f4", "fortran_order": False, "shape": shape})
        header = header.ljust(117) + "\n"  # 10 + 118 = 128 bytes: the data is aligned as numpy's
        partial = path.with_suffix(f".{os.getpid()}")  # another run may want it too; and none is to find half of it
        with partial.open("wb") as file:
            file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
            size = 4
            for each in shape:
                size *= each
            file.truncate(128 + size)  # zeros
        partial.rename(path)
    return path


def make(name: str, path: Path) -> None:
    """Build one, and save it. In a process of its own: this imports TensorFlow."""
    import keras

    model: Any
    if name in SMALL:
        width = 64 if name == "small-a" else 96
        model = keras.Sequential([keras.Input((64,)), *[keras.layers.Dense(width, "relu") for _ in range(4)]])
    else:
        network = getattr(keras.applications, name)(weights=None, input_shape=(IMAGE, IMAGE, 3))
        pixel = keras.Input((1, 1, 3))
        model = keras.Model(pixel, network(keras.layers.UpSampling2D(IMAGE)(pixel)))
    model.export(str(path), verbose=False)


def time_batches(path: Path) -> float:
    """Seconds of a batch: the quickest of some, as a busy host tells nothing of the model."""
    import tensorflow as tf

    call = tf.saved_model.load(str(path)).signatures["serving_default"]
    ((key, spec),) = call.structured_input_signature[1].items()
    batch = tf.zeros((BATCH, *spec.shape[1:]), spec.dtype)
    taken = []
    for _ in range(15):
        began = time.monotonic()
        call(**{key: batch})
        taken.append(time.monotonic() - began)
    return min(taken)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=[*SIX, *SMALL])
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for path in (options.folder / name for name in options.names):
        if not (path / DONE).exists():
            print(f"making {path.name} …", file=sys.stderr, flush=True)
            if not (path / "saved_model.pb").exists():
                make(path.name, path)
            (path / DONE).write_text(json.dumps(time_batches(path)))


if __name__ == "__main__":
    main()
