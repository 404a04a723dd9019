"""Keras' fit as a session: a classifier trained on scikit-learn's 1,797 real handwritten digits.

    python3 keras_fit.py OUT --epochs 15

Needs tensorflow and scikit-learn. One item is one step. OUT/checkpoint holds the training while it is not done, OUT
gets digits.keras and accuracy.json when it is. Drained in mid-epoch, it goes on at the next step at its next turn.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import keras
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import baton


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with baton.session() as session:
        images, labels = load_digits(return_X_y=True)
        train_x, test_x, train_y, test_y = train_test_split(
            images.reshape(-1, 8, 8, 1) / 16, labels, test_size=0.4, stratify=labels, random_state=7
        )
        model = build()
        callback = session.keras_callback(model, checkpoint=options.out / "checkpoint")
        session.ready()
        model.fit(
            train_x,
            train_y,
            batch_size=32,
            epochs=options.epochs,
            initial_epoch=callback.initial_epoch,
            callbacks=[callback],
            verbose=0,
        )
        if callback.finished:  # else it was drained: there will be another run
            _, accuracy = model.evaluate(test_x, test_y, verbose=0)
            model.save(options.out / "digits.keras")
            (options.out / "accuracy.json").write_text(json.dumps({"accuracy": accuracy}))


def build() -> keras.Model:
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


if __name__ == "__main__":
    main()
