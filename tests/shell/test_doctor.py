"""`batonctl doctor` on this host, on its own, beside a daemon, and with a configuration that is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def doctor(folder: Path, *options: str, config: str = "") -> subprocess.CompletedProcess[str]:
    """With everything of the user's below a folder."""
    (folder / "config" / "batond").mkdir(parents=True, exist_ok=True)
    (folder / "config" / "batond" / "batond.toml").write_text(config)
    places = {
        "XDG_CONFIG_HOME": "config",
        "XDG_STATE_HOME": "state",
        "XDG_CACHE_HOME": "cache",
        "XDG_RUNTIME_DIR": "run",
    }
    environ = os.environ | {name: str(folder / place) for name, place in places.items()}
    command = [sys.executable, "-m", "daemon.cli", "--socket", str(folder / "s.sock"), "doctor", *options]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300, check=False)


def test_a_host_that_works_has_no_failure(tmp_path: Path) -> None:
    """One line a check, with what to do where something is missing; without a daemon that is a warning."""
    done = doctor(tmp_path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert list(checks)[:2] == ["python", "tensorflow"]
    assert checks["tensorflow"]["state"] == "ok"
    assert checks["fork server"]["text"] == "one thread after the import: workers can be forked"
    assert checks["socket"]["state"] == "warn"
    assert checks["socket"]["remedy"].startswith("start it")
    assert {check["state"] for check in checks.values()} <= {"ok", "warn"}
    assert all(check["remedy"] for check in checks.values() if check["state"] != "ok")


def test_what_is_wrong_is_named_with_what_to_do_and_the_exit_status_says_so(tmp_path: Path) -> None:
    open_to_all = tmp_path / "state" / "batond"
    open_to_all.mkdir(parents=True)
    open_to_all.chmod(0o777)
    done = doctor(tmp_path)
    assert done.returncode == 1
    assert f"fail  state_dir    {open_to_all} can be written by everybody; chmod o-w {open_to_all}" in done.stdout
    done = doctor(tmp_path, config="launcher = 3\n")
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("fail")]
    assert "batond.toml:1: launcher:" in line
