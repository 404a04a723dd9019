"""The generated documents: what lies there is what the code says, and what is stale is found."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daemon import docs, methods
from daemon.cli import batonctl
from daemon.stories import EVENTS


def test_the_documents_in_the_repository_are_up_to_date() -> None:
    assert [path.name for path in docs.stale(docs.ROOT)] == [], "run `make docs`"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The documents, somewhere else and up to date."""
    (tmp_path / "docs").mkdir()
    shutil.copy(docs.ROOT / "README.md", tmp_path)
    for path, text in docs.documents(tmp_path).items():
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", ["docs/control.md", "docs/events.schema.json", "docs/cli.md", "README.md"])
def test_a_stale_or_missing_document_is_found(copy: Path, name: str) -> None:
    path = copy / name
    path.write_text(path.read_text().replace("Running", "Walking").replace("session", "sitting"))
    assert docs.stale(copy) == [path]
    if name != "README.md":
        path.unlink()
        assert docs.stale(copy) == [path]


def test_only_the_diagram_of_the_readme_is_generated(copy: Path) -> None:
    readme = copy / "README.md"
    readme.write_text("before\n" + docs.DIAGRAM[0] + "\nold\n" + docs.DIAGRAM[1] + "\nafter\n")
    text = docs.documents(copy)[readme]
    assert text.startswith("before\n" + docs.DIAGRAM[0] + "\n```mermaid\nstateDiagram-v2")
    assert text.endswith("```\n" + docs.DIAGRAM[1] + "\nafter\n")
    readme.write_text("no place for it")
    with pytest.raises(SystemExit, match="no place for the diagram"):
        docs.documents(copy)


def test_check_says_nothing_and_exits_with_0_where_all_is_well() -> None:
    done = subprocess.run(
        (sys.executable, "-m", "daemon.docs", "--check"), capture_output=True, text=True, check=False, cwd=docs.ROOT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_everything_that_is_declared_is_told() -> None:
    control, events, commands = docs.control(), docs.events(), docs.commands()
    for name, method in methods.METHODS.items():
        assert f"\n### {name}\n\n{method.summary}\n" in control
        assert f"\n## {name}\n" in commands  # each method has its command
    for event in EVENTS:
        assert f"\n## {event.event}\n" in events
    for command in batonctl.commands:
        assert command in {
            *methods.METHODS,
            "doctor",
            "watch",
        }  # the one asks the host; the other `status`, over and over


def test_links_within_a_document_lead_somewhere() -> None:
    for text in (docs.control(), docs.events()):
        headings = {
            re.sub(r"[^\w-]", "", line.lstrip("# ").lower()) for line in text.splitlines() if line.startswith("#")
        }
        assert set(re.findall(r"\(#([^)]*)\)", text)) <= headings


def test_every_reference_of_the_schema_is_defined() -> None:
    schema = docs.control_schema()
    text = json.dumps(schema)
    assert set(re.findall(r'"#/\$defs/(\w+)"', text)) <= set(schema["$defs"])
    assert set(schema["methods"]) == set(methods.METHODS)
