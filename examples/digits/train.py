"""Trains the demo's three models, times them, and writes inputs on which each computes as long as asked.

Run by demo.py as a process of its own: python train.py OUT SECONDS, with sessions.toml in OUT.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from data import Digits, Images, collect, pixels, split_digits, take, write_npy, write_tfrecords
from models import RECIPES, Predict, input_name, load_predict, save
from plan import Session, read_sessions, write_prepared

TIMED_S = 1.5  # how long a model is timed
MOST_ITEMS = 300_000  # bounds the disk that a fast machine's inputs take
FEWEST_ITEMS = 5_000


def as_input(session: Session, images: Images) -> npt.NDArray[Any]:
    """The images as the session's model takes them."""
    return pixels(images) if session.reads_tfrecords else images


def train(session: Session, digits: Digits) -> float:
    """Train the session's model on variations of `digits` and save it; returns the seconds that training took."""
    recipe = RECIPES[session.name]
    keras.utils.set_random_seed(7)
    begun = time.monotonic()
    model = recipe.build()
    steps = recipe.epochs * recipe.images // recipe.batch_size
    rate = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    drawn = collect(take(digits, 1, recipe.images))
    images = as_input(session, drawn.images)
    model.fit(images, drawn.labels, batch_size=recipe.batch_size, epochs=recipe.epochs, verbose=0)
    seconds = time.monotonic() - begun
    save(model, session.model)
    return seconds


def items_per_second(predict: Predict, batch: npt.NDArray[Any]) -> float:
    """How many items a second the saved model computes, called with this batch over and over.

    By the lower quartile of the calls' times: what else runs on the host now would make the input too short.
    """
    for _ in range(3):  # the first calls build and optimise the graph
        predict(batch)
    calls_s = []
    end = time.perf_counter() + TIMED_S
    while (begun := time.perf_counter()) < end:
        predict(batch)
        calls_s.append(time.perf_counter() - begun)
    return len(batch) / float(np.quantile(calls_s, 0.25))


def write_input(session: Session, held_out: Digits, *, seed: int, items: int) -> None:
    """Write the session's input, and beside it the labels."""
    chunks = take(held_out, seed, items)
    if session.reads_tfrecords:
        labels = write_tfrecords(session.input, chunks, items, input_name(session.model))
    else:
        labels = write_npy(session.input, chunks, items)
    np.save(session.labels, labels)


def prepare(session: Session, trained_on: Digits, held_out: Digits, *, seed: int, seconds: float) -> int:
    """Train, time, and write the input of one session; returns the input's number of items."""
    training_s = train(session, trained_on)
    predict = load_predict(session.model)
    real = as_input(session, held_out.images)
    right = float((predict(real).argmax(axis=1) == held_out.labels).mean())
    rate = items_per_second(predict, real[: session.batch_size])
    items = int(min(max(rate * seconds, FEWEST_ITEMS), MOST_ITEMS))
    write_input(session, held_out, seed=seed, items=items)
    print(
        f"  {session.name}: trained in {training_s:.1f} s, {right:.1%} of the held-out digits right, "
        f"{rate:,.0f} items/s: an input of {items:,} items",
        flush=True,
    )
    return items


def main(out: Path, seconds: float) -> None:
    """Prepare every session of OUT/sessions.toml."""
    real, held_out = split_digits()
    print(f"  {len(real.labels)} real digits to train on, {len(held_out.labels)} held out for the inputs", flush=True)
    items = {}
    for number, session in enumerate(read_sessions(out)):
        session.model.parent.mkdir(exist_ok=True)
        session.input.parent.mkdir(exist_ok=True)
        items[session.name] = prepare(session, real, held_out, seed=100 + number, seconds=seconds)
    write_prepared(out, items)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), float(sys.argv[2]))
