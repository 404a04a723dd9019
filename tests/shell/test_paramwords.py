"""What is said of wrong parameters: a person's words, for every bound that is declared, over a real socket too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from daemon import methods, paramwords, wire
from tests.shell.batonctl_runs import batonctl
from tests.shell.control_stage import Stage

LONG = "x" * 5000
ODD: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    2.5,
    1 << 63,
    1e300,
    "",
    "x",
    LONG,
    [],
    [""],
    [LONG],
    ["a"] * 1001,
    {},
    {"a": 1},
)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage
        assert stage.bugs == []


def said(params: type[wire.Params], sent: object) -> str | None:
    try:
        msgspec.json.decode(json.dumps(sent), type=params)
    except msgspec.ValidationError as error:
        return paramwords.wrong(error, params)
    return None


@pytest.mark.parametrize(
    ("params", "sent", "words"),
    [
        (wire.WhyParams, {"name": ""}, "name is empty"),
        (wire.WhyParams, {"name": LONG}, "name is longer than 200 characters"),
        (wire.WhyParams, {"name": {}}, "name must be a string or null, not an object"),
        (wire.ExplainParams, {"handover": 0}, "handover is less than 1"),
        (wire.PlanParams, {"skip": 100_001}, "skip is more than 100000"),
        (wire.PlanParams, {"limit": 2.5}, "limit must be a whole number, not a fraction"),
        (wire.CancelParams, {"names": ["a", ""]}, "names[1] is empty"),
        (wire.CancelParams, {"names": []}, "names is an empty list"),
        (wire.NameParams, {}, "name is missing"),
        (wire.NameParams, ["a"], "params must be an object, not a list"),
        (wire.SwapParams, {"forse": True}, "there is no parameter forse; it takes lane, to, force"),
        (wire.Params, {"a\nb": 1}, "there is no parameter a\nb; it takes none"),
        (wire.ListParams, {"states": ["gone"]}, "states[0] cannot be 'gone'"),
        (wire.InspectParams, {"model": "m"}, "model is no absolute path"),
        (
            wire.TimelineParams,
            {"since": "2026-03-01T12:00:00"},
            "since is no time with its zone; say it as 2026-03-01T12:00:00+01:00",
        ),
    ],
)
def test_it_is_said_in_words(params: type[wire.Params], sent: object, words: str) -> None:
    assert said(params, sent) == words


@pytest.mark.parametrize("name", methods.METHODS)
def test_no_parameter_of_any_method_is_refused_in_the_words_of_a_library(name: str) -> None:
    params = methods.METHODS[name].params
    for field in params.__struct_encode_fields__:
        for value in ODD:
            words = said(params, {field: value})
            assert words is None or not ("`" in words or "Expected" in words or "$" in words), (field, value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("why", ""), "why: name is empty"),
        (("why", "x" * 201), "why: name is longer than 200 characters"),
        (("explain", "0"), "explain: handover is less than 1"),
        (("timeline", "-o", "OUT.html", "--until", "3d", "--since", "2d"), "timeline: a stretch that ends 20"),
        (
            ("timeline", "-o", "OUT.html", "--since", "2099-01-01"),
            "timeline: a stretch that ends now cannot begin 2099",
        ),
    ],
)
def test_a_person_reads_them(stage: Stage, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = batonctl(stage, *(each.replace("OUT", f"{tmp_path}/out") for each in arguments))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"batonctl: {words}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("plan", "--skip", "100001"), ("events", "--since", "9" * 20)])
def test_a_number_out_of_bounds_is_wrong_usage(arguments: tuple[str, ...]) -> None:
    done = batonctl(Path("/nonexistent"), *arguments)
    assert done.returncode == 2
    assert "is not in the range" in done.stderr


def test_a_word_for_a_number_is_wrong_usage() -> None:
    done = batonctl(Path("/nonexistent"), "plan", "--limit", "abc")
    assert done.returncode == 2
    assert "'abc' is not a valid whole number" in done.stderr
