"""Models loaded and called in a host's child, and watched meanwhile: text, ragged rows, TensorFlow 1's sessions."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf
from worker_models import function_of, save
from worker_tiers import TARGET, two_cpus

import baton
from daemon.worker import calls, models
from daemon.worker.staging import Wanted

tf1 = tf.compat.v1


# What is not a plain array of numbers: called as a worker does, and compared with what TensorFlow gives


def call_texts_and_ragged(folder: str) -> None:
    """Text in and out, rows of several lengths, and rows of rows, by both loaders."""
    root = Path(folder)
    texts = ["a bb ccc", "", "dd e"]

    def call(text: Any) -> Any:
        words = tf.strings.split(text)
        letters = tf.strings.bytes_split(words)
        length = tf.strings.length(words.to_tensor())
        return {"upper": tf.strings.upper(text), "words": words, "letters": letters, "length": length}

    text_spec = tf.TensorSpec([None], tf.string, "text")
    save(tf.Module(), root / "text", serving_default=function_of(call, text_spec))
    np.save(root / "text.npy", np.array(texts))
    lengths = function_of(lambda text: {"lengths": tf.strings.length(tf.strings.split(text))}, text_spec)
    save(tf.Module(), root / "numbers", serving_default=lengths)
    with tf.Graph().as_default(), tf1.Session() as session:
        given = tf1.placeholder(tf.string, [None], "text")
        signature = tf1.saved_model.predict_signature_def({"text": given}, call(given))
        builder = tf1.saved_model.Builder(str(root / "text_tf1"))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    for name in ("text", "text_tf1"):
        staged = models.stage(root / name, Wanted(), "/CPU:0", hold=True)
        assert {key: str(tensor) for key, tensor in staged.signature.outputs.items()} == {
            "upper": "string (any)",
            "words": "string (any, any)",
            "letters": "string (any, any, any)",
            "length": "int32 (any, any)",
        }
        model = staged.load()
        rows = {key: calls.rows_of(value) for key, value in model.call({"text": tf.constant(texts)}).items()}
        model.close()
        assert plain(rows["upper"]) == [b"A BB CCC", b"", b"DD E"]
        assert plain(rows["words"]) == [[b"a", b"bb", b"ccc"], [], [b"dd", b"e"]]
        assert plain(rows["letters"]) == [[[b"a"], [b"b", b"b"], [b"c", b"c", b"c"]], [], [[b"d", b"d"], [b"e"]]]
        assert plain(rows["length"]) == [[1, 2, 3], [0, 0, 0], [2, 1, 0]]


def plain(value: Any) -> Any:
    """Lists down to the values."""
    if isinstance(value, np.ndarray):
        value = list(value)
    return [plain(each) for each in value] if isinstance(value, list) else value


# Sessions of TensorFlow 1, watched


def serve_noting(path: str, fd: int) -> NoReturn:
    """The built-in worker on the second CPU device, noting when a session is opened and closed, and what is told."""
    from daemon.worker import main

    def note(what: str) -> None:
        with Path(path).open("a") as file:
            file.write(f"{what}\n")

    class Noting(baton.Channel):
        def committed(self, *values: Any, **named: Any) -> None:
            note("committed")
            super().committed(*values, **named)

        def failed(self, *values: Any, **named: Any) -> None:
            note("failed")
            super().failed(*values, **named)

    opens, closes = tf1.Session.__init__, tf1.Session.close

    def opened(self: Any, *values: Any, **named: Any) -> None:
        note("opened")
        opens(self, *values, **named)

    def closed(self: Any) -> None:
        first = not self._closed  # the end of its life closes it once more, to no effect
        closes(self)
        if first:
            note("closed")

    two_cpus()
    tf1.Session.__init__, tf1.Session.close = opened, closed
    baton.Channel = Noting  # type: ignore[misc]
    main.serve(fd, TARGET)


def place_session(path: str) -> None:
    """The variables of TensorFlow 1 lie, and are computed with, on the target; until they are loaded, nothing does."""
    two_cpus()
    staged = models.stage(Path(path), Wanted(), TARGET, hold=True)
    assert _sessions() == []
    model = staged.load()
    (session,) = _sessions()
    options, told = tf1.RunOptions(trace_level=tf1.RunOptions.FULL_TRACE), tf1.RunMetadata()
    session.run("w/read:0", options=options, run_metadata=told)
    places = {stats.device[-5:]: {node.node_name for node in stats.node_stats} for stats in told.step_stats.dev_stats}
    assert "w" in places["CPU:1"], places
    assert "w" not in places.get("CPU:0", set()), places
    model.close()


def _sessions() -> list[Any]:
    return [each for each in gc.get_objects() if isinstance(each, tf1.Session)]
