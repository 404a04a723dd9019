"""Answers what only TensorFlow can tell of a session before it is queued. Runs no model, writes no file.

Request, one line: `{"type": "inspect", "specs": [<SessionSpec>, ...]}`. Answer, one line for each, in order:
`{"type": "inspected", "session", "error": null or {"key", "reason"}, "total", "cursor", "fingerprint",
"need_bytes", "signature", "inputs", "outputs"}`. What was not found out because of the error is null.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, Final

import msgspec

import baton
from daemon.sessionfile import SessionSpec
from daemon.worker import fingerprint, folder, inputs, models
from daemon.worker.batch import check_batch_size, identity_of
from daemon.worker.failures import Refused
from daemon.worker.signature import Signature, Tensor

# Of a worker with TensorFlow imported and a small model called once, 0.56 GB of resident memory were measured;
# weights were there twice after a load of either format's worse case.
BASE_BYTES: Final = 600 << 20
WEIGHT_COPIES: Final = 2
BATCH_COPIES: Final = 4  # two read ahead, one in use, one in conversion


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
        ("error", "total", "fingerprint", "need_bytes", "signature", "inputs", "outputs")
    )
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
    found["need_bytes"] = _need_bytes(spec, signature, source)
    identity = identity_of(spec, signature, source.total)
    directory = Path(spec.output)
    manifest = folder.survey(directory, identity, overwrite=spec.overwrite, resume=False)
    found["cursor"] = manifest.cursor if manifest else 0


def _plain(tensors: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    return {name: {"dtype": tensor.dtype, "shape": tensor.shape} for name, tensor in tensors.items()}


def _need_bytes(spec: SessionSpec, signature: Signature, source: inputs.Input) -> int:
    """A first guess of host memory: base + 2 x model files + 4 x one batch of the inputs.

    What runs inside the model is unknown here: the first run's measured peak takes this guess's place.
    """
    assert spec.model is not None
    item_bytes = sum(
        math.prod(shape) * inputs.value_bytes(signature.inputs[name].dtype)
        for name, shape in source.item_shapes.items()
    )
    files_bytes = fingerprint.size_bytes(Path(spec.model))
    return BASE_BYTES + WEIGHT_COPIES * files_bytes + BATCH_COPIES * spec.batch_size * item_bytes
