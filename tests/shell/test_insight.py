"""`why`, `plan`, `explain` and the dry run over the socket, and as a person reads them, with acted workers."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from daemon import obstacles
from daemon.wire import Code
from states.events import Memory, Pause
from states.notes import HandoverCompleted
from tests.shell.batonctl_runs import batonctl
from tests.shell.control_stage import GIB, Line, Stage, done, ended, now, refused, running, session_file, submit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as daemon:
        yield daemon


def ran(stage: Stage, *names: str) -> None:
    """These sessions have run, one after the other. They are of one program, so of one model."""
    with Line(stage.path) as line:
        submit(line, *names)
    for name in names:
        stage.until(ended(name))


# Why


def test_why_says_of_each_lane_and_of_the_first_in_the_queue(stage: Stage) -> None:
    stage.crew.frozen = True
    with Line(stage.path) as line:
        submit(line, "a", "b", "c")
        stage.until(running("a"))
        answers = done(line, "why")["answers"]
    assert [(each["about"], each["name"]) for each in answers[:1]] == [("lane", "cpu")]
    assert answers[-1]["about"] == "session"
    assert any("memory: 64.0 GiB" in text for text in answers[0]["details"])


def test_why_of_a_queued_session_says_who_is_before_it_and_what_it_comes_after(stage: Stage) -> None:
    stage.crew.frozen = True
    with Line(stage.path) as line:
        submit(line, "a", "b", "c")
        submit(line, "d", after='["a"]')
        stage.until(running("a"))
        (answer,) = done(line, "why", name="d")["answers"]
    assert (answer["state"], answer["reason"]) == ("queued", "waits for a")
    assert any("it comes after a: computing on cpu" in text for text in answer["details"])
    assert any(text.startswith("place ") and "before it on the same lanes: " in text for text in answer["details"])


def test_why_of_one_says_what_the_queue_says_of_it(stage: Stage) -> None:
    """One is answered without a look at all; the words are the same."""
    stage.crew.frozen = True
    with Line(stage.path) as line:
        submit(line, "a", "b", "c", "d")
        submit(line, "e", after='["a"]')
        submit(line, "f")
        stage.until(running("a"))

    async def compare() -> list[tuple[str, str]]:
        world, at = stage.loop.world, now()
        said = obstacles.waiting_reasons(world, at)
        return [(said[each.name], obstacles.waiting_reason(world, each, at)) for each in world.queue]

    found = stage.run(compare)
    assert len(found) >= 4
    assert all(one == other for one, other in found)


def test_why_of_a_failed_session_says_what_would_make_it_run(stage: Stage) -> None:
    with Line(stage.path) as line:
        submit(line, "bad")
        stage.until(ended("bad"))
        (answer,) = done(line, "why", name="bad")["answers"]
    assert answer["state"] == "failed"
    assert "item 300" in answer["reason"]
    assert "attempt 1 of 3, kind program, at item 300" in answer["details"]
    assert any("mend the program" in text and "batonctl retry bad" in text for text in answer["details"])


def test_why_of_a_finished_session_says_what_it_cost(stage: Stage) -> None:
    ran(stage, "a")
    with Line(stage.path) as line:
        (answer,) = done(line, "why", name="a")["answers"]
    assert answer["state"] == "done"
    assert answer["reason"] == "all of its 1000 items are computed and durable"
    assert any(text.startswith("1000 items in ") for text in answer["details"])


def test_why_of_nothing_there_is_refused_with_what_there_is(stage: Stage) -> None:
    with Line(stage.path) as line:
        code, message, _ = refused(line, "why", name="nobody")
    assert code is Code.NOT_FOUND
    assert "there is no lane and no session nobody" in message


def test_why_a_lane_waits_for_memory_in_figures(stage: Stage) -> None:
    """No room: what is needed, what there is; the decision's own words."""
    for _ in range(2):
        stage.post(Memory(now(), "cpu", 64 * GIB, 0))
    stage.crew.frozen = True
    with Line(stage.path) as line:
        submit(line, "a", memory='"2GiB"')
        lane, session = done(line, "why")["answers"]
    assert lane["reason"].startswith("waits for memory for a: ")
    assert "0 MiB can be given out" in lane["reason"]
    needs = (
        "it needs 2.0 GiB (as stated) and 256 MiB are kept free; 0 MiB can be given out, 2.2 GiB too little just now"
    )
    assert f"on cpu {needs}" in session["details"]


# Plan


def test_a_plan_without_earlier_runs_knows_the_order_and_says_what_it_does_not(stage: Stage) -> None:
    stage.crew.frozen = True
    with Line(stage.path) as line:
        submit(line, "a", "b", "c")
        stage.until(running("a"))
        plan = done(line, "plan")
    assert [run["session"] for run in plan["runs"]] == ["a", "b", "c"]
    assert [run["running"] for run in plan["runs"]] == [True, False, False]
    assert {run["end"]["at"] for run in plan["runs"]} == {None}
    assert all(run["unknown"] for run in plan["runs"])
    assert plan["score"] == {"judged": 0, "within": 0}


def test_runs_are_predicted_by_earlier_ones_and_held_against_what_came(stage: Stage) -> None:
    """Three runs of one program, then a fourth: predicted when it begins, told and shown when it has ended."""
    ran(stage, "a", "b", "c", "d")
    with Line(stage.path) as line:
        shown = done(line, "show", name="d")
        stage.crew.frozen = True
        submit(line, "e", "f")
        plan = done(line, "plan")
    (run,) = shown["runs"]
    assert run["predicted_s"] is not None
    assert run["margin_s"] is not None
    assert run["finished"]
    assert run["items"] == 1000
    assert plan["score"]["judged"] >= 1
    later = next(each for each in plan["runs"] if each["session"] == "f")
    assert later["start"]["bound"] == "about"
    assert later["end"]["at"] is not None
    assert later["gap_s"] is not None
    assert later["unknown"] == []


def test_predictions_survive_a_restart(tmp_path: Path) -> None:
    with Stage(tmp_path) as first:
        ran(first, "a", "b", "c", "d")
        with Line(first.path) as line:
            score = done(line, "plan")["score"]
    with Stage(tmp_path) as second, Line(second.path) as line:
        assert done(line, "plan")["score"] == score
        assert score["judged"] >= 1
        assert done(line, "explain")["handovers"][0]["session"] == "d"


def test_a_held_lane_is_told_as_the_reason(stage: Stage) -> None:
    with Line(stage.path) as line:
        stage.run(lambda: stage.loop.ask(Pause(now(), "cpu")))
        submit(line, "a")
        plan = done(line, "plan")
    assert plan["runs"] == []
    assert plan["waiting"] == [
        {"session": "a", "reason": "lane cpu is paused; batonctl resume lets it go on", "submitted": False}
    ]


def test_a_plan_has_pages(stage: Stage) -> None:
    stage.crew.frozen = True
    names = [f"s{number}" for number in range(9)]
    with Line(stage.path) as line:
        submit(line, *names)
        stage.until(running("s0"))
        first = done(line, "plan", limit=4)
        second = done(line, "plan", limit=4, skip=4)
    found = [run["session"] for run in first["runs"] + second["runs"]]
    assert found == names[:8]
    assert first["more"]
    assert second["skipped"] == 4


# A dry run


def test_a_dry_run_checks_and_plans_and_queues_nothing(stage: Stage) -> None:
    stage.crew.frozen = True
    with Line(stage.path) as line:
        submit(line, "a")
        stage.until(running("a"))
        answer = done(line, "submit", text=session_file("x", "y"), base="/", dry_run=True)
        status = done(line, "list", names=["x", "y"])
        again = submit(line, "x")
    assert [place["name"] for place in answer["sessions"]] == ["x", "y"]
    assert [(run["session"], run["submitted"]) for run in answer["plan"]["runs"]] == [
        ("a", False),
        ("x", True),
        ("y", True),
    ]
    assert status["sessions"] == []
    assert again["result"]["sessions"][0]["name"] == "x"


def test_a_dry_run_is_refused_as_the_submission_would_be(stage: Stage) -> None:
    with Line(stage.path) as line:
        params = {"text": session_file("x", device='"gpu:7"'), "base": "/"}
        dry = line.ask("submit", **params, dry_run=True)["error"]
        real = line.ask("submit", **params)["error"]
    assert dry == real


# Explain


def test_a_handover_is_explained_by_what_filled_its_gap(stage: Stage) -> None:
    ran(stage, "a", "b", "c")
    with Line(stage.path) as line:
        (last,) = done(line, "explain")["handovers"]
        (named,) = done(line, "explain", session="b")["handovers"]
        (numbered,) = done(line, "explain", handover=named["seq"])["handovers"]
        worst = done(line, "explain", worst=5)["handovers"]
    assert (last["from_session"], last["session"]) == ("b", "c")
    assert named == numbered
    assert {each["session"] for each in worst} == {"b", "c"}
    assert worst[0]["gap_s"] == max(each["gap_s"] for each in worst)
    parts = [last[key] for key in ("told_s", "waited_s", "recorded_s", "begun_s")]
    assert sum(parts) == pytest.approx(last["gap_s"], abs=1e-4)
    assert last["because"]


def test_the_parts_of_a_gap_after_a_failure_are_known_too(stage: Stage) -> None:
    """Of a worker that is lost its end is known when it is seen: nothing passes until then."""
    with Line(stage.path) as line:
        submit(line, "bad", "b")
        stage.until(ended("b"))
        (last,) = done(line, "explain", session="b")["handovers"]
    assert last["from_session"] == "bad"
    assert last["ended_by"].startswith("it failed: ValueError: item 300 is")
    parts = [last[key] for key in ("told_s", "waited_s", "recorded_s", "begun_s")]
    assert sum(parts) == pytest.approx(last["gap_s"], abs=1e-4)
    assert last["device_waited_s"] <= last["waited_s"] + 1e-6
    assert last["queued_s"] > 0


def test_a_handover_of_an_earlier_version_is_still_read(stage: Stage) -> None:
    ran(stage, "a", "b")
    fresh = ("unprepared", "ended_by", "queued_s")
    with closing(sqlite3.connect(stage.folder / "state" / "batond.db")) as rows, rows:
        rows.execute("UPDATE handovers SET line = json_remove(line, '$.unprepared', '$.ended_by', '$.queued_s')")
    with Line(stage.path) as line:
        (last,) = done(line, "explain")["handovers"]
    assert {last[key] for key in fresh} == {None}
    assert last["because"]


def test_a_session_whose_name_is_a_number_is_explained_by_it(stage: Stage) -> None:
    ran(stage, "a", "99999")
    with Line(stage.path) as line:
        (found,) = done(line, "explain", handover=99999)["handovers"]
    assert found["session"] == "99999"


def test_explain_says_what_there_is_where_there_is_nothing(stage: Stage) -> None:
    with Line(stage.path) as line:
        assert done(line, "explain")["handovers"] == []
        code, message, _ = refused(line, "explain", handover=1)
        assert code is Code.NOT_FOUND
        assert message.startswith("decision 1 completed no handover")
        code, message, _ = refused(line, "explain", session="x")
        assert (code, message) == (Code.NOT_FOUND, "there is no session x; batonctl list --all shows sessions")
        submit(line, "a")
        stage.until(ended("a"))
        code, message, _ = refused(line, "explain", session="a")
        assert code is Code.NOT_FOUND
        assert message == "there was no handover to session a: nothing ran on its lane just before it"
        assert refused(line, "explain", session="x", worst=3)[0] is Code.INVALID_PARAMS


# As a person reads it


def test_the_commands_print_what_the_socket_said(stage: Stage) -> None:
    ran(stage, "a", "b", "c", "d")
    stage.crew.frozen = True
    with Line(stage.path) as line:
        submit(line, "e", "f")
    stage.until(running("e"))
    plan = batonctl(stage, "plan")
    assert plan.returncode == 0
    assert "sessions queued" in plan.stdout.splitlines()[0] or "session queued" in plan.stdout.splitlines()[0]
    assert "cpu" in plan.stdout.splitlines()
    why = batonctl(stage, "why", "f")
    assert why.stdout.splitlines()[0].startswith("f  ")
    explained = batonctl(stage, "explain", "d")
    assert "c → d" in explained.stdout
    assert "gap" in explained.stdout
    worst = batonctl(stage, "explain", "--worst", "2")
    assert len(worst.stdout.splitlines()) == 3
    shown = batonctl(stage, "show", "d")
    assert "predicted" in shown.stdout
    for arguments in (("plan",), ("why",), ("explain",)):
        answer = batonctl(stage, *arguments, "--json")
        assert isinstance(json.loads(answer.stdout), dict)
        assert "\x1b" not in answer.stdout


def test_a_dry_run_is_printed_with_its_sessions_marked(stage: Stage, tmp_path: Path) -> None:
    stage.crew.frozen = True
    file = tmp_path / "x.toml"
    file.write_text(session_file("x"))
    with Line(stage.path) as line:
        submit(line, "a")
    stage.until(running("a"))
    answer = batonctl(stage, "submit", "--dry-run", str(file))
    assert answer.returncode == 0
    assert "x would be queued, place 1" in answer.stdout
    assert "+ x" in answer.stdout
    assert batonctl(stage, "submit", "--dry-run", "--wait", str(file)).returncode == 2


def test_each_command_of_the_document_runs(stage: Stage, tmp_path: Path) -> None:
    """As it stands in docs/insight.md, on a daemon that has sessions of the names that it speaks of."""
    text = (ROOT / "docs" / "insight.md").read_text("utf-8")
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    commands = [line.split("#")[0].split()[1:] for block in blocks for line in block.splitlines() if "batonctl" in line]
    assert len(commands) >= 8
    ran(stage, "digits-cnn", "digits-resnet")
    stage.crew.frozen = True
    with Line(stage.path) as line:
        submit(line, "nightly-train", "report")
    file = tmp_path / "sessions.toml"
    file.write_text(session_file("one-more"))
    for command in commands:
        found = batonctl(stage, *(str(file) if word == "sessions.toml" else word for word in command))
        assert found.returncode == 0, (command, found.stderr)
        assert found.stdout


def test_the_note_and_the_row_agree() -> None:
    """What is told of a handover is what the row is made of: a field that is renamed is missed here."""
    from daemon.results_insight import Handover
    from daemon.stories import HandoverChecked

    own = {"seq", "ts", "because"}
    said = set(HandoverCompleted.__dataclass_fields__) | set(HandoverChecked.__dataclass_fields__)
    assert set(Handover.__struct_fields__) - own <= said
