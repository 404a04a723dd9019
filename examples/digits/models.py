"""Three classifiers of digits, unlike in what they cost to load and to run, and how each is saved and called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from data import IMAGE_SHAPE, PIXELS
from keras import layers

Predict = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]  # images → probabilities, shape (n, 10)


def build_cnn() -> keras.Model:
    """A plain convolutional net."""
    image = keras.Input(IMAGE_SHAPE, dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255)(image)
    for filters in (32, 64, 96):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(128, activation="relu")(layers.Flatten()(x))
    return keras.Model(image, _probabilities(x), name="digits_cnn")


def build_resnet() -> keras.Model:
    """A small ResNet: convolutions with batch normalisation, and shortcuts around each pair of them."""
    image = keras.Input(IMAGE_SHAPE, dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255)(image)
    for filters in (32, 64):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(x)
        for _ in range(2):
            y = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(y))
            y = layers.Conv2D(filters, 3, padding="same", use_bias=False)(y)
            y = layers.BatchNormalization(momentum=0.9)(y)
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, _probabilities(x), name="digits_resnet")


def build_mlp() -> keras.Model:
    """Three wide dense layers over the pixels of a half-size image: few operations, many weights."""
    pixels = keras.Input((PIXELS,), dtype="float32", name="pixels")
    x = layers.Rescaling(1 / 255)(pixels)
    for units in (2048, 2048, 1024):
        x = layers.Dense(units, activation="relu")(x)
    return keras.Model(pixels, _probabilities(x), name="digits_mlp")


def _probabilities(features: Any) -> Any:
    return layers.Dense(10, activation="softmax", name="probabilities")(features)


@dataclass(frozen=True)
class Recipe:
    """How a model is built and trained."""

    build: Callable[[], keras.Model]
    images: int  # to train on: variations of the real digits that are not held out
    epochs: int
    batch_size: int
    learning_rate: float  # at the first step; it falls to 0 along a cosine


RECIPES = {
    "digits-cnn": Recipe(build_cnn, images=10_240, epochs=1, batch_size=64, learning_rate=2e-3),
    "digits-resnet": Recipe(build_resnet, images=6_144, epochs=1, batch_size=64, learning_rate=2e-3),
    "digits-mlp": Recipe(build_mlp, images=10_240, epochs=2, batch_size=128, learning_rate=1e-3),
}


def save(model: keras.Model, path: Path) -> None:
    """Save in the format that the path asks for; the two SavedModels come by the two ways there are."""
    if path.suffix == ".keras":
        model.save(path)
    elif model.name == "digits_cnn":
        model.export(path, verbose=False)
    else:
        tf.saved_model.save(model, str(path))


def input_name(path: Path) -> str:
    """What the saved model calls its one input: the name that a TFRecord's feature must bear."""
    if path.suffix == ".keras":
        return str(keras.saving.load_model(path, compile=False).inputs[0].name)
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    return str(next(iter(signature.structured_input_signature[1])))


def load_predict(path: Path) -> Predict:
    """The saved model's own prediction, loaded as anyone would who has no batond."""
    if path.suffix == ".keras":
        model = keras.saving.load_model(path, compile=False)
        return lambda images: model.predict_on_batch(images)
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]

    def predict(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        assert loaded is not None  # a signature holds its model's weights only weakly
        (rows,) = signature(**{name: tf.constant(images)}).values()
        probabilities: npt.NDArray[np.float32] = rows.numpy()
        return probabilities

    return predict
