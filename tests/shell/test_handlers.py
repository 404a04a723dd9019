"""The control methods, through a real socket, loop and record; only the workers are acted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from daemon import admission, views
from daemon.sessionfile import SessionSpec
from daemon.wire import Code
from states.snapshot import State
from tests.shell.control_stage import Line, Stage, done, ended, refused, running, session_file, submit


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A daemon in which sessions are started but none computes yet."""
    with Stage(tmp_path) as stage:
        stage.crew.frozen = True
        yield stage
        assert stage.bugs == []


@pytest.fixture
def line(stage: Stage) -> Iterator[Line]:
    with Line(stage.path) as line:
        yield line


# Submitting


def test_the_sessions_of_a_file_are_queued_in_its_order(line: Line, stage: Stage) -> None:
    answer = submit(line, "a", "b", "c")
    assert answer["result"]["sessions"] == [
        {"name": "a", "place": 0},  # the idle lane took it
        {"name": "b", "place": 1},
        {"name": "c", "place": 2},
    ]
    status = done(line, "status")
    assert [session["name"] for session in status["queue"]] == ["b", "c"]
    assert status["seq"] == stage.feed.seq > 0


def test_one_bad_session_refuses_the_file_and_every_problem_is_told(line: Line) -> None:
    text = session_file("a", "b", device='"gpu"') + session_file("c", after='["nobody", "a"]', bach_size="3")
    code, message, problems = refused(line, "submit", text=text, base="/", source="my.toml")
    assert code is Code.REFUSED
    assert message == "my.toml: nothing was queued, for one problem"
    assert "my.toml:17: c: bach_size: no such key" in problems[0]
    text = text.replace("bach_size = 3", "")
    code, message, problems = refused(line, "submit", text=text, base="/", source="my.toml")
    assert [problem.split(";")[0] for problem in problems] == [
        "a: device: no lane has the device gpu",
        "b: device: no lane has the device gpu",
        "c: after: no session nobody is in this file, live, or done",
    ]
    assert done(line, "list")["sessions"] == []


def test_what_is_not_toml_is_refused_with_its_line(line: Line) -> None:
    code, _, problems = refused(line, "submit", text="[[session]]\nname = ", base="/", source="x.toml")
    assert code is Code.REFUSED
    assert problems[0].startswith("x.toml:2: not valid TOML")
    assert refused(line, "submit", text="", base="relative")[0] is Code.INVALID_PARAMS


def test_a_name_is_taken_while_its_session_lives_and_free_afterwards(line: Line, stage: Stage) -> None:
    submit(line, "a", "b")
    for name, where in (("a", "on lane cpu"), ("b", "queued")):
        _, _, problems = refused(line, "submit", text=session_file("new", name), base="/")
        assert problems == [f"{name}: name: a session of that name is {where}; choose another, or wait for its end"]
    assert [row["name"] for row in done(line, "list")["sessions"]] == ["a", "b"]
    done(line, "cancel", names=["b"])
    assert "result" in submit(line, "b")


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A session with a model, as text, for `str.format(name=…, more=…)`."""
    (tmp_path / "m.keras").write_text("weights")
    (tmp_path / "x.npy").write_text("rows")
    return '[[session]]\nname = "{name}"\nmodel = "m.keras"\ninput = "x.npy"\noutput = "out/{name}"\n{more}\n'


def test_models_are_inspected_and_what_the_inspector_says_counts(
    line: Line, stage: Stage, model: str, tmp_path: Path
) -> None:
    bad = model.format(name="a", more="") + model.format(name="b", more='signature = "predict"')
    _, _, problems = refused(line, "submit", text=bad, base=str(tmp_path))
    assert problems == ["b: signature: the model has no signature 'predict'"]
    assert stage.inspected == ["a", "b"]
    text = model.format(name="a", more='lead = "90%"\nmax_attempts = 5') + model.format(name="b", more='after = ["a"]')
    done(line, "submit", text=text, base=str(tmp_path))
    assert stage.inspected == ["a", "b", "a"]  # b waits for a: what it reads need not be there yet
    world = stage.loop.world
    session = next(worker.session for lane in world.lanes.values() for worker in lane.workers())
    assert session.profile == "f00d/32/tensorflow-2"
    assert (session.total, session.guess_bytes, session.max_attempts) == (1000, 1 << 30, 5)
    assert session.lead.fraction == 0.9
    assert session.resumable
    assert world.queue[0].waits_for == {"a"}


def test_two_live_sessions_may_not_have_one_output(line: Line, stage: Stage, model: str, tmp_path: Path) -> None:
    done(line, "submit", text=model.format(name="a", more=""), base=str(tmp_path))
    other = model.format(name="b", more="").replace("out/b", "out/../out/a")
    _, _, problems = refused(line, "submit", text=other, base=str(tmp_path))
    assert problems == [f"b: output: {tmp_path}/out/a is the output of a, which has not ended; give each its own"]
    assert stage.inspected == ["a"]  # what cannot be queued anyway costs no inspection


def test_an_output_may_not_be_inside_that_of_a_live_session_nor_around_it(
    line: Line, stage: Stage, model: str, tmp_path: Path
) -> None:
    done(line, "submit", text=model.format(name="a", more=""), base=str(tmp_path))
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "alias").symlink_to("out/a")
    for inner in ("out/a/deep/er", "alias/b"):
        text = model.format(name="b", more="").replace("out/b", inner)
        _, _, problems = refused(line, "submit", text=text, base=str(tmp_path))
        assert problems == [
            f"b: output: {tmp_path}/{inner} is inside {tmp_path}/out/a, the output of a, which has not ended; "
            "give each its own"
        ]
    text = model.format(name="b", more="").replace("out/b", "out")
    _, _, problems = refused(line, "submit", text=text, base=str(tmp_path))
    assert problems == [
        f"b: output: {tmp_path}/out/a, the output of a, which has not ended, is inside {tmp_path}/out; "
        "give each its own"
    ]
    assert stage.inspected == ["a"]
    done(line, "submit", text=model.format(name="ab", more=""), base=str(tmp_path))


def test_a_name_that_is_taken_while_a_model_is_inspected_is_refused(
    line: Line, stage: Stage, model: str, tmp_path: Path
) -> None:
    async def hold() -> None:
        stage.inspection.clear()

    async def two() -> None:
        while len(stage.inspected) < 2:  # noqa: ASYNC110 - the inspector tells nobody what it was asked
            await asyncio.sleep(0.005)
        stage.inspection.set()

    stage.run(hold)
    with Line(stage.path) as other:
        params = {"text": model.format(name="a", more=""), "base": str(tmp_path)}
        for each in (line, other):
            each.send(msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": "submit", "params": params}) + b"\n")
        stage.run(two)
        answers = [line.read(), other.read()]
    assert sorted("result" in answer for answer in answers) == [False, True]
    assert len(views.live_names(stage.loop.world)) == 1
    done(line, "show", name="a")


def test_after_a_session_that_is_done_nothing_waits_and_after_a_failed_one_it_is_refused(
    line: Line, stage: Stage
) -> None:
    stage.thaw()
    submit(line, "a", "bad")
    stage.until(ended("a"))
    stage.until(ended("bad"))
    assert "result" in submit(line, "b", after='["a"]')
    _, _, problems = refused(line, "submit", text=session_file("c", after='["bad"]'), base="/")
    assert problems == ["c: after: bad failed; batonctl retry bad first, or take it out"]


def test_a_program_that_does_not_prepare_cannot_resume() -> None:
    spec = SessionSpec(name="x", run=("true",))
    session = admission.to_session(spec, {}, 1.0, frozenset(), cursor=40)
    assert (session.resumable, session.prepares, session.cursor) == (False, False, 0)
    prepares = msgspec.structs.replace(spec, prepare=True)
    session = admission.to_session(prepares, {}, 1.0, frozenset(), cursor=40)
    assert (session.resumable, session.prepares, session.cursor, session.begun) == (True, True, 40, True)
    assert session.profile.startswith("run-")


# Acting


def test_cancel_ends_queued_and_running_sessions_and_names_those_it_cannot(line: Line, stage: Stage) -> None:
    submit(line, "a", "b", "c")
    stage.until(running("a"))
    assert done(line, "cancel", names=["c", "a", "c"])["cancelled"] == ["c", "a"]
    stage.until(ended("a"))
    answer = done(line, "cancel", names=["a", "b"])
    assert answer["cancelled"] == ["b"]
    assert [each["name"] for each in answer["refused"]] == ["a"]
    code, message, _ = refused(line, "cancel", names=["a"])
    assert code is Code.REFUSED
    assert "no session of that name is queued or running" in message
    assert refused(line, "cancel", names=["nobody"])[:1] == (Code.NOT_FOUND,)


def test_an_unknown_name_stops_the_whole_cancel(line: Line) -> None:
    submit(line, "a", "b")
    assert refused(line, "cancel", names=["b", "nobody"])[0] is Code.NOT_FOUND
    assert [row["state"] for row in done(line, "list")["sessions"]] != ["cancelled", "cancelled"]
    assert len(done(line, "list")["sessions"]) == 2


def test_retry_queues_an_ended_session_again_with_all_its_attempts(line: Line, stage: Stage) -> None:
    stage.thaw()
    submit(line, "bad", "good")
    stage.until(ended("bad"))
    stage.until(ended("good"))
    assert refused(line, "retry", name="nobody")[0] is Code.NOT_FOUND
    assert "submit it again" in refused(line, "retry", name="good")[1]
    stage.crew.frozen = True
    submit(line, "busy")
    answer = done(line, "retry", name="bad")
    assert answer["place"] == 1
    assert "has not ended" in refused(line, "retry", name="bad")[1]
    row = done(line, "list", names=["bad"])["sessions"][0]
    assert (row["state"], row["attempt"]) == ("queued", 1)


def test_a_cancelled_session_is_retried_at_its_cursor(line: Line, stage: Stage) -> None:
    stage.crew.total, stage.crew.batch_s = 10**9, 0.005
    stage.thaw()
    submit(line, "a")
    stage.until(lambda world: any(lane.active and lane.active.cursor >= 500 for lane in world.lanes.values()))
    done(line, "cancel", names=["a"])
    stage.until(ended("a"))
    stage.crew.frozen = True
    cursor = done(line, "list", names=["a"])["sessions"][0]["cursor"]
    assert cursor >= 500
    assert done(line, "retry", name="a") == {"name": "a", "place": 0, "cursor": cursor}


def test_move_changes_places_and_wants_exactly_one_of_them(line: Line) -> None:
    submit(line, "running", "a", "b", "c")
    assert done(line, "move", name="c", first=True)["place"] == 1
    assert done(line, "move", name="c", before="b")["place"] == 2
    assert done(line, "move", name="a", last=True)["place"] == 3
    assert [row["name"] for row in done(line, "status")["queue"]] == ["c", "b", "a"]
    assert refused(line, "move", name="a")[0] is Code.INVALID_PARAMS
    assert refused(line, "move", name="a", first=True, last=True)[0] is Code.INVALID_PARAMS
    assert refused(line, "move", name="nobody", first=True)[0] is Code.NOT_FOUND
    assert refused(line, "move", name="running", first=True)[0] is Code.REFUSED


def test_swap_hands_over_to_the_session_named(line: Line, stage: Stage) -> None:
    assert refused(line, "swap")[0] is Code.REFUSED
    submit(line, "a", "b", "c")
    stage.until(running("a"))
    answer = done(line, "swap", to="c")
    assert (answer["lane"], answer["session"], answer["to"]) == ("cpu", "a", "c")
    stage.until(running("c"))
    assert [row["name"] for row in done(line, "status")["queue"]] == ["a", "b"]
    assert refused(line, "swap", lane="tpu")[0] is Code.NOT_FOUND
    assert refused(line, "swap", to="nobody")[0] is Code.NOT_FOUND


def test_pause_drain_and_resume_hold_lanes(line: Line, stage: Stage) -> None:
    assert done(line, "pause") == {"lanes": ["cpu"]}
    submit(line, "a")
    status = done(line, "status")
    assert status["lanes"][0]["held"]
    assert status["queue"][0]["reason"] == "lane cpu is paused; batonctl resume lets it go on"
    done(line, "resume", all=True)
    stage.until(running("a"))
    done(line, "drain", lane="cpu")
    stage.until(lambda world: bool(world.queue) and world.lanes["cpu"].state is State.IDLE)
    assert refused(line, "pause", lane="tpu")[0] is Code.NOT_FOUND
    assert refused(line, "pause", lane="cpu", all=True)[0] is Code.INVALID_PARAMS


def test_where_there_are_several_lanes_one_is_to_be_named(tmp_path: Path) -> None:
    with Stage(tmp_path, lanes=("one", "two")) as stage, Line(stage.path) as line:
        code, message, _ = refused(line, "swap")
        assert (code, message) == (Code.INVALID_PARAMS, "swap: name the lane; there are one, two")
        assert done(line, "pause", all=True) == {"lanes": ["one", "two"]}


def test_shutdown_names_whom_it_waits_for_and_takes_no_more_sessions(line: Line, stage: Stage) -> None:
    submit(line, "a", "b")
    stage.until(running("a"))
    assert done(line, "shutdown") == {"waits_for": ["a"], "left_running": [], "back_by": None}
    _, _, problems = refused(line, "submit", text=session_file("c"), base="/")
    assert problems == ["batond is stopping, and takes no sessions"]
    stage.until(lambda world: world.lanes["cpu"].state is State.STOPPED)
    assert done(line, "status")["stopping"]
    assert done(line, "shutdown", now=True)["waits_for"] == []


def test_shutdown_that_leaves_running_names_what_goes_on_and_until_when(line: Line, stage: Stage) -> None:
    """Who computes and who commits; not who is being prepared."""
    stage.crew.frozen = True
    submit(line, "a", "b")
    stage.until(running("a"))
    assert done(line, "shutdown", leave_running=True) == {
        "waits_for": [],
        "left_running": ["a"],
        "back_by": "2026-03-01T12:00:00Z",
    }
    assert refused(line, "shutdown", leave_running=True, now=True)[:2] == (
        Code.INVALID_PARAMS,
        "shutdown: give now or leave_running, not both",
    )
    done(line, "shutdown")
    assert refused(line, "shutdown", leave_running=True)[:2] == (
        Code.REFUSED,
        "cannot leave the sessions running: batond is stopping, and they are draining",
    )
