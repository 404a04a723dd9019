"""What a session may say of its input: kinds by their names, and the keys that belong to them. Opens no file."""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final, Literal, TypeAlias, get_type_hints

import msgspec

from daemon.documents import meant, shown

Kind: TypeAlias = Literal["npy", "npz", "jsonl", "images", "tfrecord", "table", "callable"]
Channels: TypeAlias = Literal[1, 3, 4]
Scale: TypeAlias = Literal["0..255", "0..65535", "0..1", "-1..1"]
Resize: TypeAlias = Literal[
    "bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian", "mitchellcubic"
]
Raw: TypeAlias = Literal[
    "uint8", "int8", "uint16", "int16", "int32", "int64", "float16", "float32", "float64", "bool"
]  # fmt: skip

KINDS: Final[Mapping[str, Kind]] = {  # by suffix, ".gz" left out; what has another one is taken for TFRecord
    ".npy": "npy",
    ".npz": "npz",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jpg": "images",
    ".jpeg": "images",
    ".png": "images",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
}
CALLED: Final[Mapping[Kind, str]] = {
    "npy": "a .npy file",
    "npz": "a .npz file",
    "jsonl": "JSON lines",
    "images": "images",
    "tfrecord": "TFRecord files",
    "table": "a table of .npy files",
    "callable": "a callable",
}
_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"


class ImageOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`image`: what a picture becomes before the model sees it."""

    size: tuple[int, int] | None = None  # height and width; None: what the model takes
    channels: Channels | None = None  # grey, RGB, RGBA; None: what the model takes
    scale: Scale = "0..255"  # of the values
    resize: Resize = "bilinear"  # TensorFlow's method; sides are stretched, not kept in proportion


class FeatureOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`features`, of one input of the model: which feature of a TFRecord feeds it, and what that holds."""

    feature: str | None = None  # its name; None: the input's
    shape: tuple[int, ...] | None = None  # of an item; None: what the model takes
    raw: Raw | None = None  # what the values in a feature of bytes are; None: what the model takes


OPTIONS: Final[Mapping[str, Kind]] = {"image": "images", "features": "tfrecord", "input_args": "callable"}
TABLES: Final = frozenset({"input", *OPTIONS})  # keys whose values are tables, or may be

_HINTS: Final = {  # what a key in one of them takes
    "size": "[height, width], each 1 to 65535",
    "channels": "1, 3 or 4",
    "scale": "one of '0..255', '0..65535', '0..1', '-1..1'",
    "resize": "one of 'bilinear', 'nearest', 'bicubic', 'area', 'lanczos3', 'lanczos5', 'gaussian', 'mitchellcubic'",
    "feature": "a string",
    "shape": "a list of sizes, as [28, 28]",
    "raw": "the dtype of the values in the bytes, as 'uint8' or 'float32'",
}


def is_callable(text: str) -> bool:
    """Whether that input is `package.module:callable`."""
    return re.fullmatch(f"{_NAME}:{_NAME}", text, re.ASCII) is not None


def kind_of(name: str) -> Kind | None:
    """The kind of a file with that name, or of a pattern's files; None where the name does not tell."""
    suffix = PurePath(name.lower().removesuffix(".gz")).suffix
    return None if glob.has_magic(suffix) else KINDS.get(suffix)


def foreign(key: str, kind: Kind) -> str | None:
    """Why that key cannot be given with an input of that kind, or None."""
    own = OPTIONS[key]
    return None if own == kind else f"belongs to an input that is {CALLED[own]}; this one is {CALLED[kind]}"


def stray(table: Mapping[str, Any]) -> dict[str, str]:
    """Which keys of a [[session]] table do not go with its input, each with why; as far as the input's name tells."""
    given = table.get("input")
    if isinstance(given, dict):
        kind: Kind | None = "table"
    elif isinstance(given, str):
        kind = "callable" if is_callable(given) else kind_of(given)
    else:
        return {}
    wrong = {key: foreign(key, kind) for key in OPTIONS if key in table} if kind else {}
    if kind is None and "input_args" in table:
        wrong["input_args"] = "belongs to an input that is package.module:callable"
    return {key: why for key, why in wrong.items() if why}


def misfit(key: str, value: object) -> str | None:
    """What is wrong with the value of one of `TABLES` by itself, or None."""
    if not isinstance(value, dict):
        return f"must be a table, as {_example(key)}, not {shown(value)}"
    if key == "input_args":
        return None if _is_plain(value) else "holds a date, a time, or a number that is none; give it as a string"
    if key == "input":
        odd = next((name for name, file in value.items() if not (name and _is_path(file))), None)
        if odd is not None or not value:
            return f"must give a .npy file for each input, as {_example(key)}, not {shown(value)}"
        return None
    if key == "image":
        return _wrong_in(value, ImageOptions)
    for name, options in value.items():
        wrong = _wrong_in(options, FeatureOptions) if isinstance(options, dict) else f"must be a table, not {options!r}"
        if wrong is not None:
            return f"{name}: {wrong}"
    return None


def _wrong_in(table: Mapping[str, Any], options: type[msgspec.Struct]) -> str | None:
    for key, value in table.items():
        known = get_type_hints(options)
        if key not in known:
            return f"{key}: no such key; {meant(key, known)}"
        try:
            msgspec.convert({key: value}, options)
        except msgspec.ValidationError:
            return f"{key}: must be {_HINTS[key]}, not {shown(value)}"
        most = 1 << 16 if key == "size" else 1 << 31  # of a picture; of any other tensor
        if isinstance(value, list) and any(size not in range(1, most) for size in value):
            return f"{key}: must be {_HINTS[key]}, not {shown(value)}"
        if isinstance(value, str) and not (value and value.isprintable()):
            return f"{key}: {shown(value)} is empty, or has characters that do not print"
    return None


def _is_path(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()


def _is_plain(value: object) -> bool:
    if isinstance(value, dict | list):
        return all(map(_is_plain, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _example(key: str) -> str:
    return {
        "input": '{ image = "images.npy", age = "ages.npy" }',
        "image": '{ size = [224, 224], scale = "0..1" }',
        "features": '{ image = { feature = "pixels" } }',
        "input_args": '{ split = "test" }',
    }[key]
