"""A JAX training loop as a session: a classifier of scikit-learn's 1,797 real handwritten digits.

    python3 jax_loop.py OUT --steps 600

Needs jax and scikit-learn. One item is one step. OUT/checkpoint.npz holds the training while it is not done, OUT gets
digits.npz and accuracy.json when it is. A step's batch follows from its number, so a resumed training is the same one.
(Not named jax.py: Python would take it for the library.)
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import baton

BATCH = 32
SAVE_EVERY = 100
RATE, MOMENTUM = 0.05, 0.9

State = dict[str, jax.Array]  # the weights, and the velocity of each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with baton.session() as session:
        images, labels = load_digits(return_X_y=True)
        train_x, test_x, train_y, test_y = (
            jnp.asarray(part)
            for part in train_test_split(images / 16, labels, test_size=0.4, stratify=labels, random_state=7)
        )
        kept = options.out / "checkpoint.npz"
        state, done = load(kept) if kept.exists() else (begin(), 0)
        train = jax.jit(train_step).lower(state, train_x[:BATCH], train_y[:BATCH]).compile()  # ahead of its turn
        session.ready(total=options.steps)
        session.progress(done)  # of a run that was killed, the file may know more than batond does
        for step in session.track(range(done, options.steps)):
            picked = jax.random.randint(jax.random.key(step), (BATCH,), 0, len(train_y))
            state = train(state, train_x[picked], train_y[picked])
            done = step + 1
            if done % SAVE_EVERY == 0:
                save(kept, state, done)
                session.commit(done)
        if done < options.steps:  # drained: keep the steps since the last save, too
            save(kept, state, done)
            session.commit(done)
            return
        accuracy = float((scores(state, test_x).argmax(1) == test_y).mean())
        np.savez(options.out / "digits.npz", **state)
        (options.out / "accuracy.json").write_text(json.dumps({"accuracy": accuracy}))
        kept.unlink(missing_ok=True)


def begin() -> State:
    first, second = jax.random.split(jax.random.key(7))
    weights = {
        "w1": jax.random.normal(first, (64, 64)) * 0.1,
        "b1": jnp.zeros(64),
        "w2": jax.random.normal(second, (64, 10)) * 0.1,
        "b2": jnp.zeros(10),
    }
    return weights | {f"v_{name}": jnp.zeros_like(value) for name, value in weights.items()}


def scores(state: State, images: jax.Array) -> jax.Array:
    return jax.nn.relu(images @ state["w1"] + state["b1"]) @ state["w2"] + state["b2"]


def train_step(state: State, images: jax.Array, labels: jax.Array) -> State:
    weights = {name: value for name, value in state.items() if not name.startswith("v_")}

    def loss(weights: State) -> jax.Array:
        chosen = jnp.take_along_axis(jax.nn.log_softmax(scores(weights, images)), labels[:, None], axis=1)
        return -chosen.mean()

    slopes = jax.grad(loss)(weights)
    velocities = {name: MOMENTUM * state[f"v_{name}"] - RATE * slopes[name] for name in weights}
    moved = {name: weights[name] + velocities[name] for name in weights}
    return moved | {f"v_{name}": value for name, value in velocities.items()}


def load(kept: Path) -> tuple[State, int]:
    """The training that is in the checkpoint, and how many steps of it."""
    with np.load(kept) as arrays:
        return {name: jnp.asarray(arrays[name]) for name in arrays if name != "done"}, int(arrays["done"])


def save(kept: Path, state: State, done: int) -> None:
    """By rename: whenever the process dies, there is the old checkpoint or the new one, and it is whole."""
    partial = kept.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, done=done, **state)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(kept)


if __name__ == "__main__":
    main()
