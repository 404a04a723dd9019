"""Inputs of every kind through the whole daemon: what docs/sessions-inputs.md shows, each row held to a direct call."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from batond import ROOT, Batond

pytestmark = pytest.mark.tensorflow

PAGE = (ROOT / "docs" / "sessions-inputs.md").read_text(encoding="utf-8")
NAMES = ("one", "two-files", "archive", "lines", "texts", "records", "photos", "fed")
# Calls each model as a program of its own would, with what the page's code put into its files.
DIRECTLY = """
import json, sys
import numpy as np
import tensorflow as tf

x, n = np.load("data/x.npy"), np.load("data/n.npy")
photos = [tf.io.decode_png(tf.io.read_file(f"data/photos/{i:02}.png")) for i in range(len(x))]
photos = tf.image.resize(tf.stack(photos), [32, 32]) / 255.0
calls = {
    "one": ("mean", {"x": x}), "fed": ("mean", {"x": x}),
    "two-files": ("pair", {"x": x, "n": n}), "archive": ("pair", {"x": x, "n": n}), "lines": ("pair", {"x": x, "n": n}),
    "records": ("mean", {"x": (x * 255).astype(np.uint8).astype(np.float32)}),
    "photos": ("look", {"x": photos}),
    "texts": ("shout", {"text": [f"item {i}" for i in range(len(x))]}),
}
for name, (model, given) in calls.items():
    call = tf.saved_model.load(f"models/{model}").signatures["serving_default"]
    (rows,) = call(**{key: tf.constant(value) for key, value in given.items()}).values()
    rows = rows.numpy()
    np.save(f"{name}.expected.npy", rows.astype(str) if rows.dtype == object else rows)
"""


def python(folder: Path, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


def blocks(language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def test_inputs_of_every_kind_are_relayed_and_every_row_is_right(tensorflow: Batond, tmp_path: Path) -> None:
    python(tmp_path, blocks("python"))
    python(tmp_path, DIRECTLY)
    file = tmp_path / "sessions.toml"
    file.write_text(blocks("toml"))
    queued = tensorflow.ctl("submit", str(file))
    assert [each["name"] for each in queued["sessions"]] == list(NAMES)
    tensorflow.ended(*NAMES)
    for name in NAMES:
        expected = np.load(tmp_path / f"{name}.expected.npy")
        folder = tmp_path / "out" / name
        if name == "texts":
            said = [json.loads(line) for line in (folder / "outputs.jsonl").read_text().splitlines()]
            assert said == [{"item": item, "loud": str(loud)} for item, loud in enumerate(expected)]
            continue
        (rows,) = folder.glob("*.npy")
        np.testing.assert_allclose(np.load(rows), expected, rtol=1e-4, atol=1e-6, err_msg=name)
