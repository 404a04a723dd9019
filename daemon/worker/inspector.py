"""Answers what only TensorFlow can tell of a session before it is queued. Runs no model, writes no file.

Request, one line: `{"type": "inspect", "specs": [<SessionSpec>, ...]}`. Answer, one line for each, in order:
`{"type": "inspected", "session", "error": null or {"key", "reason"}, "total", "cursor", "fingerprint", "tensorflow",
"weights_bytes", "need_bytes", "device_bytes", "signature", "inputs", "outputs"}`. What was not found out because of the
error is null. Before it, `{"type": "inspecting", "key"}`: what of the spec is looked into from now on, `model`, `input`
or `output`. So who asks knows what it was when this process dies of it; whatever is raised is an `error`.

`tensorflow` is its version. `weights_bytes` are those of the signature's weights once they are loaded: by the files'
own account of shapes and dtypes, without what is saved twice or is an optimizer's; the files' size where they give
none. `need_bytes` is a first guess of the host memory that the session takes with a CPU as its device, `device_bytes`
one of the memory it takes of a GPU, without the context, which costs each process the same. A measured peak takes the
place of either.

A spec without input and output asks of the model alone. Its answer has, beside `session` and `error`, `found`: the
fields of `daemon.results.InspectResult`, or null.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
from pathlib import Path
from typing import Any, Final

import msgspec
import tensorflow as tf

import baton
from daemon.modelversions import version_number
from daemon.sessionfile import SessionSpec
from daemon.worker import children, fingerprint, folder, models
from daemon.worker.batch import check_batch_size, identity_of
from daemon.worker.failures import Key, Refused, told
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


class Line:
    """The way to who asks. Code of a session's may close it, put a file in its place, and fork."""

    def __init__(self, socket_fd: int) -> None:
        self._fd = socket_fd
        self._socket = os.fstat(socket_fd)
        self._pid = os.getpid()
        self.at: Key = "model"  # what was said last to be looked into

    def read(self) -> bytes:
        """The request; nothing where nobody is there to be answered."""
        request = b""
        while not request.endswith(b"\n"):
            chunk = os.read(self._fd, 1 << 16)
            if not chunk:
                return b""
            request += chunk
        return request

    def looking_into(self, key: Key) -> None:
        """Say that it begins."""
        self.at = key
        self.say({"type": "inspecting", "key": key})

    def say(self, message: dict[str, Any]) -> None:
        """Write one line. Where that cannot be, or another process does it, this one ends."""
        if os.getpid() != self._pid:
            os._exit(0)
        try:
            ours = os.path.samestat(os.fstat(self._fd), self._socket)
        except OSError:
            ours = False
        if not ours:
            with contextlib.suppress(OSError):  # that one may be closed as well
                os.write(2, b"the session's code closed a file descriptor that is not its own\n")
            os._exit(1)
        line = json.dumps(message).encode() + b"\n"
        while line:
            line = line[os.write(self._fd, line) :]


def answer(socket_fd: int) -> None:
    """Read the request from the socket, and write one line for each of its specs. Leaves no process behind."""
    children.adopt()
    os.environ[children.MARK] = children.mark()  # by it the daemon finds what is left when this process is killed
    line = Line(socket_fd)
    if request := line.read():
        threading.Thread(target=_end_with, args=(os.dup(socket_fd),), daemon=True).start()
        for plain in json.loads(request)["specs"]:
            spec = msgspec.convert(plain, SessionSpec)
            os.chdir("/")  # a function of the spec before may have had another
            line.say(surveyed(spec, line) if spec.output is None else inspected(spec, line))
    children.kill_descendants()


def _end_with(socket_fd: int) -> None:
    """End this process and its group when who asked is gone, whatever it is at: nothing more is said to it."""
    with contextlib.suppress(OSError):
        os.read(socket_fd, 1)  # in a copy of its own, which no code of a session's takes away from this call
    os.killpg(0, signal.SIGKILL)


def inspected(spec: SessionSpec, line: Line) -> dict[str, Any]:
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
        _inspect(models.pinned(spec), found, line)
    except BaseException as error:  # noqa: BLE001 - it ran code of the session's, which may raise anything
        found["error"] = _error(spec, error, line.at)
    return {"type": "inspected", "session": spec.name, "cursor": found.pop("cursor", 0), **found}


def surveyed(spec: SessionSpec, line: Line) -> dict[str, Any]:
    """The answer for a spec of a model alone."""
    error, found = None, None
    line.looking_into("model")
    try:
        found = _survey(models.pinned(spec))
    except BaseException as raised:  # noqa: BLE001 - as above
        error = _error(spec, raised, line.at)
    return {"type": "inspected", "session": spec.name, "error": error, "found": found}


def _error(spec: SessionSpec, error: BaseException, at: Key) -> dict[str, str]:
    """A failure without a key is memory's, there where it was looked."""
    if isinstance(error, baton.Failure):
        return {"key": error.key if isinstance(error, Refused) else at, "reason": error.reason}
    return {"key": at, "reason": f"cannot look into the {at} of '{spec.name}': {told(error)}; mend that"}


def _inspect(spec: SessionSpec, found: dict[str, Any], line: Line) -> None:
    assert spec.model is not None
    assert spec.input is not None
    assert spec.output is not None
    line.looking_into("model")
    model = Path(spec.model)
    signature = models.describe(model, models.wanted_by(spec))
    found["fingerprint"] = fingerprint.of_path(model)
    found["signature"] = signature.name
    found["inputs"] = _plain(signature.inputs)
    found["outputs"] = _plain(signature.outputs)
    check_batch_size(spec, signature.fixed_batch)
    line.looking_into("input")
    source = formats.open_input(spec, signature)
    found["total"] = source.total
    weights_bytes, batch_bytes = models.weigh(model, signature.name).total_bytes, _batch_bytes(spec, signature, source)
    found["weights_bytes"] = weights_bytes
    found["need_bytes"], found["device_bytes"] = _needs(weights_bytes, batch_bytes)
    identity = identity_of(spec, signature, source)
    line.looking_into("output")
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
