"""The paths of a session file: what is looked for on disk, and what is said where it is not as it must be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemon.sessionfile import parse
from tests.shell.session_text import MODEL, PROGRAM, furnish, problem, table


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The folder of the session file."""
    return furnish(tmp_path)


def test_what_predecessors_make_is_not_looked_for(base: Path) -> None:
    text = table(MODEL, model='"later.keras"', input='"later/*.npy"', after='["x"]')
    text += table(PROGRAM, run='["./later.sh"]', cwd='"later"', after='["x"]')
    assert [spec.after for spec in parse(text, base)] == [("x",), ("x",)]
    assert ".onnx files are not supported" in problem(table(MODEL, model='"later.onnx"', after='["x"]'), base)


def test_a_model_is_a_savedmodel_directory_or_a_keras_file(base: Path) -> None:
    (base / "empty").mkdir()
    (base / "empty.keras").touch()
    (base / "outer" / "cnn").mkdir(parents=True)
    (base / "outer" / "cnn" / "saved_model.pb").touch()
    (base / "empty.h5").touch()
    (base / "model.zip").write_bytes(b"PK")
    (base / "broken.keras").symlink_to("nowhere")
    (base / "circle.keras").symlink_to("circle.keras")
    os.mkfifo(base / "pipe.keras")
    told = {
        "broken.keras": "'broken.keras' is a link to nothing (BASE/broken.keras); mend the link or give another model",
        "circle.keras": "'circle.keras' is a link in a circle (BASE/circle.keras); mend the link or give another model",
        "pipe.keras": "'pipe.keras' is no regular file (BASE/pipe.keras); give a SavedModel directory, a .keras",
        "empty": "'empty' is a directory without saved_model.pb (BASE/empty); give a SavedModel directory, a .keras",
        "empty.keras": "'empty.keras' is an empty file (BASE/empty.keras); save the model again",
        "outer": "'outer' is a directory without saved_model.pb, but 'outer/cnn' has one; give that",
        "empty.h5": "'empty.h5' is an empty file (BASE/empty.h5); save the model again",
        "model.zip": "cannot use the file 'model.zip': its format is not known; give a SavedModel directory",
        "models/cnn/saved_model.pb": "cannot use the file 'models/cnn/saved_model.pb': give the directory",
        "frozen.pb": "cannot use the file 'frozen.pb': frozen graphs are not supported; give a SavedModel directory",
        "net.onnx": "cannot use 'net.onnx': .onnx files are not supported; give a SavedModel directory, a .keras",
    }
    for model, text in told.items():
        assert problem(table(MODEL, model=f'"{model}"'), base).startswith(f"s.toml:3: a: model: {text}")


def test_of_a_folder_of_versions_the_highest_that_is_whole_is_meant(base: Path) -> None:
    served = base / "served"
    for version in ("2", "10", "9", "0001"):
        (served / version).mkdir(parents=True)
        (served / version / "saved_model.pb").touch()
    (served / "11").mkdir()  # still being copied
    (served / ".partial").mkdir()
    (served / "models.config").touch()
    assert parse(table(MODEL, model='"served"'), base)[0].model == f"{served}/10"
    assert parse(table(MODEL, model='"served/2"'), base)[0].model == f"{served}/2"
    later = parse(table(MODEL, model='"served"', after='["x"]'), base)[0].model
    assert later == str(served), "what its predecessor makes may be a version, too"
    (served / "latest").mkdir()
    told = "s.toml:3: a: model: 'served' is a directory without saved_model.pb, but 'served/9' has one; give that"
    assert problem(table(MODEL, model='"served"'), base) == told


def test_an_input_is_there_and_not_empty(base: Path) -> None:
    (base / "empty.npy").touch()
    (base / "hollow").mkdir()
    (base / "shards").mkdir()
    (base / "shards" / "a.tfrecord").touch()
    (base / "broken.npy").symlink_to("nowhere")
    (base / "circle.npy").symlink_to("circle.npy")
    os.mkfifo(base / "pipe")
    told = {
        "none.npy": "cannot find 'none.npy' (looked in BASE/none.npy); give a .npy, .npz, .jsonl or TFRecord",
        "shards/*.gz": "no file matches 'shards/*.gz' (looked in BASE/shards/*.gz); give a .npy, .npz, .jsonl",
        "empty.npy": "'empty.npy' is an empty file (BASE/empty.npy); there is nothing to compute",
        "hollow": "'hollow' is an empty directory (BASE/hollow); give a .npy, .npz, .jsonl or TFRecord file",
        "shards/*": "'shards/*' is an empty file",
        "broken.npy": "'broken.npy' is a link to nothing (BASE/broken.npy); mend the link or give another input",
        "circle.npy": "'circle.npy' is a link in a circle (BASE/circle.npy); mend the link or give another input",
        "pipe": "'pipe' is no regular file (BASE/pipe); give a .npy, .npz, .jsonl or TFRecord file",
        "/dev/zero": "'/dev/zero' is no regular file (/dev/zero); give a .npy, .npz, .jsonl or TFRecord file",
    }
    for value, text in told.items():
        assert problem(table(MODEL, input=f'"{value}"'), base).startswith(f"s.toml:4: a: input: {text}")
    (base / "shards" / "b.tfrecord").write_bytes(b"x")  # one shard of several may be empty
    assert parse(table(MODEL, input='"shards/*"'), base)[0].input == f"{base}/shards/*"


def test_only_what_is_written_in_the_file_is_a_pattern(base: Path) -> None:
    odd = base / "run [1]"
    odd.mkdir()
    (odd / "x.npy").write_bytes(b"x")
    (odd / "y*.npy").write_bytes(b"x")
    text = table(MODEL, model=f'"{base}/models/cnn"')
    assert parse(text.replace("data.npy", "x.npy"), odd)[0].input == f"{odd}/x.npy"
    assert parse(text.replace("data.npy", "?.npy"), odd)[0].input == f"{base}/run [[]1]/?.npy"
    assert parse(text.replace("data.npy", "y*.npy"), odd)[0].input == f"{odd}/y*.npy"


def test_an_output_is_a_folder_that_can_be_made(base: Path) -> None:
    (base / "gone").symlink_to("nowhere/at/all")
    (base / "alias").symlink_to("models/cnn")
    (base / "circle").symlink_to("circle")
    told = {
        "circle/x": "cannot make 'circle/x': BASE/circle is a link in a circle; mend the link or give another output",
        "circle": "cannot make 'circle': BASE/circle is a link in a circle; mend the link or give another output",
        "data.npy": "'data.npy' is a file (BASE/data.npy); give a directory",
        "data.npy/x": "cannot make 'data.npy/x': BASE/data.npy is a file; give another output",
        "models/cnn": "'models/cnn' is inside the model's own directory (BASE/models/cnn); give a folder of its own",
        "models/cnn/out": "'models/cnn/out' is inside the model's own directory",
        "alias/out": "'alias/out' is inside the model's own directory",
        "gone/x": "cannot make 'gone/x': BASE/gone is a link to nothing; mend the link or give another output",
        "/proc/out": "cannot write '/proc/out': user" if os.geteuid() else "",
        "n" * 300: "cannot look at",
    }
    for output, text in told.items():
        if text:
            assert problem(table(MODEL, output=f'"{output}"'), base).startswith(f"s.toml:5: a: output: {text}")
    assert not (base / "out").exists()  # looking makes nothing


def test_a_session_may_not_write_where_it_reads(base: Path) -> None:
    """With overwrite, its own start would destroy its input, or its model."""
    own = base / "own"
    (own / "deep").mkdir(parents=True)
    for name in ("y.npy", "deep/z.npy", "m.keras"):
        (own / name).write_bytes(b"x")
    (own / "link.npy").symlink_to(base / "data.npy")  # the name itself would be replaced
    (base / "to_y.npy").symlink_to(own / "y.npy")
    (base / "same").symlink_to("own")
    (base / "here").symlink_to(".")
    inputs = {
        "own/y.npy": "own/y.npy",
        "own/link.npy": "own/link.npy",
        "own/deep/z.npy": "own/deep/z.npy",
        "to_y.npy": "to_y.npy",
        "same/y.npy": "same/y.npy",
        "out/../own/y.npy": "own/y.npy",
        "*/y.npy": "own/y.npy",
        "**/z.npy": "own/deep/z.npy",
    }
    for output in ("own", "same", "here/own", "x/../own"):
        text = table(MODEL, output=f'"{output}"', overwrite="true")
        for value, file in inputs.items():
            line = problem(text.replace('"data.npy"', f'"{value}"'), base)
            assert line.startswith(f"s.toml:4: a: input: {value!r} is inside the session's output (BASE/"), line
            assert line.endswith(f"{file}): its own rows would destroy it; give another output"), line
        line = problem(text.replace('"models/cnn"', '"own/m.keras"'), base)
        assert line.startswith(f"s.toml:5: a: output: the model is inside {output!r} (BASE/own/m.keras)"), line
    text = table(MODEL, output='"models"')
    assert "the model is inside 'models' (BASE/models/cnn); give a folder of its own" in problem(text, base)


def test_also_what_a_predecessor_makes_may_not_be_in_the_session_s_own_output(base: Path) -> None:
    for value in ("own/y.npy", "own/*.npy", "own/**/y.npy"):
        text = table(MODEL, input=f'"{value}"', output='"own"', after='["x"]')
        assert f"input: {value!r} is inside the session's output (BASE/own" in problem(text, base)
    text = table(MODEL, model='"own/later.keras"', output='"own"', after='["x"]')
    assert "output: the model is inside 'own'" in problem(text, base)
    parse(table(MODEL, input='"owned/*.npy"', output='"own"', after='["x"]'), base)


def test_an_output_may_not_be_inside_another_session_s(base: Path) -> None:
    (base / "out" / "a").mkdir(parents=True)
    (base / "alias").symlink_to("out/a")
    text = table(MODEL)
    for inner in ("out/a/b", "alias/b", "x/../out/a/b/c"):
        assert problem(text + table(MODEL, name='"b"', output=f'"{inner}"'), base) == (
            f"s.toml:10: b: output: {inner!r} is inside 'out/a', the output of 'a'; give each its own"
        )
        assert problem(table(MODEL, name='"b"', output=f'"{inner}"') + text, base) == (
            f"s.toml:5: b: output: {inner!r} is inside 'out/a', the output of 'a'; give each its own"
        )
    parse(text + table(MODEL, name='"b"', output='"out/ab"') + table(MODEL, name='"c"', output='"out/b"'), base)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes on another user's rights, which only root can")
def test_what_the_user_may_not_use_is_told(base: Path) -> None:
    base.chmod(0o755)
    for parent in (
        parent for parent in base.parents if parent.stat().st_uid == 0 and parent.name.startswith("pytest-")
    ):
        parent.chmod(0o755)
    (base / "data.npy").chmod(0o600)
    (base / "models" / "mlp.keras").chmod(0o600)
    (base / "closed").mkdir(mode=0o700)
    text = table(MODEL, model='"models/mlp.keras"') + table(MODEL, name='"b"', input='"closed/x.npy"', output='"o/b"')
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:  # access(2) asks for the real user: a thread's effective one would not do
        try:
            os.setresuid(54321, 54321, 54321)
            parse(text, base, source="s.toml")
        except BaseException as wrong:  # noqa: BLE001 - whatever it is, it must not get back into pytest twice
            os.write(write_end, str(wrong).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as said:
        lines = [line.replace(str(base), "BASE") for line in said.read().splitlines()]
    os.waitpid(child, 0)
    right = "give batond's user the right to read it"
    assert lines == [
        f"s.toml:3: a: model: cannot read 'models/mlp.keras' (BASE/models/mlp.keras) as user 54321; {right}",
        f"s.toml:4: a: input: cannot read 'BASE/data.npy' as user 54321; {right}",
        "s.toml:5: a: output: cannot write 'out/a': user 54321 may not write in BASE; give batond's user that right",
        "s.toml:9: b: input: cannot find 'closed/x.npy' (looked in BASE/closed/x.npy); "
        "give a .npy, .npz, .jsonl or TFRecord file, a folder of images, a pattern, or module:callable",
        "s.toml:10: b: output: cannot write 'o/b': user 54321 may not write in BASE; give batond's user that right",
    ]


def test_a_program_is_found_and_can_be_executed(base: Path) -> None:
    (base / "tool").write_text("#!/bin/sh\n")
    told = {
        "./none": "cannot find the program './none' (looked in BASE/none); give a program on PATH or a path",
        "./tool": "cannot execute './tool' (BASE/tool); make it executable (chmod +x), or run it by its interpreter",
        "tool": "cannot find 'tool' on PATH; for the file beside this one write './tool'",
    }
    for program, text in told.items():
        assert problem(table(PROGRAM, run=f'["{program}"]'), base) == f"s.toml:3: p: run: {text}"
    cwd = table(PROGRAM, cwd='"models/none"')
    assert problem(cwd, base) == (
        "s.toml:4: p: cwd: 'models/none' is no directory (looked at BASE/models/none); make it, or take cwd out"
    )
