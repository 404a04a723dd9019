"""A PyTorch training loop as a session: a classifier of scikit-learn's 1,797 real handwritten digits.

    python3 pytorch.py OUT --steps 600

Needs torch and scikit-learn. One item is one step. OUT/checkpoint.pt holds the training while it is not done, OUT gets
digits.pt and accuracy.json when it is. A step's batch follows from its number, so a resumed training is the same one.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import baton

BATCH = 32
SAVE_EVERY = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with baton.session() as session:
        images, labels = load_digits(return_X_y=True)
        train_x, test_x, train_y, test_y = (
            torch.as_tensor(part, device=device, dtype=torch.float32 if part.ndim > 1 else torch.int64)
            for part in train_test_split(images / 16, labels, test_size=0.4, stratify=labels, random_state=7)
        )
        torch.manual_seed(7)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        kept = options.out / "checkpoint.pt"
        done = load(kept, model, optimizer)
        session.ready(total=options.steps)
        session.progress(done)  # of a run that was killed, the file may know more than batond does
        for step in session.track(range(done, options.steps)):
            picked = torch.randint(len(train_y), (BATCH,), generator=torch.Generator().manual_seed(step))
            loss = nn.functional.cross_entropy(model(train_x[picked]), train_y[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done = step + 1
            if done % SAVE_EVERY == 0:
                save(kept, model, optimizer, done)
                session.commit(done)
        if done < options.steps:  # drained: keep the steps since the last save, too
            save(kept, model, optimizer, done)
            session.commit(done)
            return
        with torch.no_grad():
            accuracy = (model(test_x).argmax(1) == test_y).float().mean().item()
        torch.save(model.state_dict(), options.out / "digits.pt")
        (options.out / "accuracy.json").write_text(json.dumps({"accuracy": accuracy}))
        kept.unlink(missing_ok=True)


def load(kept: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The steps that are in the checkpoint, now in the model too."""
    if not kept.exists():
        return 0
    state = torch.load(kept, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["done"])


def save(kept: Path, model: nn.Module, optimizer: torch.optim.Optimizer, done: int) -> None:
    """By rename: whenever the process dies, there is the old checkpoint or the new one, and it is whole."""
    partial = kept.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": done}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(kept)


if __name__ == "__main__":
    main()
