"""What is said when a session cannot be run: one line with what, why and what to do. Knows no file format."""

from __future__ import annotations

import errno
import re
from typing import Final, Literal

import tensorflow as tf

import baton

Key = Literal["model", "signature", "batch_size", "input", "output"]

KIND_OF_KEY: Final[dict[Key, str]] = {
    "model": "model",
    "signature": "model",
    "batch_size": "model",
    "input": "input",
    "output": "output",
}
NOISE: Final = re.compile(
    r"^(Graph execution error:|Detected at node|Node: '|Stack trace|<stack traces|File \"|Traceback|\s*$"
    r"|\d+ root error)"
)
# How TensorFlow, CUDA and its libraries tell it in an error of another type; the two handles cannot be made where a
# card is full, and a copy to a device finds its "Dst tensor" without memory.
OUT_OF_MEMORY: Final = re.compile(
    r"OOM when allocating|RESOURCE_EXHAUSTED|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|std::bad_alloc"
    r"|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED|CUSOLVER_STATUS_ALLOC_FAILED|CUFFT_ALLOC_FAILED"
    r"|could not create cudnn handle|failed to create cublas handle|Dst tensor is not initialized"
    r"|failed to allocate|cannot allocate memory|\bout of memory\b",
    re.IGNORECASE,
)
DECORATION: Final = re.compile(r"\{\{[^}]*\}\}\s*|\s*\[Op:\w+\](\s*name:)?")


class Refused(baton.Failure):
    """A session that cannot be run as its file stands; `key` is the line of the file to look at."""

    def __init__(self, key: Key, reason: str, item: int | None = None) -> None:
        super().__init__(KIND_OF_KEY[key], reason, item)
        self.key = key


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or the device ran out of memory: by the error's type, or by what a driver or library said.

    A model's own assertion is no such error, whatever its text.
    """
    if isinstance(error, MemoryError | tf.errors.ResourceExhaustedError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    # Keras re-raises as RuntimeError and ValueError, TensorFlow's start-up as RuntimeError
    speaks = isinstance(error, tf.errors.OpError | RuntimeError | ValueError)
    return speaks and not isinstance(error, tf.errors.InvalidArgumentError) and bool(OUT_OF_MEMORY.search(_text(error)))


def out_of_memory(doing: str, error: Exception, item: int | None = None) -> baton.Failure:
    """The failure to report for an `error` that `is_out_of_memory`."""
    return baton.Failure(
        "memory", f"cannot {doing}: out of memory ({first_line(error)}); set a smaller batch_size", item
    )


def first_line(error: Exception) -> str:
    """The line of an error's text that says what happened; TensorFlow's begin with where it happened."""
    text = error.message if isinstance(error, tf.errors.OpError) else _text(error)
    if isinstance(error, UnicodeDecodeError):  # TensorFlow quotes bytes of a record, and pybind trips over them
        text = error.object.decode("utf-8", "backslashreplace")
    text = DECORATION.sub("", text.split("[[")[0])
    lines = [line.strip() for line in text.splitlines() if not NOISE.match(line.strip())]
    line = lines[0] if lines else type(error).__name__
    return line.rstrip(".;:")[:400]


def told(error: BaseException) -> str:
    """What a session's own code raised: its type, and the line that says what happened."""
    name = type(error).__name__
    return f"{name}: {first_line(error)}" if isinstance(error, Exception) else name


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - the type is a session's own, and so is the code that makes it a text
        return ""
