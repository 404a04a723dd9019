"""The daemon's configuration: every key, its default, where it is read from. Makes its folders; decides nothing."""

from __future__ import annotations

import dataclasses
import grp
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_type_hints

import msgspec

from daemon.documents import Document, Problems, meant, mistyped, parse_bytes, read, shown
from states.snapshot import MIB, Limits

__all__ = ["Config", "Control", "History", "Log", "Memory", "Problems", "find", "load", "prepare_folders"]

Environment: TypeAlias = Mapping[str, str]

FILE_NAME = "batond.toml"
SYSTEM_FILE = Path("/etc/batond") / FILE_NAME
SOCKET_PATH_LIMIT_BYTES = 107  # sun_path has 108, the last one is NUL
YEARS = 10  # no time that is configured may be longer: clocks and timers take it, and nobody means more
DAY_S = 86400.0
LEAST_INTERVAL_S = 0.005  # a reading, and what is made of it, takes about a thousandth of a second
READINGS_LIMIT = 100  # beyond, memory would be waited for and never found


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """The control socket: where it is, and who may use it."""

    socket: Path
    group: str | None = None  # its members may act too; None: only batond's own user and root
    mode: int = 0o660  # of the socket file: who may connect at all


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """How often a lane's memory is read."""

    interval_s: float = 1.0
    handover_interval_s: float = 0.02  # while a session waits for memory


class History(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the past is kept: what is older goes, and the oldest of what is too much."""

    days: float = 30.0
    size_bytes: int = 256 * MIB


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """The log, on standard output or in systemd's journal."""

    format: Literal["auto", "json", "journal", "pretty"] = "auto"  # auto: pretty on a terminal
    level: Literal["debug", "info", "warning", "error"] = "info"
    workers: bool = True  # whether what workers print is told there too


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All of the configuration. `source` is the file it was read from; None: there was none."""

    state_dir: Path
    cache_dir: Path
    log_dir: Path
    control: Control
    launcher: Literal["auto", "forkserver", "exec"] = "auto"
    adoption_timeout_s: float = 60.0  # a worker that lost its daemon looks so long for the next one, and drains then
    limits: Limits = Limits()
    memory: Memory = Memory()
    history: History = History()
    log: Log = Log()
    source: Path | None = None


def find(env: Environment) -> Path | None:
    """The file that is read where none is named; None where there is none. Raises `Problems` where one cannot tell."""
    places = [Path(folder) / FILE_NAME for folder in _systemd(env, "CONFIGURATION_DIRECTORY")]
    places.append(SYSTEM_FILE)
    home = _home(env)
    if env.get("XDG_CONFIG_HOME"):
        places.append(Path(env["XDG_CONFIG_HOME"]) / "batond" / FILE_NAME)
    elif home is not None:
        places.append(home / ".config" / "batond" / FILE_NAME)
    return next((place for place in places if _there(place)), None)


def _there(place: Path) -> bool:
    """Whether anything has this name: what is no file there is told when it is read, and not passed over."""
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(place, error) from error
    return True


def _text(path: Path) -> str:
    """What the file says. Raises `Problems`."""
    try:
        if path.is_fifo():  # it would be waited for, at each reload again
            raise _unreadable(path, "it is a pipe")
        return path.read_text("utf-8")
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, "it is not UTF-8 text") from error


def _unreadable(path: Path, why: OSError | str) -> Problems:
    said = why.strerror if isinstance(why, OSError) else why
    return Problems([f"cannot read the configuration {path}: {said}; mend it or name another by --config"])


def load(
    path: Path | None = None,
    *,
    overrides: Mapping[str, object] | None = None,
    env: Environment | None = None,
) -> Config:
    """The configuration from `path`, or the first file in the usual places, or the defaults alone.

    `overrides` come from the command line, as dotted keys (`log.format`); None means not given. Raises `Problems`
    with everything that is wrong.
    """
    env = os.environ if env is None else env
    path = find(env) if path is None else path
    document = Document("defaults", {}, {})
    if path is not None:
        document = read(_text(path), str(path))
    reader = _Reader(env)
    reader.table(document.tables, document, _KEYS, (), (path or Path()).absolute().parent)
    for key, value in (overrides or {}).items():
        if value is not None:
            reader.override(key, value)
    config = reader.config(path)
    if reader.problems or config is None:
        raise Problems(reader.problems)
    return config


def prepare_folders(config: Config) -> None:
    """Make the folders that are configured, for batond's user alone. Raises `Problems`, a line for each key."""
    wrong: dict[Path, str] = {}
    for key in ("state_dir", "cache_dir", "log_dir"):
        folder: Path = getattr(config, key)
        if not any(folder.is_relative_to(other) for other in wrong) and (why := _unusable(folder)) is not None:
            wrong[folder] = f"{key}: {why}; name a folder that batond's user may write in"
    if wrong:
        raise Problems(tuple(wrong.values()))


def _unusable(folder: Path) -> str | None:
    """Why a folder cannot be used; made, where it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError:
        return f"{folder} is a file"
    except OSError as error:
        return f"cannot make {folder}: {error.strerror}"
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return f"user {os.geteuid()} may not write in {folder}"
    return None


def _systemd(env: Environment, name: str) -> list[str]:
    """What systemd's *Directory= settings become: absolute paths, separated by colons."""
    return [folder for folder in env.get(name, "").split(":") if folder]


def _home(env: Environment) -> Path | None:
    if env.get("HOME"):
        return Path(env["HOME"])
    try:
        return Path.home()
    except RuntimeError:  # this user has no entry: a service's dynamic one
        return None


def _keys(kind: Any) -> dict[str, Any]:
    names = kind.__struct_fields__ if issubclass(kind, msgspec.Struct) else [f.name for f in dataclasses.fields(kind)]
    hints = get_type_hints(kind)
    return {name: hints[name] for name in names}


# The tables of the file are the structs' fields, and what is below them is their keys.
_KEYS: dict[str, Any] = {name: wanted for name, wanted in _keys(Config).items() if name != "source"}
_TABLES: dict[str, type] = {
    name: kind for name, kind in _KEYS.items() if kind in (Control, Limits, Memory, History, Log)
}


def _wanted(key: str, annotation: Any) -> Any:
    """What a key's value is in TOML."""
    if key == "control.mode" or annotation is Path:
        return str
    return str | int if key.endswith("_bytes") else annotation


class _Reader:
    """Values by dotted key while they are gathered and checked."""

    def __init__(self, env: Environment) -> None:
        self.env = env
        self.values: dict[str, Any] = {}
        self.places: dict[str, str] = {}
        self.problems: list[str] = []

    def table(
        self, table: Mapping[str, Any], document: Document, keys: Mapping[str, Any], place: tuple[str, ...], base: Path
    ) -> None:
        """Take over the values of one table, and of the tables in it."""
        for name, value in table.items():
            key = ".".join((*place, name))
            where = document.where(*place, name)
            if name not in keys:
                self.problems.append(f"{where}: {key}: no such key; {meant(name, keys)}")
            elif not place and name in _TABLES:
                if isinstance(value, dict):
                    self.table(value, document, _keys(_TABLES[name]), (name,), base)
                else:
                    self.problems.append(f"{where}: {key}: must be a table, as [{name}]; not {shown(value)}")
            else:
                self._take(key, keys[name], value, where, base)

    def override(self, key: str, value: object) -> None:
        """Take over a value from the command line; paths there are relative to the working directory."""
        table, _, name = key.rpartition(".")
        keys = _keys(_TABLES[table]) if table in _TABLES else ({} if table else _KEYS)
        if name not in keys or key in _TABLES:
            known = [k for k in _KEYS if k not in _TABLES] + [
                f"{t}.{n}" for t, kind in _TABLES.items() for n in _keys(kind)
            ]
            self.problems.append(f"command line: {key}: no such key; {meant(key, known)}")
            return
        self._take(key, keys[name], str(value) if isinstance(value, Path) else value, "command line", Path.cwd())

    def _take(self, key: str, annotation: Any, value: Any, where: str, base: Path) -> None:
        wrong = mistyped(value, _wanted(key, annotation))
        if wrong is None:
            try:
                self.values[key] = self._value(key, annotation, value, base)
                self.places[key] = where
                return
            except ValueError as error:
                wrong = str(error)
        self.problems.append(f"{where}: {key}: {wrong}")

    def _value(self, key: str, annotation: Any, value: Any, base: Path) -> Any:
        """The value as the configuration holds it. Raises ValueError, in words."""
        if annotation is Path:
            return self._path(value, base)
        if key == "control.mode":
            return _mode(value)
        if key.endswith("_bytes"):
            return parse_bytes(value)
        if key == "control.group":
            return _group(value)
        if annotation is float:
            return _span(key, value)
        if annotation is int and not 1 <= value <= READINGS_LIMIT:  # limits.readings is the only one that is no size
            raise ValueError(f"must be 1 to {READINGS_LIMIT}, not {shown(value)}")
        return value

    def _path(self, text: str, base: Path) -> Path:
        if not text or "\0" in text:
            raise ValueError(f"must be a path, not {shown(text)}")
        home = _home(self.env)
        if text == "~" or text.startswith("~/"):
            if home is None:
                raise ValueError(f"cannot use {text!r}: this user has no home directory; give an absolute path")
            return Path(os.path.normpath(home / text[2:]))
        return Path(os.path.normpath(base / text))

    def config(self, source: Path | None) -> Config | None:
        """All of it, with the defaults; None where something is missing. Adds what is wrong between keys."""
        state = self._folder("state_dir", "STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state")
        cache = self._folder("cache_dir", "CACHE_DIRECTORY", "XDG_CACHE_HOME", ".cache")
        if state is None or cache is None:
            return None
        logs = _systemd(self.env, "LOGS_DIRECTORY")
        log_dir = self.values.get("log_dir") or (Path(logs[0]) if logs else state / "log")
        self.values.setdefault("control.socket", self._socket(state))
        length = len(os.fsencode(self.values["control.socket"]))
        if length > SOCKET_PATH_LIMIT_BYTES:
            self._together(
                "control.socket",
                f"the path has {length} bytes, a Unix socket's at most {SOCKET_PATH_LIMIT_BYTES}: give a shorter one",
            )
        limits = self._made(Limits)
        if limits.backoff_cap_s < limits.backoff_s:
            self._together("limits.backoff_cap_s", f"must be at least backoff_s ({limits.backoff_s:g})")
        return Config(
            state_dir=state,
            cache_dir=cache,
            log_dir=log_dir,
            control=self._made(Control),
            limits=limits,
            memory=self._made(Memory),
            history=self._made(History),
            log=self._made(Log),
            source=None if source is None else source.absolute(),
            **{key: self.values[key] for key in ("launcher", "adoption_timeout_s") if key in self.values},
        )

    def _together(self, key: str, wrong: str) -> None:
        self.problems.append(f"{self.places.get(key, 'defaults')}: {key}: {wrong}")

    def _made(self, kind: Callable[..., Any]) -> Any:
        table = next(name for name, known in _TABLES.items() if known is kind)
        prefix = f"{table}."
        return kind(**{k.removeprefix(prefix): v for k, v in self.values.items() if k.startswith(prefix)})

    def _folder(self, key: str, systemd: str, xdg: str, below_home: str) -> Path | None:
        if key in self.values:
            return Path(self.values[key])
        given = _systemd(self.env, systemd)
        if given:
            return Path(given[0])
        if self.env.get(xdg):
            return Path(self.env[xdg]) / "batond"
        home = _home(self.env)
        if home is None:
            self.problems.append(
                f"defaults: {key}: cannot choose one: neither {systemd} nor {xdg} is set, and this user has no home "
                f"directory; set {key}"
            )
            return None
        return home / below_home / "batond"

    def _socket(self, state: Path) -> Path:
        given = _systemd(self.env, "RUNTIME_DIRECTORY")
        if given:
            return Path(given[0]) / "control.sock"
        if self.env.get("XDG_RUNTIME_DIR"):
            return Path(self.env["XDG_RUNTIME_DIR"]) / "batond" / "control.sock"
        return state / "control.sock"  # a folder of our own; /tmp is everybody's


def _span(key: str, value: float) -> float:
    """A time, in days or seconds, as the key's name says."""
    unit, most = ("days", YEARS * 365) if key.endswith("days") else ("s", YEARS * 365 * 86400)
    if key == "adoption_timeout_s" and value > DAY_S:  # as long the device may be kept by a session that nobody sees
        raise ValueError(f"must be at most {DAY_S:.0f} s (a day), not {shown(value)}")
    if value > most:
        raise ValueError(f"must be at most {most} {unit} ({YEARS} years), not {shown(value)}")
    if key.endswith("interval_s") and value < LEAST_INTERVAL_S:
        raise ValueError(f"must be at least {LEAST_INTERVAL_S} s, not {shown(value)}")
    if value < 0 or (value == 0 and key.endswith(("timeout_s", "alarm_s"))):
        raise ValueError(f"must be more than 0, not {shown(value)}")
    return float(value)


def _mode(text: str) -> int:
    if not (text and all(digit in "01234567" for digit in text) and int(text, 8) <= 0o777):
        raise ValueError(f'must be octal permissions as "0660", not {shown(text)}')
    if int(text, 8) & 0o600 != 0o600:
        raise ValueError(f"must let batond's own user read and write (0600), not {shown(text)}")
    return int(text, 8)


def _group(name: str) -> str | None:
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_name
    except KeyError:
        raise ValueError(f"there is no group {name!r} on this host; make it (groupadd) or take it out") from None
