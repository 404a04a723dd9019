"""The configuration: where it is found, what each key means, and what is said of a wrong one."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from daemon import config
from daemon.config import Config, Problems
from states.snapshot import Limits

EXAMPLE = Path(__file__).parents[2] / "examples" / "batond.toml"
HOME = {"HOME": "/home/ada"}


def write(folder: Path, text: str) -> Path:
    path = folder / "batond.toml"
    path.write_text(text)
    return path


def load(folder: Path, text: str, **overrides: object) -> Config:
    return config.load(write(folder, text), overrides=overrides, env=HOME)


def problems(folder: Path, text: str, overrides: dict[str, object] | None = None) -> list[str]:
    with pytest.raises(Problems) as caught:
        config.load(write(folder, text), overrides=overrides, env=HOME)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


def test_the_example_has_every_key_and_its_default(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    bare = re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE)
    env = HOME | {"XDG_RUNTIME_DIR": "/run/user/1000"}
    defaults = config.load(write(tmp_path, ""), env=env)
    assert config.load(write(tmp_path, text), env=env) == defaults
    assert config.load(write(tmp_path, bare), env=env) == defaults

    tables = {name: value for name, value in msgspec.structs.asdict(defaults).items() if name != "source"}
    keys = set()
    for name, value in tables.items():
        below = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else None
        below = msgspec.structs.asdict(value) if isinstance(value, msgspec.Struct) else below
        keys |= {name} if below is None else {f"{name}.{key}" for key in below}
    table, found = "", set()
    for line in text.splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            table = header[1] + "."
        if key := re.match(r"#(\w+) = ", line):
            found.add(table + key[1])
    assert found == keys


def test_systemds_directories_come_first_then_xdgs_then_the_home() -> None:
    systemd = {
        "STATE_DIRECTORY": "/var/lib/batond:/var/lib/other",
        "CACHE_DIRECTORY": "/var/cache/batond",
        "LOGS_DIRECTORY": "/var/log/batond",
        "RUNTIME_DIRECTORY": "/run/batond",
    }
    xdg = {"XDG_STATE_HOME": "/x/state", "XDG_CACHE_HOME": "/x/cache", "XDG_RUNTIME_DIR": "/run/user/7"}

    def places(env: dict[str, str]) -> list[str]:
        made = config.load(env=env)
        return [str(path) for path in (made.state_dir, made.cache_dir, made.log_dir, made.control.socket)]

    assert places(systemd | xdg | HOME) == [
        "/var/lib/batond",
        "/var/cache/batond",
        "/var/log/batond",
        "/run/batond/control.sock",
    ]
    assert places(xdg | HOME) == [
        "/x/state/batond",
        "/x/cache/batond",
        "/x/state/batond/log",
        "/run/user/7/batond/control.sock",
    ]
    state = "/home/ada/.local/state/batond"
    assert places(HOME) == [state, "/home/ada/.cache/batond", f"{state}/log", f"{state}/control.sock"]


def test_the_file_is_systemds_else_xdgs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "SYSTEM_FILE", tmp_path / "etc" / "batond.toml")
    systemd, xdg, home = tmp_path / "systemd", tmp_path / "xdg", tmp_path / "home"
    env = {"CONFIGURATION_DIRECTORY": str(systemd), "XDG_CONFIG_HOME": str(xdg), "HOME": str(home)}
    assert config.find(env) is None
    assert config.load(env=env).source is None
    without_xdg = {key: value for key, value in env.items() if key != "XDG_CONFIG_HOME"}
    for place in (home / ".config" / "batond", xdg / "batond", tmp_path / "etc", systemd):
        place.mkdir(parents=True)
        write(place, f'state_dir = "{place}/state"')
        chosen = without_xdg if place.is_relative_to(home) else env
        assert config.find(chosen) == place / "batond.toml"
        assert config.load(env=chosen).state_dir == place / "state"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda place: place.mkdir(), "Is a directory"),
        (lambda place: os.mkfifo(place), "it is a pipe"),
        (lambda place: place.symlink_to("nowhere"), "No such file or directory"),
        (lambda place: place.symlink_to(place.name), "Too many levels of symbolic links"),
    ],
    ids=["folder", "pipe", "dangling link", "loop"],
)
def test_what_is_no_file_in_the_usual_place_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], why: str
) -> None:
    """The defaults would be another configuration than the one that somebody meant."""
    place = tmp_path / "batond.toml"
    make(place)
    monkeypatch.setattr(config, "SYSTEM_FILE", place)
    with pytest.raises(Problems) as caught:
        config.load(env=HOME)
    assert caught.value.problems == (
        f"cannot read the configuration {place}: {why}; mend it or name another by --config",
    )


def test_a_place_that_cannot_be_looked_into_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a folder that is closed to batond's user: nobody knows what lies in it."""
    place = tmp_path / ("x" * 300) / "batond.toml"  # which root, too, cannot
    monkeypatch.setattr(config, "SYSTEM_FILE", place)
    with pytest.raises(Problems, match=r"^cannot read the configuration .*/batond\.toml: File name too long; mend it"):
        config.load(env=HOME)


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    text = 'state_dir = "here"\n[log]\nformat = "json"\n[limits]\nreadings = 5\n'
    overrides = {"state_dir": Path("there"), "log.format": "pretty", "control.socket": None}
    made = config.load(write(tmp_path, text), overrides=overrides, env=HOME)
    assert made.state_dir == Path.cwd() / "there"
    assert made.log.format == "pretty"
    assert made.limits.readings == 5
    assert made.log.level == "info"


def test_paths_in_the_file_are_relative_to_it(tmp_path: Path) -> None:
    made = load(tmp_path, 'state_dir = "state/../kept"\nlog_dir = "~/logs"\ncache_dir = "/var/cache/x"\n')
    assert [made.state_dir, made.log_dir, made.cache_dir] == [
        tmp_path / "kept",
        Path("/home/ada/logs"),
        Path("/var/cache/x"),
    ]


def test_every_limit_of_the_core_can_be_set(tmp_path: Path) -> None:
    values = {field.name: index + 3 for index, field in enumerate(dataclasses.fields(Limits))}
    lines = [f"{name} = {value}" for name, value in values.items()]
    limits = load(tmp_path, "[limits]\n" + "\n".join(lines)).limits
    assert dataclasses.asdict(limits) == values
    assert load(tmp_path, '[limits]\nheadroom_bytes = "1.5GiB"').limits.headroom_bytes == 3 << 29


def test_the_mode_is_octal_and_the_group_exists(tmp_path: Path) -> None:
    control = load(tmp_path, '[control]\nmode = "0666"\ngroup = "root"\nsocket = "s"').control
    assert (control.mode, control.group, control.socket) == (0o666, "root", tmp_path / "s")


def test_every_problem_is_told_with_its_line_and_key(tmp_path: Path) -> None:
    text = """state_dri = "x"
launcher = "fork"

[limits]
stall_timeout_s = "long"
drain_timeout_s = 0
readings = 0
headroom_bytes = "12G"
backoff_s = 10
backoff_cap_s = 5

[control]
mode = "660x"
group = "no-such-group-here"

[logs]
format = "json"
"""
    assert problems(tmp_path, text) == [
        "batond.toml:1: state_dri: no such key; did you mean 'state_dir'?",
        "batond.toml:2: launcher: must be one of 'auto', 'forkserver', 'exec', not 'fork'",
        "batond.toml:5: limits.stall_timeout_s: must be a number, not 'long'",
        "batond.toml:6: limits.drain_timeout_s: must be more than 0, not 0",
        "batond.toml:7: limits.readings: must be 1 to 100, not 0",
        "batond.toml:8: limits.headroom_bytes: '12G' is no amount of memory: "
        "write 12GiB (powers of 1024) or 12GB (powers of 1000)",
        "batond.toml:13: control.mode: must be octal permissions as \"0660\", not '660x'",
        "batond.toml:14: control.group: there is no group 'no-such-group-here' on this host; "
        "make it (groupadd) or take it out",
        "batond.toml:16: logs: no such key; did you mean 'log'?",
        "batond.toml:10: limits.backoff_cap_s: must be at least backoff_s (10)",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("limits = 3", "batond.toml:1: limits: must be a table, as [limits]; not 3"),
        ("[memory]\ninterval_s = nan", "batond.toml:2: memory.interval_s: must be a number, not nan"),
        ("[limits]\nreadings = true", "batond.toml:2: limits.readings: must be a whole number, not true"),
        ("state_dir = ''", "batond.toml:1: state_dir: must be a path, not ''"),
        ("adoption_timeout_s = 0", "batond.toml:1: adoption_timeout_s: must be more than 0, not 0"),
        ("adoption_timeout_s = -1.5", "batond.toml:1: adoption_timeout_s: must be more than 0, not -1.5"),
        ("adoption_timeout_s = 86401", "batond.toml:1: adoption_timeout_s: must be at most 86400 s (a day), not 86401"),
        ("adoption_timeout_s = inf", "batond.toml:1: adoption_timeout_s: must be a number, not inf"),
        ("adoption_timeout_s = '5'", "batond.toml:1: adoption_timeout_s: must be a number, not '5'"),
        ("a = = 3", "batond.toml:1: not valid TOML: Invalid value (column 5)"),
        (
            '[control]\nmode = "0066"',
            "batond.toml:2: control.mode: must let batond's own user read and write (0600), not '0066'",
        ),
        (
            f'[control]\nsocket = "/{"s" * 107}"',
            "batond.toml:2: control.socket: the path has 108 bytes, a Unix socket's at most 107: give a shorter one",
        ),
    ],
)
def test_one_wrong_value_is_one_clear_line(tmp_path: Path, text: str, told: str) -> None:
    assert problems(tmp_path, text) == [told]


def test_a_wrong_command_line_says_so(tmp_path: Path) -> None:
    assert problems(tmp_path, "", {"log.fromat": "json", "log.format": "xml"}) == [
        "command line: log.fromat: no such key; did you mean 'log.format'?",
        "command line: log.format: must be one of 'auto', 'json', 'journal', 'pretty', not 'xml'",
    ]


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(Problems, match=r"cannot read the configuration .*/none\.toml: No such file or directory; "):
        config.load(tmp_path / "none.toml", env=HOME)
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# caf\xe9\n")
    with pytest.raises(Problems, match="it is not UTF-8 text"):
        config.load(path, env=HOME)


def test_a_user_without_a_home_needs_the_directories_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")  # pathlib looks there, then in the password file
    if os.geteuid() != 0:
        pytest.skip("needs a user id without an entry, which only root can take on")
    read, write_end = os.pipe()
    child = os.fork()
    if child == 0:  # a new interpreter would not do: that user may not read this one
        try:
            os.setresuid(54321, 54321, 54321)
            config.load(env={})
        except BaseException as wrong:  # noqa: BLE001 - whatever it is, it must not get back into pytest twice
            os.write(write_end, str(wrong).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read) as said:
        text = said.read()
    os.waitpid(child, 0)
    assert "state_dir: cannot choose one: neither STATE_DIRECTORY nor XDG_STATE_HOME is set" in text
    assert "cache_dir: cannot choose one" in text


def test_the_folders_that_are_configured_are_made(tmp_path: Path) -> None:
    made = load(tmp_path, 'state_dir = "state"\ncache_dir = "a/cache"\nlog_dir = "b/log"\n')
    config.prepare_folders(made)
    for folder in (made.state_dir, made.cache_dir, made.log_dir):
        assert folder.is_dir()
        assert folder.stat().st_mode & 0o777 == 0o700
    config.prepare_folders(made)  # they may be there


def test_a_folder_that_cannot_be_used_is_one_line_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = load(tmp_path, 'state_dir = "state"\ncache_dir = "file"\nlog_dir = "/etc/passwd"\n')
    with pytest.raises(Problems) as caught:
        config.prepare_folders(made)
    assert caught.value.problems == (
        f"cache_dir: {tmp_path}/file is a file; name a folder that batond's user may write in",
        "log_dir: /etc/passwd is a file; name a folder that batond's user may write in",
    )
    made = load(tmp_path, 'state_dir = "state"\ncache_dir = "file/below"\nlog_dir = "/proc/none"\n')
    with pytest.raises(Problems) as caught:
        config.prepare_folders(made)
    assert caught.value.problems == (
        f"cache_dir: cannot make {tmp_path}/file/below: Not a directory; name a folder that batond's user may write in",
        "log_dir: cannot make /proc/none: No such file or directory; name a folder that batond's user may write in",
    )


def test_what_is_wrong_with_a_folder_is_not_said_again_of_those_in_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = load(tmp_path, 'state_dir = "file"\ncache_dir = "cache"\n')
    assert made.log_dir == tmp_path / "file" / "log"
    with pytest.raises(Problems) as caught:
        config.prepare_folders(made)
    assert caught.value.problems == (
        f"state_dir: {tmp_path}/file is a file; name a folder that batond's user may write in",
    )


def test_a_folder_that_may_not_be_written_in_is_told(tmp_path: Path) -> None:
    """Also root may not, in a file system that is read only or not for files."""
    overrides = {"cache_dir": "/proc/self", "state_dir": str(tmp_path / "state")}
    made = config.load(overrides=overrides, env=HOME)
    with pytest.raises(Problems) as caught:
        config.prepare_folders(made)
    assert caught.value.problems == (
        f"cache_dir: user {os.geteuid()} may not write in /proc/self; name a folder that batond's user may write in",
    )
