"""Makes the inputs of every format that the tests use, and the models that take them. Runs in a host's child."""

from __future__ import annotations

import base64
import gzip
import json
import os
import resource
import signal
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from worker_world import records, save

ITEMS = 50
SIZE = (6, 5)  # of images on disk: the models take other ones

FEED = '''
"""What sessions name as their input."""
import itertools
import sys
import numpy as np
import tensorflow as tf

X = np.load({x!r})
KEPT = iter(X)


def rows():  # a generator: nobody knows how many
    for row in X:
        yield row


def from_start(start=0, stop=None):
    for row in X[start:stop]:
        yield {{"x": row.tolist(), "extra": "left alone"}}


def listed():
    return [row.tolist() for row in X]


def dataset():
    return tf.data.Dataset.from_tensor_slices({{"x": X}})


def unknown():  # of no known length, in batches that TensorFlow makes
    return tf.data.Dataset.from_tensor_slices(X).filter(lambda row: True)


def shapeless():
    return tf.data.Dataset.from_generator(rows, output_types=tf.float32)


def texts():
    return [f"item {{i}}" for i in range(len(X))]


def none():
    return iter(())


def endless():
    return dataset().repeat()


def table():
    return {{"x": X}}


def raising():
    raise ValueError("no such split")


def raises_at_37():
    yield from X[:37]
    raise ValueError("the source is gone")


def exits_at_once():
    sys.exit("no more")
    yield


def misfit_at_37():
    for i, row in enumerate(X):
        yield "text" if i == 37 else row


def doubles():
    return X.astype(np.float64)


def same():
    return KEPT


class Liar(list):
    def __len__(self):
        return 40


def liar():
    return Liar(X)


def boastful():
    class Boast(list):
        def __len__(self):
            return 60
    return Boast(X)


nothing = 3
'''


def make(folder: str) -> None:
    """In the folder of worker_world.make."""
    root = Path(folder)
    x = np.load(root / "x.npy")
    models(root)
    arrays(root, x)
    lines(root, x)
    images(root)
    tfrecords(root, x)
    (root / "feed.py").write_text(FEED.format(x=str(root / "x.npy")))
    (root / "broken_feed.py").write_text("import no_such_module_at_all\n")


def models(root: Path) -> None:
    module = tf.Module()

    def function(method: Any, *specs: Any) -> Any:
        return tf.function(method, input_signature=specs)

    def pair(a: Any, n: Any) -> Any:
        return {"sum": tf.reduce_sum(a, 1) + tf.cast(n, tf.float32)}

    def looks(image: Any) -> Any:
        return {"mean": tf.reduce_mean(tf.cast(image, tf.float32), [1, 2]), "corner": image[:, 0, 0]}

    def lengths(x: Any) -> Any:  # as many values as the item has
        return {"double": x * 2.0, "count": tf.fill([tf.shape(x)[0]], tf.shape(x)[1])}

    def echo(text: Any) -> Any:
        return {"upper": tf.strings.upper(text), "length": tf.strings.length(text)}

    def grey(image: Any) -> Any:
        return {"mean": tf.reduce_mean(image, [1, 2])}

    spec = tf.TensorSpec
    save(
        module,
        root / "pair",
        serving_default=function(pair, spec([None, 3], tf.float32, "a"), spec([None], tf.int32, "n")),
    )
    save(module, root / "looks", serving_default=function(looks, spec([None, 8, 8, 3], tf.float32, "image")))
    save(module, root / "looks_any", serving_default=function(looks, spec([None, None, None, 3], tf.float32, "image")))
    save(module, root / "looks_bytes", serving_default=function(looks, spec([None, 8, 8, 3], tf.uint8, "image")))
    save(module, root / "grey", serving_default=function(grey, spec([None, 8, 8], tf.float32, "image")))
    save(module, root / "lengths", serving_default=function(lengths, spec([None, None], tf.float32, "x")))
    save(module, root / "echo", serving_default=function(echo, spec([None], tf.string, "text")))


def arrays(root: Path, x: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(size=(ITEMS, 3)).astype(np.float32)
    n = rng.integers(-5, 5, ITEMS).astype(np.int32)
    np.save(root / "a.npy", a)
    np.save(root / "n.npy", n)
    np.save(root / "n_short.npy", n[:40])
    np.save(root / "pair.sum.npy", a.sum(axis=1, dtype=np.float32) + n)
    np.savez(root / "pair.npz", a=a, n=n)
    np.savez_compressed(root / "pair_small.npz", a=a, n=n)
    np.savez(root / "only_a.npz", a=a)
    np.savez(root / "alone.npz", whatever=x)
    np.savez(root / "fortran.npz", x=np.asfortranarray(x))
    np.savez_compressed(root / "fortran_small.npz", x=np.asfortranarray(x))
    np.savez(root / "objects.npz", x=np.array([{}, None]))
    np.save(root / "fortran.npy", np.asfortranarray(x))
    np.save(root / "big_endian.npy", x.astype(">f4"))
    content = (root / "pair.npz").read_bytes()
    (root / "cut.npz").write_bytes(content[: len(content) // 2])
    content = bytearray((root / "pair_small.npz").read_bytes())
    content[300] ^= 0xFF
    (root / "damaged_small.npz").write_bytes(content)
    np.savez_compressed(root / "damaged.npz", x=rng.normal(size=(20_000, 4)).astype(np.float32))
    content = bytearray((root / "damaged.npz").read_bytes())
    content[-5000] ^= 0xFF
    (root / "damaged.npz").write_bytes(content)


def lines(root: Path, x: np.ndarray) -> None:
    def write(name: str, values: list[Any]) -> None:
        text = "".join(json.dumps(value) + "\n" for value in values)
        (root / name).write_text(text)

    a, n = np.load(root / "a.npy"), np.load(root / "n.npy")
    write("pair.jsonl", [{"a": a[i].tolist(), "n": int(n[i]), "id": f"left alone {i}"} for i in range(ITEMS)])
    write("bare.jsonl", x.tolist())
    write("x-0.jsonl", [{"x": row} for row in x[:20].tolist()])
    write("x-1.jsonl", [{"x": row} for row in x[20:].tolist()])
    (root / "x-1.jsonl").write_text((root / "x-1.jsonl").read_text().rstrip("\n"))  # no end of line at the end
    (root / "x.jsonl.gz").write_bytes(gzip.compress((root / "bare.jsonl").read_bytes()))
    (root / "hidden.jsonl").write_bytes((root / "x.jsonl.gz").read_bytes())  # gzip, whatever its name
    (root / "cut.jsonl.gz").write_bytes((root / "x.jsonl.gz").read_bytes()[:-200])
    write("ragged.jsonl", [{"x": [float(i)] * (1 + i % 7)} for i in range(ITEMS)])
    write(
        "text.jsonl",
        [f"größe {i}" if i % 10 else {"b64": base64.b64encode(b"\xff\xfe\0").decode()} for i in range(ITEMS)],
    )
    write("text_for_float.jsonl", ["a text"] * 3)
    write("no_key.jsonl", [{"y": [1.0]}])
    write("inner_ragged.jsonl", [{"x": [[1.0], [2.0, 3.0]]}])
    write("too_large_float.jsonl", [{"x": [1, 2, 3, 1e300]}])
    write("too_large.jsonl", [{"a": [1, 2, 3], "n": 1 << 40}])
    bad = [json.dumps(row) for row in x.tolist()]
    for item, line in (
        (3, "no JSON"),
        (11, ""),
        (17, '"text"'),
        (23, "[1.0]"),
        (31, '{"z": 1}'),
        (49, "[1, 2, 3, null]"),
    ):
        bad[item] = line
    (root / "bad.jsonl").write_text("\n".join(bad) + "\n")
    (root / "empty.jsonl").touch()


BAD_LINES = [3, 11, 17, 23, 31, 49]
BAD_IMAGES = [5, 12, 13]


def images(root: Path) -> None:
    rng = np.random.default_rng(4)
    for folder in ("images", "spoilt_images", "first_spoilt", "grey_images"):
        (root / folder / "deeper").mkdir(parents=True)
    (root / "images" / "notes.txt").write_text("no image")
    (root / "no_images").mkdir()
    (root / "no_images" / "notes.txt").touch()
    for item in range(20):
        pixels = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
        name = f"{'deeper/' if item % 3 == 0 else ''}{item:02}.{('png', 'jpg', 'JPEG')[item % 3]}"
        encoded = tf.io.encode_png(pixels) if item % 3 == 0 else tf.io.encode_jpeg(pixels, quality=95)
        (root / "images" / name).write_bytes(encoded.numpy())
        (root / "spoilt_images" / name).write_bytes(encoded.numpy())
        (root / "grey_images" / f"{item:02}.png").write_bytes(tf.io.encode_png(pixels[:, :, :1]).numpy())
    spoilt = sorted(file for file in (root / "spoilt_images").rglob("*.*"))
    spoilt[5].write_bytes(b"no image")
    spoilt[12].write_bytes(spoilt[12].read_bytes()[:40])
    spoilt[13].write_bytes(b"")
    (root / "first_spoilt" / "00.png").write_bytes(b"no image")
    (root / "first_spoilt" / "01.png").write_bytes((root / "images" / "deeper" / "00.png").read_bytes())


def tfrecords(root: Path, x: np.ndarray) -> None:
    def packed(name: str, source: str) -> None:
        (root / name).write_bytes(gzip.compress((root / source).read_bytes()))

    packed("z-0.tfrecord.gz", "x-0.tfrecord")
    packed("z-1.tfrecord.gz", "x-1.tfrecord")
    packed("disguised.records", "x-0.tfrecord")
    content = (root / "z-1.tfrecord.gz").read_bytes()
    (root / "cut.tfrecord.gz").write_bytes(content[: len(content) // 2])
    bytes_ = (x * 10).astype(np.int16).astype(np.uint8)
    records(root / "renamed.tfrecord", [{"pixels": row.tobytes(), "other": row.tobytes()} for row in bytes_])
    np.save(root / "renamed.x.npy", bytes_.astype(np.float32))
    grid = np.arange(ITEMS * 4, dtype=np.float32).reshape(ITEMS, 4)
    records(root / "grid.tfrecord", [{"x": row} for row in grid])
    header = struct.pack("<Q", 1 << 40)
    (root / "liar.tfrecord").write_bytes(header + b"\0" * 30)


# What sessions are compared with: TensorFlow called directly.


def looked_at(target: str, files: list[str], model: str, image: dict[str, Any]) -> None:
    """The means of the images as the model of that name sees them."""
    size = image.get("size", [8, 8])
    factor, offset = {"0..1": (255.0, 0.0), "-1..1": (127.5, -1.0)}.get(image.get("scale", ""), (1.0, 0.0))
    rows = []
    for file in files:
        pixels = tf.io.decode_image(tf.io.read_file(file), 1 if model == "grey" else 3, expand_animations=False)
        seen = tf.cast(tf.image.resize(pixels, size, image.get("resize", "bilinear")), tf.float32) / factor + offset
        seen = tf.round(seen) if model == "looks_bytes" else seen
        mean = tf.reduce_mean(seen, [0, 1]).numpy()
        rows.append(float(mean[0]) if model == "grey" else mean.tolist())
    Path(target).write_text(json.dumps(rows))


def affine_of(target: str, x: str, model: str) -> None:
    """What the model gives for those rows."""
    y = tf.saved_model.load(model).signatures["serving_default"](x=tf.constant(np.load(x)))["y"]
    Path(target).write_text(json.dumps(y.numpy().tolist()))


def put_again(target: str) -> None:
    """Lines of which the first attempt fails half-way, as on a full disk, and that are put again."""
    from daemon.worker.jsonrows import JsonRows

    folder = Path(target).parent / "put_again"
    folder.mkdir(exist_ok=True)
    rows = JsonRows(folder)
    results = {"y": np.arange(100.0)}
    rows.create(rows.describe(results), 0)
    rows.put(0, 100, results, ())
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (rows.end + 700, hard))
    with pytest.raises(OSError, match="File too large"):
        rows.put(100, 200, results, ())
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    for _ in range(2):  # the same rows again: what is written beside them may have failed
        rows.put(100, 200, results, {150})
    rows.put(200, 300, None, range(200, 300))
    lines = [json.loads(line) for line in (folder / "outputs.jsonl.partial").read_bytes()[: rows.end].splitlines()]
    Path(target).write_text(json.dumps(lines))


def run_page(folder: str) -> None:
    """Run the code of docs/sessions-inputs.md, as page.py there."""
    os.chdir(folder)
    exec(compile(Path("page.py").read_text(), f"{folder}/page.py", "exec"), {})
