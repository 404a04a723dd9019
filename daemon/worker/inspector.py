"""Answers what only TensorFlow can tell of a session before it is queued. Runs no model, writes no file.

Request, one line: `{"type": "inspect", "specs": [<SessionSpec>, ...]}`. Answer, one line for each, in order:
`{"type": "inspected", "session", "error": null or {"key", "reason"}, "total", "cursor", "fingerprint", "tensorflow",
"weights_bytes", "need_bytes", "device_bytes", "signature", "inputs", "outputs"}`. What was not found out because of the
error is null.

`tensorflow` is its version. `weights_bytes` are those of the signature's weights once they are loaded: by the files'
own account of shapes and dtypes, without what is saved twice or is an optimizer's; the files' size where they give
none. `need_bytes` is a first guess of the host memory that the session takes with a CPU as its device, `device_bytes`
one of the memory it takes of a GPU, without the context, which costs each process the same. A measured peak takes the
place of either.

A spec without input and output asks of the model alone. Its answer has, beside `session` and `error`, `found`: the
fields of `daemon.results.InspectResult`, or null.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, Final

import msgspec
import tensorflow as tf

import baton
from daemon.modelversions import version_number
from daemon.sessionfile import SessionSpec
from daemon.worker import fingerprint, folder, models
from daemon.worker.batch import check_batch_size, identity_of
from daemon.worker.failures import Refused
from daemon.worker.inputs import formats
from daemon.worker.inputs.batches import Input, value_bytes
from daemon.worker.signature import Signature, Tensor, item_count

# On the host. Of a worker with TensorFlow imported and a small model called once, 0.56 GB of resident memory were
# measured. Weights are there twice while they are loaded: as read from the file, and as the model has them.
BASE_BYTES: Final = 600 << 20
WEIGHT_COPIES: Final = 2
BATCH_COPIES: Final = 4  # two read ahead, one in use, one in conversion

# On a GPU. Weights lie there once; the allocator rounds each up, and libraries keep some in a layout of their own.
DEVICE_WEIGHTS_FACTOR: Final = 1.2
# Of one batch of the inputs: some are there ahead, the rest is for what the model makes of them layer by layer, two of
# which are there at once, each maybe several times as large as its input.
DEVICE_BATCH_FACTOR: Final = 16
# Work spaces: cuBLAS takes up to 32 MiB a stream, a convolution's algorithm what it likes while it is being chosen.
DEVICE_WORKSPACE_BYTES: Final = 256 << 20


def answer(socket_fd: int) -> None:
    """Read the request from the socket, and write one line for each of its specs."""
    with open(socket_fd, "r+b", buffering=0) as stream:
        request = b""
        while not request.endswith(b"\n"):
            chunk = stream.read(1 << 16)
            if not chunk:
                return  # nobody is there to be answered
            request += chunk
        for spec in json.loads(request)["specs"]:
            line = json.dumps(_answered(msgspec.convert(spec, SessionSpec))).encode() + b"\n"
            while line:
                line = line[os.write(socket_fd, line) :]


def _answered(spec: SessionSpec) -> dict[str, Any]:
    return surveyed(spec) if spec.output is None else inspected(spec)


def inspected(spec: SessionSpec) -> dict[str, Any]:
    """The answer for one session that has `model`, `input` and `output`."""
    found: dict[str, Any] = dict.fromkeys(
        (
            "error",
            "total",
            "fingerprint",
            "weights_bytes",
            "need_bytes",
            "device_bytes",
            "signature",
            "inputs",
            "outputs",
        )
    )
    found["tensorflow"] = tf.__version__
    try:
        _inspect(models.pinned(spec), found)
    except baton.Failure as failure:
        found["error"] = _error(failure)
    return {"type": "inspected", "session": spec.name, "cursor": found.pop("cursor", 0), **found}


def surveyed(spec: SessionSpec) -> dict[str, Any]:
    """The answer for a spec of a model alone."""
    error, found = None, None
    try:
        found = _survey(models.pinned(spec))
    except baton.Failure as failure:
        error = _error(failure)
    return {"type": "inspected", "session": spec.name, "error": error, "found": found}


def _error(failure: baton.Failure) -> dict[str, str]:
    """One without a key is memory's: the model does not fit on this host."""
    return {"key": failure.key if isinstance(failure, Refused) else "model", "reason": failure.reason}


def _inspect(spec: SessionSpec, found: dict[str, Any]) -> None:
    assert spec.model is not None
    assert spec.input is not None
    assert spec.output is not None
    model = Path(spec.model)
    signature = models.describe(model, models.wanted_by(spec))
    found["fingerprint"] = fingerprint.of_path(model)
    found["signature"] = signature.name
    found["inputs"] = _plain(signature.inputs)
    found["outputs"] = _plain(signature.outputs)
    check_batch_size(spec, signature.fixed_batch)
    source = formats.open_input(spec, signature)
    found["total"] = source.total
    weights_bytes, batch_bytes = models.weigh(model, signature.name).total_bytes, _batch_bytes(spec, signature, source)
    found["weights_bytes"] = weights_bytes
    found["need_bytes"], found["device_bytes"] = _needs(weights_bytes, batch_bytes)
    identity = identity_of(spec, signature, source)
    directory = Path(spec.output)
    manifest = folder.survey(directory, identity, overwrite=spec.overwrite, resume=False)
    found["cursor"] = manifest.cursor if manifest else 0


def _survey(spec: SessionSpec) -> dict[str, Any]:
    assert spec.model is not None
    model = Path(spec.model)
    survey = models.survey(model, models.wanted_by(spec))
    return {
        "model": spec.model,
        "kind": survey.kind,
        "version": version_number(model),
        "fingerprint": fingerprint.of_path(model),
        "size_bytes": fingerprint.size_bytes(model),
        "tensorflow": tf.__version__,
        "batch_size": spec.batch_size,
        "signatures": [_signature_view(model, name, spec, found) for name, found in survey.signatures.items()],
    }


def _signature_view(model: Path, name: str, spec: SessionSpec, found: Signature | Refused) -> dict[str, Any]:
    """As `daemon.results.SignatureView` has it. A batch is taken to be of the model's own sizes, free ones as 1."""
    if isinstance(found, Refused):
        return {"name": name, "problem": found.reason}
    weight = models.weigh(model, name)
    item_bytes = sum(item_count(t.item_shape or ()) * value_bytes(t.dtype) for t in found.inputs.values())
    need_bytes, device_bytes = _needs(weight.total_bytes, (found.fixed_batch or spec.batch_size) * item_bytes)
    return {
        "name": name,
        "inputs": _views(found.inputs),
        "outputs": _views(found.outputs),
        "parameters": weight.parameters,
        "parameter_bytes": weight.variable_bytes,
        "need_bytes": need_bytes,
        "device_bytes": device_bytes,
    }


def _views(tensors: dict[str, Tensor]) -> list[dict[str, Any]]:
    return [{"name": name, **plain} for name, plain in _plain(tensors).items()]


def _needs(weights_bytes: int, batch_bytes: int) -> tuple[int, int]:
    """Guesses of the memory taken of the host with a CPU as the device, and of a GPU."""
    host_bytes = BASE_BYTES + WEIGHT_COPIES * weights_bytes + BATCH_COPIES * batch_bytes
    device_bytes = int(DEVICE_WEIGHTS_FACTOR * weights_bytes) + DEVICE_BATCH_FACTOR * batch_bytes
    return host_bytes, device_bytes + DEVICE_WORKSPACE_BYTES


def _plain(tensors: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    return {name: {"dtype": tensor.dtype, "shape": tensor.shape} for name, tensor in tensors.items()}


def _batch_bytes(spec: SessionSpec, signature: Signature, source: Input) -> int:
    """Bytes of one batch of all inputs."""
    item_bytes = sum(
        math.prod(shape) * value_bytes(signature.inputs[name].dtype) for name, shape in source.item_shapes.items()
    )
    return spec.batch_size * item_bytes
