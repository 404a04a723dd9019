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
from daemon.sessionfile import SessionSpec
from daemon.worker import fingerprint, folder, inputs, models
from daemon.worker.batch import check_batch_size, identity_of
from daemon.worker.failures import Refused
from daemon.worker.signature import Signature, Tensor

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
            line = json.dumps(inspected(msgspec.convert(spec, SessionSpec))).encode() + b"\n"
            while line:
                line = line[os.write(socket_fd, line) :]


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
        _inspect(spec, found)
    except Refused as refused:
        found["error"] = {"key": refused.key, "reason": refused.reason}
    except baton.Failure as failure:  # memory: the model does not fit on this host
        found["error"] = {"key": "model", "reason": failure.reason}
    return {"type": "inspected", "session": spec.name, "cursor": found.pop("cursor", 0), **found}


def _inspect(spec: SessionSpec, found: dict[str, Any]) -> None:
    assert spec.model is not None
    assert spec.input is not None
    assert spec.output is not None
    model = Path(spec.model)
    signature = models.describe(model, spec.signature)
    found["fingerprint"] = fingerprint.of_path(model)
    found["signature"] = signature.name
    found["inputs"] = _plain(signature.inputs)
    found["outputs"] = _plain(signature.outputs)
    check_batch_size(spec, signature.fixed_batch)
    source = inputs.open_input(spec.input, signature, skip=spec.on_error == "skip")
    found["total"] = source.total
    weights_bytes, batch_bytes = models.weights_bytes(model, signature.name), _batch_bytes(spec, signature, source)
    found["weights_bytes"] = weights_bytes
    found["need_bytes"] = BASE_BYTES + WEIGHT_COPIES * weights_bytes + BATCH_COPIES * batch_bytes
    found["device_bytes"] = (
        int(DEVICE_WEIGHTS_FACTOR * weights_bytes) + DEVICE_BATCH_FACTOR * batch_bytes + DEVICE_WORKSPACE_BYTES
    )
    identity = identity_of(spec, signature, source.total)
    directory = Path(spec.output)
    manifest = folder.survey(directory, identity, overwrite=spec.overwrite, resume=False)
    found["cursor"] = manifest.cursor if manifest else 0


def _plain(tensors: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    return {name: {"dtype": tensor.dtype, "shape": tensor.shape} for name, tensor in tensors.items()}


def _batch_bytes(spec: SessionSpec, signature: Signature, source: inputs.Input) -> int:
    """Bytes of one batch of all inputs."""
    item_bytes = sum(
        math.prod(shape) * inputs.value_bytes(signature.inputs[name].dtype)
        for name, shape in source.item_shapes.items()
    )
    return spec.batch_size * item_bytes
