"""A booted systemd of our own with batond installed in it, and what a test asks of it. Asserts nothing of batond."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

TIMEOUT_S = 90.0  # for a fact to come true on a busy machine; nothing is concluded from how long it took
ROOT = Path(__file__).resolve().parents[2]
OUT = "/srv/batond"  # what sessions may write, opened by a drop-in
PACKAGES = "/opt/packages"  # this environment's, inside
PYTHON = "/opt/python"  # this interpreter's, inside
OWN = "/opt/batond/bin/python"
UNITS = ("-u", "batond.service", "-u", "batond.socket")

DROP_IN = f"""
[Service]
ReadWritePaths={OUT}
RestartSec=100ms
[Unit]
StartLimitBurst=1000
"""
SETTINGS = """launcher = "exec"
[control]
group = "batond"
[limits]
exit_timeout_s = 2.0
grace_s = 1.0
backoff_s = 0.1
"""

Event = dict[str, Any]

# Control groups as this host has them, and the unified hierarchy alone, where systemd does some things in another way.
on_both = pytest.mark.parametrize(
    "machine", [pytest.param("", id="host"), pytest.param("v2", id="v2")], indirect=True, scope="module"
)


def why_not(cgroups: str = "") -> str | None:
    """Why no systemd can be booted here, with these control groups."""
    if os.geteuid() != 0:
        return "booting a systemd needs root"
    if not Path("/lib/systemd/systemd").exists():
        return "systemd is not installed"
    if missing := [tool for tool in ("unshare", "nsenter", "setpriv", "systemctl") if shutil.which(tool) is None]:
        return f"there is no {', '.join(missing)}"
    mounted = {line.split()[2] for line in Path("/proc/self/mounts").read_text().splitlines()}
    if cgroups == "v2" and "cgroup2" not in mounted:
        return "the unified hierarchy of control groups is not mounted"
    tried = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount", "--net", "--cgroup", "true"], capture_output=True, check=False
    )
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stderr.decode().strip()}"


def stage(folder: Path) -> None:
    """What `make install` puts there, with this environment's packages in the place of freshly installed ones."""
    subprocess.run(
        [ROOT / "systemd" / "install.sh", "files"],
        env=os.environ | {"DESTDIR": str(folder), "PREFIX": "/usr/local"},
        check=True,
        capture_output=True,
    )
    venv = folder / "opt" / "batond"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = venv / "lib" / version / "site-packages"
    site.mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin" / "python").symlink_to(f"{PYTHON}/bin/{version}")
    (venv / "pyvenv.cfg").write_text(f"home = {PYTHON}/bin\ninclude-system-site-packages = false\n")
    (site / "packages.pth").write_text(f"{PACKAGES}\n")
    for name in ("states", "daemon"):
        shutil.copytree(ROOT / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "baton.py", site)
    for name, module in (("batond", "daemon.__main__"), ("batonctl", "daemon.cli")):
        script = venv / "bin" / name
        script.write_text(f"#!{OWN}\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
        script.chmod(0o755)
    tests = folder / "opt" / "tests"
    tests.mkdir()
    shutil.copy(ROOT / "tests" / "fake_worker.py", tests)
    for path in (folder, *folder.rglob("*")):  # whatever this process's umask is: the service's user reads all of it
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))


class Machine:
    """A host of its own, from boot to power-off. Its log lines are batond's, out of the journal."""

    def __init__(self, *trees: Path, cgroups: str = "") -> None:
        """trees: folders that lie over its /, each link in them as a link. cgroups: "v2": those alone."""
        self._trees = trees
        self._cgroups = cgroups
        self._folder = Path(tempfile.mkdtemp(prefix="batond-machine-"))
        self._cursor = ""

    def __enter__(self) -> Machine:
        staged = self._folder / "stage"
        staged.mkdir()
        for tree in self._trees:
            shutil.copytree(tree, staged, symlinks=True, dirs_exist_ok=True)
        stage(staged)
        work = self._folder / "work"
        work.mkdir()
        binds = (f"{sysconfig.get_paths()['purelib']}:{PACKAGES}", f"{sys.base_prefix}:{PYTHON}")
        self._script = subprocess.Popen(
            ["bash", str(Path(__file__).with_name("boot.sh")), str(work), str(staged), *binds],
            env=os.environ | {"CGROUPS": self._cgroups},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self._folder / "stderr").open("wb"),
            text=True,
            start_new_session=True,
        )
        assert self._script.stdout is not None
        line = self._script.stdout.readline().split()
        assert line[:1] == ["init"], (self._folder / "stderr").read_text()
        self.init = int(line[1])
        self.drop_in("50-tests", DROP_IN)
        self.write("/etc/batond/batond.toml", SETTINGS)
        self.run("install", "-d", "-o", "batond", "-g", "batond", OUT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._script.stdin is not None
        self._script.stdin.close()
        try:
            self._script.wait(TIMEOUT_S)
        finally:
            self._script.kill()
            self._script.wait()
            shutil.rmtree(self._folder, ignore_errors=True)

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """A command inside, as root."""
        own = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "SYSTEMD_PAGER": "",
            "SYSTEMD_COLORS": "0",
        }
        enter = ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]
        environment = [f"{key}={value}" for key, value in own.items()]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        return subprocess.Popen([*enter, "env", "-i", *environment, *command], text=True, **pipes)

    def run(self, *command: str, status: int | None = 0) -> str:
        """What the command prints; it must exit so (None: in any way). Errors come back as text too."""
        child = self.popen(*command)
        out, err = child.communicate(timeout=TIMEOUT_S)
        assert status is None or child.returncode == status, f"{command}: {child.returncode}\n{out}\n{err}"
        return out if status == 0 else out + err

    def run_as(self, user: str, *command: str, status: int | None = 0) -> str:
        """The same, as that user with its groups, as after a login."""
        return self.run("runuser", "-u", user, "--", *command, status=status)

    def write(self, path: str, text: str) -> None:
        """A file inside."""
        child = self.popen("sh", "-c", f'mkdir -p "$(dirname {path})" && cat > {path}', stdin=subprocess.PIPE)
        _, err = child.communicate(text, timeout=TIMEOUT_S)
        assert child.returncode == 0, err

    def put(self, folder: Path, target: str) -> None:
        """A folder of this host, copied there, for everybody to read."""
        packed = subprocess.run(["tar", "-C", str(folder), "-c", "."], capture_output=True, check=True).stdout
        (self._folder / "packed.tar").write_bytes(packed)
        unpack = f"mkdir -p {target} && tar --no-same-owner -x -C {target} && chmod -R a+rX {target}"
        with (self._folder / "packed.tar").open("rb") as file:
            child = self.popen("sh", "-c", unpack, stdin=file)
            _, err = child.communicate(timeout=TIMEOUT_S)
        assert child.returncode == 0, err

    def read(self, path: str) -> str:
        """A file inside; empty where it is not there."""
        return self.run("sh", "-c", f"cat {path} 2>/dev/null || true")

    def drop_in(self, name: str, text: str | None) -> None:
        """A drop-in of the service; None: no more."""
        path = f"/etc/systemd/system/batond.service.d/{name}.conf"
        if text is None:
            self.run("rm", "-f", path)
        else:
            self.write(path, text)
        self.run("systemctl", "daemon-reload")

    def systemctl(self, *arguments: str, status: int | None = 0) -> str:
        return self.run("systemctl", *arguments, status=status)

    def show(self, name: str, unit: str = "batond.service") -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def main_pid(self) -> int:
        """The daemon, as its own host counts."""
        return int(self.show("MainPID"))

    def until(self, holds: Callable[[], Any], what: str = "it") -> Any:
        """Wait until something is so; gives what it gave."""
        until = time.monotonic() + TIMEOUT_S
        while not (found := holds()):
            assert time.monotonic() < until, f"{what} does not come true\n{self.journal()[-6000:]}"
            time.sleep(0.05)
        return found

    def journal(self) -> str:
        """What batond and systemd said of it since `mark`."""
        after = (f"--after-cursor={self._cursor}",) if self._cursor else ()
        return self.run("journalctl", *UNITS, "-o", "cat", "--no-pager", "-q", *after)

    def mark(self) -> None:
        """From here on: behind the last entry of these units. (Behind another's, journalctl would leave one out.)"""
        self.run("journalctl", "--sync", status=None)
        said = self.run("journalctl", *UNITS, "-n", "0", "--show-cursor", "--no-pager", "-q", status=None)
        self._cursor = said.rpartition("-- cursor: ")[2].strip() if "-- cursor: " in said else ""

    def log(self) -> list[Event]:
        """batond's own log since `mark`."""
        return [json.loads(line) for line in self.journal().splitlines() if line.startswith('{"ts"')]

    def told(self, name: str, **fields: Any) -> list[Event]:
        """These events of it."""
        return [
            event
            for event in self.log()
            if event["event"] == name and all(event.get(key) == fields[key] for key in fields)
        ]

    def event(self, name: str, times: int = 1, **fields: Any) -> Event:
        """Wait for the `times`-th of them."""
        found: list[Event] = self.until(
            lambda: events if len(events := self.told(name, **fields)) >= times else None, f"{name} {fields}"
        )
        return found[times - 1]

    def ctl(self, *arguments: str, status: int = 0) -> Any:
        """`batonctl`, as root: what the socket said, or what went wrong."""
        said = self.run("batonctl", *arguments, "--json", status=status)
        return json.loads(said) if status == 0 else said

    def submit(self, text: str) -> None:
        self.write("/srv/sessions.toml", text)
        self.ctl("submit", "/srv/sessions.toml")

    def rows(self, name: str) -> list[int]:
        """The items that a stand-in session left."""
        return [int(line) for line in self.read(f"{OUT}/{name}.rows").splitlines()]

    def processes(self) -> list[int]:
        """Everything of the service that is alive, as its own host counts: daemon, workers, what they started."""
        group = self.show("ControlGroup") or "/system.slice/batond.service"
        listed = self.run(
            "sh",
            "-c",
            f"cat /sys/fs/cgroup/systemd{group}/cgroup.procs /sys/fs/cgroup{group}/cgroup.procs 2>/dev/null; true",
        )
        return [int(pid) for pid in dict.fromkeys(listed.split())]


def stand_in(name: str, *flags: str, items: int = 20, **keys: Any) -> str:
    """A `[[session]]` table that runs the stand-in worker."""
    command = [OWN, "/opt/tests/fake_worker.py", "--items", str(items), "--out", f"{OUT}/{name}.rows", *flags]
    table = {"name": name, "run": command, "prepare": True} | keys
    return "[[session]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
