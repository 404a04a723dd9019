"""Models from disk: what each takes and gives, and how it gets ready. Knows neither inputs nor outputs.

`FORMATS` is the place to add a format: how it is recognised, described cheaply, weighed and staged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from daemon.worker import fingerprint, kerasmodel, savedmodel
from daemon.worker.failures import Refused, first_line, is_out_of_memory, out_of_memory
from daemon.worker.signature import Signature
from daemon.worker.staging import Staged, cannot

T = TypeVar("T")


class Stages(Protocol):
    """Stages the model at the path, with the signature asked for (None: the only one), for the device `target`.

    hold: read the weights into the host's memory now; else they are read when they are loaded, and never held twice.
    """

    def __call__(self, path: Path, wanted: str | None, target: str, *, hold: bool) -> Staged: ...


@dataclass(frozen=True)
class Format:
    """One kind of model on disk. `describe` gets the path and the signature asked for, or None."""

    name: str
    recognises: Callable[[Path], bool]
    describe: Callable[[Path, str | None], Signature]
    weights_bytes: Callable[[Path, str], int]  # for the signature of that name; may raise anything
    stage: Stages


def describe(path: Path, signature: str | None) -> Signature:
    """What the model takes and gives, as cheaply as its format allows. Raises Refused (model, signature)."""
    return _guarded(path, lambda: _usable(path, _format_of(path).describe(path, signature)))


def weights_bytes(path: Path, signature: str) -> int:
    """The bytes of the weights that the signature needs once they are loaded; where that is not told, of the files."""
    try:
        return _format_of(path).weights_bytes(path, signature)
    except Exception:  # noqa: BLE001 - a model that tells less still loads: the size of its files is a guess as well
        return fingerprint.size_bytes(path)


def stage(path: Path, signature: str | None, target: str, *, hold: bool) -> Staged:
    """The model without its weights on the device. Raises Refused (model, signature), or baton.Failure (memory).

    hold: as in `Stages`. What it returns raises the same when it loads.
    """
    staged = _guarded(path, lambda: _format_of(path).stage(path, signature, target, hold=hold))
    _usable(path, staged.signature)
    return Staged(staged.signature, lambda: _guarded(path, staged.load))


def _format_of(path: Path) -> Format:
    if not path.exists():
        raise Refused("model", cannot(path, "it does not exist", "set model = the path of a model"))
    for format_ in FORMATS:
        if format_.recognises(path):
            return format_
    known = " or ".join(format_.name for format_ in FORMATS)
    why = "the directory holds no saved_model.pb" if path.is_dir() else "the file is no .keras file"
    raise Refused("model", cannot(path, why, f"set model = {known}"))


def _usable(path: Path, signature: Signature) -> Signature:
    flat = [name for name, tensor in signature.inputs.items() if tensor.shape == ()]
    if flat or not signature.inputs:
        why = f"input '{flat[0]}' has no batch dimension" if flat else "it takes no inputs"
        raise Refused("signature", cannot(path, f"signature '{signature.name}': {why}", "choose another"))
    return signature


def _guarded(path: Path, act: Callable[[], T]) -> T:
    try:
        return act()
    except Refused:
        raise
    except Exception as error:  # a model is a program, and loading one runs it: it may raise anything
        if is_out_of_memory(error):
            raise out_of_memory(f"load '{path}'", error) from error
        raise Refused("model", cannot(path, first_line(error), "save the model again")) from error


FORMATS: Final = (
    Format(
        "a SavedModel directory",
        savedmodel.recognises,
        savedmodel.describe,
        savedmodel.weights_bytes,
        savedmodel.stage,
    ),
    Format("a .keras file", kerasmodel.recognises, kerasmodel.describe, kerasmodel.weights_bytes, kerasmodel.stage),
)
