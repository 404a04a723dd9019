"""Makes a model of every kind that people bring, and what each gives when called directly. Runs in a host's child.

A maker gets the path to write to and the rows of its input, and returns the rows that the model gives for them.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import h5py
import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from worker_world import records

ITEMS: Final = 50
WIDTH: Final = 4
tf1 = tf.compat.v1

Rows = Mapping[str, np.ndarray]
Maker = Callable[[Path, np.ndarray], Rows]


def make(folder: str) -> None:
    """Every model of MAKERS below the folder, `x.npy`, and `NAME.OUTPUT.npy` for each output of each."""
    root = Path(folder)
    x = np.random.default_rng(1).normal(size=(ITEMS, WIDTH)).astype(np.float32)
    np.save(root / "x.npy", x)
    records(root / "x.tfrecord", [{"a": row, "b": row[:2], "text": _text(row)} for row in x])
    for name, maker in MAKERS.items():
        for output, rows in maker(root / name, x).items():
            np.save(root / f"{name.replace('/', '-')}.{output}.npy", rows)
    _damaged(root)


def _text(row: np.ndarray) -> bytes:
    return b"word " * (1 + int(abs(row[0]) * 3))


# SavedModels of TensorFlow 2


class Linear(tf.Module):
    """y = x · w, by an optimizer's hand where `optimizer` is given: then the variable has slots."""

    def __init__(self, optimizer: Any = None) -> None:
        self.w = tf.Variable(tf.random.stateless_normal([WIDTH, 3], [1, 2]))
        if optimizer is not None:
            self.optimizer = optimizer
            optimizer.apply_gradients([(tf.ones_like(self.w), self.w)])

    def __call__(self, x: Any) -> Any:
        return {"y": x @ self.w}


def save(module: tf.Module, path: Path, **functions: Any) -> None:
    tf.saved_model.save(module, str(path), signatures=functions)


def function_of(method: Any, *specs: Any) -> Any:
    return tf.function(method, input_signature=list(specs))


def several_signatures(path: Path, x: np.ndarray) -> Rows:
    module = Linear()
    spec = tf.TensorSpec([None, WIDTH], tf.float32, "x")

    def twice(x: Any) -> Any:
        return {"double": 2 * (x @ module.w), "sign": tf.sign(x[:, 0])}

    save(module, path, plain=function_of(module.__call__, spec), twice=function_of(twice, spec))
    return {name: value.numpy() for name, value in twice(x).items()}


def several_inputs(path: Path, x: np.ndarray) -> Rows:
    """Two of floats and one of text, by their features' names."""
    module = Linear()

    def call(a: Any, b: Any, text: Any) -> Any:
        length = tf.cast(tf.strings.length(text), tf.float32)
        return {"sum": tf.reduce_sum(a @ module.w, 1) + tf.reduce_sum(b, 1), "length": length}

    specs = [
        tf.TensorSpec([None, WIDTH], tf.float32, "a"),
        tf.TensorSpec([None, 2], tf.float32, "b"),
        tf.TensorSpec([None], tf.string, "text"),
    ]
    save(module, path, serving_default=function_of(call, *specs))
    rows = call(x, x[:, :2], tf.constant([_text(row) for row in x]))
    return {name: value.numpy() for name, value in rows.items()}


def of_any_rank(path: Path, x: np.ndarray) -> Rows:
    module = Linear()

    def call(x: Any) -> Any:
        return {"y": tf.tanh(x) * module.w[0, 0]}

    save(module, path, serving_default=function_of(call, tf.TensorSpec(None, tf.float32, "x")))
    return {"y": call(x)["y"].numpy()}


def with_slots(path: Path, x: np.ndarray) -> Rows:
    """What Keras 2 writes of a model with one of its legacy optimizers, by the same code of TensorFlow."""
    module = Linear(tf1.train.AdamOptimizer(0.1))
    save(module, path, serving_default=function_of(module.__call__, tf.TensorSpec([None, WIDTH], tf.float32, "x")))
    return {"y": module(x)["y"].numpy()}


def with_slots_and_assets(path: Path, x: np.ndarray) -> Rows:
    """Its table is filled from a file when it is loaded."""
    module = Linear(tf1.train.MomentumOptimizer(0.1, 0.9))
    vocabulary = path.parent / "slots-vocabulary.txt"
    vocabulary.write_text("a\nb\n")
    index = tf.lookup.TextFileIndex
    lines = tf.lookup.TextFileInitializer(str(vocabulary), tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER)
    module.table = tf.lookup.StaticHashTable(lines, -1)

    def call(x: Any) -> Any:
        return {"y": x @ module.w, "id": module.table.lookup(tf.where(x[:, 0] > 0, "b", "c"))}

    save(module, path, serving_default=function_of(call, tf.TensorSpec([None, WIDTH], tf.float32, "x")))
    expected = {name: value.numpy() for name, value in call(x).items()}
    vocabulary.unlink()  # the model has its own
    return expected


def with_slots_and_content(path: Path, x: np.ndarray) -> Rows:
    """Its table's content is in the checkpoint: nobody can take that apart."""
    module = Linear(tf1.train.AdamOptimizer(0.1))
    module.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)
    module.table.insert(tf.constant([0, 1], tf.int64), tf.constant([0.5, 0.25]))

    def call(x: Any) -> Any:
        return {"y": x @ module.w, "found": module.table.lookup(tf.cast(x[:, 0] > 0, tf.int64))}

    save(module, path, serving_default=function_of(call, tf.TensorSpec([None, WIDTH], tf.float32, "x")))
    return {name: value.numpy() for name, value in call(x).items()}


def with_content_alone(path: Path, x: np.ndarray) -> Rows:
    """It has no variable, and a checkpoint all the same."""
    module = tf.Module()
    module.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)
    module.table.insert(tf.constant([0, 1], tf.int64), tf.constant([0.5, 0.25]))

    def call(x: Any) -> Any:
        return {"found": module.table.lookup(tf.cast(x[:, 0] > 0, tf.int64))}

    save(module, path, serving_default=function_of(call, tf.TensorSpec([None, WIDTH], tf.float32, "x")))
    return {"found": call(x)["found"].numpy()}


def exported(path: Path, x: np.ndarray) -> Rows:
    """Keras writes every weight of it twice."""
    model = keras.Sequential([keras.Input((WIDTH,), name="x"), keras.layers.Dense(3, name="last")])
    model.export(str(path), verbose=False)
    return {"output_0": model(x).numpy()}


def served(path: Path, x: np.ndarray) -> Rows:
    """Three versions, each another model; the last one is still being copied."""
    for version in ("2", "9"):
        several_signatures(path / version, x)
    (path / "11" / "variables").mkdir(parents=True)
    return with_slots(path / "10", x)


# SavedModels of TensorFlow 1


def _write_tf1(
    path: Path, build: Callable[[], tuple[dict[str, Any], dict[str, Any]]], x: np.ndarray, **more: Any
) -> Rows:
    """The graph that `build` gives inputs and outputs of, with initial values, and its rows."""
    with tf.Graph().as_default(), tf1.Session(config=tf1.ConfigProto(allow_soft_placement=True)) as session:
        inputs, outputs = build()
        session.run([tf1.global_variables_initializer(), tf1.tables_initializer()])
        builder = tf1.saved_model.Builder(str(path))
        signature = tf1.saved_model.predict_signature_def(inputs, outputs)
        assets = tf1.get_collection(tf1.GraphKeys.ASSET_FILEPATHS) or None
        init = {key: tf1.tables_initializer() for key in more.get("init", ())}
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, assets_collection=assets, **init
        )
        builder.save()
        rows: Rows = session.run(outputs, {inputs["x"]: x})
        return rows


def _variables(x: Any) -> Any:
    """A reference variable and a resource, made on a GPU where there is one, as the graph then says."""
    with tf.device("/device:GPU:0"):
        normal = tf1.random_normal_initializer(seed=1)
        w = tf1.get_variable("w", [WIDTH, 3], initializer=normal, use_resource=False)
        b = tf1.get_variable("b", [3], initializer=normal, use_resource=True)
        return x @ w + b


def _placeholder() -> Any:
    return tf1.placeholder(tf.float32, [None, WIDTH], "x")


def of_tensorflow_1(path: Path, x: np.ndarray) -> Rows:
    def build() -> Any:
        given = _placeholder()
        return {"x": given}, {"y": _variables(given), "label": tf.argmax(given, 1)}

    return _write_tf1(path, build, x)


def _with_table(path: Path, x: np.ndarray, init: str) -> Rows:
    vocabulary = path.parent / "vocabulary.txt"
    vocabulary.write_text("a\nb\n")

    def build() -> Any:
        given = _placeholder()
        asset = tf.constant(str(vocabulary))
        tf1.add_to_collection(tf1.GraphKeys.ASSET_FILEPATHS, asset)
        index = tf.lookup.TextFileIndex
        lines = tf.lookup.TextFileInitializer(asset, tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER)
        words = tf.lookup.StaticHashTable(lines, -1)
        return {"x": given}, {"y": _variables(given), "id": words.lookup(tf.where(given[:, 0] > 0, "b", "c"))}

    rows = _write_tf1(path, build, x, init=(init,))
    vocabulary.unlink()
    return rows


def of_tensorflow_1_with_main_op(path: Path, x: np.ndarray) -> Rows:
    return _with_table(path, x, "main_op")


def of_tensorflow_1_with_legacy_init_op(path: Path, x: np.ndarray) -> Rows:
    return _with_table(path, x, "legacy_init_op")


def of_tensorflow_1_that_checks(path: Path, x: np.ndarray) -> Rows:
    def build() -> Any:
        given = _placeholder()
        with tf.control_dependencies([tf1.assert_less(given, 100.0, message="too large a value")]):
            return {"x": given}, {"y": _variables(tf.identity(given))}

    return _write_tf1(path, build, x)


# Keras' files


def _dense() -> Any:
    return keras.Sequential(
        [
            keras.Input((WIDTH,), name="x"),
            keras.layers.Dense(5, activation="relu", name="hidden"),
            keras.layers.BatchNormalization(name="normal"),
            keras.layers.Dense(3, name="last"),
        ]
    )


def of_keras(path: Path, x: np.ndarray) -> Rows:
    """Trained, so that it has an optimizer's values beside its own."""
    model = _dense()
    model.compile("adam", "mse")
    model.fit(x, np.ones((ITEMS, 3), np.float32), verbose=0)
    model.save(path)
    return {"last": model(x, training=False).numpy()}


def of_keras_in_parts(path: Path, x: np.ndarray) -> Rows:
    given = keras.Input((WIDTH,), name="x")
    hidden = keras.layers.Dense(5)(given)
    model = keras.Model(given, {"a": keras.layers.Dense(2)(hidden), "b": keras.layers.Dense(3)(hidden)})
    model.save(path)
    return {name: rows.numpy() for name, rows in model(x).items()}


def of_keras_2(path: Path, x: np.ndarray) -> Rows:
    """An .h5 file as Keras 2 writes one: its words for layers, its names of weights, its optimizer's values."""
    rng = np.random.default_rng(7)
    dense = {"kernel:0": rng.normal(size=(WIDTH, 5)), "bias:0": rng.normal(size=5)}
    normal = {name: rng.random(5) + 0.5 for name in ("gamma:0", "beta:0", "moving_mean:0", "moving_variance:0")}
    last = {"kernel:0": rng.normal(size=(5, 3)), "bias:0": rng.normal(size=3)}
    axis = {"axis": [1], "momentum": 0.99, "epsilon": 0.001, "center": True, "scale": True}
    layers = [
        ("InputLayer", {"batch_input_shape": [None, WIDTH], "dtype": "float32", "sparse": False, "name": "x"}),
        ("Dense", {"name": "dense", "trainable": True, "dtype": "float32", "units": 5, "activation": "relu"}),
        ("BatchNormalization", {"name": "normal", "trainable": True, "dtype": "float32", **axis}),
        ("Dense", {"name": "last", "trainable": True, "dtype": "float32", "units": 3, "activation": "linear"}),
    ]
    config = {"name": "old", "layers": [{"class_name": kind, "config": values} for kind, values in layers]}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": config})
        file.attrs["keras_version"], file.attrs["backend"] = "2.13.1", "tensorflow"
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = [b"x", b"dense", b"normal", b"last"]
        for layer, arrays in {"x": {}, "dense": dense, "normal": normal, "last": last}.items():
            group = weights.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{name}".encode() for name in arrays]
            for name, array in arrays.items():
                group.create_dataset(f"{layer}/{name}", data=array.astype(np.float32))
        file.create_dataset("optimizer_weights/Adam/m/dense/kernel:0", data=np.zeros((WIDTH, 5), np.float32))
    hidden = np.maximum(x @ dense["kernel:0"] + dense["bias:0"], 0)
    scale = normal["gamma:0"] / np.sqrt(normal["moving_variance:0"] + 0.001)
    hidden = (hidden - normal["moving_mean:0"]) * scale + normal["beta:0"]
    return {"last": (hidden @ last["kernel:0"] + last["bias:0"]).astype(np.float32)}


def of_keras_2_by_depth(path: Path, x: np.ndarray) -> Rows:
    """Keras 2 says of this layer, which every MobileNet is made of, how many groups it has."""
    layers = keras.layers
    depthwise = layers.DepthwiseConv2D(2, name="depthwise")
    model = keras.Sequential([keras.Input((WIDTH,)), layers.Reshape((2, 2, 1)), depthwise, layers.Flatten(name="last")])
    model.save(path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        (of_layer,) = (each for each in config["config"]["layers"] if each["class_name"] == "DepthwiseConv2D")
        of_layer["config"]["groups"] = 1
        file.attrs["model_config"] = json.dumps(config)
    return {"last": model(x).numpy()}


def with_code(path: Path, x: np.ndarray) -> Rows:
    layers = [keras.Input((WIDTH,)), keras.layers.Dense(3), keras.layers.Lambda(lambda value: value + 1, name="last")]
    model = keras.Sequential(layers)
    model.save(path)
    return {"last": model(x).numpy()}


MAKERS: Final[dict[str, Maker]] = {
    "several_signatures": several_signatures,
    "several_inputs": several_inputs,
    "of_any_rank": of_any_rank,
    "with_slots": with_slots,
    "with_slots_and_assets": with_slots_and_assets,
    "with_slots_and_content": with_slots_and_content,
    "with_content_alone": with_content_alone,
    "exported": exported,
    "served": served,
    "tf1": of_tensorflow_1,
    "tf1_main_op": of_tensorflow_1_with_main_op,
    "tf1_legacy_init_op": of_tensorflow_1_with_legacy_init_op,
    "tf1_checks": of_tensorflow_1_that_checks,
    "dense.keras": of_keras,
    "dense.h5": of_keras,
    "parts.h5": of_keras_in_parts,
    "keras2.h5": of_keras_2,
    "depthwise.h5": of_keras_2_by_depth,
    "code.keras": with_code,
    "code.h5": with_code,
}


# What cannot be loaded


@keras.saving.register_keras_serializable("Mine")
class Doubled(keras.layers.Layer):  # type: ignore[misc]
    """A layer that no file has the code of."""

    def call(self, x: Any) -> Any:
        return 2 * x


def _damaged(root: Path) -> None:
    x = np.ones((2, WIDTH), np.float32)
    for name, of in (("custom_op", "exported"), ("custom_op_tf1", "tf1")):
        shutil.copytree(root / of, root / name)
        file = root / name / "saved_model.pb"
        model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
        (graph,) = model.meta_graphs
        nodes = [*graph.graph_def.node, *(node for each in graph.graph_def.library.function for node in each.node_def)]
        next(node for node in nodes if node.op == "MatMul").op = "TheirMatMul"
        file.write_bytes(model.SerializeToString())
    for name, of, part in (
        ("cut", "exported", "saved_model.pb"),
        ("cut_weights", "exported", "variables/variables.data-00000-of-00001"),
        ("cut_tf1", "tf1", "saved_model.pb"),
        ("cut_weights_tf1", "tf1", "variables/variables.data-00000-of-00001"),
        ("cut.keras", "dense.keras", ""),
        ("cut.h5", "dense.h5", ""),
    ):
        source = root / of
        shutil.copytree(source, root / name) if part else shutil.copy(source, root / name)
        file = root / name / part if part else root / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    for name in ("no_weights", "no_weights_tf1"):
        shutil.copytree(root / ("exported" if name == "no_weights" else "tf1"), root / name)
        shutil.rmtree(root / name / "variables")
    shutil.copytree(root / "tf1_main_op", root / "no_assets_tf1")
    shutil.rmtree(root / "no_assets_tf1" / "assets")
    (root / "empty").mkdir()
    (root / "pictures").mkdir()
    (root / "pictures" / "cat.png").touch()
    (root / "unserved").mkdir()
    (root / "unserved" / "1").mkdir()
    (root / "text.keras").write_text("no archive")
    (root / "text.h5").write_text("no HDF5")
    model = keras.Sequential([keras.Input((WIDTH,)), Doubled(name="double")])
    model(x)
    model.save(root / "custom.keras")
    model.save(root / "custom.h5")
    _keras_2_archive(root / "keras2.keras")
    _dense().save_weights(root / "alone.weights.h5")
    shutil.copy(root / "alone.weights.h5", root / "alone.h5")


def _keras_2_archive(path: Path) -> None:
    """As far as Keras 3 reads it: up to the first word of Keras 2 that it does not know."""
    given = {"batch_input_shape": [None, WIDTH], "dtype": "float32", "sparse": False, "ragged": False, "name": "x"}
    dense = {"name": "dense", "trainable": True, "dtype": "float32", "units": 3, "activation": "linear"}
    layers = [
        {"module": "keras.layers", "class_name": kind, "config": config, "registered_name": None}
        for kind, config in (("InputLayer", {**given, "optional": False}), ("Dense", dense))
    ]
    config = {"name": "sequential", "layers": layers}
    model = {"module": "keras", "class_name": "Sequential", "config": config, "registered_name": None}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0", "date_saved": "2024-01-01@00:00:00"}))
        archive.writestr("config.json", json.dumps(model))


def make_odd(path: str) -> None:
    """One signature that a session can use, and two that none can; beside it, one of TensorFlow 1 that none can."""
    sound = tf.TensorSpec([None, 2], tf.float32, "x")
    functions = {
        "sound": function_of(lambda x: {"y": x}, sound),
        "scalar": function_of(lambda x: {"y": x[None]}, tf.TensorSpec([], tf.float32, "x")),
        "sparse": function_of(lambda x: {"y": tf.sparse.from_dense(x)}, sound),
    }
    save(tf.Module(), Path(path), **functions)

    def build() -> Any:
        given = tf1.sparse_placeholder(tf.float32, [None, 2])
        return {"x": given}, {"y": tf.sparse.to_dense(given)}

    _write_tf1(Path(f"{path}_tf1"), build, tf1.SparseTensorValue([[0, 0]], [1.0], [1, 2]))


def run_page(folder: str) -> None:
    """`page.py` there, as a program beside its files."""
    os.chdir(folder)
    runpy.run_path("page.py", run_name="__main__")
