"""Files that are damaged or say what cannot be, and what is said of each. Runs in a forked host; asserts nothing."""

from __future__ import annotations

import io
import json
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from numpy.lib import format as npy

from daemon.worker import models
from daemon.worker.failures import Refused
from daemon.worker.inputs import columns
from daemon.worker.staging import Wanted

X = np.arange(200, dtype=np.float32).reshape(50, 4)


def header_of(shape: object, descr: object = "<f4", fortran_order: object = False) -> bytes:
    return repr({"descr": descr, "fortran_order": fortran_order, "shape": shape}).encode()


def npy_file(header: bytes, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """X's values behind any header, which says that it is `length` bytes long."""
    size = struct.pack("<H" if version == (1, 0) else "<I", len(header) if length is None else length)
    return b"\x93NUMPY" + bytes(version) + size + header + X.tobytes()


SAID: dict[str, tuple[bytes, str]] = {  # what is made of X, and what is said of it
    "negative": (npy_file(header_of((-50, 4))), "no array has the shape that its header tells of"),
    "negatives": (npy_file(header_of((-50, -4))), "no array has the shape"),
    "overflowing": (npy_file(header_of((1 << 32, 1 << 32))), "no array has the shape"),
    "wrapped": (npy_file(header_of((1 << 62, 4))), "no array has the shape"),
    "empty_and_endless": (npy_file(header_of((10**30, 0))), "no array has the shape"),
    "weightless": (npy_file(header_of((50, 4), "|S0")), "no array has the shape"),
    "beyond": (npy_file(header_of((1 << 40, 4))), " is cut short: "),
    "boolean": (npy_file(header_of((True, 4))), "its header is garbled"),
    "list_for_shape": (npy_file(header_of([50, 4])), "its header is garbled"),
    "unclosed": (npy_file(b"{'descr': '<f4', 'shape': (50, 4"), "its header is garbled"),
    "unquoted": (npy_file(b"{'descr': '''<f4"), "its header is garbled"),
    "deep": (npy_file(b"(" * 9000), "its header is garbled"),
    "minuses": (npy_file(b"-" * 9000 + b"1"), "its header is garbled"),
    "unhashable": (npy_file(b"{[]: 1}"), "its header is garbled"),
    "giant": (npy_file(header_of((1,)).replace(b"(1,)", b"(0x" + b"f" * 9000 + b",)")), "no array has the shape"),
    "no_such_dtype": (npy_file(header_of((50, 4), "<q9")), "its header is garbled"),
    "odd_dtype": (npy_file(header_of((50, 4), [("a",)])), "its header is garbled"),
    "objects": (npy_file(header_of((50, 4), "|O")), "holds Python objects"),
    "single": (npy_file(header_of(())), " is a single value, without items"),
    "header_beyond_1": (npy_file(header_of((50, 4)), (1, 0), 9999), "it ends in its header"),
    "header_beyond_2": (npy_file(header_of((50, 4)), (2, 0), 0xFFFFFFFF), "its header has 4294967295 bytes; at most"),
    "version_4": (npy_file(header_of((50, 4)), (4, 0)), "its format is version 4.0; known are"),
    "magic_alone": (b"\x93NUMPY\x01\x00", "it ends in its header"),
    "nothing": (b"", " is no .npy file (EOF: reading magic string"),
}


def good() -> Iterator[bytes]:
    """X in each version of the format, and in either order."""
    for version in ((1, 0), (2, 0), (3, 0)):
        for array in (X, np.asfortranarray(X)):
            stream = io.BytesIO()
            npy.write_array(stream, array, version)
            yield stream.getvalue()


def told(act: Callable[[], object]) -> list[str]:
    """What came of it: nothing, or the type and the words of what was raised."""
    try:
        act()
    except BaseException as error:  # noqa: BLE001 - which one it is, is the question
        return [type(error).__name__, error.reason if isinstance(error, Refused) else repr(error)]
    return []


def archive(path: Path, content: bytes, method: int) -> None:
    with zipfile.ZipFile(path, "w", method) as made:
        made.writestr("x.npy", content)


def headers(folder: str) -> None:
    """`told.json`: what is said of each of SAID, as a file of its own and in archives."""
    path = Path(folder)
    found: dict[str, list[list[str]]] = {}
    for name, (content, _) in SAID.items():
        (path / "x.npy").write_bytes(content)
        archive(path / "x.npz", content, zipfile.ZIP_STORED)
        archive(path / "small.npz", content, zipfile.ZIP_DEFLATED)
        found[name] = [
            told(lambda: columns.of_npy(path / "x.npy")),
            told(lambda: columns.of_npz(path / "x.npz")),
            told(lambda: columns.of_npz(path / "small.npz")),
        ]
    (path / "told.json").write_text(json.dumps(found))


def versions(folder: str) -> None:
    """`told.json`: whether each good file has X's rows."""
    path = Path(folder)
    same: list[bool] = []
    for content in good():
        (path / "x.npy").write_bytes(content)
        archive(path / "x.npz", content, zipfile.ZIP_STORED)
        for column in (columns.of_npy(path / "x.npy"), columns.of_npz(path / "x.npz")["x"]):
            same += [bool((np.concatenate(list(column.rows(0, 7))) == X).all())]
    (path / "told.json").write_text(json.dumps(same))


def spoilt(content: bytes, dice: random.Random, first: int) -> bytes:
    """With some of its first bytes changed, or cut off there."""
    changed = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        changed[dice.randrange(min(first, len(changed)))] = dice.choice(
            (dice.randrange(256), *b"()[]{}'\",:-0e9 \\\n#")
        )
    return bytes(changed[: dice.randrange(first)] if dice.random() < 0.1 else changed)


def fuzz(folder: str, seed: int, rounds: int) -> None:
    """`told.json`: whatever was raised for spoilt arrays and archives, if it was not Refused or has several lines."""
    path, dice = Path(folder), random.Random(seed)
    odd: list[list[Any]] = []
    sound = list(good())

    def read(column: columns.Column) -> None:
        if column.layout.size_bytes > 0:
            for rows in column.rows(0, max(1, column.layout.shape[0] // 3)):
                assert rows.ndim == len(column.layout.shape)

    for number in range(rounds):
        content = spoilt(dice.choice(sound), dice, 140)
        (path / "x.npy").write_bytes(content)
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w", dice.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as made:
            made.writestr("x.npy", dice.choice(sound))
        at = dice.choice((0, len(whole.getvalue()) - 130))  # the member's own header, or the archive's directory
        (path / "x.npz").write_bytes(whole.getvalue()[:at] + spoilt(whole.getvalue()[at:], dice, 130))
        results = (told(lambda: read(columns.of_npy(path / "x.npy"))), told(lambda: columns.of_npz(path / "x.npz")))
        odd += [[number, *each] for each in results if each and (each[0] != "Refused" or not each[1].isprintable())]
    (path / "told.json").write_text(json.dumps(odd))


# Models


def rezipped(source: Path, target: Path, **changed: bytes | None) -> None:
    """The archive with members changed, or left out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = changed.get(name.partition(".")[0], old.read(name))
            if content is not None:
                new.writestr(name, content)


def keras_files(folder: str) -> None:
    """Keras files that are none, or not whole; `told.json`: what is said of each."""
    path = Path(folder)
    net = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2, name="y")])
    net.save(path / "whole.keras")
    net.save(path / "whole.h5")
    whole = path / "whole.keras"
    (path / "empty.keras").touch()
    (path / "empty.h5").touch()
    (path / "folder.keras").mkdir()
    (path / "text.h5").write_text("no HDF5\n")
    (path / "zip.h5").write_bytes(whole.read_bytes())
    (path / "h5.keras").write_bytes((path / "whole.h5").read_bytes())
    (path / "cut.keras").write_bytes(whole.read_bytes()[:-200])
    (path / "cut.h5").write_bytes((path / "whole.h5").read_bytes()[:2000])
    rezipped(whole, path / "no_config.keras", config=None)
    rezipped(whole, path / "no_metadata.keras", config=b'{"class_name": "Nothing"}', metadata=None)
    rezipped(whole, path / "garbled_config.keras", config=b"{\x00")
    rezipped(whole, path / "list_config.keras", config=b"[]")
    rezipped(whole, path / "empty_config.keras", config=b"{}")
    rezipped(whole, path / "no_weights.keras", model=None)
    with zipfile.ZipFile(path / "nothing.keras", "w"):
        pass
    for name, text in (("garbled_config.h5", '{"class_name": "Sequential", '), ("number_config.h5", "3")):
        shutil.copy(path / "whole.h5", path / name)
        with h5py.File(path / name, "r+") as file:
            file.attrs["model_config"] = text
    found = {
        file.name: told(lambda file=file: load(file)) for file in sorted(path.glob("*.*")) if file.suffix != ".json"
    }  # type: ignore[misc]
    (path / "told.json").write_text(json.dumps(found))


def load(file: Path) -> Any:
    """As a worker does it, from the look to the weights."""
    wanted = Wanted(None, True)
    models.describe(file, wanted)
    return models.stage(file, wanted, "/CPU:0", hold=False).load()
