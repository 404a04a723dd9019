"""What `make install` puts on a host and `make uninstall` takes away; the units as systemd itself judges them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.machine import ROOT, Machine, stand_in

UNITS = ("batond.service", "batond.socket")
SERVICE = ROOT / "systemd" / "batond.service"
EXPOSURE_LIMIT = 2.0

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def make(target: str, stage: Path, status: int = 0, **variables: str) -> str:
    """`make TARGET DESTDIR=…`; what it said. With the umask of an administrator who keeps everything closed."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    given = [f"{name}={value}" for name, value in ({"DESTDIR": str(stage)} | variables).items()]
    done = subprocess.run(
        ["make", "--no-print-directory", target, *given],
        cwd=ROOT,
        env=own,
        umask=0o077,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def files(stage: Path) -> list[str]:
    """What is there, as paths of the host that it is for; not what is in the environment."""
    return sorted(
        f"/{path.relative_to(stage)}"
        for path in stage.rglob("*")
        if (path.is_file() or path.is_symlink()) and not path.is_relative_to(stage / "opt")
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A whole `make install DESTDIR=`, without TensorFlow: its own wheel, an environment, everything."""
    stage = tmp_path_factory.mktemp("stage")
    make("install", stage, TENSORFLOW="")
    yield stage
    shutil.rmtree(stage)


def test_everything_has_its_place(installed: Path) -> None:
    there = [path for path in files(installed) if "/share/" not in path]
    assert there == [
        "/etc/batond/batond.toml",
        "/usr/local/bin/batonctl",
        "/usr/local/bin/batond",
        "/usr/local/lib/systemd/system/batond.service",
        "/usr/local/lib/systemd/system/batond.service.d/10-nvidia.conf",
        "/usr/local/lib/systemd/system/batond.socket",
        "/usr/local/lib/sysusers.d/batond.conf",
        "/usr/local/lib/tmpfiles.d/batond.conf",
    ]
    assert (installed / "usr/local/bin/batonctl").readlink() == Path("/opt/batond/bin/batonctl")


def test_every_user_can_run_and_read_it_whatever_the_umask(installed: Path) -> None:
    """The service's user is one of them."""
    paths = [path for path in installed.rglob("*") if not path.is_symlink()]
    closed = [
        path for path in paths if path.stat().st_mode & 0o055 not in ((0o055,) if path.is_dir() else (0o044, 0o055))
    ]
    assert closed == []


def test_an_install_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    """As where the package index cannot be reached, or something is not found there; nothing half made stays."""
    old = tmp_path / "opt" / "batond" / "bin" / "batond"
    old.parent.mkdir(parents=True)
    old.write_text("an older version's\n")
    make("install", tmp_path, status=2, TENSORFLOW="", PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="0")
    assert old.read_text() == "an older version's\n"
    assert list(old.parents[2].iterdir()) == [old.parents[1]]


def test_an_install_takes_the_place_of_what_was_there(installed: Path) -> None:
    """All of it: nothing of an older version is left."""
    older = installed / "opt" / "batond" / "lib" / "older"
    older.touch()
    make("install", installed, TENSORFLOW="")
    assert not older.exists()
    assert [path.name for path in (installed / "opt").iterdir()] == ["batond"]


def test_the_environment_runs_and_does_not_say_where_it_was_made(installed: Path) -> None:
    venv = installed / "opt" / "batond"
    for command in ("batond", "batonctl"):
        assert (venv / "bin" / command).read_text().splitlines()[0].startswith("#!/opt/batond/bin/python")
    said = subprocess.run(
        [venv / "bin" / "python", "-P", "-m", "daemon.cli", "--version"],
        cwd="/",
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.startswith("batonctl, version ")
    found = subprocess.run(
        ["grep", "-rIl", str(installed), str(installed)], capture_output=True, text=True, check=False
    )
    assert found.stdout == ""
    compiled = list(venv.glob("lib/python*/site-packages/daemon/__pycache__/cli.*.pyc"))
    assert compiled, "the service may not write here"
    assert str(installed).encode() not in compiled[0].read_bytes()
    assert b"/opt/batond/lib/python" in compiled[0].read_bytes(), "what a traceback names is there"


def test_shells_find_their_completions(installed: Path) -> None:
    """Where each looks by itself; links into the environment, as the commands are."""
    for shell, link in (
        ("bash", "usr/local/share/bash-completion/completions/batonctl"),
        ("zsh", "usr/local/share/zsh/site-functions/_batonctl"),
        ("fish", "usr/local/share/fish/vendor_completions.d/batonctl.fish"),
    ):
        script = installed / str((installed / link).readlink())[1:]
        assert f"_BATONCTL_COMPLETE={shell}_complete" in script.read_text()
    assert script.read_text().startswith("function _batonctl_completion")
    zsh = (installed / "opt/batond/share/completions/batonctl.zsh").read_text()
    assert zsh.startswith("#compdef batonctl\n"), "by which zsh knows what it is for"


def test_an_edited_configuration_is_never_overwritten(tmp_path: Path) -> None:
    """One that was not edited gets the new version's; what was edited stays, also when batond goes."""
    run = [str(ROOT / "systemd" / "install.sh")]
    env = os.environ | {"DESTDIR": str(tmp_path), "PREFIX": "/usr/local"}

    def script(what: str) -> str:
        return subprocess.run([*run, what], env=env, capture_output=True, text=True, check=True).stdout

    script("files")
    config, shipped = tmp_path / "etc/batond/batond.toml", tmp_path / "usr/local/share/doc/batond/batond.toml"
    for path in (config, shipped):  # as an older version had it, and nobody touched it
        path.write_text("# of an older version\n")
    script("files")
    assert config.read_text() == (ROOT / "systemd" / "batond.toml").read_text()
    config.write_text("[log]\nlevel = 'debug'\n")
    assert "stays as it is" in script("files")
    assert config.read_text() == "[log]\nlevel = 'debug'\n"
    assert "kept, for it was edited" in script("remove")
    assert files(tmp_path) == ["/etc/batond/batond.toml"]


def test_uninstall_takes_all_away_but_state(tmp_path: Path) -> None:
    """Foreign files beside ours stay too."""
    subprocess.run([ROOT / "systemd" / "install.sh", "files"], env=os.environ | {"DESTDIR": str(tmp_path)}, check=True)
    kept = ["/usr/local/bin/other", "/var/lib/batond/batond.db", "/var/log/batond/a.log"]
    for path in (*kept, "/var/cache/batond/lib/baton.py", "/opt/batond/bin/python"):
        (tmp_path / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path[1:]).write_text("")
    make("uninstall", tmp_path)
    assert files(tmp_path) == kept
    assert not (tmp_path / "opt" / "batond").exists()


def test_an_interpreter_that_the_service_could_not_run_is_refused(tmp_path: Path) -> None:
    """As one below a home is: the environment would point into it."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    stand_in = home / "python3"
    stand_in.write_text(f'#!/bin/sh\ncase "$1" in -) echo {home} ;; esac\n')
    stand_in.chmod(0o755)
    done = subprocess.run(
        [ROOT / "systemd" / "install.sh", "venv"],
        env=os.environ | {"DESTDIR": str(tmp_path / "stage"), "PYTHON": str(stand_in)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"{home} is closed to others" in done.stderr
    assert not (tmp_path / "stage").exists()


def test_uninstall_takes_nothing_from_under_a_session_that_runs_on(service: Machine) -> None:
    """As `shutdown --leave-running` leaves one: it says what to do, and once that is done takes it all away."""
    service.submit(stand_in("a", "--item-ms", "5", items=1_000_000))
    service.event("session.started", session="a")
    service.ctl("shutdown", "--leave-running")
    service.until(lambda: service.show("ActiveState") == "inactive", "the end of the daemon")
    left = " ".join(str(pid) for pid in service.processes())
    service.put(ROOT / "systemd", "/srv/batond-source/systemd")
    said = service.run("/srv/batond-source/systemd/install.sh", "remove", status=1)
    assert f"sessions run on without batond (processes {left})" in said
    assert service.run("sh", "-c", "ls -d /opt/batond /usr/local/bin/batond") == "/opt/batond\n/usr/local/bin/batond\n"
    service.systemctl("start", "batond.service")
    service.event("session.adopted", session="a")


def test_systemd_finds_nothing_wrong_with_the_units(machine: Machine) -> None:
    """Where they are installed. It exits with 0 whatever it warns of: so it must say nothing at all."""
    assert machine.run("systemd-analyze", "verify", "--man=no", *UNITS, status=None) == ""
    assert machine.run("stat", "-c", "%U:%G %a", "/run/batond") == "batond:batond 755\n"
    assert machine.run("getent", "passwd", "batond").rstrip().endswith(":/var/lib/batond:/usr/sbin/nologin")


@needs_analyze
def test_the_sandbox_is_tight() -> None:
    """By systemd's own measure, of 10."""
    done = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=yes",
            "--no-pager",
            f"--threshold={EXPOSURE_LIMIT * 10:.0f}",
            SERVICE,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-300:]


def test_what_is_left_off_has_its_reason() -> None:
    """Of the settings that systemd would count."""
    text = SERVICE.read_text()
    for name in ("PrivateDevices=", "MemoryDenyWriteExecute=", "ProcSubset=", "PrivateUsers=", "RemoveIPC="):
        assert f"\n{name}" not in text
        assert f"\n# {name}" in text, name
