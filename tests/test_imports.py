"""Who may import whom, each rule with its reason, over the real tree; and what the daemon's process must not hold."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The core, uphill: a module imports only from the lines above its own.
CORE = (
    ("work", "triggers"),  # sessions, and what a lane is asked about: plain values
    ("estimate", "events", "effects", "notes"),  # what is predicted of them, what happened, what is asked for and told
    ("snapshot", "hindsight"),  # how things stand, and what earlier runs came to
    ("outlook",),  # what is predicted
    ("gate", "draft", "decision"),  # whether memory allows it; a step's own copy of it; its answer
    # What follows; the past; what becomes of a session, what it waits for; what a prediction makes up of the world.
    ("policy", "restore", "fate", "pauses", "rehearsal"),
    ("reasons", "guards"),  # policy in words, and as words
    ("waits", "details", "handovers"),  # for memory; the figures behind a reason; what a handover began with
    ("facts", "readings"),  # what a fact, or a reading, changes in the books
    ("commands", "actions"),  # what a person, or a row, changes
    ("table",),  # the rows
    ("lifecycle", "diagram"),  # the engine; the picture
    ("forecast",),  # the engine, driven ahead of time
)

# What of the standard library the core may use: nothing that does, waits, or differs from run to run.
HARMLESS = {
    "__future__": "is the language",
    "bisect": "is functions",
    "collections": "is data",
    "dataclasses": "is data",
    "enum": "is data",
    "functools": "is functions",
    "heapq": "is functions",
    "math": "is functions",
    "typing": "is types",
    "zlib": "is functions",
}

ANYWHERE = ("states", "daemon", "baton")
ONLY: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("transitions", ("states.lifecycle",), "the engine can be exchanged in one place"),
    ("pynvml", ("daemon.devices",), "what NVML says becomes a reading there, and an error an absence"),
    ("tensorflow", ("daemon.worker",), "it costs hundreds of megabytes and seconds, and the daemon must outlive it"),
    ("keras", ("daemon.worker",), "it brings tensorflow"),
    ("numpy", ("daemon.worker",), "the daemon stays small: what it handles are lines, not arrays"),
    (
        "rich",
        (
            *("daemon.ctl.screen", "daemon.ctl.screen_inspect", "daemon.ctl.screen_show", "daemon.ctl.waiting"),
            "daemon.ctl.screen_insight",
            *(f"daemon.ctl.watch_{part}" for part in ("lane", "line", "memory", "terminal", "view")),
        ),
        "it is for people, and slow to import: scripts never wait for it",
    ),
    ("plotly", ("daemon.ctl.timeline_html",), "it draws one page, and may not be installed"),
    ("daemon.ctl", ("daemon.cli", "daemon.ctl"), "it is the client: the daemon needs nothing of it"),
    ("sqlite3", ("daemon.database", "daemon.recording", "daemon.store"), "what is kept is written in one place"),
    ("structlog", ("daemon.logs",), "a line of the log is made in one place"),
    ("baton", ("daemon.worker",), "it is the worker's end of the channel"),
    ("daemon.worker", ("daemon.worker",), "it is another process: it is started, never imported"),
    ("daemon.service", ("daemon.__main__",), "it puts everything together: whoever imports it has everything"),
    (
        "daemon.loop",
        ("daemon.service", "daemon.handlers", "daemon.looking", "daemon.submissions"),
        "decisions are asked for there, and made nowhere else",
    ),
    (
        "states.lifecycle",
        ("daemon.loop", "states"),
        "one consumer decides; who else called step would decide beside it",
    ),
    ("states.table", ("states.lifecycle", "states.diagram"), "a lane moves by a row, and through one door"),
    ("states.draft", ("states",), "a world that changes never leaves its step"),
    ("states.diagram", ("daemon.docs",), "it is written into documents, not asked"),
)

# Each does one kind of thing to the world outside, and knows none of the others: they meet in service and perform.
EDGES = ("devices", "control", "nursery", "workers", "store", "logs")

# Values between these only.
LOOP = "the loop knows the core; what acts is handed to it, so that it can be run without a process or a disk"
PERFORM = "an effect is one call of an edge: what it is needs no more than the effect's words"


@cache
def modules() -> dict[str, Path]:
    """Every module that is shipped, by its name."""
    paths = [ROOT / "baton.py", *(ROOT / "states").rglob("*.py"), *(ROOT / "daemon").rglob("*.py")]
    named = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}
    return {name.removesuffix(".__init__"): path for path, name in named.items()}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


@cache
def imports(name: str) -> frozenset[str]:
    """What a module imports, at its head or anywhere in it; `from package import module` is the module."""
    found: set[str] = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports by a relative path: say the whole name"
            assert node.module
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & modules().keys()) or {node.module}
            if not inner <= modules().keys():
                found.add(node.module)
    return frozenset(found)


def within(name: str, places: tuple[str, ...]) -> bool:
    """Whether a module is one of these, or in one of these packages."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def importers(what: str) -> Iterator[str]:
    return (name for name in modules() if any(within(each, (what,)) for each in imports(name)))


def reached(name: str) -> set[str]:
    """Every module of ours that comes with a module."""
    seen, todo = {name}, [name]
    while todo:
        for each in imports(todo.pop()) & modules().keys() - seen:
            seen.add(each)
            todo.append(each)
    return seen


def core() -> list[str]:
    return sorted(name for name in modules() if name.startswith("states."))


def test_the_tree_is_read() -> None:
    """The rules below would hold of nothing, too."""
    assert {"baton", "states.table", "daemon", "daemon.loop", "daemon.worker.batch"} <= modules().keys()
    assert "states.snapshot" in imports("states.policy")
    assert "states.policy" in imports("states.guards"), "from states import policy"


@pytest.mark.parametrize("name", core())
def test_the_core_does_nothing(name: str) -> None:
    """No clock (time arrives in events), no chance, no thread, no file, no log (what is told are notes), no daemon."""
    outside = {each.split(".")[0] for each in imports(name)} - HARMLESS.keys() - {"states"}
    assert outside <= ({"transitions"} if name == "states.lifecycle" else set())


@pytest.mark.parametrize("name", core())
def test_the_core_runs_downhill(name: str) -> None:
    """A module knows only what is simpler than it: any of them can be read, and tested, with those above it alone."""
    heights = {f"states.{each}": height for height, line in enumerate(CORE) for each in line}
    assert heights.keys() == set(core()), "every module has its place in CORE"
    ours = {each for each in imports(name) if each.startswith("states")}
    assert {each for each in ours if heights.get(each, 99) >= heights[name]} == set()


@pytest.mark.parametrize(("what", "where", "reason"), ONLY, ids=[row[0] for row in ONLY])
def test_only_these_import(what: str, where: tuple[str, ...], reason: str) -> None:
    found = set(importers(what)) - {what}
    assert {name for name in found if not within(name, where)} == set(), reason
    assert found, f"nobody imports {what}: the rule has no object any more"


@pytest.mark.parametrize("edge", EDGES)
def test_no_edge_knows_another(edge: str) -> None:
    """Not even through a third: each can be tested, and replaced, without the others."""
    others = {f"daemon.{each}" for each in EDGES} - {f"daemon.{edge}"}
    assert reached(f"daemon.{edge}") & others == set()


def test_the_loop_knows_only_the_core() -> None:
    ours = {each for each in imports("daemon.loop") if within(each, ANYWHERE)}
    assert {each for each in ours if not each.startswith("states.")} == set(), LOOP


def test_perform_knows_one_edge() -> None:
    ours = {each for each in imports("daemon.perform") if within(each, ("daemon",))}
    assert ours == {"daemon.workers", "daemon.sessionfile"}, PERFORM


def test_baton_needs_nothing() -> None:
    """It is copied beside people's scripts, into interpreters where nothing of ours is installed."""
    assert {each.split(".")[0] for each in imports("baton")} <= sys.stdlib_module_names


def test_nobody_imports_in_a_circle() -> None:
    """Two modules that need each other are one, or three."""
    for name in modules():
        for other in imports(name) & modules().keys() - {name}:
            assert name not in reached(other), f"{name} and {other} import each other"


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_says_what_lives_in_it(name: str) -> None:
    """Its docstring's first line is a sentence: what is here, and what is not."""
    said = ast.get_docstring(tree(name))
    assert said, f"{name} does not say what it is"
    assert said.splitlines()[0].endswith("."), said.splitlines()[0]


def loaded_by(module: str) -> set[str]:
    """The packages that are there after an import, in a fresh interpreter."""
    code = f"import json, sys; import {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    return {name.split(".")[0] for name in json.loads(done.stdout)}


def test_the_daemon_holds_no_array_library() -> None:
    """What is imported is what stays resident: the daemon is small, and a fault of TensorFlow is never its own."""
    packages = loaded_by("daemon.__main__")
    assert "daemon" in packages
    assert packages & {"tensorflow", "keras", "numpy", "rich"} == set()


def test_a_script_that_asks_waits_for_no_screen() -> None:
    """`batonctl --json` prints what the socket said: it must not pay for tables, nor for the daemon's parts."""
    assert loaded_by("daemon.ctl.client") & {"rich", "tensorflow", "numpy", "sqlite3", "psutil", "pynvml"} == set()
