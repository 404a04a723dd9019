"""The session file: what each key may be, and what is said of everything that is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.documents import read
from daemon.sessionfile import SessionSpec, parse, parse_bytes, stated_bytes, to_lead
from states.work import Lead
from tests.shell.session_text import MODEL, PROGRAM, furnish, problem, problems, table

EXAMPLE = Path(__file__).parents[2] / "examples" / "sessions.toml"
UUID = "8a7d2c1e-0000-4b1c-9d3e-5f6a7b8c9d0e"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The folder of the session file."""
    return furnish(tmp_path)


def test_the_example_has_every_key_and_is_accepted(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    for folder in ("models/digits_cnn", "data", "training"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "models/digits_cnn/saved_model.pb").write_bytes(b"x")
    (tmp_path / "data/digits.npy").write_bytes(b"x")
    (tmp_path / "data/photos").mkdir()
    for name in ("photos/a.jpg", "part-0.tfrecord"):
        (tmp_path / "data" / name).write_bytes(b"x")
    first, second, third, *_ = parse(text, tmp_path)
    keys = {key for entry in read(text, "").tables["session"] for key in entry}
    assert keys == set(SessionSpec.__struct_fields__)
    assert (first.name, second.after, to_lead(second)) == ("digits-cnn", ("digits-cnn",), Lead(seconds=20.0))
    assert (stated_bytes(third), third.prepare, third.cwd) == (12 << 30, True, str(tmp_path / "training"))
    defaults = SessionSpec(name="d")
    for key, said in re.findall(r"^(\w+) = .*default ([\w\"]+)$", text, re.MULTILINE):
        if key != "after":
            assert said.strip('"') in (str(getattr(defaults, key)), str(getattr(defaults, key)).lower())


def test_a_model_needs_four_keys_and_paths_come_out_absolute(base: Path) -> None:
    (spec,) = parse(table(MODEL), base)
    assert spec == SessionSpec(name="a", model=f"{base}/models/cnn", input=f"{base}/data.npy", output=f"{base}/out/a")
    (spec,) = parse(table(MODEL, model=f'"{base}/models/../models/mlp.keras"', lead="2.5"), base)
    assert (spec.model, spec.lead) == (f"{base}/models/mlp.keras", 2.5)


def test_a_program_runs_beside_the_file_unless_it_says_where(base: Path) -> None:
    (base / "train").write_text("#!/bin/sh\n")
    (base / "train").chmod(0o755)
    (base / "sub").mkdir()
    first, second = parse(table(PROGRAM) + table(PROGRAM, name='"q"', run='["./train", "x"]', cwd='"sub"'), base)
    assert (first.run, first.cwd) == (("true",), str(base))
    assert (second.run, second.cwd) == ((f"{base}/train", "x"), f"{base}/sub")


def test_all_problems_are_told_at_once_with_their_lines(base: Path) -> None:
    text = textwrap.dedent(
        '''
        title = """
        name = 3
        [[session]]"""
        [[session]]
        name = "cnn"
        model = "models/x"
        input = "data.npy"
        outptu = "out"
        batch_size = 0

        [[session]]   # no name
        run = [
            "no-such-program",
            "=",
        ]
        "prepare" = "yes"
        '''
    )
    assert problems(text, base) == [
        "s.toml:2: title: a session file has no such key; every session is a [[session]] table",
        "s.toml:9: cnn: outptu: no such key; did you mean 'output'?",
        "s.toml:10: cnn: batch_size: must be 1 to 2147483647, not 0",
        "s.toml:5: cnn: has a model but no output; give output = …",
        "s.toml:7: cnn: model: cannot find 'models/x' (looked in BASE/models/x); "
        "give a SavedModel directory, a .keras or an .h5 file",
        "s.toml:17: session 2: prepare: must be true or false, not 'yes'",
        "s.toml:12: session 2: has no name; give name = …, unique among the sessions that have not ended",
        f"s.toml:13: session 2: run: cannot find 'no-such-program' on PATH ({os.environ['PATH']}); "
        "install it, or give its path",
    ]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("name", '"../up"', "'../up' is no name; a name is 1 to 100 letters, digits, '.', '_' or '-', and begins"),
        ("name", '".hidden"', "'.hidden' is no name"),
        ("name", f'"{"n" * 101}"', "is no name"),
        ("name", '"a\\n"', "'a\\n' is empty, or has characters that do not print"),
        ("name", '""', "'' is empty"),
        ("name", "7", "must be a string, not 7"),
        ("name", "[[1], {a = 2}]", "must be a string, not [[1], {'a': 2}]"),
        ("model", "['m']", "must be a string, not ['m']"),
        ("batch_size", "-1", "must be 1 to 2147483647, not -1"),
        ("batch_size", "8.0", "must be a whole number, not 8.0"),
        ("batch_size", "true", "must be a whole number, not true"),
        ("batch_size", "99999999999999999999", "must be 1 to 2147483647"),
        ("max_attempts", "0", "must be 1 to 1000000, not 0"),
        ("priority", '"high"', "must be a whole number, not 'high'"),
        ("overwrite", "1", "must be true or false, not 1"),
        ("on_error", '"ignore"', "must be one of 'fail', 'skip', not 'ignore'"),
        ("max_errors", "0", "must be 1 to 9223372036854775807, not 0"),
        ("max_errors", "3", 'belongs to on_error = "skip"; set that, or take it out'),
        ("signature", '""', "'' is empty"),
        ("device", '"cuda"', "'cuda' is no device; give any, cpu, gpu, gpu:<index>, or a UUID as `nvidia-smi -L`"),
        ("device", '"gpu:"', "'gpu:' is no device"),
        ("device", '"gpu:-1"', "'gpu:-1' is no device"),
        ("device", '"gpu:٣"', "is no device"),
        ("device", '"GPU-1234"', "'GPU-1234' is no device"),
        ("lead", "-1", "must be 0 to 315360000 seconds (10 years), not -1"),
        ("lead", "nan", "must be a string or a number, not nan"),
        ("lead", "inf", "must be a string or a number, not inf"),
        ("lead", '"soon"', '\'soon\' is no lead; give "auto", seconds as a number, or a percentage as "90%"'),
        ("lead", '"101%"', "'101%' is no lead"),
        ("lead", '"90"', "'90' is no lead"),
        ("lead", "false", "must be a string or a number, not false"),
        ("memory", '"12G"', "'12G' is no amount of memory: write 12GiB (powers of 1024) or 12GB (powers of 1000)"),
        ("memory", '"lots"', "'lots' is no amount of memory; write it as 12GiB, 800MB or in bytes"),
        ("memory", "0", "must be more than 0 bytes; leave it out where it is not known"),
        ("memory", "-4096", "-4096 is no amount of memory: out of range"),
        ("memory", "1.5", "must be a string or a whole number, not 1.5"),
        ("after", '"b"', "must be a list of strings, not 'b'"),
        ("after", '["b", 3]', "must be a list of strings, not ['b', 3]"),
        ("after", '["b c"]', "'b c' is no session's name; a name is"),
        ("after", '["a"]', "names the session itself; it would wait for ever"),
        ("prepare", "true", "belongs to a session with run; this one has a model: take it out"),
        ("cwd", '"."', "belongs to a session with run; this one has a model: take it out"),
        ("output", '"o\\u0000"', "is empty, or has characters that do not print"),
        ("when", "1979-05-27", "no such key; known: name, model, input, input_args, features"),
    ],
)
def test_a_wrong_value_is_one_clear_line(base: Path, key: str, value: str, told: str) -> None:
    text = table(MODEL, **{key: value})
    number = text.splitlines().index(f"{key} = {value}") + 1
    said = [line for line in problems(text, base) if f": {key}: " in line]
    assert len(said) == 1
    assert said[0].startswith(f"s.toml:{number}: ")
    assert told in said[0]
    assert "\n" not in said[0]


@pytest.mark.parametrize("key", ["input", "output", "batch_size", "signature", "overwrite", "on_error", "max_errors"])
def test_a_program_has_no_keys_of_a_model(base: Path, key: str) -> None:
    values = {"batch_size": "3", "overwrite": "true", "input": '"data.npy"', "on_error": '"skip"', "max_errors": "3"}
    value = values.get(key, '"x"')
    text = table(PROGRAM, **{key: value})
    assert (
        problem(text, base) == f"s.toml:4: p: {key}: belongs to a session with a model; this one has run: take it out"
    )


def test_a_session_is_a_model_or_a_program(base: Path) -> None:
    assert problem(table(MODEL, run='["true"]'), base) == (
        "s.toml:6: a: run: cannot be given together with model; one session is either a model or a program"
    )
    assert problem(table({"name": '"n"'}), base) == (
        "s.toml:1: n: has neither model nor run; give model, input and output, or run = [program, …]"
    )
    assert problems(table(PROGRAM, run="[]") + table(PROGRAM, name='"q"', run='[""]'), base) == [
        "s.toml:3: p: run: names no program; give [program, argument, …]",
        "s.toml:6: q: run: names no program; give [program, argument, …]",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "s.toml: has no [[session]] table, so there is nothing to submit"),
        ("[session]\nname = 'x'", "s.toml:1: session: not a list of tables; write [[session]], in two brackets"),
        ("session = [3]", "s.toml:1: session: not a list of tables; write [[session]], in two brackets"),
        ("[[sessions]]", "s.toml:1: sessions: a session file has no such key; every session is a [[session]] table"),
        ("[[session]]\nname = ", "s.toml:2: not valid TOML: Invalid value (end of the text)"),
        ("[[session]]\nname = 'a'\nname = 'b'", "s.toml:3: not valid TOML: Cannot overwrite a value (end of the text)"),
    ],
)
def test_a_file_that_is_no_session_file_is_told(base: Path, text: str, told: str) -> None:
    assert problem(text, base) == told


def test_names_and_outputs_are_each_sessions_own(base: Path) -> None:
    (base / "out").mkdir()
    (base / "link").symlink_to("out", target_is_directory=True)
    text = table(MODEL) + table(MODEL, output='"link/a"') + table(MODEL, name='"c"', output='"out/../out/a/"')
    assert problems(text, base) == [
        "s.toml:7: a: name: given twice in this file (first at s.toml:2)",
        "s.toml:10: a: output: 'link/a' is the output of 'a' too; give each its own",
        "s.toml:15: c: output: 'out/../out/a/' is the output of 'a' too; give each its own",
    ]


def test_sessions_that_wait_for_each_other_are_refused(base: Path) -> None:
    chain = {"a": ["b", "elsewhere"], "b": ["c"], "c": ["d", "a"], "d": ["b"], "e": ["a"]}
    text = "".join(table(PROGRAM, name=f'"{name}"', after=str(after)) for name, after in chain.items())
    assert problems(text, base) == [
        "s.toml:8: b: after: the sessions wait for each other: b → c → d → b; take one of these out",
        "s.toml:4: a: after: the sessions wait for each other: a → b → c → a; take one of these out",
    ]


def test_a_long_chain_is_no_circle(base: Path) -> None:
    size = 3000
    text = "".join(
        table(PROGRAM, name=f'"s{index}"', after=f'["s{index + 1}"]' if index < size - 1 else "")
        for index in range(size)
    )
    assert len(parse(text, base)) == size


def test_many_ways_to_the_same_session_are_walked_once(base: Path) -> None:
    """Two sessions a level, each after both of the next: 2⁴⁰ ways lead down."""
    text = ""
    for level in range(40):
        after = f'["a{level + 1}", "b{level + 1}"]' if level < 39 else ""
        text += table(PROGRAM, name=f'"a{level}"', after=after) + table(PROGRAM, name=f'"b{level}"', after=after)
    assert len(parse(text, base)) == 80


def test_a_table_inside_a_session_is_told_with_its_line(base: Path) -> None:
    text = table(PROGRAM) + table(PROGRAM, name='"q"') + "[session.limits]\nmemory = 3\n"
    known = ", ".join(SessionSpec.__struct_fields__)
    assert problem(text, base) == f"s.toml:7: q: limits: no such key; known: {known}"


@pytest.mark.parametrize(
    "device", ["any", "cpu", "gpu", "gpu:0", "gpu:15", f"GPU-{UUID}", f"MIG-{UUID}", f"MIG-GPU-{UUID}/1/0"]
)
def test_devices_are_named_as_nvidia_smi_names_them(base: Path, device: str) -> None:
    assert parse(table(PROGRAM, device=f'"{device}"'), base)[0].device == device


@pytest.mark.parametrize(
    ("lead", "meant"),
    [
        ('"auto"', Lead()),
        ("30", Lead(seconds=30.0)),
        ("0.5", Lead(seconds=0.5)),
        ('"90%"', Lead(fraction=0.9)),
        ('"99.5%"', Lead(fraction=0.995)),
        ('"100%"', Lead(fraction=1.0)),
    ],
)
def test_leads_as_the_core_takes_them(base: Path, lead: str, meant: Lead) -> None:
    assert to_lead(parse(table(PROGRAM, lead=lead), base)[0]) == meant


@pytest.mark.parametrize(
    ("amount", "size"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("1_000 B", 1000),
        ("12GiB", 12 << 30),
        ("12 gib", 12 << 30),
        ("1.5GB", 1_500_000_000),
        ("800MB", 800_000_000),
        ("2TiB", 2 << 40),
        ("1kib", 1024),
    ],
)
def test_amounts_of_memory(amount: str | int, size: int) -> None:
    assert parse_bytes(amount) == size


@pytest.mark.parametrize("amount", ["", "GiB", "1.5.2GB", "-1", "1e9", "9999999TiB", "12 G iB", "١٢GiB", "1__0"])
def test_what_is_no_amount_of_memory(amount: str) -> None:
    with pytest.raises(ValueError, match="is no amount of memory"):
        parse_bytes(amount)


def test_a_folder_whose_name_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    odd.mkdir()
    assert "its name does not print; move the file" in problem(table(PROGRAM), odd)


@given(st.data())
def test_every_key_is_found_on_its_line(data: st.DataObject) -> None:
    """Whatever stands around a key: comments, strings of many lines with keys and headers in them, nested lists."""
    noise = st.sampled_from(
        [
            "# [[session]]",
            "",
            'n{} = """\n[[session]]\nname = 1 \\""" # x\n"""""',
            "n{} = '''\n[x]\n'''",
            'n{} = [ # [\n 1, [\'a]\'], "]\\"", # ]\n]',
            'n{} = {{ a = "}}", b = [1, 2] }}',
            "n{}.'a b'.c = 1979-05-27T07:32:00Z\r",
            "\t \"n{}\" = '#'",
        ]
    )
    text, wanted = "", {}
    for index in range(data.draw(st.integers(1, 4))):
        text += "[[session]]\n" if data.draw(st.booleans()) else " [[ session ]] # x\n"
        for number, line in enumerate(data.draw(st.lists(noise, max_size=4))):
            text += line.format(number) + "\n"
        wanted[index] = text.count("\n") + 1
        text += f"key = {index}\n"
    document = read(text, "s.toml")
    assert {index: document.lines["session", index, "key"] for index in wanted} == wanted
    assert [entry["key"] for entry in document.tables["session"]] == list(wanted)


def test_the_daemon_side_stays_small() -> None:
    """Checking a file must not bring numpy, tensorflow or rich into the daemon's process."""
    code = (
        "import sys, daemon.sessionfile, daemon.config, daemon.store, daemon.logs\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'tensorflow', 'numpy', 'rich', 'click'}))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


@pytest.mark.parametrize(
    ("more", "key", "told"),
    [
        ({"image": "3"}, "image", 'must be a table, as { size = [224, 224], scale = "0..1" }, not 3'),
        ({"image": "{ sise = [1, 1] }"}, "image", "sise: no such key; did you mean 'size'?"),
        ({"image": "{ size = [1] }"}, "image", "size: must be [height, width], each 1 to 65535, not [1]"),
        ({"image": "{ size = [0, 1] }"}, "image", "size: must be [height, width], each 1 to 65535, not [0, 1]"),
        (
            {"image": '{ scale = "0..2" }'},
            "image",
            "scale: must be one of '0..255', '0..65535', '0..1', '-1..1', not '0..2'",
        ),
        ({"image": "{ channels = 2 }"}, "image", "channels: must be 1, 3 or 4, not 2"),
        ({"image": "{}"}, "image", "belongs to an input that is images; this one is a .npy file: take it out"),
        ({"features": "{ x = 3 }"}, "features", "x: must be a table, not 3"),
        ({"features": '{ x = { raw = "text" } }'}, "features", "x: raw: must be the dtype of the values in the bytes"),
        ({"features": "{ x = {} }"}, "features", "belongs to an input that is TFRecord files; this one is a .npy file"),
        ({"input_args": "{ a = 1 }"}, "input_args", "belongs to an input that is a callable; this one is a .npy file"),
        ({"input": '"a:b"', "input_args": "{ a = 1979-05-27 }"}, "input_args", "holds a date, a time, or"),
        ({"input": '"a:b"', "input_args": "{ a = nan }"}, "input_args", "holds a date, a time, or a number that is"),
        ({"input": "3"}, "input", "must be a string, not 3"),
        ({"input": "{}"}, "input", 'must give a .npy file for each input, as { image = "images.npy", age = "ages.npy"'),
        ({"input": "{ x = 3 }"}, "input", "must give a .npy file for each input"),
        ({"input": '{ x = "no.npy" }'}, "input", "cannot find 'no.npy' (looked in BASE/no.npy); give a .npy, .npz"),
        ({"output_format": '"csv"'}, "output_format", "must be one of 'auto', 'npy', 'jsonl', not 'csv'"),
    ],
)
def test_a_wrong_word_on_input_or_output_is_told_with_its_line(
    base: Path, more: dict[str, str], key: str, told: str
) -> None:
    text = table(MODEL, **more)
    number = next(i for i, line in enumerate(text.splitlines(), 1) if line.startswith(f"{key} = "))
    said = [line for line in problems(text, base) if f": {key}: " in line]
    assert any(line.startswith(f"s.toml:{number}: a: {key}: {told}") for line in said), said
    assert not any("\n" in line for line in said)


def test_what_a_session_reads_comes_out_as_the_worker_takes_it(base: Path) -> None:
    (base / "photos").mkdir()
    (base / "photos" / "a.jpg").write_bytes(b"x")
    (spec,) = parse(table(MODEL, input='{ x = "data.npy", y = "data.npy" }'), base)
    assert spec.input == {"x": f"{base}/data.npy", "y": f"{base}/data.npy"}
    (spec,) = parse(table(MODEL, input='"photos"', image="{ size = [8, 9] }"), base)
    assert (spec.input, spec.image and spec.image.size) == (f"{base}/photos", (8, 9))
    (base / "flat.tfrecord").write_bytes(b"x")
    (spec,) = parse(table(MODEL, input='"flat.tfrecord"', features="{ x = { shape = [150528] } }"), base)
    assert spec.features
    assert spec.features["x"].shape == (150528,)
    (spec,) = parse(table(MODEL, input='"feed.more:items"', input_args='{ split = "a" }'), base)
    assert (spec.input, spec.input_args, spec.cwd) == ("feed.more:items", {"split": "a"}, str(base))
    (spec,) = parse(table(MODEL, input='"feed:items"', cwd='"photos"'), base)
    assert spec.cwd == f"{base}/photos"
    (base / "feed:items").write_bytes(b"x")  # a file that is called like a function is a file
    assert parse(table(MODEL, input='"feed:items"'), base)[0].input == f"{base}/feed:items"
