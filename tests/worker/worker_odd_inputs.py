"""Makes inputs that are nearly what a model takes, or named like what they are not. Runs in a host's child."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from worker_world import records, save

from daemon.worker import main
from daemon.worker.inputs import counting

ITEMS = 12
BAD = 7  # the item that is beyond what the model takes

# The dtype that the model takes; of what the file holds it, of bytes by their dtype; two values that are beyond; why.
BEYOND: list[tuple[str, str, list[Any], str]] = [
    ("uint8", "int64_list", [256, 0], "feature 'x' is beyond 0 to 255, but its input takes uint8"),
    ("int32", "int64_list", [0, 1 << 31], "is beyond -2147483648 to 2147483647, but its input takes int32"),
    ("uint32", "int64_list", [-1, 0], "is beyond 0 to 4294967295, but its input takes uint32"),
    ("uint64", "int64_list", [-1, 0], "is beyond 0 to 9223372036854775807, but its input takes uint64"),
    ("bool", "int64_list", [1, 2], "is beyond 0 to 1, but its input takes bool"),
    ("float16", "float_list", [1e38, 0.0], "is beyond what float16 holds, but its input takes float16"),
    ("uint8", "int16", [-1, 0], "is beyond 0 to 255, but its input takes uint8"),
    ("bool", "bool", [2, 1], "is beyond 0 to 1, but its input takes bool"),
    ("float32", "bool", [2, 1], "is beyond 0 to 1, but its input takes float32"),
    ("float32", "float64", [1e300, 0.0], "is beyond what float32 holds, but its input takes float32"),
    ("float16", "int32", [70_000, 0], "is beyond what float16 holds, but its input takes float16"),
]
DTYPES = ("uint8", "int32", "uint32", "uint64", "bool", "float16", "float32")
LOOKING: list[tuple[str, str, list[int | None]]] = [  # models that give an image as they get it
    ("float", "float32", [4, 4, 3]),
    ("uint8", "uint8", [4, 4, 3]),
    ("uint16", "uint16", [4, 4, 1]),
    ("int8", "int8", [4, 4, 3]),
    ("half", "float16", [4, 4, 3]),
    ("first", "float32", [3, 4, 5]),
    ("first_free", "float32", [3, None, None]),
    ("two", "float32", [8, 8, 2]),
    ("alpha", "float32", [4, 4, 4]),
]
OTHER: list[tuple[str, bytes, str]] = [  # names and contents of files that no format of ours is
    ("rows.json", b'[{"x": [1, 2]},\n {"x": [3, 4]}]', "it is JSON, and no TFRecord file; write each item on a line"),
    ("rows.csv", b"x,y\n1,2\n", "it is a CSV file, and no TFRecord file; write it as JSON lines, .npy or TFRecord"),
    ("rows.csv.gz", gzip.compress(b"x,y\n1,2\n3,4\n"), "it is a CSV file, in a gzip file, and no TFRecord file"),
    ("rows.parquet", b"PAR1\x15\x04\x15\x20\x15\x24\x4c\x15", "it is a Parquet file"),
    ("rows", b"PAR1\x15\x04\x15\x20\x15\x24\x4c\x15", "it is a Parquet file"),
    (
        "rows.txt",
        b"some words\nand more\n",
        "it is a text file, and no TFRecord file; write each item on a line of JSON",
    ),
    ("lines", b'{"x": [1, 2]}\n{"x": [3, 4]}\n', "it is JSON, and no TFRecord file; write each item on a line"),
    ("words", "größe und maß".encode(), "it is a text file"),
    ("x.npy.bz2", bz2.compress(bytes(100)), "it is compressed with bzip2"),
    ("x.jsonl.zst", b"\x28\xb5\x2f\xfd\x24\x10\x81\x00\x00\x31\x32\x33", "it is compressed with zstd"),
    ("data.h5", b"\x89HDF\r\n\x1a\n" + bytes(20), "it is an HDF5 file"),
    ("picture.gif", b"GIF89a\x05\x00\x05\x00" + bytes(20), "it is a GIF file, and no TFRecord file; write it as JPEG"),
    ("unknown", b"\xf0\xe1\xd2\xc3" * 8, "it is no TFRecord file"),
]


def make(folder: str) -> None:
    root = Path(folder)
    for dtype in DTYPES:
        spec = tf.TensorSpec([None, 2], dtype, "x")
        same = tf.function(lambda x: {"same": tf.cast(x, tf.float64)}, input_signature=[spec])
        save(tf.Module(), root / f"takes_{dtype}", serving_default=same)
    for name, dtype, shape in LOOKING:
        spec = tf.TensorSpec([None, *shape], dtype, "image")
        corner = tf.function(lambda image: {"pixels": tf.cast(image, tf.float64)}, input_signature=[spec])
        save(tf.Module(), root / f"looks_{name}", serving_default=corner)
    for dtype, held, beyond, _ in BEYOND:
        rows = [[i % 2, 1] for i in range(ITEMS)]
        rows[BAD] = beyond
        records(root / f"{dtype}.{held}.tfrecord", [{"x": stored(row, held)} for row in rows])
    records(root / "first.tfrecord", [{"x": np.array([300, 0])}, {"x": np.array([1, 0])}])
    records(root / "floats.tfrecord", [{"x": np.array([1.5, 0], np.float32).tobytes()}])
    records(root / "uint32.uint32.tfrecord", [{"x": np.array([1 << 31, i], np.uint32).tobytes()} for i in range(ITEMS)])
    records(root / "no_suffix", [{"x": np.array([i, 1])} for i in range(ITEMS)])
    (root / "records.csv").write_bytes((root / "no_suffix").read_bytes())
    (root / "packed-0.tfrecord.gz").write_bytes(gzip.compress((root / "no_suffix").read_bytes()))
    records(
        root / "more", [{"x": np.array([i, 1])} for i in range(ITEMS, 3000)]
    )  # more than the reader holds of a file
    packed = gzip.compress((root / "more").read_bytes())
    (root / "packed-1.tfrecord.gz").write_bytes(packed)
    (root / "broken.tfrecord.gz").write_bytes(packed[: len(packed) // 2])
    lines(root)
    for name, content, _ in OTHER:
        (root / name).write_bytes(content)
    np.save(root / "x.npy", np.zeros((ITEMS, 2), np.float32))
    (root / "x.npy.gz").write_bytes(gzip.compress((root / "x.npy").read_bytes()))


def stored(row: list[Any], held: str) -> Any:
    """The values as `records` takes them for that kind of list, or as bytes of that dtype."""
    if held.endswith("_list"):
        return np.array(row, np.float32 if held == "float_list" else np.int64)
    return np.array(row, np.uint8 if held == "bool" else held).tobytes()


def lines(root: Path) -> None:
    def write(name: str, *rows: Any) -> None:
        (root / name).write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))

    write("sound.jsonl", *([i, i + 0.5] for i in range(ITEMS)))
    text = (root / "sound.jsonl").read_text()
    (root / "marked.jsonl").write_bytes(codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode())
    (root / "trailing.jsonl").write_text(text + "\n  \n\t\r\n\n ")
    (root / "trailing.jsonl.gz").write_bytes(gzip.compress(codecs.BOM_UTF8 + text.encode() + b"\n\n"))
    (root / "part-0.jsonl").write_bytes(
        codecs.BOM_UTF8 + "".join(text.splitlines(keepends=True)[:5]).encode() + b"\n\n"
    )
    (root / "part-1.jsonl").write_bytes(codecs.BOM_UTF8 + "".join(text.splitlines(keepends=True)[5:]).encode() + b"\n")
    (root / "wide.jsonl").write_text(text, encoding="utf-16")
    (root / "blank.jsonl").write_text("\n \n\r\n")
    write("not_finite.jsonl", "[1, NaN]", "[Infinity, -Infinity]", [1 << 70, 2.5], [(1 << 24) + 1, 0.1])
    write("null.jsonl", [1, None])
    write("table.jsonl", [1, {"a": 1}])
    write("large.jsonl", [1, 1 << 70])
    write("too_large.jsonl", "[1, 1e400]")
    write("too_large_beside_nan.jsonl", "[NaN, 1e400]")
    write("too_large_whole.jsonl", [1, 10**400])
    write("broken.jsonl", "[1, NaN")
    write("deep.jsonl", "[" * 100_000 + "]" * 100_000)
    write("half_pair.jsonl", '["\\\\ud800", NaN]')
    write("unsigned.jsonl", [1 << 63, 1], [0, (1 << 64) - 1])


def uncounted(function: str, socket_fd: int) -> None:
    """Be a worker, or an inspector, for which every file is too large to be counted."""
    setattr(counting, "PLAIN_BYTES", 1)  # noqa: B010 - it is Final
    setattr(counting, "PACKED_BYTES", 1)  # noqa: B010
    getattr(main, function)(socket_fd)


def png(pixels: np.ndarray, *, colour: int, depth: int = 8, palette: bytes = b"") -> bytes:
    """A PNG file of these rows of samples, (height, width × channels) of the `depth`; below 8, packed by the caller.

    colour: 0 grey, 2 RGB, 3 by `palette`, 6 RGBA: https://www.w3.org/TR/png-3/#11IHDR
    """

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    samples = {0: 1, 2: 3, 3: 1, 6: 4}[colour]
    width = pixels.shape[1] * (8 // min(depth, 8)) // samples
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else np.uint8).tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, len(pixels), depth, colour, 0, 0, 0)
    middle = chunk(b"PLTE", palette) if palette else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + middle
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
