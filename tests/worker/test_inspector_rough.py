"""Code of a session's that behaves badly while it is looked into: its own line, and none of the other sessions'."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from worker_peer import Host, Message

pytestmark = pytest.mark.tensorflow

Spec = Callable[..., Message]
ROUGH = """
import os, subprocess, sys, threading
import numpy as np

ROWS = [[0.0] * 4] * 3

class Odd(BaseException):
    pass

class Mute(Exception):
    def __str__(self):
        raise SystemExit(5)
    __repr__ = __str__

class Rows:
    def __len__(self):
        return 3
    def __iter__(self):
        return iter(ROWS)

def good():
    return ROWS

def hangs():
    threading.Event().wait()

def recurses():
    return recurses()

def is_odd():
    raise Odd("x")

def is_mute():
    raise Mute()

def mute_item():
    yield from ROWS
    raise Mute()

def mute_at_once():
    raise Mute()
    yield

def broken_text():
    raise ValueError("not \\udcff text \\x1b[1m")

class LenExits(Rows):
    def __len__(self):
        sys.exit(4)

class LenNegative(Rows):
    def __len__(self):
        return -1

class IterRaises(Rows):
    def __iter__(self):
        raise Mute()

class IterOdd(Rows):
    def __iter__(self):
        return 3

class HasNothing(Rows):
    def __getattribute__(self, name):
        raise Mute()

class Item:
    def __array__(self, dtype=None, copy=None):
        raise Mute()

def items_raise():
    return [Item()]

class Asked:
    @property
    def __signature__(self):
        raise Mute()
    def __call__(self):
        return ROWS

asked = Asked()

def reads():
    return [[float(len(sys.stdin.read()))] * 4]

def asks():
    return [[input()] * 4]

def moves():
    os.mkdir("gone"); os.chdir("gone"); os.rmdir("../gone")
    return ROWS

def forks():
    os.fork()
    return ROWS

def exits_in_a_thread():
    thread = threading.Thread(target=sys.exit, args=(3,))
    thread.start()
    thread.join()
    return ROWS

def leaves():
    with open(os.path.join(os.path.dirname(__file__), "left"), "a") as left:
        for own in (False, True):
            print(subprocess.Popen(["sleep", "1000"], start_new_session=own).pid, file=left)
    return ROWS

def shuts():
    sys.stdout.close()
    sys.stderr = None
    return ROWS

def __getattr__(name):
    if name == "surprise":
        raise Mute()
    raise AttributeError(name)
"""

SAID: dict[str, str | None] = {  # by the function: what is said of the session; None where it is good
    "recurses": "calling it raised RecursionError: maximum recursion depth exceeded",
    "is_odd": "calling it raised Odd; mend it",
    "is_mute": "calling it raised Mute: Mute; mend it",
    "mute_at_once": "its item 0 raised Mute: Mute; mend it",
    "broken_text": "calling it raised ValueError: not ",
    "LenExits": "the len() of what it returned raised SystemExit; mend it",
    "LenNegative": "the len() of what it returned raised ValueError: __len__() should return >= 0; mend it",
    "IterRaises": "the iter() of what it returned raised Mute: Mute; mend it",
    "IterOdd": "the iter() of what it returned raised TypeError: iter() returned non-iterator of type 'int'; mend it",
    "HasNothing": "asking what it returned for its items raised Mute: Mute; mend it",
    "items_raise": "its item 0 raised Mute: Mute; mend it",
    "asked": "asking it for its parameters raised Mute: Mute; mend it",
    "surprise": "looking for 'surprise' in 'rough' raised Mute: Mute; mend it",
    "asks": "calling it raised EOFError: EOF when reading a line; mend it",
    "reads": None,
    "moves": None,
    "forks": None,
    "exits_in_a_thread": None,
    "leaves": None,
    "shuts": None,
}


def inspected(host: Host, specs: list[Message]) -> list[Message]:
    peer = host.worker("inspect")
    peer.say("inspect", specs=specs)
    peer.rest()
    assert host.status(peer.pid) == 0, host.log.read_text()[-3000:]
    answers = peer.answers()
    assert [answer["session"] for answer in answers] == [spec["name"] for spec in specs]
    return answers


def fed(spec: Spec, folder: Path, input_: str, **more: object) -> Message:
    return spec(**{"name": input_, "cwd": str(folder), "output": str(folder / "out" / input_)} | more) | {
        "input": input_
    }


@pytest.fixture
def rough(tmp_path: Path) -> Path:
    (tmp_path / "rough.py").write_text(ROUGH)
    return tmp_path


def test_whatever_a_function_does_the_other_sessions_are_answered(host: Host, spec: Spec, rough: Path) -> None:
    """In one process, each bad one between two good ones."""
    names = [name for bad in SAID for name in (bad, "good")]
    specs = [fed(spec, rough, f"rough:{name}", name=f"{name}{i}") for i, name in enumerate(names)]
    for name, answer in zip(names, inspected(host, specs), strict=True):
        said = SAID.get(name)
        if said is None:
            assert answer["error"] is None, (name, answer["error"])
        else:
            assert answer["error"] is not None, name
            assert answer["error"]["key"] == "input"
            assert answer["error"]["reason"].startswith(f"cannot read 'rough:{name}': {said}"), answer["error"]
    left = [int(line) for line in (rough / "left").read_text().split()]
    assert len(left) == 2
    assert [pid for pid in left if psutil.pid_exists(pid)] == [], "it outlives the inspection"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys; sys.exit(3)", "importing 'bad' raised SystemExit; mend it"),
        (
            "class Mute(Exception):\n  def __str__(self): 1 / 0\nraise Mute",
            "importing 'bad' raised Mute: Mute; mend it",
        ),
        ("x = (", "importing 'bad' raised SyntaxError: '(' was never closed"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt; mend that"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(
    host: Host, spec: Spec, rough: Path, text: str, said: str
) -> None:
    (rough / "bad.py").write_text(text)
    bad, good = inspected(host, [fed(spec, rough, "bad:items"), fed(spec, rough, "rough:good")])
    assert good["error"] is None
    assert (bad["error"]["key"], said in bad["error"]["reason"]) == ("input", True), bad["error"]


def test_a_worker_says_what_the_inspector_says(host: Host, spec: Spec, rough: Path) -> None:
    """Of a session that waited for others, its worker is the first to call the function."""
    for name in ("is_odd", "LenExits", "items_raise"):
        peer = host.worker()
        peer.assign(fed(spec, rough, f"rough:{name}"))
        peer.rest()
        assert host.status(peer.pid) == 1
        failed = peer.one("failed")
        assert (failed["kind"], SAID[name] in failed["reason"]) == ("input", True), failed


def test_a_session_whose_function_closed_its_output_streams_ends_in_order(host: Host, spec: Spec, rough: Path) -> None:
    peer = host.worker()
    peer.assign(fed(spec, rough, "rough:shuts"))
    peer.until("ready")
    peer.say("go")
    peer.rest()
    assert peer.types()[-1] == "committed"
    assert host.status(peer.pid) == 0


def test_an_inspection_ends_with_who_asked_for_it(host: Host, spec: Spec, rough: Path) -> None:
    """As when the daemon is killed while a function runs that would never return."""
    peer = host.worker("inspect")
    peer.say("inspect", specs=[fed(spec, rough, "rough:hangs")])
    while peer.until("inspecting")["key"] != "input":
        pass
    peer.stream.close()
    peer.line.close()
    assert host.status(peer.pid) == -signal.SIGKILL


# Where it runs, and which module it is


def test_a_function_runs_in_the_folder_of_its_session(host: Host, spec: Spec, world: Path, tmp_path: Path) -> None:
    """So relative paths in `input_args` mean what they would in the session file."""
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "x.npy", np.load(world / "x.npy"))
    (tmp_path / "reads.py").write_text(
        "import numpy as np\nX = np.load('data/x.npy')\n\ndef rows(path):\n    return list(np.load(path))\n"
    )
    session = fed(spec, tmp_path, "reads:rows", input_args={"path": "data/x.npy"})
    elsewhere = fed(spec, world, "feed_elsewhere:rows", name="t")
    found, lost = inspected(host, [session, elsewhere])
    assert (found["error"], found["total"]) == (None, 50)
    assert "there is no module 'feed_elsewhere'" in lost["error"]["reason"]
    peer = host.worker()
    peer.assign(session)
    peer.until("ready")
    peer.say("go")
    peer.rest()
    assert host.status(peer.pid) == 0, host.log.read_text()[-3000:]
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "reads:rows" / "y.npy"), np.load(world / "affine.y.npy"))


def test_a_folder_that_cannot_be_entered_is_one_line(host: Host, spec: Spec, tmp_path: Path) -> None:
    (answer,) = inspected(host, [fed(spec, tmp_path / "gone", "feed:rows")])
    folder = f"{tmp_path}/gone"
    assert answer["error"]["reason"] == (
        f"cannot read 'feed:rows': its folder {folder} cannot be entered (No such file or directory); mend that, or set"
        " cwd = the folder of its module"
    )


@pytest.mark.parametrize("name", ["queue", "json", "daemon", "states", "baton", "time", "numpy", "os"])
@pytest.mark.parametrize("package", [False, True])
def test_a_module_whose_name_is_taken_is_not_mistaken(
    host: Host, spec: Spec, tmp_path: Path, name: str, package: bool
) -> None:
    """It says which file is not imported, whose name that is, and what to do."""
    file = tmp_path / name / "__init__.py" if package else tmp_path / f"{name}.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text("def items():\n    return [[0.0] * 4]\n")
    (tmp_path / "good.py").write_text("def items():\n    return [[0.0] * 4]\n")
    first, bad, good = inspected(
        host,
        [
            fed(spec, tmp_path, "good:items", name="a"),
            fed(spec, tmp_path, f"{name}:items"),
            fed(spec, tmp_path, "good:items"),
        ],
    )
    assert (first["error"], good["error"]) == (None, None)
    assert bad["error"] is not None
    assert bad["error"]["reason"].startswith(
        f"cannot read '{name}:items': {file} cannot be imported, as a worker has another module '{name}' already ("
    )
    assert bad["error"]["reason"].endswith("); rename that file, and set input to match")


def test_a_module_that_puts_something_in_its_own_place_is_taken(host: Host, spec: Spec, tmp_path: Path) -> None:
    """Also by the second session that names it."""
    (tmp_path / "lazy.py").write_text(
        "import sys\n\nclass Lazy:\n    def items(self):\n        return [[0.0] * 4]\n\n"
        "sys.modules[__name__] = Lazy()\n"
    )
    answers = inspected(host, [fed(spec, tmp_path, "lazy:items", name=name) for name in ("a", "b")])
    assert [answer["error"] for answer in answers] == [None, None]


def test_a_folder_without_a_module_does_not_hide_an_installed_package(host: Host, spec: Spec, tmp_path: Path) -> None:
    (tmp_path / "numpy").mkdir()  # data, say
    (answer,) = inspected(host, [fed(spec, tmp_path, "numpy:identity", input_args={"n": 4, "dtype": "float32"})])
    assert (answer["error"], answer["total"]) == (None, 4)
    assert "numpy" in sys.modules
