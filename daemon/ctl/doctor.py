"""What a host lacks for batond to work well: a list of checks, each with what to do. Looks only; mends nothing.

Runs beside a daemon or without one. What a check cannot see as this user, it says.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from daemon import priority
from daemon.config import Config, Problems, load
from daemon.ctl.client import Client, UnreachableError, of_service
from daemon.database import DATABASE
from daemon.devices import Devices
from daemon.launchers import own_environment
from daemon.nursery import PRELOAD
from daemon.results import VersionResult
from daemon.wire import Params, Refusal

State: TypeAlias = Literal["ok", "warn", "fail"]

UNIT: Final = "batond.service"
JOURNAL: Final = "see `journalctl -u batond`"
IMPORT_TIMEOUT_S: Final = 180.0
ASK_TIMEOUT_S: Final = 10.0
LITTLE_BYTES: Final = 256 << 20  # free space that a day of history and logs may take
# As the fork server does it: what it imports, and how many threads it has then.
_IMPORTS: Final = (
    "import importlib, json, os, sys\n"
    "for name in sys.argv[1:]: importlib.import_module(name)\n"
    "import tensorflow\n"
    "print(json.dumps([tensorflow.__version__, len(os.listdir('/proc/self/task'))]))"
)


class Check(msgspec.Struct, frozen=True):
    """One finding. `remedy`: what to do; empty where all is well."""

    name: str
    state: State
    text: str
    remedy: str = ""

    def line(self) -> str:
        """For a person."""
        return f"{self.state:<5} {self.name:<12} {self.text}" + (f"; {self.remedy}" if self.remedy else "")


def examine(socket: str, environ: Mapping[str, str]) -> list[Check]:
    """Every check, in the order in which a daemon would stumble. socket: where its clients look for it."""
    unit = _unit()
    checks = [_python(), *_tensorflow(), _gpu(), _cpu_share()]
    # Root asks about the service, where there is one, and anybody else about a daemon of their own.
    if os.geteuid() == 0 and unit is not None and unit.get("LoadState") == "loaded":
        with _as_user(unit.get("User", "")) as home:
            checks += _files(_environment(home))
    else:
        checks += _files(environ)
    return [*checks, _socket(socket), _service(unit)]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", "ok", f"Python {version} ({sys.executable})")


def _tensorflow() -> Iterator[Check]:
    """In a process of its own: what it loads stays for a process's life, and what it breaks is that process."""
    command = [sys.executable, "-P", "-c", _IMPORTS, *PRELOAD]
    exec_only = 'workers start one by one, seconds later each: launcher = "exec" says so in the configuration'
    try:
        done = subprocess.run(
            command, env=own_environment(), capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        wait = f"its import took more than {IMPORT_TIMEOUT_S:.0f} s"
        yield Check("tensorflow", "fail", wait, "look at the disk that it is on")
        return
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        text = f"cannot be imported: {said[-1]}"
        if "No module named" in said[-1]:
            missing = "sessions with `run` work without; for those with `model`: pip install 'batond[worker]'"
            yield Check("tensorflow", "warn", text, missing)
        else:
            yield Check("tensorflow", "fail", text, f"try it: {sys.executable} -c 'import tensorflow'")
        return
    version, threads = json.loads(done.stdout.splitlines()[-1])
    yield Check("tensorflow", "ok", f"TensorFlow {version}")
    if threads == 1:
        yield Check("fork server", "ok", "one thread after the import: workers can be forked")
    else:
        yield Check("fork server", "warn", f"{threads} threads after the import: not safe to fork", exec_only)


def _gpu() -> Check:
    """Whether a device can be read at all; what is wrong with a single one, `batonctl devices` says."""
    devices = Devices()
    try:
        gpus = [lane.name for lane in devices.discover() if lane.device == "gpu"]
        why = devices.why_no_gpu
    finally:
        devices.close()
    if gpus:
        return Check("gpu", "ok", f"NVML sees {', '.join(gpus)}")
    return Check("gpu", "warn", str(why), "until then sessions run on the CPU")


def _cpu_share() -> Check:
    method = priority.probe()
    if method is priority.Method.NONE:
        return Check(
            "priority",
            "warn",
            "a standby cannot be given a low priority that could be undone: it slows the running session",
            "set RLIMIT_NICE to 20 (LimitNICE=+0 in a unit, `nice -20` in limits.conf)",
        )
    by_group = method in (priority.Method.AUTOGROUP, priority.Method.BOTH)
    why = "" if by_group else " (autogroups have no say in a cgroup with a share of its own)"
    return Check("priority", "ok", f"standbys of this user yield by {method.value}{why}")


def _files(environ: Mapping[str, str]) -> Iterator[Check]:
    try:
        config = load(env=environ)
    except Problems as wrong:
        for problem in wrong.problems:
            yield Check("config", "fail", problem, "mend it; batond does not start with it")
        return
    yield Check("config", "ok", str(config.source or "no file: the defaults"))
    for key in ("state_dir", "cache_dir", "log_dir"):
        yield _folder(key, config)


def _folder(key: str, config: Config) -> Check:
    folder: Path = getattr(config, key)
    try:
        found = folder.stat()
        if not stat.S_ISDIR(found.st_mode):
            return Check(key, "fail", f"{folder} is no folder", f"set {key} to one")
        free = shutil.disk_usage(folder).free
        closed = _closed(folder)
    except FileNotFoundError:
        return Check(key, "ok", f"{folder} is not there yet; the first start makes it")
    except OSError as error:
        look = f"user {os.geteuid()} cannot look at {folder}: {error.strerror}"
        if os.getuid() == 0:
            return Check(key, "fail", look, "open it to that user, whose daemon it is")
        return Check(key, "warn", look, "ask as root, or as batond's user")
    if found.st_mode & stat.S_IWOTH:
        return Check(key, "fail", f"{folder} can be written by everybody", f"chmod o-w {folder}")
    if closed is not None:
        certain = os.getuid() == 0 or found.st_uid == os.geteuid()
        remedy = "give it to that user (chown, chmod u+rwX), on a file system that is mounted writable"
        text = f"user {os.geteuid()} may not write {closed}"
        return Check(key, "fail", text, remedy) if certain else Check(key, "warn", text, "ask as root, or its owner")
    if free < LITTLE_BYTES:
        return Check(key, "warn", f"{folder}: {free >> 20} MiB are free", "make room: without, nothing new is started")
    return Check(key, "ok", f"{folder}, {free >> 30} GiB free")


def _closed(folder: Path) -> Path | None:
    """What of a folder of the daemon's this user may not write; None: nothing. Raises OSError."""
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        return folder
    files = sorted(folder.glob(f"{DATABASE}*"))
    return next((file for file in files if not os.access(file, os.R_OK | os.W_OK, effective_ids=True)), None)


def _socket(path: str) -> Check:
    held = of_service(path)
    try:
        with Client(path) as client:
            answer = client.call("version", Params(), VersionResult, ASK_TIMEOUT_S)
    except UnreachableError as error:
        there = Path(path)
        try:
            found = there.lstat()
        except OSError:
            start = "systemctl start batond.socket batond.service" if held else "`batond`"
            return Check("socket", "warn", f"no daemon at {path}", f"start it: {start}")
        who = f"{stat.filemode(found.st_mode)} user {found.st_uid} group {found.st_gid}"
        else_ = f"{JOURNAL}; its file is systemd's and stays" if held else "remove what a dead daemon left"
        return Check("socket", "fail", f"{error} ({who})", f"be in its group, or {else_}")
    except Refusal as error:
        said = "; ".join((error.message, *error.problems))
        return Check("socket", "fail", f"what answers at {path} refuses: {said}", JOURNAL if held else "see its log")
    except msgspec.DecodeError as error:
        return Check("socket", "fail", f"what answers at {path} is no batond: {error}", "name another by --socket")
    return Check("socket", "ok", f"batond {answer.version} (pid {answer.pid}) answers at {path}")


def _service(unit: Mapping[str, str] | None) -> Check:
    if unit is None:
        return Check("systemd", "ok", "no systemd runs here")
    if "LoadState" not in unit:
        return Check("systemd", "warn", f"cannot ask systemd for {UNIT}: {unit['Error']}", "ask as root")
    if unit["LoadState"] != "loaded":
        return Check("systemd", "ok", f"{UNIT} is not installed (`make install` does that)")
    state = unit.get("ActiveState", "")
    said = f"{UNIT} is {state}" + (f": {unit['StatusText']}" if unit.get("StatusText") else "")
    if state in ("active", "reloading"):
        return Check("systemd", "ok", said)
    if state == "failed":
        remedy = f"{JOURNAL}; then `systemctl reset-failed batond.socket batond.service` and start it"
        return Check("systemd", "fail", f"{said} ({unit.get('Result', '')})", remedy)
    if unit.get("SubState", "").startswith("auto-restart"):
        again = f"{UNIT} ends whenever it is started, and is started again ({unit.get('NRestarts')} times so far)"
        return Check("systemd", "fail", again, JOURNAL)
    if state != "inactive":  # it starts, or stops
        return Check("systemd", "warn", said, f"ask again; where that stays, {JOURNAL}")
    return Check("systemd", "warn", said, "systemctl start batond.socket batond.service")


def _unit() -> Mapping[str, str] | None:
    """What systemd says of the unit, or `Error`: why it says nothing; None where there is no systemd."""
    if not Path("/run/systemd/system").is_dir():
        return None
    wanted = "--property=LoadState,ActiveState,SubState,NRestarts,Result,StatusText,User"
    try:
        done = subprocess.run(
            ["systemctl", "show", wanted, UNIT], capture_output=True, text=True, timeout=ASK_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"Error": str(error)}
    if done.returncode != 0:
        return {"Error": done.stderr.strip() or f"systemctl exited with {done.returncode}"}
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


@contextmanager
def _as_user(name: str) -> Iterator[str]:
    """As this user, as far as files go; gives its home. What root may do says nothing of what the daemon may."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        yield ""
        return
    groups, group = os.getgroups(), os.getegid()
    os.initgroups(name, user.pw_gid)
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield user.pw_dir
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def _environment(home: str) -> Mapping[str, str]:
    """Where the service finds its files."""
    places = {"STATE": "/var/lib", "CACHE": "/var/cache", "LOGS": "/var/log", "RUNTIME": "/run"}
    return {"HOME": home, **{f"{name}_DIRECTORY": f"{place}/batond" for name, place in places.items()}}
