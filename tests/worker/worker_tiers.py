"""Models and workers at tier `staged`, on a second CPU device in a GPU's place. Runs in a host's child.

TensorFlow's placement is real there: what lies on one logical CPU device is copied to be used on the other.
"""

from __future__ import annotations

import errno
import gc
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import keras
import numpy as np
import tensorflow as tf

import baton
from daemon.worker import models
from daemon.worker.failures import is_out_of_memory
from daemon.worker.staging import Wanted

TARGET = "/CPU:1"
ROWS = 5
SEEDS_BYTES = 4 * 16  # a .keras file does not hold the states of its random generators
EAGER = tf.__internal__.EagerTensor


def two_cpus() -> None:
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def placed() -> dict[str, list[int]]:
    """What lies on which device: bytes of variables that hold something, how many hold nothing, bytes of tensors."""
    found: dict[str, list[int]] = {}
    gc.unfreeze()
    for thing in gc.get_objects():
        if isinstance(thing, tf.Variable) and not isinstance(getattr(thing, "handle", None), EAGER):
            continue  # it stands for one in a graph
        if isinstance(thing, tf.Variable):
            where = found.setdefault(thing.device[-5:], [0, 0, 0])
            if thing.is_initialized():
                where[0] += int(np.prod(thing.shape)) * thing.dtype.size
            else:
                where[1] += 1
        elif isinstance(thing, EAGER) and thing.dtype.size:
            found.setdefault(thing.device[-5:], [0, 0, 0])[2] += int(np.prod(thing.shape)) * thing.dtype.size
    return found


class Watched(baton.Channel):
    """Says, each time that it is ready, what lies where."""

    path: Path

    def ready(self, tier: str, total: int | None = None) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"tier": tier} | placed()) + "\n")
        super().ready(tier, total)


def serve_watched(path: str, fd: int) -> NoReturn:
    """The built-in worker with the second CPU device as its target."""
    from daemon.worker import main

    two_cpus()
    Watched.path = Path(path)
    baton.Channel = Watched  # type: ignore[misc]
    main.serve(fd, TARGET)


def serve_on(target: str, fd: int) -> NoReturn:
    from daemon.worker import main

    main.serve(fd, target)


def serve_with_temporary_folder(folder: str, fd: int) -> NoReturn:
    from daemon.worker import main

    tempfile.tempdir = folder
    main.serve(fd)


# Models of every kind that is staged in its own way, each with its input.

Made = Iterator[tuple[str, Any, Callable[[Path], None]]]


class Net(tf.Module):
    """A dense net with all that a SavedModel may hold beside weights."""

    def __init__(self, vocabulary: Path) -> None:
        self.inner = {"w": [tf.Variable(tf.random.stateless_normal([8, 8], [i, 1])) for i in range(3)]}
        self.frozen = tf.Variable(tf.random.stateless_normal([8], [9, 9]), trainable=False)
        self.half = tf.Variable(tf.cast(tf.random.stateless_normal([8], [9, 8]), tf.bfloat16))
        self.unused = tf.Variable(tf.zeros([1000]))
        self.scale = tf.constant(np.linspace(1, 2, 8, dtype=np.float32))
        pairs = tf.lookup.KeyValueTensorInitializer(["a", "b"], [3.0, 4.0])
        self.table = tf.lookup.StaticHashTable(pairs, -1.0)
        index = tf.lookup.TextFileIndex
        lines = tf.lookup.TextFileInitializer(str(vocabulary), tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER)
        self.words = tf.lookup.StaticHashTable(lines, -1)

    def plain(self, x: Any) -> Any:
        for w in self.inner["w"]:
            x = tf.tanh(x @ w) * self.scale
        return {"y": x + self.frozen + tf.cast(self.half, tf.float32)}

    def looked_up(self, x: Any) -> Any:
        text = tf.where(x[:, 0] > 0, "a", "b")
        word = tf.cast(self.words.lookup(text), tf.float32)
        return {"y": x @ self.inner["w"][0], "found": self.table.lookup(text), "word": word}


class Counting(tf.Module):
    """Its table's content is in the checkpoint, which only a plain load puts back."""

    def __init__(self) -> None:
        self.w = tf.Variable(tf.random.stateless_normal([8, 2], [1, 2]))
        self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)
        self.table.insert(tf.constant([1, 2], tf.int64), tf.constant([0.5, 0.25]))

    def call(self, x: Any) -> Any:
        return {"y": x @ self.w + self.table.lookup(tf.ones([tf.shape(x)[0], 2], tf.int64))}


def modules(root: Path) -> Made:
    (root / "words.txt").write_text("b\na\n")
    spec = [tf.TensorSpec([None, 8], tf.float32, "x")]
    net = Net(root / "words.txt")
    plain, looked_up = (tf.function(f, input_signature=spec) for f in (net.plain, net.looked_up))
    several = {"plain": plain, "looked_up": looked_up}
    many_files = tf.train.experimental.MaxShardSizePolicy(max_shard_size=300)
    split = tf.saved_model.SaveOptions(experimental_sharding_callback=many_files)
    counting = Counting()
    call = tf.function(counting.call, input_signature=spec)
    fixed = tf.Module()
    fixed.f = tf.function(lambda x: {"y": x @ np.full((8, 500), 0.5, np.float32)}, input_signature=spec)
    yield "net", None, lambda path: tf.saved_model.save(net, str(path), signatures=plain)
    yield "several", "looked_up", lambda path: tf.saved_model.save(net, str(path), signatures=several)
    yield "sharded", None, lambda path: tf.saved_model.save(net, str(path), signatures=plain, options=split)
    yield "counting", None, lambda path: tf.saved_model.save(counting, str(path), signatures=call)
    yield "constant", None, lambda path: tf.saved_model.save(fixed, str(path), signatures=fixed.f)
    yield "tf1", None, tensorflow_1


def make_large(path: str) -> None:
    """A model of 400 MB in a hundred pieces, that takes rows of four, and has slots of an optimizer beside."""
    module = tf.Module()
    module.parts = [tf.Variable(tf.fill([1000, 1000], float(number))) for number in range(100)]
    module.slots = [tf.Variable(tf.zeros([1000, 1000])) for _ in range(3)]
    module.first = module.parts[0]

    def call(x: Any) -> Any:
        return {"y": x[:, :2] * tf.add_n([part[0, 0] for part in module.parts])}

    spec = [tf.TensorSpec([None, 4], tf.float32, "x")]
    tf.saved_model.save(module, path, signatures=tf.function(call, input_signature=spec))


def tell_memory_errors() -> None:
    """Each error judged."""
    errors = tf.errors
    for told, error in MEMORY_ERRORS:
        assert is_out_of_memory(error) is told, error
    for told, kind, text in (
        (True, errors.ResourceExhaustedError, "OOM when allocating tensor with shape[64,1024] and type float on GPU:0"),
        (True, errors.InternalError, "Failed copying input tensor from CPU:0 to GPU:0: Dst tensor is not initialized."),
        (True, errors.InternalError, "cudaSetDevice() on GPU:0 failed. Status: out of memory"),
        (True, errors.InternalError, "failed initializing StreamExecutor: CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        (True, errors.InternalError, "failed to create cublas handle: CUBLAS_STATUS_NOT_INITIALIZED"),
        (True, errors.InternalError, "Blas GEMM launch failed : CUBLAS_STATUS_ALLOC_FAILED"),
        (True, errors.UnknownError, "Could not create cudnn handle: CUDNN_STATUS_ALLOC_FAILED"),
        (True, errors.FailedPreconditionError, "DNN: Could not create cudnn handle: CUDNN_STATUS_NOT_INITIALIZED"),
        (True, errors.NotFoundError, "No algorithm worked! Error messages: Profiling failed: RESOURCE_EXHAUSTED"),
        (True, errors.InternalError, "Failed to allocate 2147483648 bytes for new constant"),
        (False, errors.InvalidArgumentError, "assertion failed: [the shelf is out of memory]"),
        (False, errors.InternalError, "ptxas exited with non-zero error code 2"),
        (False, errors.UnknownError, "CUDNN_STATUS_EXECUTION_FAILED"),
        (False, errors.NotFoundError, "Op type not registered"),
    ):
        assert is_out_of_memory(kind(None, None, text)) is told, text


def tensorflow_1(path: Path) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None, 8], "x")
        w = tf.compat.v1.get_variable("w", [8, 3], initializer=tf.compat.v1.random_normal_initializer(seed=1))
        y = x @ w
        session.run(w.initializer)
        tf.compat.v1.saved_model.simple_save(session, str(path), {"x": x}, {"y": y})


def keras_models() -> Made:
    layers = keras.layers
    given = keras.Input((8,), name="x")
    shared = layers.Dense(8, activation="relu")
    hidden = layers.BatchNormalization()(shared(shared(layers.Dropout(0.3)(given))))
    inner = keras.Sequential([layers.Dense(5), layers.GaussianNoise(0.1)])
    functional = keras.Model(given, {"a": inner(hidden), "b": layers.Dense(2)(hidden)})
    normal = layers.Normalization()
    normal.adapt(np.random.default_rng(1).random((100, 8), np.float32))
    trained = keras.Sequential([keras.Input((8,)), normal, layers.Dense(30, dtype="mixed_bfloat16"), layers.Dense(3)])
    trained.compile("adam", "mse")
    trained.fit(np.ones((9, 8), np.float32), np.ones((9, 3), np.float32), verbose=0)
    steps = layers.Reshape((4, 2))
    recurrent = keras.Sequential([keras.Input((8,)), steps, layers.Bidirectional(layers.LSTM(3)), layers.Dense(2)])
    quantized = keras.Sequential([keras.Input((8,)), layers.Dense(30)])
    quantized.quantize("int8")
    known = {"functional": functional, "trained": trained, "recurrent": recurrent, "quantized": quantized}
    rng = np.random.default_rng(2)
    for name, model in known.items():
        for variable in model.variables:  # no bias is zero, and no mean
            if variable.dtype == "float32":
                variable.assign(rng.random(variable.shape))
        yield f"{name}.keras", None, model.save
        if name != "quantized":  # Keras cannot export that, nor does .h5 keep it
            yield f"{name}-export", None, partial(export, model)
            yield f"{name}.h5", None, model.save
    text = keras.Sequential(
        [keras.Input((8,)), layers.Discretization([0.1, 0.9]), layers.IntegerLookup(vocabulary=[1])]
    )
    yield "lookup.keras", None, text.save
    lookup = layers.IntegerLookup()
    lookup.adapt(np.array([1, 2]))
    embedded = keras.Sequential([keras.Input((8,)), layers.Discretization([0.1, 0.9]), lookup, layers.Embedding(4, 30)])
    yield "lookup-export", None, partial(export, embedded)


def export(model: Any, path: Path) -> None:
    model.export(str(path), verbose=False)


def reference(path: Path, signature: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """What TensorFlow and Keras themselves make of the file."""
    if path.is_dir():
        loaded = tf.saved_model.load(str(path))
        return {name: value.numpy() for name, value in loaded.signatures[signature](tf.constant(x)).items()}
    model = keras.saving.load_model(path, compile=False)
    outputs = tf.function(lambda x: model(x, training=False))(tf.constant(x))
    flat = [outputs[name] for name in sorted(outputs)] if isinstance(outputs, dict) else [outputs]
    return {str(number): value.numpy() for number, value in enumerate(flat)}


MEMORY_ERRORS = (
    (True, MemoryError("std::bad_alloc")),
    (True, OSError(errno.ENOMEM, "Cannot allocate memory")),
    (True, RuntimeError("CUDA runtime implicit initialization on GPU:0 failed. Status: out of memory")),
    (True, RuntimeError("Failed to create cuda context: CUDA_ERROR_OUT_OF_MEMORY")),
    (False, OSError(errno.ENOENT, "No such file or directory")),
    (False, RuntimeError("the model refuses")),
    (False, KeyError("out of memory")),
)
WHOLE = ("counting", "lookup-export")  # what nobody can take apart
IN_SESSION = ("tf1",)  # its variables are a session's: no object of Python holds them


def stage_each(folder: str, kind: str, *names: str) -> None:
    """The models of those names staged, looked at, loaded, and called: with equal bits, and on the target only."""
    two_cpus()
    root = Path(folder)
    x = np.random.default_rng(3).normal(size=(ROWS, 8)).astype(np.float32)
    made = {name: rest for name, *rest in (modules(root) if kind == "module" else keras_models())}
    for name in names:
        signature, save = made[name]
        path = root / name
        save(path)
        check(path, signature, x, hold=True)
        check(path, signature, x, hold=False)


def check(path: Path, wanted: str | None, x: np.ndarray, *, hold: bool) -> None:
    keras.backend.clear_session()
    expected = reference(path, wanted or "serving_default", x)
    gc.collect()
    before = placed().get("CPU:1", [0, 0, 0])
    staged = models.stage(path, Wanted(wanted), TARGET, hold=hold)
    if hold:
        weights, _, constants = np.subtract(placed().get("CPU:1", [0, 0, 0]), before)
        assert weights == 0, (path, weights)
        assert constants < 64 + 8 * 4, (path, constants)  # of Net: its scale, a default, handles
    model = staged.load()
    outputs = model.call({next(iter(staged.signature.inputs)): tf.constant(x)})
    gc.collect()  # Keras builds some layers more than once
    weights, _, _ = np.subtract(placed().get("CPU:1", [0, 0, 0]), before)
    if path.name in IN_SESSION:
        weights = 4 * 8 * 3
    else:
        assert all(value.device.endswith("CPU:1") for value in outputs.values()), path
    assert path.name in ("constant", "lookup.keras", *WHOLE) or weights > 0, (path, weights)
    weight = models.weigh(path, staged.signature.name)
    assert weights <= weight.variable_bytes + SEEDS_BYTES, (path, weights)  # what is saved twice is loaded once
    guess = weight.total_bytes
    assert guess >= weights - SEEDS_BYTES, (path, guess, weights)
    assert guess < weights * 1.5 + 40_000, (path, guess, weights)
    for (name, value), right in zip(sorted(outputs.items()), [expected[key] for key in sorted(expected)], strict=True):
        assert value.dtype == right.dtype, (path, name)
        assert np.array_equal(value if isinstance(value, np.ndarray) else value.numpy(), right), (path, name, hold)
    assert np.ptp(np.asarray(next(iter(outputs.values())))) > 0 or path.name in ("constant", "lookup.keras"), path
