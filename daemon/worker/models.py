"""Models from disk: what each takes and gives, and how it gets ready. Knows neither inputs nor outputs.

`FORMATS` is the place to add a format: how it is recognised, described cheaply, weighed and staged.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec
import tensorflow as tf

from daemon.modelversions import version_of
from daemon.sessionfile import SessionSpec
from daemon.worker import fingerprint, kerasmodel, savedmodel
from daemon.worker.failures import Refused, first_line, is_out_of_memory, out_of_memory
from daemon.worker.signature import Signature
from daemon.worker.staging import Staged, Wanted, Weight, cannot

T = TypeVar("T")
# What TensorFlow, zlib and zipfile raise for files that are there, and not whole.
DAMAGED: Final = (tf.errors.DataLossError, tf.errors.OutOfRangeError, zlib.error, zipfile.BadZipFile)


class Format(Protocol):
    """One kind of model on disk: a module that has these."""

    NAME: str

    def recognises(self, path: Path, /) -> bool:
        """Whether it lies there, by a look."""

    def kind(self, path: Path, /) -> str:
        """For people, in a few words."""

    def signatures(self, path: Path, /) -> list[str]:
        """The names of all there are."""

    def describe(self, path: Path, wanted: Wanted, /) -> Signature:
        """The signature asked for, as cheaply as it goes. May raise anything, as `stage` may."""

    def weigh(self, path: Path, name: str, /) -> Weight:
        """What the signature of that name needs. May raise anything."""

    def stage(self, path: Path, wanted: Wanted, target: str, /, *, hold: bool) -> Staged:
        """The model for the device `target`, its weights not there yet.

        hold: read them into the host's memory now; else they are read when they are loaded, and never held twice.
        """


@dataclass(frozen=True)
class Survey:
    """A model with all its signatures by name: each as it can be used, or why it cannot be."""

    kind: str
    signatures: dict[str, Signature | Refused]


def pinned(spec: SessionSpec) -> SessionSpec:
    """The spec with the model's version in its path, where the path is a folder of versions.

    A session file's are pinned when it is submitted, but for sessions that wait for others (`after`): their model may
    not be there yet. Those mean the highest version there is when they are prepared.
    """
    if spec.model is None:
        return spec
    return msgspec.structs.replace(spec, model=str(version_of(Path(spec.model))))


def wanted_by(spec: SessionSpec) -> Wanted:
    """What the session asks of its model's file."""
    return Wanted(spec.signature, spec.safe_mode)


def describe(path: Path, wanted: Wanted) -> Signature:
    """What the model takes and gives, as cheaply as its format allows. Raises Refused (model, signature)."""
    return _guarded(path, lambda: _usable(path, _format_of(path).describe(path, wanted)))


def survey(path: Path, wanted: Wanted) -> Survey:
    """The signature asked for, or all of them. Raises Refused (model, signature)."""
    if wanted.signature is not None:
        signature = describe(path, wanted)
        return Survey(_kind(path), {signature.name: signature})
    names = _guarded(path, lambda: _format_of(path).signatures(path))
    if len(names) < 2:
        signature = describe(path, wanted)  # without any, this says so
        return Survey(_kind(path), {signature.name: signature})
    found: dict[str, Signature | Refused] = {}
    for name in names:
        try:
            found[name] = describe(path, replace(wanted, signature=name))
        except Refused as refused:
            if refused.key != "signature":  # the model as a whole
                raise
            found[name] = refused
    return Survey(_kind(path), found)


def weigh(path: Path, signature: str) -> Weight:
    """What the signature needs of memory once it is loaded; where that is not told, the bytes of the files."""
    try:
        return _format_of(path).weigh(path, signature)
    except Exception:  # noqa: BLE001 - a model that tells less still loads: the size of its files is a guess as well
        return Weight(None, fingerprint.size_bytes(path))


def stage(path: Path, wanted: Wanted, target: str, *, hold: bool) -> Staged:
    """The model without its weights on the device. Raises Refused (model, signature), or baton.Failure (memory).

    hold: as in `Format`. What it returns raises the same when it loads.
    """
    staged = _guarded(path, lambda: _format_of(path).stage(path, wanted, target, hold=hold))
    _usable(path, staged.signature)
    return Staged(staged.signature, lambda: _guarded(path, staged.load))


def _kind(path: Path) -> str:
    return _guarded(path, lambda: _format_of(path).kind(path))


def _format_of(path: Path) -> Format:
    if not path.exists():
        raise Refused("model", cannot(path, "it does not exist", "set model = the path of a model"))
    for format_ in FORMATS:
        if format_.recognises(path):
            return format_
    known = " or ".join(format_.NAME for format_ in FORMATS)
    why = "the directory holds no saved_model.pb" if path.is_dir() else _odd_file(path)
    raise Refused("model", cannot(path, why, f"set model = {known}"))


def _odd_file(path: Path) -> str:
    named = path.suffix in (kerasmodel.ZIPPED, *kerasmodel.HDF5)
    return f"it is no {path.suffix} file, or one that is cut short" if named else "its format is not known"


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
        told = first_line(error)
        why = f"its files are damaged or cut short ({told})" if _is_damage(error) else told
        raise Refused("model", cannot(path, why, "save the model again")) from error


def _is_damage(error: Exception) -> bool:
    """HDF5 raises an OSError that has no number, as the system has no part in it."""
    return isinstance(error, DAMAGED) or (isinstance(error, OSError) and error.errno is None)


FORMATS: Final[tuple[Format, ...]] = (savedmodel, kerasmodel)
